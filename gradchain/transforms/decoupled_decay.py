"""Weight decay that is decoupled from the gradient, as in AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradchain._chain.context import Context
from gradchain._chain.mixins import Decay
from gradchain._chain.stage import Number, Yields
from gradchain._core.fields import follow, hyper, static
from gradchain._core.update import Update
from gradchain.errors import OptionError
from gradchain.ops import minimum, where


class decoupled_decay(Decay):
    r"""Shrink the parameter itself, next to the gradient step.

    $$\theta \leftarrow \theta - \kappa\lambda\,\theta, \qquad
    \kappa = \begin{cases} \eta / \eta_{\mathrm{ref}} & \text{schedule} \\ \eta & \text{otherwise}\end{cases}$$

    Args:
        weight_decay: $\lambda \ge 0$, default 1e-2.
        schedule: couple the decay to the *shape* of the learning-rate schedule instead of to the learning rate. At
            $\eta_{\mathrm{ref}} = 10^{-3}$ the same $\lambda$ is then 1000 times as strong.
        reference_lr: $\eta_{\mathrm{ref}} > 0$. `None` takes the group's `max_lr`, else its `initial_lr` (schedulers set
            both), else the learning rate that the optimizer was built with.
        clamp: bound $\kappa\lambda$ by 1, so that the decay never flips a sign.
        fan_in: divide the decay of a tensor of two or more axes by its fan-in, the product of all axes but the first.

    The field `gate` is inert until `rename(gate="key")` ties it to another hyperparameter: while that is 0, so is the
    decay.

    Raises: OptionError: a value out of range, or only one of schedule and reference; ChainError: no stage provides `lr`.
    Source: Loshchilov & Hutter (2017), Decoupled Weight Decay Regularization, arXiv:1711.05101; `schedule` from Rose;
    `fan_in` from adv_optm 2.4.

    >>> gradchain.chain(gradchain.decoupled_decay(0.1), gradchain.scale_by_learning_rate(1e-3)).hyperparameters
    {'weight_decay': 0.1, 'lr': 0.001}
    """

    scale = "any"
    source = "AdamW, arXiv:1711.05101"

    weight_decay: float = hyper(default=1e-2, ge=0)
    schedule: bool = static(default=False)
    reference_lr: float | None = hyper(default=None, gt=0, optional=True, when="schedule")
    clamp: bool = static(default=False)
    fan_in: bool = static(default=False)
    gate: float | None = follow()
    lr: float | None = follow("lr")
    constructor_lr: float | None = follow("lr", initial=True, when="schedule")

    def resolve(self, values: dict[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        if not self.schedule or values["reference_lr"] is not None:
            return values
        if isinstance(values["weight_decay"], (int, float)) and values["weight_decay"] == 0:
            return {**values, "reference_lr": 1.0}  # nothing to couple
        candidates = (group.get("max_lr"), group.get("initial_lr"), values.get("constructor_lr"))
        reference = next((lr for lr in candidates if lr is not None), None)
        if reference is None or (isinstance(reference, (int, float)) and reference <= 0):
            raise OptionError(
                f"{self.address}.reference_lr is needed: schedule=True divides the learning rate by a reference, and "
                f"the one found is {reference}. Pass reference_lr > 0, for example the peak learning rate."
            )
        return {**values, "reference_lr": reference}

    def scalars(self, step: Number) -> dict[str, Number]:
        assert self.lr is not None
        kappa = self.lr / self.reference_lr if self.schedule and self.reference_lr is not None else self.lr
        strength = kappa * self.weight_decay
        strength = minimum(strength, 1.0) if self.clamp else strength
        return {"strength": strength if self.gate is None else where(self.gate != 0, strength, 0.0)}

    def factor(self, ctx: Context) -> Number:
        """Compute the factor of the decay target. Returns: a float or a 0-d tensor."""
        fan_in = ctx.shape[1:].numel() if self.fan_in else 1  # 1 as well for tensors of fewer than two axes
        return ctx["strength"] / max(fan_in, 1)

    def update(self, update: Update, ctx: Context) -> Update | Yields:
        return update.add_decay(self.factor(ctx) * ctx.param)
