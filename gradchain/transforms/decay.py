"""Weight decay: decoupled from the gradient (AdamW), or as part of it (L2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradchain.context import Context
from gradchain.errors import OptionError
from gradchain.fields import Spec, follow, hyper, static
from gradchain.ops import minimum, where
from gradchain.stage import Number, Stage
from gradchain.update import Update


class decoupled_decay(Stage):
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

    The field `gate` is inert until `expose(gate="key")` ties it to another hyperparameter: while that is 0, so is the
    decay.

    Raises:
        OptionError: a negative decay, a reference that is not positive, a reference without a schedule, or a schedule
            without any reference.
        ChainError: no stage provides `lr`.

    Source: Loshchilov & Hutter (2017), Decoupled Weight Decay Regularization, arXiv:1711.05101; `schedule` from Rose.

    >>> gradchain.chain(gradchain.decoupled_decay(0.1), gradchain.scale_by_learning_rate(1e-3)).hyperparameters
    {'weight_decay': 0.1, 'lr': 0.001}
    """

    scale = "any"
    source = "AdamW, arXiv:1711.05101"

    weight_decay: float = hyper(default=1e-2, ge=0)
    schedule: bool = static(default=False)
    reference_lr: float | None = hyper(default=None, gt=0, optional=True)
    clamp: bool = static(default=False)
    gate: float | None = follow()
    lr: float | None = follow("lr")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference_lr is not None and not self.schedule:
            raise OptionError(
                f"{self.address}.reference_lr = {self.reference_lr!r} has no effect without schedule=True. Pass both, "
                "or neither."
            )

    def live_fields(self) -> dict[str, Spec]:
        fields = super().live_fields()
        return fields if self.schedule else {name: spec for name, spec in fields.items() if name != "reference_lr"}

    def pin(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {"constructor_lr": group["lr"]} if self.schedule else {}

    def resolve(self, values: dict[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        if not self.schedule or values["reference_lr"] is not None:
            return values
        if isinstance(values["weight_decay"], (int, float)) and values["weight_decay"] == 0:
            return {**values, "reference_lr": 1.0}  # nothing to couple
        candidates = (group.get(key) for key in ("max_lr", "initial_lr", "constructor_lr"))
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

    def update(self, update: Update, ctx: Context) -> Update:
        return update.add_decay(ctx["strength"] * ctx.param)


class add_decayed_weights(Stage):
    r"""Add the L2 term to the gradient, as `torch.optim.SGD` does with `weight_decay`.

    $$g \leftarrow g + \lambda\theta$$

    Args:
        weight_decay: $\lambda \ge 0$, default 0.

    >>> gradchain.chain(gradchain.add_decayed_weights(1e-4), gradchain.heavy_ball(0.9)).names
    ('add_decayed_weights', 'heavy_ball')
    """

    weight_decay: float = hyper(default=0.0, ge=0)

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=update.value + self.weight_decay * ctx.param)
