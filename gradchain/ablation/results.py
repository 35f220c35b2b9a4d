"""What a study found: each arm with its runs."""

from __future__ import annotations

from dataclasses import dataclass

from gradchain.ablation.arms import Arm
from gradchain.ablation.run import Run, Settings


@dataclass(frozen=True)
class Result:
    """An arm with its runs in the order of seeds; `sweep` are the runs that its learning rate was chosen by."""

    arm: Arm
    runs: tuple[Run, ...]
    sweep: tuple[Run, ...] = ()

    @property
    def lr(self) -> float | None:
        return self.runs[0].lr


@dataclass(frozen=True)
class Results:
    """The arms of a study, the full chain first."""

    name: str
    settings: Settings
    seeds: int
    results: tuple[Result, ...]
    notes: tuple[str, ...]
    lr_factors: tuple[float, ...] = ()
    resumed: int = 0
    margin: float | None = None
    """The difference in accuracy, in points, that does not matter."""

    @property
    def full(self) -> Result:
        return self.results[0]
