"""The package schedulefree 1.4 itself, next to our recipes: y in training, and x where it is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain

schedulefree = pytest.importorskip("schedulefree", reason="pip install gradchain[parity]")

OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1, "warmup_steps": 10},
    {"r": 1.0, "weight_lr_power": 0.0, "warmup_steps": 3},
]
SCHEDULES: dict[str, Callable[[int], float]] = {"constant": lambda t: 0.1, "saw": lambda t: 0.05 * (1 + t % 5)}


def run(make: Any, lr: Callable[[int], float], dtype: torch.dtype) -> list[torch.Tensor]:
    """The parameters after each of 40 steps, and at every seventh where they are evaluated."""
    generator = torch.Generator().manual_seed(1)
    held = [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in [(4, 3), (5,), ()]
    ]
    optimizer = make(held)
    optimizer.train()
    found: list[torch.Tensor] = []
    for step in range(40):
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        for param in held:
            noise = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(dtype)
            param.grad = 0.3 * param.detach() + noise
        optimizer.step()
        found += [param.detach().clone() for param in held]
        if step % 7 == 3:
            optimizer.eval()
            found += [param.detach().clone() for param in held]
            optimizer.train()
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("foreach", [False, True], ids=["single", "foreach"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree"])
def test_the_package_takes_the_same_steps(
    name: str, options: dict[str, Any], schedule: str, foreach: bool, dtype: torch.dtype
) -> None:
    lr = SCHEDULES[schedule]
    theirs = run(lambda ps: getattr(schedulefree, name)(ps, foreach=foreach, **options), lr, dtype)
    ours = run(lambda ps: getattr(gradchain.optim, name)(ps, **options), lr, dtype)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-15 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree"])
def test_the_defaults_are_the_published_ones(name: str) -> None:
    held = [nn.Parameter(torch.ones(1))]
    theirs, ours = getattr(schedulefree, name)(held).defaults, getattr(gradchain.optim, name)(held).defaults
    options = {
        key: value
        for key, value in ours.items()
        if key not in ("disable", "role", "maximize", "telemetry", "train_mode")
    }
    assert options == {key: theirs[key] for key in options}
