"""Directions of matrices projected to a few rows or columns, so that moments are kept for these only, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.refresh import refresh_due
from gradchain._chain.stage import Number, Slots, Yields
from gradchain._chain.subspace import EnterSubspace
from gradchain._core.fields import static
from gradchain._core.matrices import whole_matrix
from gradchain._core.noise import random_bits, salt_of
from gradchain._core.reduce import tensor_partials
from gradchain._core.shard import Space
from gradchain._core.update import Outside, Update
from gradchain.ops import where, wide
from gradchain.transforms.kronecker import matrix_sides
from gradchain.transforms.power_iteration import gaussian

SIDES = ("short", "long", "left", "right")


class low_rank(EnterSubspace):
    r"""Project the direction of a matrix to few rows or columns; the stages that follow work on these alone.

    $$R = P^\top G \quad (r \times n, \text{ from the left}) \qquad \text{or} \qquad R = G P \quad (m \times r, \text{ from
    the right})$$

    Moments behind it have the shape of $R$, up to the stage that brings the direction back: `full_rank` (GaLore), or
    `scale_by_low_rank` (APOLLO). $P$ is found in the first step and every `every` steps; moments stay as they are. A matrix
    is the first axis against the rest.

    Args:
        rank: $r$, an integer of 1 or more, default 128; at most that of the matrix.
        every: steps between two projections, an integer of 1 or more, default 200.
        projection: `"svd"` (default): the first $r$ singular vectors of $G$; `"gaussian"`: random numbers of variance
            $1/r$, of which nothing is kept but where they come from.
        side: the lines that are combined into $r$: those of the `"short"` side (default; columns of a square), of the
            `"long"` one, rows (`"left"`) or columns (`"right"`).
        seed: an integer, default 0, of the random numbers.
        spread: project each matrix anew in steps of its own; by default all in the same one, as published.

    Slots: `basis` ($P$), and `failures`: how often $G$ was not finite when a basis was due, and the old one stayed; with
    `"gaussian"` only `basis_key`. Sharded, rows stay where they are: from the left, one all-reduce of $R$; two all-to-alls
    when singular vectors are due.
    Raises: OptionError: a value out of range, or a parameter that is no matrix; ChainError: nothing brings directions back.
    Source: Zhao et al. (2024), GaLore, arXiv:2403.03507; random: Zhu et al. (2024), APOLLO, arXiv:2412.05270.

    >>> stages = [gradchain.low_rank(2), gradchain.first_moment(), gradchain.full_rank()]
    >>> gradchain.chain(*stages, gradchain.scale_by_learning_rate(0.1)).state_bytes(torch.empty(8, 100))
    868
    """

    source = "GaLore, arXiv:2403.03507; APOLLO, arXiv:2412.05270"

    rank: int = static(default=128, ge=1)
    every: int = static(default=200, ge=1)
    projection: str = static(default="svd", choices=("svd", "gaussian"))
    side: str = static(default="short", choices=SIDES)
    seed: int = static(default=0, when="projection=gaussian")
    spread: bool = static(default=False)

    def left(self, shape: torch.Size) -> bool:
        """Whether it combines rows, and not columns. Returns: true or false."""
        shorter = shape[0] < shape[1:].numel()
        return {"short": shorter, "long": not shorter, "left": True, "right": False}[self.side]

    def inside(self, shape: torch.Size) -> Space:
        rows, columns = shape[0], shape[1:].numel()
        rank = min(self.rank, rows, columns)
        left = self.left(shape)
        return Space(torch.Size((rank, columns) if left else (rows, rank)), not left)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        rows, columns = matrix_sides(self.address, p)
        if self.projection == "gaussian":
            return {"basis_key": Slot(shape=(), dtype=torch.int32)}
        rank, left = min(self.rank, rows, columns), self.left(p.shape)
        basis = Slot(shape=(rows if left else columns, rank), per_row=left)
        return {"basis": basis, "failures": Slot(shape=(), dtype=torch.float32)}

    def scalars(self, step: Number) -> dict[str, Any]:
        return {"due": refresh_due(step, self.every, self.turn if self.spread else None)}

    def update(self, update: Update, ctx: Context) -> Yields:
        g, left = update.value.flatten(1), self.left(ctx.shape)
        if self.projection == "gaussian":
            basis, slots = self._drawn(ctx, left)
        else:
            basis, slots = yield from self._found(g, ctx, left)
        if left:
            small = basis.mT @ g
            if ctx.shard.group is not None:
                small = (yield tensor_partials(small=wide(small))).small.to(g.dtype)
        else:
            small = g @ basis
        outside = Outside(update, small, basis, left)
        return Update(small, skip_mask=update.skip_mask, outside=outside), slots

    def _found(self, g: torch.Tensor, ctx: Context, left: bool) -> Any:
        """The singular vectors, and what is kept of them."""
        basis, failures, due = ctx.read("basis"), ctx.read("failures", storage_dtype=True), ctx["due"]
        if due is None:
            return basis, {}
        function = Singular(left)
        if left:
            _, basis, failures, _ = yield whole_matrix(g, basis, function=function, same=(failures, due), batched=True)
        else:
            _, basis, failures, _ = yield whole_matrix(g, function=function, same=(basis, failures, due), batched=True)
        return basis, {"basis": basis, "failures": failures}

    def _drawn(self, ctx: Context, left: bool) -> tuple[torch.Tensor, Slots]:
        """Random numbers, and what they come from."""
        key = ctx.read("basis_key")
        fresh, due = ctx.random_bits("basis", self.seed, like=key), ctx["due"]
        key = key if due is None else where(due != 0, fresh, key)
        rank = min(self.rank, ctx.shape[0], ctx.shape[1:].numel())
        lines = ctx.shard.rows if left else ctx.shape[1:].numel()
        like = ctx.stored_param.new_empty((lines, rank), dtype=torch.float32)
        first = ctx.shard.first * rank if left else 0
        bits = (random_bits(like, key, salt_of(part, self.seed), first) for part in ("radius", "angle"))
        return (gaussian(*bits) * max(rank, 1) ** -0.5).to(ctx.dtype), {"basis_key": key}


@dataclass(frozen=True)
class Singular:
    """The first singular vectors of whole matrices, or stacks of them: of their rows (left), or of their columns."""

    left: bool

    def __call__(
        self, g: torch.Tensor, old: torch.Tensor, failures: torch.Tensor, due: torch.Tensor
    ) -> list[torch.Tensor]:
        good = torch.isfinite(g).all(dim=-1).all(dim=-1)[..., None, None]
        U, _, Vh = torch.linalg.svd(wide(torch.where(good, g, torch.zeros_like(g))), full_matrices=False)
        new = (U if self.left else Vh.mT)[..., : old.shape[-1]]
        good, renews = good & torch.isfinite(new).all(dim=-1).all(dim=-1)[..., None, None], due[..., None, None] != 0
        basis = torch.where(good & renews, new.to(old.dtype), old)
        return [g, basis, failures + (~good[..., 0, 0] & (due != 0)).to(failures.dtype), due]
