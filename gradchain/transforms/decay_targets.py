"""What a geometric decay shrinks a parameter by: one amount for all elements, or a strength for each row and column."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._core.reduce import Request, Totals, whole_tensor
from gradchain.ops import arctan_ratio, finite, root, wide
from gradchain.transforms.lines import evened


def even_decay(y: torch.Tensor, ctx: Context, snr: bool) -> Generator[Request, Totals, torch.Tensor]:
    """The target of a geometric decay, with the norm of `y`."""
    totals = yield whole_tensor(yy=finite(wide(y).square()))
    length, least = root(totals.yy), 1 / math.sqrt(max(ctx.numel, 1))
    if not snr:
        return y.sign() * (length * least)
    m = ctx.previous("exp_avg")
    w = arctan_ratio(y.sign(), root((1 - m.square()).clamp_min(1e-30)))
    totals = yield whole_tensor(ww=wide(w).square())
    return w * (length / root(totals.ww).clamp_min(least))


def line_strengths(ctx: Context, snr: bool) -> Generator[Request, Totals, torch.Tensor]:
    """The strength of each element of a matrix in a geometric decay."""
    momentum = wide(ctx.previous("exp_avg")) if snr else None
    return (yield from evened(wide(ctx.param), ctx.shape, momentum))
