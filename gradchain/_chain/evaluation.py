"""Stages that keep a parameter at one point and show it at another outside training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.elements import Composed
from gradchain._chain.masters import reader_of
from gradchain._chain.mixins import Precision
from gradchain._chain.program import Numbers, Program
from gradchain._chain.stage import Stage
from gradchain._core.shard import Shard
from gradchain.errors import ChainError, kind_of

TRAIN_PARAM = "train_param"
"""What the state calls the value that training goes on from, while the parameter is seen at its evaluation point."""

TRAIN_MODE = "train_mode"
"""What a parameter group says of the mode that its optimizer is in."""


class EvaluationPoint(Stage, register=False):
    """Base of stages that train a parameter at one point and want it seen at another, such as an average of its values.

    `optimizer.eval()` writes what `evaluated` returns into the parameters, and `optimizer.train()` brings back the values
    that training goes on from, bit for bit. A parameter passes through at most one such stage.

    >>> class midpoint(gradchain.EvaluationPoint):
    ...     def slots(self, p):
    ...         return {"start": gradchain.Slot("param")}
    ...     def evaluated(self, param, ctx):
    ...         return (param + ctx.read("start")) / 2
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> chain = gradchain.chain(gradchain.scale_by_learning_rate(1.0), midpoint())
    >>> optimizer = gradchain.Optimizer([weight], chain)
    >>> weight.grad = torch.tensor([-1.0, 3.0])
    >>> optimizer.step()
    >>> optimizer.eval()
    >>> weight.tolist()
    [0.5, -1.5]
    >>> optimizer.train()
    >>> weight.tolist()
    [1.0, -3.0]
    """

    def evaluated(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        """Compute the value at which a parameter is to be seen outside training, row by row or element by element.

        `ctx` is that of `update`, after the last step; it has no gradient. A parameter that has taken no step is seen as it
        is, without a call.

        Returns: a tensor like `param`; nothing is changed.
        """
        return param


def comes_last(stage: Stage, after: Sequence[Stage]) -> None:
    """Raise unless only stages follow that decide how the parameter is stored."""
    if late := [other for other in after if not isinstance(other, Precision)]:
        raise ChainError(
            f"{stage.address} goes by where the step leads, and {late[0].address} after it would change that. Put "
            f"{stage.address} after {late[0].address}."
        )


def point_of(program: Program) -> str | None:
    """The address of the stage that decides where a parameter is seen; `None` if there is none."""
    return next((address for address, stage in program.stages if isinstance(stage, EvaluationPoint)), None)


def has_point(chain: Composed) -> bool:
    """Whether a stage of the chain decides where a parameter is seen."""
    return any(isinstance(stage, EvaluationPoint) for _, stage in chain.addressed)


def is_train_param(key: str) -> bool:
    """Whether an entry of a state is the value that training goes on from."""
    return str(key).rpartition(".")[2] == TRAIN_PARAM


def seen_at(
    program: Program, param: torch.Tensor, state: Mapping[str, torch.Tensor], numbers: Numbers, shard: Shard
) -> torch.Tensor:
    """The value at which a parameter, or the rows of it that are here, is to be seen outside training. Pure."""
    ctx = reader_of(program, param, state, shard)
    for address, stage in program.entered(ctx, numbers):
        if isinstance(stage, EvaluationPoint):
            made: Any = stage.evaluated(ctx.param, ctx)
            if not isinstance(made, torch.Tensor) or made.shape != param.shape or not made.is_floating_point():
                what = f"{made.dtype} of shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else kind_of(made)
                raise ChainError(
                    f"{address}: its `evaluated` returned {what} for a parameter of shape {tuple(param.shape)}; return a "
                    "real floating tensor of that shape.",
                    stage=address,
                )
            return made.to(param.dtype)
    return param
