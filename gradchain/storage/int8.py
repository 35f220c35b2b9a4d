"""Eight bits per element, with a scale for each block."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradchain._core.reduce import tensor_partials_max
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

    def blocked(self, kept: SlotView) -> tuple[int, int] | None:
        numel = kept.shape.numel()
        return (numel // BLOCK, BLOCK) if numel and numel % BLOCK == 0 else None

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Storing:
        rows = blocks(dense.to(torch.float32), BLOCK, kept)
        peaks = rows.abs().amax(1) if rows.numel() else rows.new_zeros(0)
        totals = yield tensor_partials_max(peak=placed(peaks, BLOCK, kept))
        part = rows * (1 / of_blocks(totals.peak, rows, BLOCK, kept).clamp_min(FINEST))[:, None]
        noise = ((blocks(bits(), BLOCK, kept) & 0xFFFF).to(torch.float32) + 0.5) * 2**-16
        if kept.signed:
            codes = torch.floor(part * 127 + noise).clamp(-127, 127).to(torch.int8)
        else:
            codes = _fourth_power_codes(part, noise)
        return {"data": codes if codes.shape == dense.shape else unblocked(codes, kept), "scale": totals.peak}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        rows = blocks(parts["data"], BLOCK, kept).to(torch.float32)
        scale = of_blocks(parts["scale"], rows, BLOCK, kept)[:, None]
        whole = rows * (scale / 127) if kept.signed else _fourth_power(rows) * (scale / LARGEST)
        return whole if whole.shape == parts["data"].shape else unblocked(whole, kept)


def _fourth_power(code: torch.Tensor) -> torch.Tensor:
    return code.square().square()


def _fourth_power_codes(part: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The code at or below a number, or the one above: by their distances, without a division."""
    below = torch.floor(part.sqrt().sqrt() * 255).clamp(0, 254)
    low, high = _fourth_power(below), _fourth_power(below + 1)
    return (below + (noise * (high - low) < part * LARGEST - low).to(torch.float32)).to(torch.uint8)
