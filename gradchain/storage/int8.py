"""Eight bits per element, with a scale for each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gradchain._core.reduce import tensor_partials_max
from gradchain.ops import finite
from gradchain.storage.base import Bits, Parts, SlotView, Storage, Storing, blocks, of_blocks, placed, unblocked

BLOCK = 2048
FINEST = 1e-38
LARGEST = 255**4


@dataclass(frozen=True)
class Int8(Storage):
    r"""Codes of eight bits and one float32 scale for each 2048 consecutive elements, stochastically rounded, so unbiased.

    $$s = \max |x|, \qquad x \approx s\, \frac{q}{127}, \quad q = -127 \dots 127$$

    Updates are divided by slots that are never negative, so their codes are finer towards 0, down to $2.4 \cdot 10^{-10} s$:

    $$x \approx s \left(\frac{q}{255}\right)^4, \quad q = 0 \dots 255$$
    """

    keeps_finite: ClassVar[bool] = True
    keeps_zero: ClassVar[bool] = True
    noise_bits: ClassVar[int] = 16

    def blocked(self, kept: SlotView) -> tuple[int, int] | None:
        numel = kept.shape.numel()
        return (numel // BLOCK, BLOCK) if numel and numel % BLOCK == 0 else None

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Storing:
        rows = blocks(dense.to(torch.float32), BLOCK, kept)
        peaks = finite(rows.abs().amax(1)) if rows.numel() else rows.new_zeros(0)
        totals = yield tensor_partials_max(peak=placed(peaks, BLOCK, kept))
        unit = (1 / of_blocks(totals.peak, rows, BLOCK, kept).clamp_min(FINEST)).unsqueeze(1)
        noise = (blocks(bits(), BLOCK, kept) & 0xFFFF).to(torch.float32) + 0.5
        if kept.signed:
            codes = torch.floor(rows * (unit * 127) + noise * 2**-16).clamp(-127, 127).to(torch.int8)
        else:
            codes = _fourth_power_codes(rows, unit, noise)
        return {"data": codes if codes.shape == dense.shape else unblocked(codes, kept), "scale": totals.peak}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        rows = blocks(parts["data"], BLOCK, kept).to(torch.float32)
        scale = of_blocks(parts["scale"], rows, BLOCK, kept).unsqueeze(1)
        whole = rows * (scale * (1 / 127)) if kept.signed else _fourth_power(rows) * (scale * (1 / LARGEST))
        return whole if whole.shape == parts["data"].shape else unblocked(whole, kept)


def _fourth_power(code: torch.Tensor) -> torch.Tensor:
    return code.square().square()


def _fourth_power_codes(rows: torch.Tensor, unit: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The code at or below a number, or the one above: by their distances, without a division.

    The root is that of the number as it is, which is often at hand. Where it rounds up to a code, the number is stored as
    that code: it is off by that rounding, and not by chance.
    """
    below = torch.floor((rows.sqrt() * unit.sqrt()).sqrt() * 255).clamp_max(254)
    low, high = _fourth_power(below), _fourth_power(below + 1)
    return (below + (noise * ((high - low) * 2**-16) < rows * (unit * LARGEST) - low).to(torch.float32)).to(torch.uint8)
