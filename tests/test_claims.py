"""Whether a stage mixes elements is observed, not declared."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from tests.claims import LR, POINTWISE, of, stage


class identity_function(torch.autograd.Function):
    """Subtracts the mean."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x - x.mean()


@torch.library.custom_op("gradchain_tests::centred", mutates_args=())
def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean()


@centred.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("gradchain_tests::tagged", mutates_args=(), tags=(torch.Tag.pointwise,))
def tagged(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean()


@tagged.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def by_hand(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v / (v * v).sum().sqrt()


def branch_on_shape(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v * 2 if v.shape[0] > 1000 else v


def branch_on_step(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v - v.mean() if ctx["step"] > 500 else v


MIXING: dict[str, tuple[Any, str]] = {
    "mean": (lambda v, ctx: v - v.mean(), "aten.mean"),
    "row mean": (lambda v, ctx: v - v.mean(-1, keepdim=True), "aten.mean.dim"),
    "roll": (lambda v, ctx: v.roll(1), "aten.roll"),
    "flip": (lambda v, ctx: v.flip(0), "aten.flip"),
    "cumsum": (lambda v, ctx: v.cumsum(0), "aten.cumsum"),
    "sort": (lambda v, ctx: v.sort(0).values, "aten.sort"),
    "matmul": (lambda v, ctx: v @ v.mT @ v, "aten"),
    "numel": (lambda v, ctx: v / v.numel(), r"\.numel\(\)"),
    "size": (lambda v, ctx: v / v.size(0), r"\.size\(\)"),
    "len": (lambda v, ctx: v / len(v), r"len\(\)"),
    "ctx.numel": (lambda v, ctx: v / ctx.numel, "ctx.numel"),
    "ctx.shape": (lambda v, ctx: v / ctx.shape[0], "ctx.shape"),
    "branch on shape": (branch_on_shape, r"\.shape"),
    "branch on a step": (branch_on_step, "aten.mean"),
    "norm": (by_hand, "aten.sum"),
    "torch.norm": (lambda v, ctx: v / v.norm(), "aten.*norm"),
    "softmax": (lambda v, ctx: v.softmax(0), "softmax"),
    "layer_norm": (lambda v, ctx: nn.functional.layer_norm(v, v.shape[-1:]), "aten.*norm|shape"),
    "function": (lambda v, ctx: identity_function.apply(v), "aten.mean"),
    "custom op": (lambda v, ctx: centred(v), "gradchain_tests.centred"),
    "custom op with a wrong tag": (lambda v, ctx: tagged(v), "joined with others"),
    "weights": (lambda v, ctx: v * torch.linspace(0, 1, 16)[:1], "aten"),
    "other parameter's row": (lambda v, ctx: v * ctx.param[0], "aten.select"),
    "first element": (lambda v, ctx: torch.where(v == v.max(), v, 0.0), "aten.max"),
    "index": (lambda v, ctx: v * (torch.arange(v.nelement()).view_as(v) % 2), "aten.arange|nelement"),
    "view": (lambda v, ctx: v.unsqueeze(0).squeeze(0), "aten.unsqueeze"),
}


@pytest.mark.parametrize("what", MIXING)
@pytest.mark.parametrize("shape", [(5,), (3, 3), (2, 3, 3)], ids=str)
def test_elements_that_come_together_are_noticed(what: str, shape: tuple[int, ...]) -> None:
    if what == "matmul" and len(shape) < 2:
        return
    act, operation = MIXING[what]
    found = of(stage(act), shape=shape)
    assert not found.elementwise
    assert re.search(operation, found.mixed["claims_user"])


@pytest.mark.parametrize("what", MIXING)
def test_blocks_are_the_whole_for_what_users_write(what: str) -> None:
    """Many parameters together, and each alone: the same bits."""
    shapes = [(3, 3), (5, 5), (3, 3), (2, 2)]
    results: list[list[torch.Tensor]] = []
    for together in (True, False):
        params = [nn.Parameter(torch.linspace(-1, 2, 25)[: a * b].view(a, b).clone()) for a, b in shapes]
        companies = [params] if together else [[param] for param in params]
        optimizers = [gc.Optimizer(some, gc.chain(stage(MIXING[what][0]), LR), compile=False) for some in companies]
        for step in range(2):
            for param in params:
                param.grad = (param.detach() * (step + 1)).cos()
            for optimizer in optimizers:
                optimizer.step()
        results.append([param.detach() for param in params])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("what", POINTWISE)
def test_elements_that_do_not_come_together(what: str) -> None:
    act, exact = POINTWISE[what]
    found = of(stage(act))
    assert found.elementwise
    assert found.exact == exact, found.placed


def test_a_stage_that_branches_on_a_number_is_not_joined_and_gets_noise() -> None:
    act = lambda v, ctx: v - v.mean() if ctx["step"] > 5000 else v  # noqa: E731
    found = of(stage(act))
    assert not found.elementwise
    assert found.draws
