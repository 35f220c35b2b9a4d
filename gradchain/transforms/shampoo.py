"""Divide a matrix by the roots of the second moments of its rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot, earlier
from gradchain._chain.refresh import refresh_due
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.matrices import whole_matrix
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import nonzero, root, wide
from gradchain.transforms.kronecker import inverse_root, kept, moved_sides, second_moment, side_slots

MOVED = ("moment", "root")


class shampoo(Stage):
    r"""Precondition from both sides, with what rows and what columns of the gradient have in common.

    $$L \leftarrow \beta L + (1-\beta)\, G G^\top, \quad R \leftarrow \beta R + (1-\beta)\, G^\top G, \qquad
    u \leftarrow \Big(\tfrac{L}{1-\beta^t} + \epsilon I\Big)^{-p} M \Big(\tfrac{R}{1-\beta^t} + \epsilon I\Big)^{-p}$$

    $G$ is the effective gradient, and $M$ the `exp_avg` of a stage before this one, or $G$ without such. With `graft`, the
    result gets the length of the direction that came in, so that the stages before decide the size of a step: Adam's, if
    these are its moments and the quotient. A matrix is the first axis against the rest. The roots are computed every `every`
    steps, and are those of the moments at that step.

    Args:
        beta: $\beta \in [0, 1)$, default 0.95; `shampoo_beta` in `param_groups`.
        eps: $\epsilon > 0$, default 1e-12; `shampoo_eps`.
        every: steps between two computations of the roots, an integer of 1 or more, default 10.
        exponent: $p > 0$, default 0.25; 0.5 for one side alone.
        graft: keep the length of the direction that came in (default).
        largest: sides of more lines than this are left alone, default 10,000.
        spread: refresh the roots of each matrix in steps of its own, so that the work is spread over steps. By default all
            refresh in the same one, as published.

    Slots: `moment_left`, `root_left` (rows x rows), `moment_right`, `root_right` (columns x columns), in float32 at
    least, and `failures`: how often a moment was not finite when its root was due, and the old root stayed.
    Sharded, the owner of a matrix computes: two all-to-alls a step, and one all-reduce with `graft`.
    Raises: OptionError: a value out of range, or a parameter that is no matrix.
    Source: Gupta et al. (2018), arXiv:1802.09568; Shi et al. (2023), arXiv:2309.06497.

    >>> gradchain.chain(gradchain.shampoo(), gradchain.scale_by_learning_rate(0.1)).state_bytes(torch.empty(8, 4))
    644
    """

    reads = (earlier("exp_avg", optional=True),)
    source = "Shampoo, arXiv:1802.09568; arXiv:2309.06497"

    beta: float = hyper(default=0.95, ge=0, lt=1, key="shampoo_beta")
    eps: float = hyper(default=1e-12, gt=0, key="shampoo_eps")
    every: int = static(default=10, ge=1)
    exponent: float = static(default=0.25, gt=0)
    graft: bool = static(default=True)
    largest: int = static(default=10_000, ge=1)
    spread: bool = static(default=False)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {**side_slots(self.address, p, self.largest, MOVED), "failures": Slot(shape=(), dtype=torch.float32)}

    def scalars(self, step: Number) -> dict[str, Any]:
        return {
            "correction": 1 - self.beta**step,
            "due": refresh_due(step, self.every, self.turn if self.spread else None),
        }

    def update(self, update: Update, ctx: Context) -> Yields:
        g = wide(update.gradient).flatten(1)
        m = wide(ctx.read_or("exp_avg", update.gradient)).flatten(1)
        rows, same = kept(ctx, MOVED)
        due = ctx["due"]
        function = Roots(len(rows) > 0, len(same) > 0, due is not None, self.exponent)
        _, u, *others = yield whole_matrix(
            g, m, *(ctx.read(name, storage_dtype=True) for name in rows), function=function, batched=True,
            same=[*(ctx.read(name, storage_dtype=True) for name in same), ctx.read("failures", storage_dtype=True),
                  self.beta, self.eps, ctx["correction"], 0.0 if due is None else due],
        )  # fmt: skip
        u = u.view(update.value.shape)
        if self.graft:
            t = yield whole_tensor(wanted=wide(update.value).square(), size=u.square())
            u = u * (root(t.wanted) / nonzero(root(t.size)))
        return update.replace(value=u.to(ctx.dtype)), dict(zip([*rows, *same, "failures"], others))


@dataclass(frozen=True)
class Roots:
    """A step of Shampoo for whole matrices, or stacks of them: the sides that are preconditioned, and what is due."""

    left: bool
    right: bool
    due: bool
    exponent: float

    def __call__(self, g: torch.Tensor, m: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        *squares, failures, beta, eps, correction, due = others
        keep, whole = beta[..., None, None].to(g.dtype), correction[..., None, None].to(g.dtype)
        new: list[torch.Tensor] = []
        u = m
        for side, moment, old in zip(moved_sides(self.left, self.right), squares[0::2], squares[1::2]):
            moment = second_moment(moment, g, side, keep)
            known = old
            if self.due:
                made, failed = inverse_root(moment / whole, old, eps, self.exponent)
                known, failures = torch.where(due[..., None, None] != 0, made, old), failures + failed * (due != 0)
            u = known.to(u.dtype) @ u if side == "left" else u @ known.to(u.dtype)
            new += [moment, known]
        return [g, u, *new, failures, beta, eps, correction, due]
