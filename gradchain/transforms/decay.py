"""Weight decay: decoupled from the gradient (AdamW) or part of it (L2), towards 0 or an anchor, uniform or weighted."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Read, Slot, earlier
from gradchain._chain.mixins import Decay, needs_decay
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import follow, hyper, static
from gradchain._core.reduce import Request, Totals, whole_tensor
from gradchain._core.update import Update
from gradchain.errors import OptionError
from gradchain.ops import finite, minimum, nonzero, root, where, wide
from gradchain.storage import ANCHORS
from gradchain.transforms.lines import BY, evened, is_matrix

ADAPTERS = ("lora_A", "lora_B", "oft")
"""Roles of parameters that are added to a frozen model, which they leave unchanged where they are 0."""


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


class geometric_decay(decoupled_decay):
    r"""Shrink all elements of the parameter by the same amount, with the norm of an ordinary decay.

    $$\theta \leftarrow \theta - \kappa\lambda\,\tau(\theta), \qquad
    \tau(y) = \operatorname{sign}(y)\,\frac{\lVert y\rVert}{\sqrt{N}}$$

    or, with `snr`, which decays more where the momentum $m$ (before this step) has a steady sign:

    $$\tau(y) = w\,\frac{\lVert y\rVert}{\max(\lVert w\rVert,\, 1/\sqrt{N})}, \qquad
    w = \operatorname{atan2}\bigl(\operatorname{sign} y,\; \sqrt{\max(1 - m^2,\, 10^{-30})}\bigr)$$

    Norms are over the whole tensor of $N$ elements; $\kappa$ and $\lambda$ are those of `decoupled_decay`, whose options it
    shares. An element of 0 stays.

    With `by="row_column"`, matrices (first axis by all others, $m \times n$) decay in proportion, but with a strength by row
    and column, whose mean is 1:

    $$\tau_{ij} = \frac{\rho_i\chi_j}{\operatorname{mean}\rho\chi}\,\theta_{ij}, \qquad
    \rho_i^2 = \max(\lVert\theta_{i:}\rVert,\, 1/\sqrt n), \quad \chi_j^2 = \max(\lVert\theta_{:j}\rVert,\, 1/\sqrt m)$$

    and with `snr` $\operatorname{atan2}(\rho_i, \sqrt{R_i})$ and $\operatorname{atan2}(\chi_j, \sqrt{C_j})$ in their place,
    where $R$ and $C$ are those of `snr_precondition`. Vectors (less than two axes, or role `vector` or `dora_scale`) stay
    with the formulas above.

    Args:
        weight_decay: $\lambda \ge 0$, default 1e-2.
        snr: weigh by the momentum, which should be an average of signs. It needs slot `exp_avg` of an earlier stage.
        by: `"element"` (default) or `"row_column"`.

    Raises: OptionError: a value out of range; ChainError: `snr`, and no earlier stage owns `exp_avg`.
    Source: adv_optm 2.5, SignSGD_adv, whose stochastic signs are left out of the target; by rows and columns, SinkSGD_adv.

    >>> gradchain.chain(
    ...     gradchain.sign(), gradchain.scale_by_learning_rate(1e-4), gradchain.geometric_decay(0.1)
    ... ).hyperparameters
    {'lr': 0.0001, 'weight_decay': 0.1}
    """

    source = "adv_optm 2.5"

    snr: bool = static(default=False)
    by: str = static(default="element", choices=BY)

    @property
    def reads(self) -> tuple[Read, ...]:  # type: ignore[override]
        """The momentum, with `snr`."""
        return (earlier("exp_avg"),) if self.snr else ()

    def update(self, update: Update, ctx: Context) -> Yields:
        if self.by == "row_column" and is_matrix(ctx.shape, ctx.role):
            target = ctx.param * (yield from _by_lines(ctx, self.snr))
        else:
            target = yield from _geometric(ctx.param, ctx, self.snr)
        return update.add_decay(self.factor(ctx) * target)


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
            target = (update.decayed(ctx.param) - anchor) * (yield from _by_lines(ctx, self.snr))
        else:
            target = yield from _geometric(ctx.param - anchor, ctx, self.snr)
        return update.add_decay(self.factor(ctx) * target)


def _geometric(y: torch.Tensor, ctx: Context, snr: bool) -> Generator[Request, Totals, torch.Tensor]:
    """The target of a geometric decay, with the norm of `y`."""
    totals = yield whole_tensor(yy=finite(wide(y).square()))
    length, least = root(totals.yy), 1 / math.sqrt(max(ctx.numel, 1))
    if not snr:
        return y.sign() * (length * least)
    m = ctx.previous("exp_avg")
    w = torch.atan2(y.sign(), root((1 - m.square()).clamp_min(1e-30)))
    totals = yield whole_tensor(ww=wide(w).square())
    return w * (length / root(totals.ww).clamp_min(least))


def _by_lines(ctx: Context, snr: bool) -> Generator[Request, Totals, torch.Tensor]:
    """The strength of each element of a matrix in a geometric decay."""
    momentum = wide(ctx.previous("exp_avg")) if snr else None
    return (yield from evened(wide(ctx.param), ctx.shape, momentum))


class cautious_decay(Stage):
    r"""The decays after this stage act only where they agree in sign with the update so far.

    $$\tau_i \leftarrow \tau_i\,[u_i\tau_i \ge 0]$$

    for each decay term $\tau$, element by element; the rest is not scaled up. Put this stage after all that change the
    update and before the decays.

    Raises: ChainError: no decay follows.
    Source: adv_optm, `cautious_wd`, after Chen et al. (2025), Cautious Weight Decay, arXiv:2510.12402.

    >>> gradchain.chain(
    ...     gradchain.sign(), gradchain.scale_by_learning_rate(1e-4),
    ...     gradchain.cautious_decay(), gradchain.decoupled_decay(0.1),
    ... ).names[2:]
    ('cautious_decay', 'decoupled_decay')
    """

    scale = "any"
    source = "Cautious Weight Decay, arXiv:2510.12402"

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        needs_decay(self, after)

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(cautious=True)


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
            weight = torch.atan2(torch.ones_like(update.scale), update.scale) * (4 / math.pi)
            return update.weigh_decay(weight)
        shift = ctx["shift"] / math.sqrt(max(ctx.numel, 1)) if self.eps is None else ctx["shift"]
        f = 1 / nonzero(wide(update.scale) + shift)
        totals = yield whole_tensor(squares=(wide(ctx.param) * f).square())
        rms = root(totals.squares / max(ctx.numel, 1))
        weight = f / rms.clamp_min(1.0)
        return update.weigh_decay(weight.clamp_max(torch.finfo(ctx.dtype).max))


class add_decayed_weights(Stage):
    r"""Add the L2 term to the gradient, as `torch.optim.SGD` does with `weight_decay`.

    $$g \leftarrow g + \lambda\theta$$

    Args:
        weight_decay: $\lambda \ge 0$, default 0.

    Raises: OptionError: a value out of range.

    >>> gradchain.chain(gradchain.add_decayed_weights(1e-4), gradchain.heavy_ball(0.9)).names
    ('add_decayed_weights', 'heavy_ball')
    """

    weight_decay: float = hyper(default=0.0, ge=0)

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=update.value + self.weight_decay * ctx.param)
