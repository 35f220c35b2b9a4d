"""How one slot is kept between steps, independent of what it means."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch

from gradchain._core.reduce import Request, Totals
from gradchain._core.shard import Shard
from gradchain.ops import narrowed

Bits: TypeAlias = "Callable[..., torch.Tensor]"
"""Gives int32 noise of the slot's shape; or, as `bits(like, part)`, of the shape of `like`, for a part of the slot."""

Parts: TypeAlias = "Mapping[str, torch.Tensor]"
"""The tensors that a slot is kept as, by name. A slot that is kept as one tensor has the one part `""`."""

Storing: TypeAlias = "Generator[Request, Totals, Parts]"


@dataclass(frozen=True)
class SlotView:
    """The dense slot that a storage represents: the shape of the whole, and which part is in this process."""

    shape: torch.Size
    dtype: torch.dtype
    signed: bool
    shard: Shard | None = None

    @property
    def part(self) -> Shard:
        """The rows in this process."""
        return Shard.whole(self.shape) if self.shard is None else self.shard

    @property
    def square(self) -> tuple[int, int]:
        """The rows and columns of the matrix, as nearly square as possible, that factors describe."""
        columns = self.part.columns
        return near_square(self.shape.numel()) if columns is None else (self.shape.numel() // columns, columns)


def near_square(numel: int) -> tuple[int, int]:
    """Factor `numel` into `(a, b)`, `a >= b`, as near to each other as possible. Returns: the two factors.

    >>> from gradchain.storage import near_square
    >>> near_square(108), near_square(7), near_square(0)
    ((12, 9), (7, 1), (0, 0))
    """
    if numel == 0:
        return 0, 0
    b = next(i for i in range(math.isqrt(numel), 0, -1) if numel % i == 0)
    return numel // b, b


@dataclass(frozen=True)
class Storage:
    """How a slot is kept. This base class keeps one dense tensor in the parameter's own dtype."""

    elementwise: ClassVar[bool | None] = None
    """Whether output[i] depends on input[i] alone. If declared, it is checked, and infinite values are passed to `store`."""
    keeps_finite: ClassVar[bool] = False
    """Whether `store` itself makes infinite values finite, so that nobody has to do it before."""
    keeps_zero: ClassVar[bool] = False
    """Whether zeros are kept as zeros in all parts, so that nothing has to be encoded before the first step."""
    noise_bits: ClassVar[int] = 32
    """How many of the low bits of the noise it looks at. Two slots that need at most 16 share what is drawn once."""
    asks_together: ClassVar[bool] = False
    """Whether all that `store` asks for are sums over its tensor: slots are stored at the end then, and ask at one time."""
    in_tiles: ClassVar[bool] = False
    """Whether a large tensor can be stepped in tiles of rows (`gradchain._engine.tiles`)."""

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Parts | Storing:
        """Encode the rows in this process; a generator may yield requests, as stages do. Returns: the tensors by name."""
        return {"": narrowed(dense, kept.dtype)}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        """Decode `parts`. Returns: the dense elements in this process, in order, in any shape."""
        return parts[""]

    def matrix(self, kept: SlotView) -> tuple[int, int] | None:
        """Tell whether this storage views a slot as a matrix. Returns: its `(rows, columns)`, or `None`."""
        return None

    def blocked(self, kept: SlotView) -> tuple[int, int] | None:
        """Tell whether a slot is whole blocks. Returns: their number and their size, or `None`."""
        return None

    def splits(self, part: str, shape: torch.Size) -> bool:
        """Tell whether a part is sharded by the rows of a slot. Returns: `False` if it is the same in all processes."""
        return part in ("", "data")


class PackedStorage(Storage, ABC):
    """A storage whose parts are those of another in fewer bits. Large tensors are stepped with the `wide` ones.

    `store` and `load` are those of `wide`, with `pack` after and `unpack` before them.
    """

    @property
    @abstractmethod
    def wide(self) -> Storage:
        """The other storage."""

    @abstractmethod
    def pack(self, parts: Parts, kept: SlotView, bits: Bits) -> Parts:
        """Encode all parts of the other storage. Returns: the tensors by name."""

    @abstractmethod
    def unpack(self, parts: Parts, kept: SlotView) -> Parts:
        """Decode all parts. Returns: those of the other storage."""


def blocks(dense: torch.Tensor, size: int, kept: SlotView) -> torch.Tensor:
    """The blocks of `size` consecutive elements of the whole that overlap this process, as rows, padded with neighbours.

    What lies at the start of one block is a shorter row by itself: a compiler does all arithmetic once more for padding.
    """
    flat, head = dense.reshape(-1), kept.part.offset % size
    if flat.numel() == 0:
        return flat.view(0, size)
    if head == 0 and flat.numel() < size:
        return flat.view(1, -1)
    tail = -(head + flat.numel()) % size
    if head or tail:
        flat = torch.cat([flat[:1].expand(head), flat, flat[-1:].expand(tail)])
    return flat.view(-1, size)


def unblocked(rows: torch.Tensor, kept: SlotView) -> torch.Tensor:
    """The inverse of `blocks`."""
    part, size = kept.part, rows.shape[1]
    if rows.numel() == part.numel:
        return rows.reshape(part.here)
    return rows.reshape(-1)[part.offset % size :][: part.numel].view(part.here)


def placed(here: torch.Tensor, size: int, kept: SlotView, fill: float = 0.0) -> torch.Tensor:
    """One number for each block of the whole, given those of `blocks`; `fill` for the others."""
    total = -(-math.prod(kept.shape) // size)  # `numel` takes a size that a compiler leaves open for the one at hand
    start = kept.part.offset // size
    if here.shape[0] == total:
        return here
    start = min(start, total)
    return torch.nn.functional.pad(here, (start, total - start - here.shape[0]), value=fill)


def of_blocks(whole: torch.Tensor, rows: torch.Tensor, size: int, kept: SlotView) -> torch.Tensor:
    """The inverse of `placed`: one number for each row of `blocks`."""
    if whole.shape[0] == rows.shape[0]:
        return whole
    start = kept.part.offset // size
    return whole[start : start + rows.shape[0]]
