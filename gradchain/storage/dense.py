"""One dense tensor in some floating dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gradchain._core.noise import round_to_bf16
from gradchain._core.reduce import tensor_partials_max
from gradchain.ops import finite, narrowed
from gradchain.storage.base import Bits, Parts, SlotView, Storage, Storing

LARGEST = torch.finfo(torch.float32).max / 4
"""The largest size of a number in bfloat16, as `finite` has it."""


@dataclass(frozen=True)
class AsParameter(Storage):
    """The parameter's own dtype."""

    elementwise: ClassVar[bool | None] = True
    in_tiles: ClassVar[bool] = True


@dataclass(frozen=True)
class Float32(Storage):
    """float32, whatever the parameter has."""

    elementwise: ClassVar[bool | None] = True
    in_tiles: ClassVar[bool] = True

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Parts:
        return {"": narrowed(dense, torch.float32)}


@dataclass(frozen=True)
class Float16(Storage):
    """float16, rounded to nearest, in units of the largest element, which is kept beside in float32.

    Slots that are never negative are kept as their roots: float16 is too narrow for squares.
    """

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Storing:
        wide = dense.to(torch.promote_types(dense.dtype, torch.float32))
        wide = wide if kept.signed else wide.sqrt()
        totals = yield tensor_partials_max(peak=wide.abs().amax() if wide.numel() else wide.new_zeros(()))
        scale = torch.where(totals.peak > 0, totals.peak, torch.ones_like(totals.peak))
        return {"data": (wide / scale).to(torch.float16), "scale": scale.to(torch.float32)}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        wide = parts["data"].to(torch.float32) * parts["scale"]
        return wide if kept.signed else wide.square()


@dataclass(frozen=True)
class RoundedBfloat16(Storage):
    """bfloat16, stochastically rounded."""

    keeps_finite: ClassVar[bool] = True
    noise_bits: ClassVar[int] = 16

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Parts:
        if dense.dtype == torch.bfloat16:
            return {"": finite(dense, torch.float32)}
        return {"": round_to_bf16(dense, bits(), LARGEST)}
