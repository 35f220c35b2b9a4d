"""Optimizers of packages next to our recipes, on given gradients; the packages are black boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradchain

SHAPES = ((6, 8), (5,), (4, 3, 2))
STEPS, SPIKE = 20, 6

Options = dict[str, Any]


def peer(package: str, name: str) -> Callable[..., torch.optim.Optimizer]:
    module = pytest.importorskip(package, reason="pip install gradchain[parity]")
    return getattr(module, name)


# package, class, options of theirs alone, our recipe, options of both. Where eps is tiny, it is because theirs is added
# before the bias is corrected, and the paper's after that.
CASES: dict[str, tuple[str, str, Options, str, Options]] = {
    "mars": ("pytorch_optimizer", "MARS", {"optimize_1d": True}, "mars-adamw", {"eps": 1e-30, "weight_decay": 0.1}),
    "mars-gamma": (
        "pytorch_optimizer",
        "MARS",
        {"optimize_1d": True},
        "mars-adamw",
        {"eps": 1e-30, "gamma": 0.3, "betas": (0.8, 0.9)},
    ),
    "adabelief": ("pytorch_optimizer", "AdaBelief", {}, "adabelief", {}),
    "adabelief-eps": ("pytorch_optimizer", "AdaBelief", {}, "adabelief", {"eps": 1e-2, "weight_decay": 0.1}),
    "laprop": ("pytorch_optimizer", "LaProp", {}, "laprop", {"eps": 1e-30}),
    "stable-adamw": ("pytorch_optimizer", "StableAdamW", {"kahan_sum": False}, "stable-adamw", {"eps": 1e-8}),
    "stable-adamw-eps": (
        "pytorch_optimizer",
        "StableAdamW",
        {"kahan_sum": False},
        "stable-adamw",
        {"eps": 1e-1, "weight_decay": 0.1},
    ),
    "stable-adamw-optimi": ("optimi", "StableAdamW", {}, "stable-adamw", {}),
    "stable-adamw-optimi-eps": ("optimi", "StableAdamW", {}, "stable-adamw", {"eps": 1e-1, "weight_decay": 0.1}),
}


ROUNDED = {"mars", "mars-gamma", "laprop"}
"""The package adds 1e-15 to these second moments, whatever its eps is, which shows where gradients are small."""


@pytest.mark.filterwarnings("ignore")  # as they are imported
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_steps_are_those_of_the_package(case: str, dtype: torch.dtype) -> None:
    package, name, own, recipe, options = CASES[case]
    make = peer(package, name)
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
    theirs, ours = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    optimizers = (
        make(theirs, lr=1e-2, **own, **options),
        gradchain.optimizer(recipe, ours, lr=1e-2, compile=False, **options),
    )
    rtol = 2e-6 if dtype == torch.float32 else 1e-9 if case in ROUNDED else 1e-12
    for number in range(STEPS):
        for a, b in zip(theirs, ours):
            grad = torch.randn(a.shape, generator=generator, dtype=torch.float64) * (5 if number == SPIKE else 1)
            a.grad, b.grad = grad.to(dtype), grad.to(dtype)
        for optimizer in optimizers:
            optimizer.step()
        for a, b in zip(theirs, ours):
            torch.testing.assert_close(b, a, rtol=rtol, atol=rtol)


def test_their_mars_takes_the_gradient_before_the_first_for_zero() -> None:
    """The paper's first step is not corrected, and ours is so only when asked for; small gradients are not clipped."""
    make = peer("pytorch_optimizer", "MARS")
    options: Options = {"lr": 1e-2, "eps": 1e-30}
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    theirs, exact, zero = (torch.nn.Parameter(start.clone()) for _ in range(3))
    chain = gradchain.recipe("mars-adamw", **options)
    optimizers = (
        make([theirs], optimize_1d=True, **options),
        gradchain.Optimizer([exact], chain, compile=False),
        gradchain.Optimizer([zero], chain.with_options(**{"mars.initial": "zero"}), compile=False),
    )
    for grad in ([0.02, -0.01], [0.01, 0.03]):
        for param, optimizer in zip((theirs, exact, zero), optimizers):
            param.grad = torch.tensor(grad, dtype=torch.float64)
            optimizer.step()
    torch.testing.assert_close(zero, theirs, rtol=1e-9, atol=0)  # as ROUNDED
    assert (exact - theirs).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore")
def test_sophia_given_the_same_estimates() -> None:
    """Their bound is p and ours 1, as in the paper's last version: lr, eps and gamma are p times theirs."""
    make = peer("pytorch_optimizer", "SophiaH")
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    theirs, ours = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    first = make(theirs, lr=1.0, p=0.1, eps=1e-3, update_period=3)
    second = gradchain.optimizer("sophia", ours, lr=0.1, gamma=0.1, eps=1e-4, weight_decay=0.0, compile=False)
    for number in range(STEPS):
        estimate = None
        if number % 3 == 0:
            estimate = [30 * torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in ours]
            gradchain.give_hessian(second, estimate)
        for a, b in zip(theirs, ours):
            a.grad = torch.randn(a.shape, generator=generator, dtype=torch.float64)
            b.grad = a.grad.clone()
        first.step(hessian=estimate)  # type: ignore[call-arg]
        second.step()
        for a, b in zip(theirs, ours):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)
