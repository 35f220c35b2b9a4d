"""What moved since the committed page: ratios of times beyond their noise, and counts, which have none.

A ratio has moved if the medians of its rounds, then and now, differ by more than `FLOOR`, and by more than chance: the
interval of a bootstrap leaves out 1. One that got slower is measured again in other processes, and counts if all of them
say so. Counts (functions that Python calls in a step, kernels, bytes of state) are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.shapes import TITLES
from benchmarks.tables import Table

FLOOR = 0.05
"""By so much, ratios of the same code differ from process to process."""

CONFIDENCE = 0.99
RESAMPLES = 2000
AGAIN = 2
"""How often what got slower is measured again."""

CALLS = 0.05
"""The share of calls that may be added: whether gradients lie where others have been changes some."""

COUNTS = {
    "calls": ("calls of Python in a step", CALLS),
    "kernels": ("kernels", 0.0),
    "ours_state": ("bytes of state", 0.0),
}
SAME, SLOWER, FASTER, MORE, FEWER, FAILS, NEW = "same", "slower", "faster", "more", "fewer", "fails", "new"
WORSE = (SLOWER, MORE, FAILS)

Result = dict[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True)
class Finding:
    """One number, then and now. `change`: now over then, with its interval where it is noisy."""

    pair: str
    list: str
    what: str
    before: str
    now: str
    verdict: str
    change: str = ""

    @property
    def key(self) -> Key:
        return self.pair, self.list


def changed(before: Sequence[float], now: Sequence[float]) -> tuple[float, float, float]:
    """The quotient of the medians, and the ends of its interval."""
    logs = (np.log(now), np.log(before))
    apart = lambda x, y, axis=-1: np.median(x, axis=axis) - np.median(y, axis=axis)  # noqa: E731
    found = stats.bootstrap(
        logs,
        apart,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(np.exp(apart(*logs))), float(np.exp(found.low)), float(np.exp(found.high))


def time_of(before: Result, now: Result) -> Finding:
    """Whether a ratio of times has moved."""
    quotient, low, high = changed(before["ratios"], now["ratios"])
    verdict = SAME
    if quotient > 1 + FLOOR and low > 1:
        verdict = SLOWER
    elif quotient < 1 / (1 + FLOOR) and high < 1:
        verdict = FASTER
    ratios = f"{before['ratio']:.3f}", f"{now['ratio']:.3f}"
    change = f"{quotient:.3f} ({low:.3f} to {high:.3f})"
    return Finding(now["pair"], now["list"], "ratio of times", *ratios, verdict, change)


def count_of(name: str, before: Result, now: Result) -> Finding:
    what, slack = COUNTS[name]
    then, count = before[name], now[name]
    verdict = MORE if count > then * (1 + slack) else FEWER if count < then / (1 + slack) else SAME
    change = f"{count / then:.3f}" if then else ""
    return Finding(now["pair"], now["list"], what, f"{then:,}", f"{count:,}", verdict, change)


def findings(before: Result, now: Result) -> list[Finding]:
    """All numbers of the pairs of a run, beside those of the committed one."""
    known = {(row["pair"], row["list"]): row for row in before["results"]}
    found: list[Finding] = []
    for row in now["results"]:
        then = known.get((row["pair"], row["list"]))
        if then is None or "failure" in then:
            found.append(Finding(row["pair"], row["list"], "pair", "", row.get("failure", "measured"), NEW))
        elif "failure" in row:
            found.append(Finding(row["pair"], row["list"], "pair", "measured", row["failure"], FAILS))
        else:
            found.append(time_of(then, row))
            found += [count_of(name, then, row) for name in COUNTS if name in then and name in row]
    return found


def confirmed(before: Result, now: Result, again: Callable[[Sequence[Key]], Result]) -> list[Finding]:
    """The findings, those that got slower only where they do so each time that they are measured again."""
    found = findings(before, now)
    for _ in range(AGAIN):
        suspects = [row.key for row in found if row.verdict == SLOWER]
        if not suspects:
            break
        later = {row.key: row for row in findings(before, again(suspects)) if row.what == "ratio of times"}
        found = [later.get(row.key, row) if row.verdict == SLOWER else row for row in found]
    return found


def unlike(before: Result, now: Result) -> list[str]:
    """What the two runs differ in that ratios depend on: then nothing follows from a comparison."""
    told: list[str] = []
    for name in ("processor", "cores", "torch", "python"):
        was, is_now = before["machine"][name], now["machine"][name]
        if was != is_now:
            told.append(f"{name}: {was} then, {is_now} now")
    for name in ("device", "threads"):
        if before["settings"][name] != now["settings"][name]:
            told.append(f"{name}: {before['settings'][name]} then, {now['settings'][name]} now")
    for name, version in now["peers"].items():
        if before["peers"].get(name, version) != version:
            told.append(f"{name}: {before['peers'][name]} then, {version} now")
    return told


def table(found: Sequence[Finding]) -> Table:
    """What moved."""
    rows = [
        [row.pair, TITLES[row.list], row.what, row.before, row.now, row.change, row.verdict]
        for row in found
        if row.verdict != SAME
    ]
    moved = f"{len(rows)} of {len(found)} numbers moved since the committed page"
    return Table(moved, ("pair", "list", "what", "then", "now", "now / then", "verdict"), rows)


def worse(found: Sequence[Finding]) -> bool:
    return any(row.verdict in WORSE for row in found)
