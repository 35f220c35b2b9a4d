"""The pages of the documentation, written from one JSON file of one run, without measuring anything again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks import gpu, targets
from benchmarks.shapes import LISTS, TITLES
from benchmarks.tables import WARM_LIST, Table, done, lists_of, mib, of_list, tables

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
TEMPLATE = Path(__file__).with_name("page.md.j2")
OURS_BETTER, OURS_WORSE = "#2a6f97", "#c1553b"
DIGITS = 5

Result = dict[str, Any]


def results_of(page: Path) -> Path:
    """Where the results lie that a page shows."""
    return page.parent / page.stem / "results.json"


def save(data: Result, path: Path) -> None:
    """A result to a line, numbers with as many digits as they are worth."""
    rows = {key: ",\n  ".join(json.dumps(rounded(row)) for row in data[key]) for key in ("results", "checks")}
    head = json.dumps(rounded({key: value for key, value in data.items() if key not in rows}), indent=1)
    parts = [head.removesuffix("\n}"), *(f' "{key}": [\n  {lines}\n ]' for key, lines in rows.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(",\n".join(parts) + "\n}\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    return [rounded(x) for x in value] if isinstance(value, (list, tuple)) else value


def chart(data: Result, name: str, path: Path) -> None:
    """Ratios of a list as bars, with quartiles, on a logarithmic axis."""
    results = done(of_list(data, name))[::-1]
    mpl.rcParams["svg.hashsalt"] = "gradchain"  # the same drawing from the same data
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    ratios = [result["ratio"] for result in results]
    below = [max(0.0, result["ratio"] - result["quartiles"][0]) for result in results]
    above = [max(0.0, result["quartiles"][1] - result["ratio"]) for result in results]
    # Bars on a logarithmic axis start where the two sides are equal.
    axes.barh(
        range(len(results)),
        [ratio - 1 for ratio in ratios],
        left=1.0,
        xerr=(below, above),
        color=[OURS_WORSE if ratio > 1 else OURS_BETTER for ratio in ratios],
        error_kw={"elinewidth": 1, "ecolor": "#555555"},
    )
    axes.set_yticks(range(len(results)), [f"{result['ours']} / {result['peer']}" for result in results], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    ticks = [
        tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if min(ratios) / 2 < tick < 2 * max(1, *ratios)
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(min(ratios) / 1.3, 1.3 * max(1.0, *(result["quartiles"][1] for result in results)))
    axes.set_xlabel("our time / peer's time; left of 1 ours is faster", fontsize=8)
    axes.set_title(TITLES[name], fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def drawn(data: Result) -> list[str]:
    """The lists that have a chart."""
    return [name for name in lists_of(data) if done(of_list(data, name))]


def moves() -> Table:
    """The bytes that steps have to move on a GPU: known without one."""
    name = WARM_LIST["cuda"]
    rows = [[label, TITLES[name], mib(gpu.moved(subject, LISTS[name]))] for label, subject in gpu.SUBJECTS.items()]
    return Table("What a step has to move, if all is fused", ("chain", "list", "MiB"), rows)


def generated(data: Result | None, folder: str) -> str:
    """The part of a page between the markers. No data: nothing has been run."""
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=False
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    if data is None:
        return template.render(data=None, moves=moves(), table=Table.markdown).strip()
    return template.render(
        data=data,
        images=[(TITLES[name], f"{folder}/{name}.svg") for name in drawn(data)],
        targets=targets.table(data),
        missed=targets.missed(data),
        tables=tables(data),
        table=Table.markdown,
    ).strip()


def between(text: str) -> tuple[str, str, str]:
    """A page up to its markers, between them, and after."""
    before, _, rest = text.partition(BEGIN)
    inside, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no markers {BEGIN} and {END}; put them where the results should go.")
    return before, inside.strip(), after


def write(data: Result | None, page: Path) -> None:
    """Put tables and charts into a page, between its markers; the results lie beside it."""
    before, _, after = between(page.read_text(encoding="utf-8"))
    if data is not None:
        for name in drawn(data):
            chart(data, name, page.parent / page.stem / f"{name}.svg")
    inside = generated(data, page.stem)
    page.write_text(f"{before}{BEGIN}\n{inside}\n{END}{after}", encoding="utf-8")
