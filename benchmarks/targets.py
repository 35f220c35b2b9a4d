"""What we want of the numbers, and which of them are not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.shapes import TITLES
from benchmarks.tables import MIB, WARM_LIST, Table, by_chain, lists_of, mib, of_check, of_list, share, spread

COLD, COLD_STORED, WARM = 10.0, 15.0, 1.0
"""Seconds of a first step: with an empty compiler cache, fp32 states and others; and with a full one."""

TILE = 4 * MIB
"""What a step may take beyond its state: a million numbers."""

PEAK = 0.9
TRAINING = 1.04
MINUTES = 25

Result = dict[str, Any]

COMPILING = (
    "two C++ compilers at a time on two cores, a second for each kernel; "
    "of factors, a second of inductor's Python each besides"
)
NOTED = "what each kernel computes is noted, in 5 to 30 milliseconds; the rest is the step, whose memory is new"
THREE = (
    "three intermediate results of a million numbers, of a tile or of a tensor that is too small for tiles: "
    "with tiles of half the size a step takes a quarter more time"
)
ALL = (
    "the directions of all matrices, in bfloat16, and what they become are there at once: "
    "nothing is written before all are made"
)


@dataclass(frozen=True)
class Target:
    """A target and what was measured. `why`: what explains it if it is missed."""

    what: str
    wanted: str
    measured: str
    met: bool
    quartiles: str = ""
    why: str = ""

    @property
    def verdict(self) -> str:
        return "met" if self.met else "**not measured**" if self.measured == "not measured" else "**missed**"


def targets(data: Result) -> list[Target]:
    """All targets that this run says something about."""
    return [*_times(data), *_first_steps(data), *_extra(data), *_gpu(data), *_minutes(data)]


def _times(data: Result) -> Iterator[Target]:
    for result in data["results"]:
        most = result.get("target")
        if most is None:
            continue
        what, wanted = f"{result['ours']} / {result['peer']}, {TITLES[result['list']]}", f"time, at most {most:.2f}"
        if "failure" in result:
            yield Target(what, wanted, "not measured", False, why=result["failure"])
        else:
            yield Target(what, wanted, f"{result['ratio']:.2f}", result["ratio"] <= most, spread(result), result["why"])


def _first_steps(data: Result) -> Iterator[Target]:
    for result in by_chain(of_list(data, WARM_LIST[data["settings"]["device"]])):
        if (cold := result.get("cold_s")) is None:
            continue
        warm, limit = result["ours_first_s"], COLD_STORED if result["stored"] else COLD
        what = f"{result['ours']}, {TITLES[result['list']]}"
        yield Target(what, f"first step, cold at most {limit:.0f} s", f"{cold:.1f} s", cold <= limit, why=COMPILING)
        yield Target(what, f"first step, warm at most {WARM:.0f} s", f"{warm:.1f} s", warm <= WARM, why=NOTED)


def _extra(data: Result) -> Iterator[Target]:
    """Every storage, and of the other chains of a list the one that takes the most."""
    for name in lists_of(data):
        known = [r for r in by_chain(of_list(data, name)) if r["compiled"]]
        plain = sorted((r for r in known if not r["stored"]), key=lambda result: result["ours_extra"])[-1:]
        for result in [*(r for r in known if r["stored"]), *plain]:
            what = f"{result['ours']}, {TITLES[name]}" + ("" if result["stored"] else ": most of the fp32 states")
            wanted = f"memory beyond state in a step, at most a tile ({mib(TILE)} MiB)"
            extra, why = result["ours_extra"], THREE if result["stored"] else ALL
            yield Target(what, wanted, f"{mib(extra)} MiB", extra <= TILE, why=why)


def _gpu(data: Result) -> Iterator[Target]:
    for result in of_check(data, "speed"):
        if result["elementwise"]:
            part, what = share(data, result), f"{result['subject']}, {TITLES[result['list']]}"
            wanted = f"share of a copy's bandwidth, at least {100 * PEAK:.0f} %"
            yield Target(what, wanted, f"{100 * part:.0f} %", part >= PEAK)
    for result in of_check(data, "graph"):
        yield Target(f"{result['subject']}, a CUDA graph", "bit-equal", result["detail"], result["ok"])
    for result in of_check(data, "waiting"):
        yield Target(f"{result['subject']}, waiting", "none", result["detail"], result["ok"])
    for result in of_check(data, "training"):
        what, ratio = "muon / adamw, a training step of GPT-2 124M", result["ratio"]
        yield Target(what, f"time, at most {TRAINING:.2f}", f"{ratio:.3f}", ratio <= TRAINING, spread(result, 3))
    for result in data.get("checks", ()):
        if "failure" in result:
            yield Target(
                f"{result['subject']}, {result['check']}", "to be checked", "not measured", False, why=result["failure"]
            )


def _minutes(data: Result) -> Iterator[Target]:
    left_out = sum("left out" in result.get("failure", "") for result in [*data["results"], *data.get("checks", ())])
    measured = f"{data['minutes']:.1f} minutes" + (f", {left_out} left out" if left_out else "")
    if data["settings"]["device"] == "cpu":
        yield Target(
            "`make bench`", f"at most {MINUTES} minutes", measured, data["minutes"] <= MINUTES and not left_out
        )


def machine(data: Result) -> str:
    """The machine in a few words: the head of what was measured on it."""
    about, settings = data["machine"], data["settings"]
    return f"{about['processor']}, {about['cores']} cores, {settings['threads']} threads, torch {about['torch']}"


def table(data: Result) -> Table:
    rows = [[row.what, row.wanted, row.measured, row.quartiles, row.verdict] for row in targets(data)]
    return Table("Targets", ("what", "target", machine(data), "quartiles", "verdict"), rows)


def missed(data: Result) -> list[Target]:
    """Those that are missed and explained, one for each explanation."""
    first: dict[str, list[Target]] = {}
    for row in targets(data):
        if not row.met and row.why:
            first.setdefault(row.why, []).append(row)
    return [
        Target("; ".join(dict.fromkeys(row.what for row in rows)), "", "", False, why=why)
        for why, rows in first.items()
    ]
