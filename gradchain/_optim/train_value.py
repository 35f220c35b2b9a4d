"""The value that training goes on from, kept in the state while a parameter is seen at its evaluation point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradchain._chain.evaluation import TRAIN_PARAM, is_train_param, point_of
from gradchain._chain.program import Program
from gradchain._core.shard import Shard, distributed, local_of, take
from gradchain.errors import OptionError

NOT_NOW = (
    "the parameters are at their evaluation point, where eval() has put them. Call optimizer.train() before you step, and "
    "compute the gradients after it. Nothing was written."
)


def check_train_values(state: Mapping[str, Any]) -> None:
    """Raise `OptionError` if a state is that of a parameter at its evaluation point."""
    if any(map(is_train_param, state)):
        raise OptionError(NOT_NOW)


def as_slot(local: torch.Tensor, param: torch.Tensor, shard: Shard) -> torch.Tensor:
    """What the rows here of a tensor like a parameter are kept as in its state."""
    return local if shard.group is None else distributed(local, shard.shape, param)


def fit_train_value(
    saved: Mapping[str, Any], state: dict[str, Any], of: tuple[Program, torch.Tensor], away: bool, name: str
) -> str | None:
    """Take over the training value of a parameter. Returns: what is wrong with it, if anything is.

    Args:
        saved: the saved state, and `state` what has been taken over of it.
        of: the parameter, and its stages.
        away: whether its group says that it was saved after `eval()`.
    """
    program, param = of
    if (address := point_of(program)) is None:
        return None
    key = f"{address}.{TRAIN_PARAM}"
    value: Any = saved.get(key)
    if value is None and away and int(state["step"]) > 0:
        return (
            f"{name}: it was saved after eval(), and the value that training goes on from, {key}, is not in the state dict. "
            "torch.distributed.checkpoint reads what the optimizer has room for: call optimizer.eval() before you load"
        )
    if value is None:
        return None
    if not isinstance(value, torch.Tensor) or (value.shape, value.dtype) != (param.shape, param.dtype):
        return f"{name}: {key} is not a tensor of the shape and the dtype of the parameter"
    shard = Shard.of(param, name)
    state[key] = take(as_slot(local_of(param).detach(), param, shard), value)
    return None


def split_train_value(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state without the training value."""
    return {key: value for key, value in saved.items() if not is_train_param(key)}
