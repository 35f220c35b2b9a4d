"""What a stage returns and asks: checked, cast to the compute dtype, cut to the rows that are here."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch

from gradchain._chain.declare import Slot
from gradchain._chain.stage import Slots
from gradchain._core.reduce import Request, Totals
from gradchain._core.shard import Shard
from gradchain._core.update import Update
from gradchain.errors import ChainError, kind_of


def checked(address: str, result: object, shard: Shard, dtype: torch.dtype) -> tuple[Update, Slots]:
    """What a stage returned, in its long form, and in the compute dtype however wide the stage computed."""
    update: Any = result
    slots: Any = {}
    if isinstance(result, tuple) and len(result) == 2:  # pyright: ignore[reportUnknownArgumentType]
        update, slots = result  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(update, Update) or not isinstance(slots, dict):
        raise ChainError(
            f"{address} returned {type(result).__name__}; return the new Update, or (update, {{slot: tensor}}).",
            stage=address,
        )
    if not isinstance(update.value, torch.Tensor) or not update.value.is_floating_point():
        found = f"{update.value.dtype}" if isinstance(update.value, torch.Tensor) else kind_of(update.value)
        raise ChainError(f"{address} made a direction that is {found}; return a real floating tensor.", stage=address)
    if shard.group is not None:
        update = _cut(update, shard)
    if update.value.shape != shard.here:
        raise ChainError(
            f"{address} made a direction of shape {tuple(update.value.shape)} for a parameter of shape {tuple(shard.here)}; "
            "keep the shape.",
            stage=address,
        )
    for x in (update.value, update.scale, update.averaged, update.decay, update.decay_weight):
        if x is not None and x.dtype != dtype:
            return cast(update, dtype), slots
    return update, slots


def _cut(update: Update, shard: Shard) -> Update:
    """The rows here of what a stage made of a whole matrix."""
    parts = {name: x[shard.first :][: shard.rows] for name, x in vars(update).items() if _is_whole(x, shard)}
    return update.replace(**parts) if parts else update  # type: ignore[arg-type]


def rows_here(dense: object, slot: Slot, shard: Shard) -> Any:
    """The rows here of a slot that a stage made whole. One without rows stays as it is, also if its shape is the same."""
    return shard.cut(dense) if (slot.shape is None or slot.per_row) and _is_whole(dense, shard) else dense  # type: ignore[arg-type]


def _is_whole(x: object, shard: Shard) -> bool:
    return isinstance(x, torch.Tensor) and x.shape == shard.shape != shard.here


def constrained(address: str, new_param: object, like: torch.Tensor, shard: Shard) -> torch.Tensor:
    """What a constraint makes of the new value, in its dtype."""
    if not isinstance(new_param, torch.Tensor) or not new_param.is_floating_point():
        raise ChainError(
            f"{address} constrained the parameter to {kind_of(new_param)}; return a floating tensor.", stage=address
        )
    if _is_whole(new_param, shard):
        new_param = shard.cut(new_param)
    if new_param.shape != like.shape:
        raise ChainError(
            f"{address} constrained a parameter of shape {tuple(like.shape)} to a tensor of shape {tuple(new_param.shape)}; "
            "keep the shape.",
            stage=address,
        )
    return new_param.to(like.dtype)


def ask(
    address: str,
    running: Generator[Request, Any, Any],
    shard: Shard,
    keep: torch.Tensor | None = None,
) -> Generator[tuple[str, Request], Totals, Any]:
    """Pass on the requests of a stage under its address, with where the rest of the tensor is."""
    try:
        request = next(running)
        while True:
            request = request.within(shard)
            if keep is not None and request.joint:
                request = request.where(keep)
            request = running.send(request.answer((yield address, request)))
    except StopIteration as stop:
        return stop.value


def without_addresses(starting: Generator[tuple[str, Request], Any, Any]) -> Generator[Request, Any, Any]:
    try:
        _, request = next(starting)
        while True:
            _, request = starting.send((yield request))
    except StopIteration as stop:
        return stop.value


def cast(update: Update, dtype: torch.dtype) -> Update:
    """An update in another dtype."""
    other: dict[str, torch.Tensor] = {}
    for name, x in vars(update).items():
        if isinstance(x, torch.Tensor) and x.dtype != dtype and name != "skip_mask":
            other[name] = x.to(dtype)
    return update.replace(**other) if other else update  # type: ignore[arg-type]
