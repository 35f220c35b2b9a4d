"""Two vectors instead of a matrix, and one bit per element for the sign."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch

from gradchain._core.noise import round_to_bf16
from gradchain._core.reduce import run_locally, tensor_partials
from gradchain.ops import finite, narrowed
from gradchain.ops._traced import LANES, apart, is_traced
from gradchain.storage.base import Bits, PackedStorage, Parts, SlotView, Storage, Storing, placed, unblocked
from gradchain.storage.int8 import Int8
from gradchain.storage.signs import pack, pack_vector, sign_planes, vector_signs, words_of

FACTORS = ("row", "column")
"""The parts of a factored slot besides its signs."""


@dataclass(frozen=True)
class Factored(Storage):
    r"""The best rank-one approximation of the absolute values by their row and column sums, and packed signs.

    The tensor is viewed as a matrix $X$ of $a \times b$ elements, as nearly square as its size allows:

    $$r = |X| \mathbf 1, \qquad c = \frac{|X|^\top \mathbf 1}{\mathbf 1^\top |X| \mathbf 1}, \qquad
    X \approx \operatorname{sign}(X) \odot r c^\top$$

    Signed slots keep one bit per element besides (set where $X > 0$), packed along the rows of the parameter; for vectors
    along those of the matrix, the same in all processes. Scalars, vectors (unless `vectors`) and tensors of prime size,
    whose one column *is* the tensor, are kept dense in float32.

    A factored *first* moment is no unbiased average: its sign turns only where a gradient exceeds $\beta_1 / (1 - \beta_1)$
    stored sizes against it, so keep it dense or in `int8` where accuracy matters (measured on the page of storages).

    Source: Park & Lee (2024), SMMF, arXiv:2412.08894.
    """

    asks_together: ClassVar[bool] = True
    in_tiles: ClassVar[bool] = True
    vectors: bool = False

    def factors(self, kept: SlotView) -> bool:
        """Whether a slot is factored or kept dense."""
        enough_axes = len(kept.shape) >= (1 if self.vectors else 2)
        return enough_axes and kept.square[1] > 1

    def matrix(self, kept: SlotView) -> tuple[int, int] | None:
        return kept.square if self.factors(kept) else None

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Parts | Storing:
        return self._factors(dense, kept) if self.factors(kept) else {"": narrowed(dense, torch.float32)}

    def splits(self, part: str, shape: torch.Size) -> bool:
        return part == "" or (part == "sign" and len(shape) > 1)

    def _factors(self, dense: torch.Tensor, kept: SlotView) -> Storing:
        matrix = _matrix(dense.to(torch.float32), kept)
        sizes = matrix.abs() if kept.signed else matrix
        rows, columns = sizes.sum(1, dtype=torch.float64), _column_sums(sizes)
        partials = {"row": placed(rows, columns.numel(), kept), "column": columns}
        vector = kept.signed and len(kept.shape) < 2
        if vector:
            partials["sign"] = pack_vector(dense > 0, kept.part, columns.numel())
        totals = yield tensor_partials(**partials)
        whole = totals.column.sum()
        column = totals.column / torch.where(whole > 0, whole, 1.0)
        parts = {"row": finite(narrowed(totals.row, torch.float32)), "column": column.to(torch.float32)}
        if not kept.signed:
            return parts
        return {**parts, "sign": totals.sign if vector else pack(_rows(dense, kept) > 0)}

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        if "" in parts:
            return parts[""]
        row, column, part = parts["row"], parts["column"], kept.part
        if part.group is not None:  # only the rows of the matrix that reach in here
            first, last = part.offset // column.numel(), -(-(part.offset + part.numel) // column.numel())
            row = row[first:last]
        sizes = torch.outer(row, column)
        if sizes.numel() != part.numel:
            sizes = unblocked(sizes, kept)
        if not kept.signed:
            return sizes
        if len(kept.shape) < 2:
            below = vector_signs(parts["sign"], part, column.numel())
        else:
            below = _along(sizes.shape, parts["sign"], kept)
        return (sizes.view(torch.int32) | below.reshape(sizes.shape)).view(torch.float32)


@dataclass(frozen=True)
class CompactFactored(Factored, PackedStorage):
    """The same with small factors, stochastically rounded: bfloat16, or `int8` codes for slots that are never negative."""

    vectors: bool = True

    @property
    def wide(self) -> Factored:
        """Factors in float32."""
        return Factored(vectors=self.vectors)

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Parts | Storing:
        return self._compact(dense, kept, bits) if self.factors(kept) else {"": narrowed(dense, torch.float32)}

    def _compact(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Storing:
        return self.pack((yield from self._factors(dense, kept)), kept, bits)

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        return super().load(parts if "" in parts else self.unpack(parts, kept), kept)

    def pack(self, parts: Parts, kept: SlotView, bits: Bits) -> Parts:
        made = {name: part for name, part in parts.items() if name not in FACTORS}
        for name in FACTORS:
            factor, noise = parts[name], functools.partial(bits, parts[name], name)
            if kept.signed:
                made[name] = round_to_bf16(factor, noise())
                continue
            codes = run_locally(Int8().store(factor, _unsigned(factor.shape), noise))  # all of the factor is here
            made |= {f"{name}_{part}": tensor for part, tensor in codes.items()}
        return made

    def unpack(self, parts: Parts, kept: SlotView) -> Parts:
        if kept.signed:
            return {name: part.to(torch.float32) if name in FACTORS else part for name, part in parts.items()}
        whole: dict[str, torch.Tensor] = {}
        for name, size in zip(FACTORS, kept.square):
            codes = {part: parts[f"{name}_{part}"] for part in ("data", "scale")}
            whole[name] = Int8().load(codes, _unsigned(torch.Size([size])))
        return whole


ROWS = 64
"""How many rows are summed at a time: all at once would touch a new page of memory at every step."""


def _column_sums(matrix: torch.Tensor) -> torch.Tensor:
    rows, columns = matrix.shape
    whole = rows - rows % ROWS
    last = matrix[whole:].sum(0, dtype=torch.float64)
    if not whole:
        return last
    return matrix[:whole].view(-1, ROWS, columns).sum(1, dtype=torch.float64).sum(0) + last


def _rows(dense: torch.Tensor, kept: SlotView) -> torch.Tensor:
    """The rows of a parameter, as a matrix; for a compiler by steps at which it need not divide."""
    numel = kept.part.row_numel
    if is_traced():
        words, columns = words_of(numel)[1], dense.shape[-1]
        if columns % words == 0:
            dense = dense.reshape(-1, columns // words, words)
    return dense.reshape(-1, numel)


def _along(shape: torch.Size, words: torch.Tensor, kept: SlotView) -> torch.Tensor:
    """The signs of packed rows of a parameter, for another shape; for a compiler by steps at which it need not divide."""
    numel, columns, many = kept.part.row_numel, shape[-1], words.shape[1]
    if not is_traced():
        return sign_planes(words).flatten(1)[:, :numel]
    planes = sign_planes(words)
    if planes.shape[1] * many != numel:  # some bits of the last words are none of the row's
        return apart(planes, planes.shape).flatten(1)[:, :numel]
    if columns % many != 0 or many % LANES != 0 or (numel % columns != 0 and columns % numel != 0):
        return apart(planes, shape)
    if numel % columns == 0:
        return planes.view(-1, numel // columns, columns // many, many).flatten(2).flatten(0, 1)
    return planes.view(-1, columns // numel, *planes.shape[1:]).flatten(1)


def _unsigned(shape: torch.Size) -> SlotView:
    return SlotView(shape, torch.float32, signed=False)


def _matrix(dense: torch.Tensor, kept: SlotView) -> torch.Tensor:
    """The rows of the near-square matrix that overlap this process, with zeros for other elements."""
    columns, part, flat = kept.square[1], kept.part, dense.reshape(-1)
    if part.group is not None:
        head = part.offset % columns
        flat = torch.nn.functional.pad(flat, (head, -(head + part.numel) % columns))
    return flat.view(-1, columns)
