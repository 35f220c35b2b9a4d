"""Tables of the results, for the terminal and for the pages, without measuring anything again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.shapes import LISTS, SERIAL, TITLES, elements

MIB = 1 << 20
WARM_LIST = {"cpu": "gpt2", "cuda": "gpt2-124m"}
"""The list on which first steps are measured with an empty compiler cache."""

CACHED = 64 * MIB
"""Less than this may stay in a cache from step to step, so bandwidth is no floor."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        rule = ["---" if number < 2 else "---:" for number in range(len(self.columns))]
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *rows)]
        return "\n".join([f"### {self.title}", "", *lines])


def tables(data: Result) -> list[Table]:
    """All tables that have rows, but for the targets."""
    made = [step_times(data, name) for name in lists_of(data)]
    made += [memory(data, name) for name in lists_of(data)]
    return [table for table in [*made, floors(data), shares(data), warmups(data), checks(data)] if table.rows]


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


def spread(result: Result, digits: int = 2) -> str:
    lower, upper = result["quartiles"]
    return f"{lower:.{digits}f} to {upper:.{digits}f}"


def step_times(data: Result, name: str) -> Table:
    size = f"{elements(name):,} elements, {len(LISTS[name])} tensors{', one thread' if name in SERIAL else ''}"
    title = f"Step time, {TITLES[name]} ({size})"
    columns = ("ours", "peer", "ours ms", "peer ms", "ratio", "quartiles", "rounds", "CPU time ratio", "same steps")
    return Table(title, columns, [_step_time(result) for result in of_list(data, name)])


def _step_time(result: Result) -> list[str]:
    if "failure" in result:
        return [result["ours"], result["peer"], *6 * [""], result["failure"]]
    ratio = f"{result['ratio']:.2f}"
    notes = [result["differs"] or result.get("disagrees") or "yes", *(f"ours: {w}" for w in result["warnings"])]
    return [
        result["ours"],
        result["peer"],
        f"{result['ours_ms']:.2f}",
        f"{result['peer_ms']:.2f}",
        f"**{ratio}** slower" if result["ratio"] > 1 else ratio,
        spread(result),
        str(result["rounds"]),
        f"{result['cpu_ratio']:.2f}",
        "; ".join(note if note == "yes" else f"no: {note}" for note in notes),
    ]


def memory(data: Result, name: str) -> Table:
    title = f"Memory, {TITLES[name]}: MiB above parameters, gradients and state in a step; MiB of state"
    columns = ("ours", "peer", "ours extra", "peer extra", "ours state", "peer state", "ours, bytes an element")
    rows = [
        [
            result["ours"],
            result["peer"],
            mib(result["ours_extra"]),
            mib(result["peer_extra"]),
            mib(result["ours_state"]),
            mib(result["peer_state"]),
            f"{result['ours_state'] / elements(name):.2f}",
        ]
        for result in done(of_list(data, name))
    ]
    return Table(title, columns, rows)


def mib(size: int) -> str:
    return f"{size / MIB:.1f}"


def floors(data: Result) -> Table:
    """Of a CPU. A GPU's shares are of what it copies."""
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
        if result["must_move"] > CACHED and data["settings"]["device"] == "cpu"
    ]
    columns = ("chain", "list", "must move MiB", "floor ms", "step ms", "share of the floor")
    return Table("Bandwidth floor", columns, rows)


def floor_ms(data: Result, result: Result) -> float:
    return 1e3 * result["must_move"] / max(data["bandwidth"].values())


def warmups(data: Result) -> Table:
    rows = [
        [
            result["ours"],
            TITLES[result["list"]],
            f"{result['cold_s']:.1f}",
            f"{result['ours_first_s']:.1f}",
            str(result.get("kernels", "")),
        ]
        for result in by_chain(data["results"])
        if result.get("cold_s") is not None
    ]
    columns = ("chain", "list", "cold cache s", "warm cache s", "kernels")
    return Table("Warm-up: seconds of our first step, the import of the compiler included", columns, rows)


def of_check(data: Result, what: str) -> list[Result]:
    return [result for result in done(data.get("checks", ())) if result["check"] == what]


def share(data: Result, result: Result) -> float:
    """Of the bandwidth at which this GPU copies."""
    return 1e3 * result["moved"] / result["ms"] / data["bandwidth"]["copy"]


def shares(data: Result) -> Table:
    rows = [
        [
            result["subject"],
            TITLES[result["list"]],
            mib(result["moved"]),
            f"{result['ms']:.2f}",
            spread(result),
            f"{1e-6 * result['moved'] / result['ms']:.0f}",
            f"{100 * share(data, result):.0f} %",
            str(result["launches"]),
        ]
        for result in of_check(data, "speed")
    ]
    columns = ("chain", "list", "moves MiB", "step ms", "quartiles", "GB/s", "share of a copy's", "launches")
    return Table("Share of the bandwidth, and launches of a step", columns, rows)


CHECKS = {
    "graph": "captured in a CUDA graph and replayed",
    "waiting": "under `set_sync_debug_mode`",
    "training": "a training step of GPT-2 124M beside AdamW's",
    "speed": "timed",
}


def checks(data: Result) -> Table:
    """What was found to hold or not, and what failed."""
    rows: list[list[str]] = []
    for result in data.get("checks", ()):
        what = CHECKS[result["check"]]
        if "failure" in result:
            rows.append([result["subject"], what, "failed", result["failure"]])
        elif result["check"] == "training":
            times = f"{result['muon_ms']:.1f} over {result['adamw_ms']:.1f} ms"
            rows.append([result["subject"], what, f"{result['ratio']:.3f} ({spread(result, 3)})", times])
        elif result["check"] != "speed":
            rows.append([result["subject"], what, "yes" if result["ok"] else "**no**", result["detail"]])
    return Table("Graphs, waiting, training", ("chain", "what", "result", "detail"), rows)
