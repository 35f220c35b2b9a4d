"""Stages made of one function, to see what is found out about it."""

from __future__ import annotations

from typing import Any

import torch

import gradchain as gc
from gradchain._chain.tracing import Traits, traits_of

LR = gc.scale_by_learning_rate(1.0)


def stage(act: Any) -> gc.Stage:
    """A stage that turns the direction into something."""

    def update(self: Any, update: gc.Update, ctx: gc.Context) -> gc.Update:
        return update.replace(value=act(update.value, ctx))

    return type("claims_user", (gc.Stage,), {"update": update, "scalars": lambda self, step: {"step": step}})()


def of(
    program_stage: gc.Stage, *others: gc.Stage, shape: tuple[int, ...] = (3, 3), dtype: Any = torch.float32
) -> Traits:
    param = torch.zeros(shape, dtype=dtype)
    return traits_of(gc.chain(program_stage, *others, LR).route("", param), param)


def noisy(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v + ctx.random_bits().to(v.dtype) * 1e-12


POINTWISE: dict[str, tuple[Any, bool]] = {
    "sign": (lambda v, ctx: v.sign(), True),
    "square": (lambda v, ctx: v.square() + v**3 + v**2.0, True),
    "where": (lambda v, ctx: torch.where(v > 0, v, 0.0) + torch.where(v < 0, torch.zeros_like(v), v), True),
    "own zeros": (lambda v, ctx: torch.zeros_like(v) + v.new_ones(()) * v + torch.tensor(0.5), True),
    "in place, of its own": (lambda v, ctx: v.clone().mul_(2).clamp_(-1, 1), True),
    "dtypes": (lambda v, ctx: v.double().float().to(ctx.dtype) if v.is_floating_point() else v, True),
    "masked": (lambda v, ctx: v.masked_fill(v > 0.5, 0.0), True),
    "param": (lambda v, ctx: v + 0.1 * ctx.param + 0.1 * ctx.gradient.to(ctx.dtype), True),
    "same view": (lambda v, ctx: v.view_as(v), True),
    "atan2": (lambda v, ctx: torch.atan2(v, v + 2), False),
    "arctangent": (lambda v, ctx: gc.ops.arctangent(v, v + 2) + gc.ops.arctan_ratio(v, v.abs() + 2), True),
    "exp": (lambda v, ctx: v.exp(), False),
    "tanh": (lambda v, ctx: v.tanh(), False),
    "power": (lambda v, ctx: v.abs() ** 0.3, False),
    "half": (lambda v, ctx: (v.bfloat16() * 3).to(v.dtype), False),
}
