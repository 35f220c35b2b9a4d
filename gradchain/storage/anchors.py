"""A frozen copy of a tensor in few bits, rounded to nearest because it is stored once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradchain._core.reduce import tensor_partials, tensor_partials_max, whole_tensor_max
from gradchain.storage.base import Bits, Parts, SlotView, Storage, Storing, blocks, of_blocks, placed, unblocked

LARGEST = 448.0
"""The largest number of float8 (e4m3)."""


@dataclass(frozen=True)
class Float8(Storage):
    r"""float8 (e4m3), unscaled: sizes above 448 are kept as 448, and below about $10^{-3}$ there are few steps left."""

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Parts:
        return {"data": _bytes(dense.to(torch.float32))}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        return _numbers(parts["data"])


@dataclass(frozen=True)
class ScaledFloat8(Storage):
    r"""float8 (e4m3) with one float32 scale for the whole tensor, $s = \max|x| / 448$; 1 for a tensor of zeros."""

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Storing:
        x = dense.to(torch.float32)
        totals = yield whole_tensor_max(peak=x.abs())
        scale = totals.peak / LARGEST
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # also of an empty tensor
        return {"data": _bytes(x / scale), "scale": scale}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        return _numbers(parts["data"]) * parts["scale"]


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """float8 as bytes, since torch (2.13) can neither compare nor pickle float8."""
    return x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).view(torch.uint8)


def _numbers(data: torch.Tensor) -> torch.Tensor:
    return data.view(torch.float8_e4m3fn).to(torch.float32)


@dataclass(frozen=True)
class Affine(Storage):
    r"""Codes of a few bits between the smallest and the largest number of each block of consecutive elements.

    $$s = \frac{x_{\max} - x_{\min}}{2^b - 1}, \qquad q = \operatorname{round}\frac{x - x_{\min}}{s} - 2^{b-1}$$

    with $s = 1$ where a block is constant. `int4` keeps two codes in a byte, the even one in the high half, and each row
    by itself, so that the bytes are sharded with the rows; a vector is one row, the same in all processes.
    """

    bits: int
    block: int

    @property
    def offset(self) -> int:
        return 1 << (self.bits - 1)

    def splits(self, part: str, shape: torch.Size) -> bool:
        return part == "data" and (self.bits == 8 or len(shape) > 1)

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Storing:
        rows = blocks(dense.to(torch.float32), self.block, kept)
        low, high = (rows.amin(1), rows.amax(1)) if rows.numel() else (rows.new_zeros(0),) * 2
        ends = (placed(x, self.block, kept, -torch.inf) for x in (-low, high))
        totals = yield tensor_partials_max(**dict(zip(("negated_low", "high"), ends)))
        low, high = -totals.negated_low, totals.high
        scale = (high - low) / ((1 << self.bits) - 1)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        start, step = (of_blocks(x, rows, self.block, kept)[:, None] for x in (low, scale))
        codes = torch.round((rows - start) / step - self.offset).clamp(-self.offset, self.offset - 1)
        codes = unblocked(codes.to(torch.int32), kept)
        if self.bits == 8:
            data = codes.to(torch.int8)
        else:
            data = _halves(codes, kept)
            if len(kept.shape) < 2:
                totals = yield tensor_partials(data=data)  # each process has filled in some halves
                data = totals.data
            data = torch.where(data > 127, data - 256, data).to(torch.int8)
        return {"data": data, "scale": scale.to(kept.dtype), "low": low.to(kept.dtype)}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        codes = parts["data"] if self.bits == 8 else _codes(parts["data"], kept)
        rows = blocks(codes, self.block, kept).to(torch.float32)
        start, step = (
            of_blocks(parts[name].to(torch.float32), rows, self.block, kept)[:, None] for name in ("low", "scale")
        )
        return unblocked((rows + self.offset) * step + start, kept)


def _halves(codes: torch.Tensor, kept: SlotView) -> torch.Tensor:
    """Two codes in each byte, row by row; of a vector all bytes, with zeros for elements in other processes."""
    part, codes = kept.part, codes & 15
    if len(kept.shape) < 2:
        rows = codes.reshape(1, -1)
        rows = torch.nn.functional.pad(rows, (part.offset, part.shape.numel() - part.offset - part.numel))
    else:
        rows = codes.reshape(part.rows, part.row_numel)
    rows = torch.nn.functional.pad(rows, (0, rows.shape[1] % 2))
    return (rows[:, 0::2] << 4) | rows[:, 1::2]


def _codes(data: torch.Tensor, kept: SlotView) -> torch.Tensor:
    """The inverse: the codes in this process."""
    part, byte = kept.part, data.to(torch.int32)
    low = byte & 15
    low = torch.where(low > 7, low - 16, low)
    rows = torch.stack([byte >> 4, low], 2).flatten(1)
    if len(kept.shape) < 2:
        return rows[0, part.offset : part.offset + part.numel].view(part.here)
    return rows[:, : part.row_numel].reshape(part.here)
