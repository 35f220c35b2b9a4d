"""Functions whose optimum is known: two of GYRO's synthetic benchmark, and a quadratic with noisy gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from gradchain.ablation.task import register_task
from gradchain.ablation.trial import MakeOptimizer, Metric, Training, Trial, time_to

MAX_NORM = 10.0
"""Larger gradients of the two valleys are clipped to this norm, as they were in the published runs."""


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    """The banana valley `(1 - x0)² + 100 (x1 - x0²)²`, lowest at (1, 1). Returns: a number."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def ravine(x: torch.Tensor) -> torch.Tensor:
    """The narrow valley `100 x0² + x1²`, lowest at (0, 0). Returns: a number."""
    return 100 * x[0] ** 2 + x[1] ** 2


def descend_rosenbrock(make_optimizer: MakeOptimizer, trial: Trial) -> dict[str, float]:
    """Rosenbrock's valley from (-1, 1), gradients clipped to norm 10."""
    return _descend(rosenbrock, (-1.0, 1.0), make_optimizer, trial)


def descend_ravine(make_optimizer: MakeOptimizer, trial: Trial) -> dict[str, float]:
    """The valley 100 x0² + x1² from (2, 2), gradients clipped to norm 10."""
    return _descend(ravine, (2.0, 2.0), make_optimizer, trial)


def _descend(
    function: Callable[[torch.Tensor], torch.Tensor],
    start: tuple[float, float],
    make_optimizer: MakeOptimizer,
    trial: Trial,
) -> dict[str, float]:
    """Go down a valley; seed 0 from the published start, other seeds from somewhere near it.

    Returns: the loss before the last step, which is what was published.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    away = 0.1 * torch.randn(2, generator=generator) if trial.seed else torch.zeros(2)
    x = nn.Parameter(torch.tensor(start) + away)
    optimizer = make_optimizer([x])
    value = math.nan
    for step in range(1, (trial.budget or 1) + 1):
        optimizer.zero_grad()
        loss = function(x)
        value = loss.item()
        trial.report(step, loss=value)
        if not math.isfinite(value):
            break
        loss.backward()
        nn.utils.clip_grad_norm_([x], MAX_NORM)
        optimizer.step()
    return {"loss": value}


DIMENSION, CONDITION, NOISE = 64, 100.0, 1.0


def noisy_quadratic(make_optimizer: MakeOptimizer, trial: Trial) -> dict[str, float]:
    """Half of `xᵀ H x` in a rotated basis, from gradients with Gaussian noise; the optimum is 0.

    Returns: `suboptimality`, the mean over the last tenth of the steps, where noise and curvature balance.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    basis = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=generator))[0]
    curvature = torch.logspace(-math.log10(CONDITION), 0, DIMENSION)
    matrix = basis * curvature @ basis.T
    x = nn.Parameter(torch.randn(DIMENSION, generator=generator))
    optimizer = make_optimizer([x])
    steps, losses = trial.budget or 1, list[float]()
    for step in range(1, steps + 1):
        with torch.no_grad():
            slope = matrix @ x
            losses.append(0.5 * (x @ slope).item())
        trial.report(step, loss=losses[-1])
        if not math.isfinite(losses[-1]):
            break
        x.grad = slope + NOISE * torch.randn(DIMENSION, generator=generator) / math.sqrt(DIMENSION)
        optimizer.step()
    last = losses[-max(1, steps // 10) :]
    return {"suboptimality": sum(last) / len(last)}


register_task(
    Training(
        descend_rosenbrock,
        "rosenbrock",
        "Rosenbrock's valley from (-1, 1), gradients clipped to norm 10",
        budget=5000,
        threads=1,
    )
)
register_task(
    Training(
        descend_ravine,
        "ravine",
        "the valley 100 x0² + x1² from (2, 2), gradients clipped to norm 10",
        metrics=(time_to("loss", 1e-3), Metric("loss")),
        budget=3000,
        chosen_by=Metric("loss"),
        threads=1,
    )
)
register_task(
    Training(
        noisy_quadratic,
        "quadratic",
        f"a quadratic of {DIMENSION} dimensions, condition number {CONDITION:g}, with noisy gradients; its optimum is 0",
        metrics=(Metric("suboptimality"),),
        budget=3000,
        threads=1,
    )
)
