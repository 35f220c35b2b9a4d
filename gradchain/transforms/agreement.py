"""Where a direction and the gradient differ in sign: leave those elements out, or give them the gradient's sign."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain._chain.context import Context
from gradchain._chain.mixins import Decay, Precision
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import hyper
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.transforms.direction import averages, check_averaged

KEEPS_SIGNS = frozenset({
    "adopt", "atan2_scale", "cautious_decay", "clip_by_global_norm", "clip_by_norm", "clip_by_scale", "clip_by_value",
    "cv_trust_gate", "divide", "fisher_decay", "freeze_on_flip", "kourkoutas_beta", "lion_k", "prodigy",
    "projected_adaptivity", "range_normalize", "rectify", "scale_by_learning_rate", "scale_update", "second_moment",
    "sign", "step_clip", "track_first_moment",
})  # fmt: skip
"""Stages that give no element of the direction another sign."""


def keeps_signs(stage: Stage) -> bool:
    return isinstance(stage, (Decay, Precision)) or type(stage).__name__ in KEEPS_SIGNS


class grams(Stage):
    r"""Give the momentum the signs of the gradient.

    $$u \leftarrow \operatorname{sign}(g) \odot \lvert u\rvert$$

    $g$ is the effective gradient, which the momentum averages. The stored momentum does not change.

    Raises: ChainError: no stage before it averages.
    Source: Cao et al. (2024), Grams: Gradient Descent with Adaptive Momentum Scaling, arXiv:2412.17107; adv_optm.

    >>> gradchain.recipe("adamw").insert_after("first_moment", gradchain.grams()).names[:2]
    ('first_moment', 'grams')
    """

    scale = "any"
    source = "Grams, arXiv:2412.17107"

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        check_averaged(self, before)

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=update.gradient.sign() * update.value.abs())


class cautious(Stage):
    r"""Zero the elements of the direction that differ from the gradient in sign, and scale up the others to compensate.

    $$k = [u \odot g > 0], \qquad u \leftarrow \frac{u \odot k}{\max(\operatorname{mean} k,\, c)}$$

    $g$ is what a momentum before this stage averages; without a momentum, the raw gradient. So it fits after any stage
    that may turn a direction against the gradient: a momentum, `orthograd`, `centralize`, an orthogonalisation. The mean
    is over the whole tensor. The stored momentum does not change.

    Args:
        floor: $c \in (0, 1]$, default 1e-3: elements are scaled up by at most $1/c$.

    Raises: OptionError: a value out of range; ChainError: all stages before it keep the signs of the gradient.
    Source: Liang et al. (2024), Cautious Optimizers, arXiv:2411.16085; adv_optm.

    >>> gradchain.recipe("lion").insert_after("sign", gradchain.cautious()).names[:3]
    ('lion_interpolate', 'sign', 'cautious')
    """

    scale = "any"
    source = "Cautious Optimizers, arXiv:2411.16085"

    floor: float = hyper(default=1e-3, gt=0, le=1)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        if all(not averages(stage) and keeps_signs(stage) for stage in before):
            raise ChainError(
                f"{self.address} compares the signs of the direction with those of the gradient, and no stage before it "
                f"changes any. Put first_moment(...), or another stage that may turn a direction against the gradient, "
                f"before {self.address}."
            )

    def update(self, update: Update, ctx: Context) -> Yields:
        u, g = update.value, ctx.gradient if update.averaged is None else update.averaged
        k = (u.sign() * g.sign() > 0).to(u.dtype)  # the product of small numbers could vanish
        t = yield whole_tensor(k=k)
        mean = t.k / max(ctx.numel, 1)
        ctx.observe("kept", lambda: mean)
        return update.replace(value=u * k / mean.clamp(min=self.floor))
