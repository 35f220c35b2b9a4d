"""Muon beside `torch.optim.Muon` for the matrices and `torch.optim.AdamW` for all else, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain

SHAPES = {"tall": (24, 8), "wide": (8, 24), "square": (16, 16), "norm": (16,), "bias": (5,), "scale": ()}
LR, STEPS = 0.02, 6

MUON = {"weight_decay": 0.3, "momentum": 0.9}
ADAMW = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}
OURS = {**MUON, **{f"adam_{name}": value for name, value in ADAMW.items()}}

FLOAT32 = 1e-6
"""Of the largest move. Both round the same numbers to bfloat16, and do the same operations on them, as long as float32 gives
both the same momentum: one number that falls to the other side would show as 1e-3."""

BFLOAT16 = 2**-5
"""Of the largest move: torch takes the step and the decay in bfloat16, in several roundings, where we round once. Without
Nesterov's step torch (2.13) also overwrites its momentum with the normalised one, in bfloat16 alone: a fault."""


def parameters(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """Smaller than their moves, so that their own rounding hides nothing."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: nn.Parameter((0.01 * torch.randn(shape, generator=generator)).to(dtype)) for name, shape in SHAPES.items()
    }


def train(params: dict[str, nn.Parameter], *optimizers: torch.optim.Optimizer) -> None:
    """Equal gradients at equal steps; the learning rate falls."""
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step + 10)
        for param in params.values():
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LR * 0.9**step
            optimizer.step()


def published(params: dict[str, nn.Parameter], **options: Any) -> list[torch.optim.Optimizer]:
    matrices = [param for param in params.values() if param.ndim == 2]
    others = [param for param in params.values() if param.ndim != 2]
    return [torch.optim.Muon(matrices, lr=LR, **options), torch.optim.AdamW(others, lr=LR, **ADAMW)]


def off(ours: nn.Parameter, theirs: nn.Parameter, start: torch.Tensor) -> float:
    """The largest difference, in units of the largest move."""
    ours, theirs, start = (x.detach().double() for x in (ours, theirs, start))
    return ((ours - theirs).abs().max() / (theirs - start).abs().max()).item()


@pytest.mark.parametrize(
    ("dtype", "nesterov"),
    [(torch.float32, True), (torch.float32, False), (torch.bfloat16, True)],
    ids=["fp32-nesterov", "fp32-plain", "bf16-nesterov"],
)
@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw", None])
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_it_steps_as_torch_does(
    compile: bool, adjust_lr_fn: str | None, nesterov: bool, dtype: torch.dtype, traced: Any
) -> None:
    start, theirs, held = parameters(dtype), parameters(dtype), parameters(dtype)
    train(theirs, *published(theirs, **MUON, nesterov=nesterov, adjust_lr_fn=adjust_lr_fn))
    chain = gradchain.recipe("muon", lr=LR, nesterov=nesterov, adjust_lr_fn=adjust_lr_fn, **OURS)
    train(held, gradchain.Optimizer(list(held.items()), chain, compile=compile))
    found = {name: off(held[name], theirs[name], start[name]) for name in SHAPES}
    tolerance = FLOAT32 if dtype == torch.float32 else BFLOAT16
    assert {name: x for name, x in found.items() if x > tolerance} == {}
