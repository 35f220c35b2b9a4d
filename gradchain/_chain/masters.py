"""A parameter in the precision that its steps are computed in."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gradchain._chain.context import Context
from gradchain._chain.mixins import Precision
from gradchain._chain.program import Numbers, Program
from gradchain._core.shard import Shard


def master_of(
    program: Program, param: torch.Tensor, state: Mapping[str, torch.Tensor], numbers: Numbers, shard: Shard
) -> torch.Tensor:
    """The value of a parameter, or of the rows of it that are here, that stages read. Pure: a new tensor."""
    nothing = param.new_zeros(()).expand(param.shape)
    ctx = Context(param, nothing, program.loaders(param, state, shard), program.role, shard)
    for (address, stage), values in zip(program.stages, numbers):
        if isinstance(stage, Precision):
            stage = stage.bind(values)
            ctx.enter(address, values, (*stage.known_slots, *(read.slot for read in stage.reads)))
            ctx.param = stage.read(ctx.param, ctx)
            ctx.dtype = ctx.param.dtype
    return ctx.param.clone()
