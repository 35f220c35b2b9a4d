"""Weight decay towards the value before the first step."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Read, Slot, earlier
from gradchain._chain.stage import Yields
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.storage import ANCHORS
from gradchain.transforms.decay_targets import even_decay, line_strengths
from gradchain.transforms.decoupled_decay import decoupled_decay
from gradchain.transforms.lines import BY, is_matrix

ADAPTERS = ("lora_A", "lora_B", "oft")
"""Roles of parameters that are added to a frozen model, which they leave unchanged where they are 0."""


class centered_decay(decoupled_decay):
    r"""Decay towards the value before the first step instead of towards 0.

    $$\theta \leftarrow \theta - \kappa\lambda\,(\tilde\theta - \theta_0)$$

    $\tilde\theta$ is the parameter minus the decays of the stages before. $\kappa$ and $\lambda$ are those of
    `decoupled_decay`, whose options it shares.

    Slots: `anchor_param`, $\theta_0$; none for the roles `lora_A`, `lora_B` and `oft`.

    Args:
        weight_decay: $\lambda \ge 0$, default 1e-2; `centered_wd` in `param_groups`.
        anchor: how $\theta_0$ is kept: `"full"` (default: as the parameter), `"float8"`, `"float8_scaled"` (one scale for
            the tensor, so that no size is out of range), `"int8"` or `"int4"` (between the extremes of each block of 128
            or 32).
        geometric: decay by the target of `geometric_decay`, with $y = \theta - \theta_0$, before any decay.
        snr: as in `geometric_decay`.
        by: as in `geometric_decay`. With `"row_column"`, matrices decay by $\tilde\theta - \theta_0$ with the strengths that
            rows and columns of $\theta$ have there.
        adapters: also anchor parameters of the roles `lora_A`, `lora_B` and `oft`. By default this stage skips them: they
            are added to a frozen model, so 0 *is* the original model.

    The anchor is copied at the parameter's first step (or by `chain.init`), saved with the state, and never written again.

    Raises: OptionError: a value out of range, or `snr` without `geometric`; ChainError: `snr` without an `exp_avg`.
    Source: adv_optm 2.5, `centered_wd`.

    >>> chain = gradchain.recipe("adamw").insert_after("decoupled_decay", gradchain.centered_decay(0.1, anchor="int8"))
    >>> chain.hyperparameters["centered_wd"]
    0.1
    """

    source = "adv_optm 2.5"

    weight_decay: float = hyper(default=1e-2, ge=0, key="centered_wd")
    anchor: str = static(default="full", choices=tuple(ANCHORS))
    geometric: bool = static(default=False)
    snr: bool = static(default=False, when="geometric")
    by: str = static(default="element", choices=BY, when="geometric")
    adapters: bool = static(default=False)

    @property
    def reads(self) -> tuple[Read, ...]:  # type: ignore[override]
        """The momentum, with `snr`."""
        return (earlier("exp_avg"),) if self.snr else ()

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"anchor_param": Slot("param", storage=ANCHORS[self.anchor])} if self._anchors(p.role) else {}

    def _anchors(self, role: str | None) -> bool:
        return self.adapters or role not in ADAPTERS

    def update(self, update: Update, ctx: Context) -> Yields:
        if not self._anchors(ctx.role):
            return update
        anchor = ctx.read("anchor_param")
        if not self.geometric:
            target = update.decayed(ctx.param) - anchor
        elif self.by == "row_column" and is_matrix(ctx.shape, ctx.role):
            target = (update.decayed(ctx.param) - anchor) * (yield from line_strengths(ctx, self.snr))
        else:
            target = yield from even_decay(ctx.param - anchor, ctx, self.snr)
        return update.add_decay(self.factor(ctx) * target)
