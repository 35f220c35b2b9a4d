"""When a tuning run is given up: at a point of its curve where it falls behind half of those before it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from gradchain.ablation.run import Run
from gradchain.ablation.trial import Metric

STARTUP = 4
"""Runs that are finished before any is given up."""

WARMUP = 0.3
"""The fraction of the steps that every run is given."""


@dataclass(frozen=True)
class Thresholds:
    """The median of earlier runs, by step. Decided before the run starts, so that it gives the same result anywhere."""

    metric: Metric
    medians: tuple[tuple[float, float], ...]

    @property
    def key(self) -> str:
        return "-" + hashlib.sha256(repr(self).encode()).hexdigest()[:8]

    def __call__(self, step: float, name: str, value: float) -> bool:
        """Whether to give up."""
        if name != self.metric.name:
            return False
        sign = 1 if self.metric.goal == "max" else -1
        return any(at == step and sign * value < sign * worst for at, worst in self.medians)


def thresholds(runs: Sequence[Run], metric: Metric) -> Thresholds | None:
    """Find them among the runs of an arm so far. Returns: `None` while these are too few."""
    curves = [{at: value for at, value in run.curves.get(metric.name, [])} for run in runs if run.failed is None]  # noqa: C416
    whole = [curve for curve in curves if curve]
    if len(whole) < STARTUP:
        return None
    last = max(max(curve) for curve in whole)
    steps = sorted({step for curve in whole for step in curve if step >= WARMUP * last})
    shared = [(step, [curve[step] for curve in whole if step in curve]) for step in steps]
    return Thresholds(metric, tuple((step, median(values)) for step, values in shared if len(values) >= STARTUP))
