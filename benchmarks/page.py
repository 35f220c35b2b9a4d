"""Tables and charts of the results, for the terminal and for `docs/benchmarks.md`, without measuring anything again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.shapes import LISTS, TITLES, elements

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
MIB = 1 << 20
WARM_LIST, COLD_LIMIT, WARM_LIMIT = "gpt2", 30.0, 5.0
EXTRA_LIMIT = 2  # tensors of the largest bucket
CACHED = 64 * MIB  # less than this may stay in a cache from step to step, so bandwidth is no floor
OURS_BETTER, OURS_WORSE = "#2a6f97", "#c1553b"

Result = dict[str, Any]


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        rule = ["---" if number < 2 else "---:" for number in range(len(self.columns))]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"### {self.title}", "", *lines])


def tables(data: Result) -> list[Table]:
    """All tables that have rows."""
    made = [step_times(data, name) for name in lists_of(data)]
    made += [memory(data, name) for name in lists_of(data)]
    return [table for table in [targets(data), *made, floors(data), warmups(data)] if table.rows]


def lists_of(data: Result) -> list[str]:
    used = {result["list"] for result in data["results"]}
    return [name for name in LISTS if name in used]


def of_list(data: Result, name: str) -> list[Result]:
    return [result for result in data["results"] if result["list"] == name]


def done(results: Iterable[Result]) -> list[Result]:
    return [result for result in results if "failure" not in result]


def by_chain(results: Iterable[Result]) -> list[Result]:
    """One result for each chain of ours and list: the first."""
    first: dict[tuple[str, str], Result] = {}
    for result in done(results):
        first.setdefault((result["ours"], result["list"]), result)
    return list(first.values())


def step_times(data: Result, name: str) -> Table:
    title = f"Step time, {TITLES[name]} ({elements(name):,} elements, {len(LISTS[name])} tensors)"
    columns = ("ours", "peer", "ours ms", "peer ms", "ratio", "quartiles", "CPU time ratio", "same steps")
    return Table(title, columns, [_step_time(result) for result in of_list(data, name)])


def _step_time(result: Result) -> list[str]:
    if "failure" in result:
        return [result["ours"], result["peer"], "", "", "", "", "", result["failure"].replace("|", "\\|")]
    lower, upper = result["quartiles"]
    ratio = f"{result['ratio']:.2f}"
    notes = [result["differs"] or result.get("disagrees") or "yes", *(f"ours: {w}" for w in result["warnings"])]
    return [
        result["ours"],
        result["peer"],
        f"{result['ours_ms']:.2f}",
        f"{result['peer_ms']:.2f}",
        f"**{ratio}** slower" if result["ratio"] > 1 else ratio,
        f"{lower:.2f} to {upper:.2f}",
        f"{result['cpu_ratio']:.2f}",
        "; ".join(note if note == "yes" else f"no: {note}" for note in notes).replace("|", "\\|"),
    ]


def memory(data: Result, name: str) -> Table:
    title = f"Memory, {TITLES[name]}: MiB above parameters, gradients and state in a step; MiB of state"
    columns = ("ours", "peer", "ours extra", "peer extra", "ours, in largest tensors", "ours state", "peer state")
    rows = [
        [
            result["ours"],
            result["peer"],
            mib(result["ours_extra"]),
            mib(result["peer_extra"]),
            "" if result["ours_extra"] is None else f"{result['ours_extra'] / result['largest']:.2f}",
            mib(result["ours_state"]),
            mib(result["peer_state"]),
        ]
        for result in done(of_list(data, name))
    ]
    return Table(title, columns, rows)


def mib(size: int | None) -> str:
    return "" if size is None else f"{size / MIB:.1f}"


def floors(data: Result) -> Table:
    rows = [
        [
            result["ours"],
            TITLES[result["list"]],
            mib(result["must_move"]),
            f"{floor_ms(data, result):.2f}",
            f"{result['ours_ms']:.2f}",
            f"{100 * floor_ms(data, result) / result['ours_ms']:.0f} %",
        ]
        for result in by_chain(data["results"])
        if result["must_move"] > CACHED
    ]
    columns = ("chain", "list", "must move MiB", "floor ms", "step ms", "share of the floor")
    return Table("Bandwidth floor", columns, rows)


def floor_ms(data: Result, result: Result) -> float:
    return 1e3 * result["must_move"] / max(data["bandwidth"].values())


def warmups(data: Result) -> Table:
    rows = [
        [result["ours"], TITLES[result["list"]], f"{result['cold_s']:.1f}", f"{result['ours_first_s']:.1f}"]
        for result in by_chain(data["results"])
        if result.get("cold_s") is not None
    ]
    columns = ("chain", "list", "cold cache s", "warm cache s")
    return Table("Warm-up: seconds of our first step, the import of the compiler included", columns, rows)


def targets(data: Result) -> Table:
    rows: list[list[str]] = []
    for result in done(data["results"]):
        if (most := result.get("target")) is not None:
            what = f"{result['ours']} / {result['peer']}, {TITLES[result['list']]}"
            rows.append([what, f"time, at most {most:.2f}x", f"{result['ratio']:.2f}x", met(result["ratio"] <= most)])
    for result in by_chain(of_list(data, WARM_LIST)):
        if result.get("cold_s") is not None:
            cold, warm = result["cold_s"], result["ours_first_s"]
            limits = f"warm-up, at most {COLD_LIMIT:.0f} s cold, {WARM_LIMIT:.0f} s warm"
            verdict = met(cold <= COLD_LIMIT and warm <= WARM_LIMIT)
            rows.append([f"{result['ours']}, {TITLES[WARM_LIST]}", limits, f"{cold:.1f} s, {warm:.1f} s", verdict])
    return Table("Targets", ("what", "target", "measured", "verdict"), [*rows, *_extra(data)])


def _extra(data: Result) -> list[list[str]]:
    """The chain of each list that takes the most memory in a step. Below a MiB the count of pages is noise."""
    rows: list[list[str]] = []
    for name in lists_of(data):
        results = [r for r in by_chain(of_list(data, name)) if r["compiled"] and r["ours_extra"] is not None]
        if results:
            most = max(results, key=lambda result: result["ours_extra"])
            tensors = most["ours_extra"] / most["largest"]
            verdict = met(tensors <= EXTRA_LIMIT or most["ours_extra"] < MIB)
            what = f"memory in a step, {TITLES[name]}: {most['ours']} takes most"
            measured = f"{tensors:.2f} ({mib(most['ours_extra'])} MiB)"
            rows.append([what, f"at most {EXTRA_LIMIT} of the largest tensor", measured, verdict])
    return rows


def met(yes: bool) -> str:
    return "met" if yes else "**missed**"


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


def generated(data: Result, images: dict[str, str]) -> str:
    """The part of the page between the markers."""
    machine, settings = data["machine"], data["settings"]
    speeds = data["bandwidth"]
    about = [
        f"Measured on {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}, device `{settings['device']}`, "
        f"{settings['threads']} threads, fp32 parameters.",
        f"Peers: {', '.join(f'{name} {version}' for name, version in data['peers'].items())}.",
        f"Memory bandwidth: triad {speeds['triad'] / 1e9:.1f} GB/s, in place {speeds['triad_in_place'] / 1e9:.1f} GB/s.",
        f"Command: `{data['command']}` ({data['minutes']:.0f} minutes).",
    ]
    charts = [f"![Ratios of step times, {TITLES[name]}]({link})" for name, link in images.items()]
    parts = [*about, *charts, *(table.markdown() for table in tables(data))]
    return "\n\n".join(parts)


def write(data: Result, page: Path) -> None:
    """Put tables and charts into the page, between its markers."""
    images: dict[str, str] = {}
    for name in lists_of(data):
        if done(of_list(data, name)):
            chart(data, name, page.parent / page.stem / f"{name}.svg")
            images[name] = f"{page.stem}/{name}.svg"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page.name} has no markers {BEGIN} and {END}; put them where the results should go.")
    page.write_text(f"{before}{BEGIN}\n{generated(data, images)}\n{END}{after}", encoding="utf-8")
