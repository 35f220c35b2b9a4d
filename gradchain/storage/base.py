"""What a storage is: how one slot is kept between steps, apart from what it means."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch

from gradchain.reduce import Request, Totals

Bits: TypeAlias = "Callable[..., torch.Tensor]"
"""Gives int32 noise of the slot's shape; or, as `bits(like, part)`, noise for a smaller tensor that stands for a part."""

Parts: TypeAlias = "Mapping[str, torch.Tensor]"
"""The tensors that a slot is kept as, by name. A slot that is kept as one tensor has the one part `""`."""

Storing: TypeAlias = "Generator[Request, Totals, Parts]"


@dataclass(frozen=True)
class Kept:
    """The dense slot that a storage stands for."""

    shape: torch.Size
    dtype: torch.dtype
    signed: bool


@dataclass(frozen=True)
class Storage:
    """How a slot is kept; this base class: as one dense tensor in the parameter's own dtype."""

    elementwise: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts | Storing:
        """The tensors to keep for `dense`. Like a stage it may yield, for a statistic of the whole tensor."""
        return {"": dense.to(kept.dtype)}

    def load(self, parts: Parts, kept: Kept) -> torch.Tensor:
        """The dense tensor of shape `kept.shape` that `parts` stand for."""
        return parts[""]


def blocks(flat: torch.Tensor, size: int) -> torch.Tensor:
    """A flat tensor as rows of `size` elements, the last one filled up with copies of the last element."""
    missing = -flat.numel() % size
    if missing:
        flat = torch.cat([flat, flat[-1:].expand(missing)])
    return flat.view(-1, size)


def unblocked(rows: torch.Tensor, kept: Kept) -> torch.Tensor:
    """The inverse of `blocks`."""
    return rows.reshape(-1)[: kept.shape.numel()].view(kept.shape)
