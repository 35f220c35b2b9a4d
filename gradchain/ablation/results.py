"""What a study found: each arm with its runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradchain import __version__
from gradchain._chain.chain import Chain
from gradchain.ablation.arms import Arm, Design
from gradchain.ablation.run import Run, Settings
from gradchain.ablation.trial import Metric

VERSIONS = (("gradchain", __version__), ("torch", str(torch.__version__)))


@dataclass(frozen=True)
class Result:
    """An arm with its runs in the order of seeds.

    `chain` is what it was trained with: that of the arm, with the hyperparameters chosen for it. `trials` are the runs by
    which they were chosen, in the order in which they were tried.
    """

    arm: Arm
    chain: Chain
    runs: tuple[Run, ...]
    trials: tuple[Run, ...] = ()

    @property
    def lr(self) -> float | None:
        return self.runs[0].lr


@dataclass(frozen=True)
class Tuned:
    """How hyperparameters were chosen: so many trials for each arm, at multiples of its own values within a range."""

    over: tuple[str, ...]
    trials: int
    seeds: int
    span: tuple[float, float]


@dataclass(frozen=True)
class Results:
    """The arms of a study, the reference first.

    `metrics`: the first decides. `looks`: the numbers of seeds at which the study was judged; the last is what it has.
    `margin`: the difference that does not matter, in what the first metric is shown in.
    """

    name: str
    settings: Settings
    metrics: tuple[Metric, ...]
    design: Design
    results: tuple[Result, ...]
    looks: tuple[int, ...]
    planned_looks: int = 1
    tuned: Tuned | None = None
    margin: float | None = None
    resumed: int = 0
    folder: str | None = None
    command: str | None = None
    versions: tuple[tuple[str, str], ...] = VERSIONS
    """Of the packages that it ran with, by name."""

    @property
    def full(self) -> Result:
        return self.results[0]

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return self.looks[-1]

    @property
    def metric(self) -> Metric:
        return self.metrics[0]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs that count, arm by arm."""
        return tuple(run for result in self.results for run in result.runs)
