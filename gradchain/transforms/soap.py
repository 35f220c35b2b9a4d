"""Adam in the eigenbasis of Shampoo's preconditioners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.refresh import refresh_due
from gradchain._chain.stage import Number, Stage, Yields, storage_field
from gradchain._core.fields import hyper, static
from gradchain._core.matrices import whole_matrix
from gradchain._core.update import Update
from gradchain.ops import ema, where, wide
from gradchain.transforms.kronecker import SIDES, eigenvectors, kept, moved_sides, second_moment, side_slots

MOVED = ("moment", "basis")
NEVER = 1 << 62
"""Steps between two refreshes of what is made at the first step alone."""


class soap(Stage):
    r"""Adam on rotated gradients: in the slowly changing eigenbasis of the second moments of rows and columns.

    $$L \leftarrow \beta_s L + (1-\beta_s)\, G G^\top, \quad R \leftarrow \beta_s R + (1-\beta_s)\, G^\top G, \qquad
    G' = Q_L^\top G\, Q_R$$

    $$m \leftarrow \beta_1 m + (1-\beta_1)\, G, \quad v \leftarrow \beta_2 v + (1-\beta_2)\, G'^2, \qquad
    u \leftarrow Q_L \left( \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t} \cdot
    \frac{Q_L^\top m\, Q_R}{\sqrt{v} + \epsilon} \right) Q_R^\top$$

    $Q_L$, $Q_R$ are eigenvectors of $L$, $R$ as they were after the step before: exact ones at the first step, which does
    nothing else and is not counted in $t$; after that, one step of orthogonal iteration every `every` steps. A matrix is the
    first axis against the rest.

    Args:
        beta1: $\beta_1 \in [0, 1)$, default 0.95; `betas[0]`.
        beta2: $\beta_2 \in [0, 1)$, default 0.95; `betas[1]`.
        shampoo_beta: $\beta_s \in [0, 1)$; `None` (default): $\beta_2$.
        eps: $\epsilon \ge 0$, default 1e-8.
        every: steps between two refreshes of the bases, an integer of 1 or more, default 10.
        largest: sides of more lines than this are not rotated, default 10,000.
        storage: how `exp_avg` and `exp_avg_sq` (the parameter's shape) are kept.
        spread: refresh the bases of each matrix in steps of its own, so that the work is spread over steps. By default all
            refresh in the same one, as published.

    Slots, besides: `moment_left`, `basis_left` (rows x rows), `moment_right`, `basis_right` (columns x columns), in
    float32 at least, and `failures`: how often a moment was not finite when a basis was due, and the old basis stayed.
    Sharded, the owner of a matrix computes: two all-to-alls a step.
    Raises: OptionError: a value out of range, or a parameter that is no matrix.
    Source: Vyas et al. (2024), SOAP, arXiv:2409.11321. Its code sorts the basis at each refresh; here the order stays.

    >>> gradchain.chain(gradchain.soap(), gradchain.scale_by_learning_rate(3e-3)).state_bytes(torch.empty(8, 4))
    900
    """

    source = "SOAP, arXiv:2409.11321"

    beta1: float = hyper(default=0.95, ge=0, lt=1, key="betas[0]")
    beta2: float = hyper(default=0.95, ge=0, lt=1, key="betas[1]")
    shampoo_beta: float | None = hyper(default=None, ge=0, lt=1, optional=True)
    eps: float = hyper(default=1e-8, ge=0)
    every: int = static(default=10, ge=1)
    largest: int = static(default=10_000, ge=1)
    storage: str = storage_field()
    spread: bool = static(default=False)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        own = side_slots(self.address, p, self.largest, MOVED)
        moments = {"exp_avg": Slot(storage=self.storage), "exp_avg_sq": Slot(nonnegative=True, storage=self.storage)}
        return {**moments, **own, "failures": Slot(shape=(), dtype=torch.float32)}

    def scalars(self, step: Number) -> dict[str, Any]:
        counted = where(step == 1, 1, step - 1)
        return {
            "correction": (1 - self.beta2**counted) ** 0.5 / (1 - self.beta1**counted),
            "decay": self.beta2 if self.shampoo_beta is None else self.shampoo_beta,
            "due": refresh_due(step, self.every, self.turn if self.spread else None),
            "starts": refresh_due(step, NEVER),
        }

    def update(self, update: Update, ctx: Context) -> Yields:
        g = wide(update.value).flatten(1)
        rows, same = kept(ctx, MOVED)
        m, v = (wide(ctx.read(slot)).flatten(1) for slot in ("exp_avg", "exp_avg_sq"))
        starts, due = ctx["starts"], ctx["due"]
        m = ema(m, g, self.beta1) if starts is None else where(starts != 0, m, ema(m, g, self.beta1))
        function = Rotated(len(rows) > 0, len(same) > 0, due is not None, starts is not None)
        u, m, v, *others = yield whole_matrix(
            g, m, v, *(ctx.read(name, storage_dtype=True) for name in rows), function=function, batched=True,
            same=[*(ctx.read(name, storage_dtype=True) for name in same), ctx.read("failures", storage_dtype=True),
                  self.beta2, ctx["decay"], self.eps, 0.0 if starts is None else starts, 0.0 if due is None else due],
        )  # fmt: skip
        slots = {"exp_avg": m, "exp_avg_sq": v}
        new = {name: x.view(update.value.shape).to(ctx.dtype) for name, x in slots.items()}
        squares = dict(zip([*rows, *same, "failures"], others))
        direction = (ctx["correction"] * u).view(update.value.shape)
        made = update.average(direction.to(ctx.dtype))
        return made if starts is None else made.replace(skip_mask=starts != 0), {**new, **squares}


@dataclass(frozen=True)
class Rotated:
    """A step of SOAP for whole matrices, or stacks: what is rotated, whether a basis may be due, or the first."""

    left: bool
    right: bool
    due: bool
    starts: bool

    def __call__(self, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        *squares, failures, beta2, decay, eps, first, due = others
        beta, keep, small = (x[..., None, None].to(g.dtype) for x in (beta2, decay, eps))
        skips, renews = first[..., None, None] != 0, due[..., None, None] != 0
        moments, bases = squares[0::2], squares[1::2]
        at = {side: place for place, side in enumerate(moved_sides(self.left, self.right))}
        left, right = (bases[at[side]].to(g.dtype) if side in at else None for side in SIDES)
        averaged = beta * v + (1 - beta) * _turn(g, left, right).square()
        u = _turn_back(_turn(m, left, right) / (averaged.sqrt() + small), left, right)
        if self.starts:
            u, averaged = torch.where(skips, torch.zeros_like(u), u), torch.where(skips, v, averaged)
        new: list[torch.Tensor] = []
        for side, place in at.items():
            moment = second_moment(moments[place], g, side, keep)
            basis = bases[place]
            if self.due:
                made, failed = eigenvectors(moment, basis)
                if self.starts:
                    exact, lost = eigenvectors(moment, basis, exact=True)
                    made, failed = torch.where(skips, exact, made), torch.where(first != 0, lost, failed)
                basis, failures = torch.where(renews, made, basis), failures + failed * (due != 0)
            new += [moment, basis]
        return [u, m, averaged, *new, failures, beta2, decay, eps, first, due]


def _turn(x: torch.Tensor, left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor:
    x = x if left is None else left.mT @ x
    return x if right is None else x @ right


def _turn_back(x: torch.Tensor, left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor:
    x = x if left is None else left @ x
    return x if right is None else x @ right.mT
