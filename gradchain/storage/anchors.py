"""A frozen copy of a tensor in few bits: nothing is rounded at random, because it is stored once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradchain.reduce import whole_tensor_max
from gradchain.storage.base import Bits, Kept, Parts, Storage, Storing, blocks, unblocked

LARGEST = 448.0
"""The largest number of float8 (e4m3)."""


@dataclass(frozen=True)
class Float8(Storage):
    r"""float8 (e4m3), unscaled: sizes above 448 are kept as 448, and below about $10^{-3}$ there are few steps left."""

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts:
        return {"data": _bytes(dense.to(torch.float32))}

    def load(self, parts: Parts, kept: Kept) -> torch.Tensor:
        return _numbers(parts["data"])


@dataclass(frozen=True)
class ScaledFloat8(Storage):
    r"""float8 (e4m3) with one float32 scale for the whole tensor, $s = \max|x| / 448$; 1 for a tensor of zeros."""

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Storing:
        x = dense.to(torch.float32)
        totals = yield whole_tensor_max(peak=x.abs())
        scale = totals.peak / LARGEST
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # also of an empty tensor
        return {"data": _bytes(x / scale), "scale": scale}

    def load(self, parts: Parts, kept: Kept) -> torch.Tensor:
        return _numbers(parts["data"]) * parts["scale"]


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """float8 as bytes, since torch (2.13) can neither compare nor pickle float8."""
    return x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).view(torch.uint8)


def _numbers(data: torch.Tensor) -> torch.Tensor:
    return data.view(torch.float8_e4m3fn).to(torch.float32)


@dataclass(frozen=True)
class Affine(Storage):
    r"""Codes of a few bits between the smallest and the largest number of each block.

    $$s = \frac{x_{\max} - x_{\min}}{2^b - 1}, \qquad q = \operatorname{round}\frac{x - x_{\min}}{s} - 2^{b-1}$$

    with $s = 1$ where a block is constant. `int4` keeps two codes in a byte, the even one in the high half.
    """

    bits: int
    block: int

    @property
    def offset(self) -> int:
        return 1 << (self.bits - 1)

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts:
        rows = blocks(dense.to(torch.float32).reshape(-1), self.block)
        low, high = rows.amin(1), rows.amax(1)
        scale = (high - low) / ((1 << self.bits) - 1)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        codes = torch.round((rows - low[:, None]) / scale[:, None] - self.offset)
        codes = codes.clamp(-self.offset, self.offset - 1).to(torch.int32)
        return {"data": self._packed(codes), "scale": scale.to(kept.dtype), "low": low.to(kept.dtype)}

    def load(self, parts: Parts, kept: Kept) -> torch.Tensor:
        codes = self._codes(parts["data"]).to(torch.float32)
        scale, low = parts["scale"].to(torch.float32), parts["low"].to(torch.float32)
        return unblocked((codes + self.offset) * scale[:, None] + low[:, None], kept)

    def _packed(self, codes: torch.Tensor) -> torch.Tensor:
        if self.bits == 8:
            return codes.to(torch.int8)
        byte = ((codes[:, 0::2] & 15) << 4) | (codes[:, 1::2] & 15)
        return torch.where(byte > 127, byte - 256, byte).to(torch.int8)

    def _codes(self, data: torch.Tensor) -> torch.Tensor:
        if self.bits == 8:
            return data
        byte = data.to(torch.int32)
        low = byte & 15
        low = torch.where(low > 7, low - 16, low)
        return torch.stack([byte >> 4, low], 2).reshape(data.shape[0], 2 * data.shape[1])
