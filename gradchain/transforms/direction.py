"""Change a momentum before it is divided: look ahead, add a slower average."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Read, Slot, earlier
from gradchain._chain.stage import Number, Slots, Stage, storage_field
from gradchain._core.fields import follow, hyper, static
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.ops import ema, where
from gradchain.transforms.moments import track_first_moment

AVERAGES = ("exp_avg", "momentum_buffer", "exp_avg_slow")
"""Slots of stages that average the direction."""


def averages(stage: Stage) -> bool:
    """Whether a stage turns the direction into a momentum."""
    return not isinstance(stage, track_first_moment) and any(slot in AVERAGES for slot in stage.known_slots)


def check_averaged(self: Stage, before: Sequence[Stage]) -> None:
    """Raise unless an earlier stage averages: until then the direction is itself the gradient."""
    if not any(averages(stage) for stage in before):
        raise ChainError(
            f"{self.address} compares a momentum with the gradient in it, and no stage before it averages. Put "
            f"first_moment(...), or another stage with a slot 'exp_avg' or 'momentum_buffer', before {self.address}."
        )


def check_units(self: Stage, before: Sequence[Stage]) -> None:
    """Raise if the momentum was divided after it was averaged: the gradient was not, and cannot be added to it."""
    resolved = ""
    for stage in before:
        resolved = "" if averages(stage) else stage.address if stage.scale == "resolves" else resolved
    if resolved and any(averages(stage) for stage in before):
        raise ChainError(
            f"{self.address} adds the gradient to its momentum, which {resolved} has divided and the gradient not. Put "
            f"{self.address} before {resolved}."
        )


class nesterov(Stage):
    r"""Look ahead by one step: mix the gradient once more into the momentum.

    $$u \leftarrow q\,u + (1-q)\,x, \qquad
    x = \begin{cases} \lvert m_{t-1}\rvert \odot g & \text{scaled} \\ g & \text{otherwise} \end{cases}$$

    $g$ is the effective gradient, which the momentum averages, so both have one unit. The stored momentum does not change.
    To correct the bias of the mixture, use `first_moment(bias_correction=False)` and put `debias()` after this stage.

    Args:
        coef: $q \in [0, 1]$; `nesterov_coef` in `param_groups`. `None` (default) takes the group's `betas[0]`, else its
            `momentum`.
        scaled: weigh the gradient by the size of the last momentum $m_{t-1}$, the `exp_avg` of the stage before. For
            averages of signs, where the gradient is a sign too.

    Raises: OptionError: a value out of range; ChainError: no average before it, or a divided one, or no `coef`.
    Source: Nesterov (1983); Dozat (2016), Nadam; adv_optm.

    >>> gradchain.recipe("adamw").insert_after("first_moment", gradchain.nesterov()).names[:2]
    ('first_moment', 'nesterov')
    """

    scale = "any"
    source = "Nadam (Dozat, 2016); adv_optm"

    coef: float | None = hyper(default=None, ge=0, le=1, optional=True, key="nesterov_coef")
    scaled: bool = static(default=False)
    beta: float | None = follow("betas[0]", optional=True)
    momentum: float | None = follow("momentum", optional=True)

    @property
    def reads(self) -> tuple[Read, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (earlier("exp_avg"),) if self.scaled else ()

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        check_averaged(self, before)
        check_units(self, before)
        followed = {self.key_of("beta"), self.key_of("momentum")}
        keys = {
            stage.key_of(name) for stage in before for name, spec in stage.live_fields().items() if not spec.follows
        }
        if self.coef is None and not followed & keys:
            raise ChainError(
                f"{self.address}.coef is None, and no stage before it has a number that goes by 'betas[0]' or 'momentum', "
                f"which it would take instead. Pass coef, such as nesterov(0.9)."
            )

    def scalars(self, step: Number) -> dict[str, Number]:
        candidates = (self.coef, self.beta, self.momentum)
        return {"q": next(number for number in candidates if number is not None)}

    def update(self, update: Update, ctx: Context) -> Update:
        x = ctx.previous("exp_avg").abs() * update.gradient if self.scaled else update.gradient
        return update.replace(value=ema(update.value, x, ctx["q"]))


class ademamix(Stage):
    r"""Add a second, much slower average of the gradient.

    $$s \leftarrow \beta_3 s + (1-\beta_3)\, g, \qquad u \leftarrow u + \alpha_t s, \qquad
    \alpha_t = \begin{cases} \alpha\, t / T & t < T \\ \alpha & \text{otherwise} \end{cases}$$

    $g$ is the effective gradient, which the momentum averages; without a momentum $u = g$.

    Args:
        beta3: $\beta_3 \in [0, 1)$, default 0.9999; `beta3_ema` in `param_groups`.
        alpha: $\alpha \ge 0$, default 5.
        t_alpha: $T > 0$, the steps in which $\alpha_t$ grows to $\alpha$; `None` (default): $\alpha_t = \alpha$.
        storage: how `exp_avg_slow` (the parameter's shape, zeros at first) is kept.

    Raises: OptionError: a value out of range; ChainError: a momentum was divided before this stage.
    Source: Pagliardini et al. (2024), The AdEMAMix Optimizer, arXiv:2409.03137. As there, $s$ is not corrected for its bias.

    >>> gradchain.recipe("adamw").insert_after("first_moment", gradchain.ademamix()).names[:2]
    ('first_moment', 'ademamix')
    """

    scale = "any"
    source = "AdEMAMix, arXiv:2409.03137"

    beta3: float = hyper(default=0.9999, ge=0, lt=1, key="beta3_ema")
    alpha: float = hyper(default=5.0, ge=0)
    t_alpha: float | None = hyper(default=None, gt=0, optional=True)
    storage: str = storage_field()

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        check_units(self, before)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"exp_avg_slow": Slot(storage=self.storage)}

    def scalars(self, step: Number) -> dict[str, Number]:
        if self.t_alpha is None:
            return {"alpha_t": self.alpha}
        return {"alpha_t": where(step < self.t_alpha, self.alpha * step / self.t_alpha, self.alpha)}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        s = ema(ctx.read("exp_avg_slow"), update.gradient, self.beta3)
        return update.average(update.value + ctx["alpha_t"] * s), {"exp_avg_slow": s}
