"""One dense tensor in some floating dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gradchain.noise import round_to_bf16
from gradchain.storage.base import Bits, Kept, Parts, Storage


@dataclass(frozen=True)
class AsParameter(Storage):
    """The parameter's own dtype."""

    elementwise: ClassVar[bool] = True


@dataclass(frozen=True)
class Float32(Storage):
    """float32, whatever the parameter has."""

    elementwise: ClassVar[bool] = True

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts:
        return {"": dense.to(torch.float32)}


@dataclass(frozen=True)
class Float16(Storage):
    """float16, rounded to nearest; what is beyond its range is kept as its largest number, 65504.

    Slots that are never negative are kept as their roots: a squared gradient of 1e-4 would be 0 in float16.
    """

    elementwise: ClassVar[bool] = True

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts:
        if kept.signed:
            return {"": _half(dense)}
        return {"root": _half(dense.to(torch.promote_types(dense.dtype, torch.float32)).sqrt())}

    def load(self, parts: Parts, kept: Kept) -> torch.Tensor:
        return parts[""] if kept.signed else parts["root"].to(torch.float32).square()


def _half(dense: torch.Tensor) -> torch.Tensor:
    return dense.clamp(-65504.0, 65504.0).to(torch.float16)


@dataclass(frozen=True)
class RoundedBfloat16(Storage):
    """bfloat16, stochastically rounded."""

    random: ClassVar[bool] = True

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts:
        return {"": dense if dense.dtype == torch.bfloat16 else round_to_bf16(dense, bits())}
