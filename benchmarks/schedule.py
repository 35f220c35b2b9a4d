"""A run within its time: what matters most comes first, and what there is no time for is said to be left out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pairs import Pair
from benchmarks.tables import WARM_LIST

LIMIT = 240.0
"""Seconds after which a process is given up."""

OVERHEAD = 12.0
"""Seconds that a task takes besides its timed steps, before any has been seen."""

LEAST = 0.5
"""Seconds of timed steps of a pair, however late it is; beside the fewest rounds."""

Result = dict[str, Any]
RunTask = Callable[[Result, Path, float], Result]
Work = Sequence[tuple[Pair, str]]


@dataclass
class Budget:
    """The minutes of a run, and how many tasks are still to share them."""

    minutes: float
    tasks: int
    clock: Callable[[], float] = time.monotonic
    overheads: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = self.clock()

    @property
    def spent(self) -> float:
        return self.clock() - self.start

    @property
    def left(self) -> float:
        return 60 * self.minutes - self.spent

    def seconds(self, wanted: float) -> float:
        """Seconds of timed steps for the next task: fewer than wanted where the rest would come too late."""
        usual = statistics.mean(self.overheads) if self.overheads else OVERHEAD
        return min(wanted, max(LEAST, self.left / self.tasks - usual))

    def run(self, run_task: RunTask, task: Result, cache: Path) -> Result:
        """The result of a task; that it was left out, where the time is over."""
        if "seconds" in task:
            task = {**task, "seconds": self.seconds(task["seconds"])}
        self.tasks -= 1
        if self.left <= 0:
            return {"failure": f"left out: the {self.minutes:g} minutes of the run were over", "warnings": []}
        before = self.spent
        result = run_task(task, cache, min(LIMIT, self.left))
        self.overheads.append(self.spent - before - task.get("seconds", 0.0))
        return result


def cold_key(pair: Pair, name: str, settings: Result) -> str | None:
    """Which chain's first step with an empty cache belongs to a pair; `None` if no such step is measured."""
    asked = settings["cold"] and name == WARM_LIST[settings["device"]] and pair.ours.compiled
    return pair.ours.label if asked else None


def cache_of(pair: Pair, name: str) -> str:
    """The folder of a chain's kernels for a list."""
    return f"{pair.ours.label.replace(' ', '-').replace(',', '')}-{name}"


def first_steps(work: Work, settings: Result, caches: Path) -> list[tuple[Result, Path]]:
    """First steps that fill the caches of compilers, one for each compiled chain on a list."""
    chosen = {cache_of(pair, name): (pair, name) for pair, name in work if pair.ours.compiled}
    common = {"what": "first step", **settings}
    return [({**common, "pair": pair.name, "list": name}, caches / key) for key, (pair, name) in chosen.items()]


def tasks_of(work: Work, checks: Sequence[Result], settings: Result) -> int:
    cold = {cold_key(pair, name, settings) for pair, name in work} - {None}
    return len(work) + len(cold) + len(checks)


Row = tuple[int, Pair, str]
"""The place of a pair in the tables, the pair, the list."""


def in_order(work: Work) -> tuple[list[Row], list[Row]]:
    """The pairs that have a target, and the others: storages last, as they compile long."""
    rows = [(place, pair, name) for place, (pair, name) in enumerate(work)]
    first = [row for row in rows if row[2] in row[1].targets]
    rest = [row for row in rows if row[2] not in row[1].targets]
    return first, sorted(rest, key=lambda row: row[1].ours.stored)


class Measuring:
    """Measures pairs, one after the other. A chain's pairs on a list share a compiler cache."""

    def __init__(self, settings: Result, budget: Budget, caches: Path, run_task: RunTask) -> None:
        self.settings, self.budget, self.caches, self.run_task = settings, budget, caches, run_task
        self.cold: dict[str, Any] = {}

    def results(self, rows: Sequence[Row]) -> Iterator[tuple[int, Result]]:
        """The results of some pairs, with their places in the tables."""
        for place, pair, name in rows:
            common = {"pair": pair.name, "list": name, **self.settings}
            cache = self.caches / cache_of(pair, name)
            key = cold_key(pair, name, self.settings)
            if key is not None and key not in self.cold:
                task = {"what": "first step", **{k: v for k, v in common.items() if k != "seconds"}}
                self.cold[key] = self.budget.run(self.run_task, task, cache).get("first_s")
            result = self.budget.run(self.run_task, {"what": "compare", **common}, cache)
            yield place, {**facts(pair, name), "cold_s": None if key is None else self.cold[key], **result}


def facts(pair: Pair, name: str) -> Result:
    """What the page has to know of a pair besides what was measured."""
    return {
        "pair": pair.name,
        "list": name,
        "ours": pair.ours.label,
        "peer": pair.peer.label,
        "compiled": pair.ours.compiled,
        "stored": pair.ours.stored,
        "differs": pair.differs,
        "target": pair.targets.get(name),
        "why": pair.why,
    }
