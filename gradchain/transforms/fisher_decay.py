"""Weight decay weighted by the inverse of the pending scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from gradchain._chain.context import Context
from gradchain._chain.mixins import needs_decay
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import follow, static
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import arctan_ratio, nonzero, root, wide


class fisher_decay(Stage):
    r"""Weigh the decays after this stage by the inverse of the pending scale: less where the loss is sensitive.

    $$\tau \leftarrow \varphi \odot \tau, \qquad
    \varphi = \frac{f}{\max(1,\, \operatorname{rms}(\theta \odot f))}, \quad f = \frac{1}{D + \epsilon}$$

    or, with `bound="atan2"`, $\varphi = \frac{4}{\pi}\operatorname{atan2}(1, D) \le 2$, free of $\epsilon$. The scale passes
    unchanged.

    Args:
        bound: what keeps the decay finite where $D$ is small: `"rms"` (default; over the whole tensor) or `"atan2"`.

    $\epsilon$ is the one that `divide` takes, so this stage follows its keys: `eps`, or $1/(L\sqrt N)$ where that is `None`
    or missing, with `n_layers` for $L$ (1 without), times Prodigy's `d` if there is one.

    Raises: OptionError: a value out of range; ChainError: no scale is pending, or no decay follows.
    Source: adv_optm, `fisher_wd`.

    >>> gradchain.recipe("adamw").insert_before("divide", gradchain.fisher_decay()).names[1:4]
    ('second_moment', 'fisher_decay', 'divide')
    """

    scale = "edits"
    source = "adv_optm 2.5"

    bound: Literal["rms", "atan2"] = static(default="rms", choices=("rms", "atan2"))
    eps: float | None = follow("eps", optional=True)
    n_layers: float | None = follow("n_layers", optional=True)
    d: float | None = follow("d", optional=True)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        needs_decay(self, after)

    def scalars(self, step: Number) -> dict[str, Number]:
        layers = 1.0 if self.n_layers is None else self.n_layers
        eps = 1 / layers if self.eps is None else self.eps
        return {"shift": eps if self.d is None else self.d * eps}

    def update(self, update: Update, ctx: Context) -> Yields:
        assert update.scale is not None
        if self.bound == "atan2":
            weight = arctan_ratio(torch.ones_like(update.scale), update.scale) * (4 / math.pi)
            return update.weigh_decay(weight)
        shift = ctx["shift"] / math.sqrt(max(ctx.numel, 1)) if self.eps is None else ctx["shift"]
        f = 1 / nonzero(wide(update.scale) + shift)
        totals = yield whole_tensor(squares=(wide(ctx.param) * f).square())
        rms = root(totals.squares / max(ctx.numel, 1))
        weight = f / rms.clamp_min(1.0)
        return update.weigh_decay(weight.clamp_max(torch.finfo(ctx.dtype).max))
