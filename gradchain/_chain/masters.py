"""A parameter in the precision that its steps are computed in."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gradchain._chain.context import Context
from gradchain._chain.program import Numbers, Program
from gradchain._core.shard import Shard


def reader_of(program: Program, param: torch.Tensor, state: Mapping[str, torch.Tensor], shard: Shard) -> Context:
    """What stages can read of a parameter where it has no gradient."""
    nothing = param.new_zeros(()).expand(param.shape)
    return Context(param, nothing, program.loaders(param, state, shard), program.role, shard)


def master_of(
    program: Program, param: torch.Tensor, state: Mapping[str, torch.Tensor], numbers: Numbers, shard: Shard
) -> torch.Tensor:
    """The value of a parameter, or of the rows of it that are here, that stages read. Pure: a new tensor."""
    ctx = reader_of(program, param, state, shard)
    for _ in program.entered(ctx, numbers):
        pass
    return ctx.param.clone()
