"""Stages that take the gradient at another point than the parameters, which costs one more evaluation of the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from types import GeneratorType
from typing import Any, TypeAlias

import torch

from gradchain._chain.context import Context
from gradchain._chain.elements import Composed
from gradchain._chain.program import Numbers, Outcome, Program, Running
from gradchain._chain.stage import Stage
from gradchain._core.reduce import Request, Totals
from gradchain._core.shard import Shard
from gradchain.errors import ChainError, kind_of

Displacing: TypeAlias = "torch.Tensor | Generator[Request, Totals, torch.Tensor]"


class ExtraEvaluation(Stage, register=False):
    """Base of stages that need the gradient at a displaced point, such as sharpness-aware minimization.

    `optimizer.step(closure)` evaluates the closure, adds what `displacement` returns to each parameter, evaluates it again,
    brings the parameters back bit for bit, and steps by the second gradient. Nothing else can step such a chain.

    >>> class ahead(gradchain.ExtraEvaluation):
    ...     def displacement(self, gradient, ctx):
    ...         return -0.5 * gradient
    >>> weight = torch.nn.Parameter(torch.tensor(1.0))
    >>> chain = gradchain.chain(ahead(), gradchain.scale_by_learning_rate(1.0))
    >>> optimizer = gradchain.Optimizer([weight], chain)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = weight.square() / 2
    ...     loss.backward()
    ...     return loss
    >>> print(optimizer.step(closure).item(), weight.item())
    0.5 0.5
    """

    def displacement(self, gradient: torch.Tensor, ctx: Context) -> Displacing:
        """Compute how far from the parameter the gradient is to be taken. A generator may yield requests for totals.

        `gradient` is that at the parameter; `ctx` is as in `update`, after the last step.

        Returns: a tensor like `gradient`.
        """
        return torch.zeros_like(gradient)


def extra_of(chain: Composed) -> str | None:
    """The address of the first stage that needs another evaluation; `None` if there is none."""
    return next((address for address, stage in chain.addressed if isinstance(stage, ExtraEvaluation)), None)


def check_single(chain: Composed, what: str) -> None:
    """Raise `ChainError` if a chain needs another evaluation, which there is none of."""
    if (address := extra_of(chain)) is not None:
        raise ChainError(
            f"{address} needs the gradient at a second point, and {what}. Step with optimizer.step(closure), or remove "
            f"{address}.",
            stage=address,
        )


def displaced(
    program: Program,
    param: torch.Tensor,
    gradient: torch.Tensor,
    state: dict[str, torch.Tensor],
    numbers: Numbers,
    shard: Shard,
) -> Running:
    """The point at which the gradient of a parameter is to be taken. Pure; it runs like a step."""
    ctx = Context(param, gradient, program.loaders(param, state, shard), program.role, shard)
    offset: Any = None
    for address, stage in program.entered(ctx, numbers):
        if isinstance(stage, ExtraEvaluation):
            offset = stage.displacement(gradient.to(ctx.dtype), ctx)
            if isinstance(offset, GeneratorType):
                offset = yield from _asked(address, offset, shard)
            if not isinstance(offset, torch.Tensor) or offset.shape != param.shape:
                what = f"shape {tuple(offset.shape)}" if isinstance(offset, torch.Tensor) else kind_of(offset)
                raise ChainError(
                    f"{address}: its `displacement` returned {what} for a parameter of shape {tuple(param.shape)}; return "
                    "a tensor of that shape.",
                    stage=address,
                )
    point = param if offset is None else (ctx.param + offset).to(param.dtype)
    return Outcome(point, {}, {})


def _asked(
    address: str, running: Generator[Request, Totals, torch.Tensor], shard: Shard
) -> Generator[tuple[str, Request], Totals, torch.Tensor]:
    """Pass on requests under the address of the stage, with where the rest of the tensor is."""
    try:
        request = next(running)
        while True:
            if shard.group is not None:
                request = dataclasses.replace(request, group=shard.group)
            request = running.send((yield address, request))
    except StopIteration as stop:
        return stop.value
