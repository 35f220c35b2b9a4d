"""Two vectors instead of a matrix, and one bit per element for the sign."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gradchain.noise import round_to_bf16
from gradchain.reduce import tensor_partials
from gradchain.storage.base import Bits, Kept, Parts, Storage, Storing
from gradchain.storage.int8 import Int8
from gradchain.storage.signs import pack, unpack


def near_square(numel: int) -> tuple[int, int]:
    """The factors `(a, b)` of `numel`, `a >= b`, that are nearest to each other.

    >>> from gradchain.storage import near_square
    >>> near_square(108), near_square(7), near_square(0)
    ((12, 9), (7, 1), (0, 0))
    """
    if numel == 0:
        return 0, 0
    b = next(i for i in range(math.isqrt(numel), 0, -1) if numel % i == 0)
    return numel // b, b


@dataclass(frozen=True)
class Factored(Storage):
    r"""The best rank-one description of the absolute values by their row and column sums, and packed signs.

    The tensor is viewed as a matrix $X$ of $a \times b$ elements, as nearly square as its size allows:

    $$r = |X| \mathbf 1, \qquad c = \frac{|X|^\top \mathbf 1}{\mathbf 1^\top |X| \mathbf 1}, \qquad
    X \approx \operatorname{sign}(X) \odot r c^\top$$

    Signed slots keep one bit per element besides (set where $X > 0$), packed along the rows of the parameter. A tensor
    of prime size, whose one column *is* the tensor, is kept dense in float32, and so are scalars and, unless `vectors`,
    vectors.

    Source: Park & Lee (2024), SMMF, arXiv:2412.08894.
    """

    vectors: bool = False

    def factors(self, kept: Kept) -> bool:
        """Whether a slot is factored at all."""
        enough_axes = len(kept.shape) >= (1 if self.vectors else 2)
        return enough_axes and near_square(kept.shape.numel())[1] > 1

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts | Storing:
        return self._factors(dense, kept) if self.factors(kept) else {"": dense.to(torch.float32)}

    def _factors(self, dense: torch.Tensor, kept: Kept) -> Storing:
        matrix = dense.to(torch.float32).reshape(near_square(kept.shape.numel()))
        sizes = matrix.abs() if kept.signed else matrix
        totals = yield tensor_partials(row=sizes.sum(1, dtype=torch.float64), column=_column_sums(sizes))
        whole = totals.column.sum()
        column = totals.column / torch.where(whole > 0, whole, 1.0)
        parts = {"row": totals.row.to(torch.float32), "column": column.to(torch.float32)}
        return {**parts, "sign": pack(_rows(dense, kept) > 0)} if kept.signed else parts

    def load(self, parts: Parts, kept: Kept) -> torch.Tensor:
        if "" in parts:
            return parts[""]
        sizes = torch.outer(parts["row"], parts["column"]).view(kept.shape)
        if not kept.signed:
            return sizes
        positive = unpack(parts["sign"], _columns(kept)).reshape(kept.shape)
        return torch.where(positive, sizes, -sizes)


@dataclass(frozen=True)
class CompactFactored(Factored):
    """The same with small factors, stochastically rounded: bfloat16, or the codes of `int8` for what is never negative.

    What is kept dense is kept in float32 as well. For models whose signs alone take all the memory there is.
    """

    vectors: bool = True
    random: ClassVar[bool] = True

    def store(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Parts | Storing:
        return self._compact(dense, kept, bits) if self.factors(kept) else {"": dense.to(torch.float32)}

    def _compact(self, dense: torch.Tensor, kept: Kept, bits: Bits) -> Storing:
        parts = dict((yield from self._factors(dense, kept)))
        for name in ("row", "column"):
            factor = parts.pop(name)
            noise = functools.partial(bits, factor, name)
            if kept.signed:
                parts[name] = round_to_bf16(factor, noise())
                continue
            codes = yield from Int8().store(factor, _unsigned(factor.shape), noise)
            parts |= {f"{name}_{part}": tensor for part, tensor in codes.items()}
        return parts

    def load(self, parts: Parts, kept: Kept) -> torch.Tensor:
        if "" in parts:
            return parts[""]
        if kept.signed:
            wide = {name: part.to(torch.float32) if name != "sign" else part for name, part in parts.items()}
            return super().load(wide, kept)
        rows, columns = near_square(kept.shape.numel())
        factors = {
            name: Int8().load({"data": parts[f"{name}_data"], "scale": parts[f"{name}_scale"]}, _unsigned(size))
            for name, size in (("row", torch.Size([rows])), ("column", torch.Size([columns])))
        }
        return super().load(factors, kept)


ROWS = 64
"""How many rows are summed at a time: all at once would touch a new page of memory at every step."""


def _column_sums(matrix: torch.Tensor) -> torch.Tensor:
    rows, columns = matrix.shape
    whole = rows - rows % ROWS
    last = matrix[whole:].sum(0, dtype=torch.float64)
    if not whole:
        return last
    return matrix[:whole].view(-1, ROWS, columns).sum(1, dtype=torch.float64).sum(0) + last


def _unsigned(shape: torch.Size) -> Kept:
    return Kept(shape, torch.float32, signed=False)


def _columns(kept: Kept) -> int:
    """The length of the rows along which signs are packed: those of the parameter, of the matrix for vectors."""
    return near_square(kept.shape.numel())[1] if len(kept.shape) < 2 else kept.shape[1:].numel()


def _rows(dense: torch.Tensor, kept: Kept) -> torch.Tensor:
    return dense.reshape(-1, _columns(kept))
