"""Every so many elements of a parameter: a part to measure with."""

from __future__ import annotations

from functools import partial

import torch

from gradchain._chain.declare import ParamInfo, Slot
from gradchain._core.shard import Shard


def thinned(tensor: torch.Tensor, shard: Shard, every: int) -> torch.Tensor:
    """Every `every`-th element of the whole that is in this process, row by row, padded with zeros."""
    columns = shard.row_numel
    rows = tensor.reshape(shard.rows, columns)
    if columns % every == 0:
        return rows[:, ::every]
    first = torch.arange(shard.first, shard.first + shard.rows, device=tensor.device)[:, None] * -columns % every
    places = first + torch.arange(0, columns, every, device=tensor.device)
    return torch.where(places < columns, rows.gather(1, places.clamp(max=columns - 1)), 0)


def thinned_slot(p: ParamInfo, every: int, *, copy: bool = False, dtype: torch.dtype | None = None) -> Slot:
    """A slot of that size: zeros, or a copy of the parameter before the first step."""
    shape = (p.shape[0] if p.ndim else 1), -(-p.shape[1:].numel() // every)
    return Slot(partial(thinned, every=every) if copy else 0.0, shape=shape, per_row=p.ndim > 0, dtype=dtype)
