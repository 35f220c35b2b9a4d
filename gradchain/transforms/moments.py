"""Exponential moving averages of the gradient and of its square."""

from __future__ import annotations

from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot, earlier
from gradchain._chain.stage import Number, Slots, Stage, storage_field
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.ops import ema, root

ADAM = "Adam, arXiv:1412.6980"


def supplied_beta2(ctx: Context, default: Number) -> Any:
    """The `beta2` that an earlier stage provides; not in compute precision, where bfloat16 would round 0.999 to 1."""
    return ctx.read_or("beta2", default, storage_dtype=True)


class first_moment(Stage):
    r"""Average the direction over time.

    $$m \leftarrow \beta m + (1-\beta)\, u, \qquad u \leftarrow \frac{m}{1-\beta^t}$$

    Args:
        beta: $\beta \in [0, 1)$, default 0.9; `betas[0]` in `param_groups`.
        bias_correction: divide by $1-\beta^t$ (default). Otherwise $u \leftarrow m$.
        storage: how `exp_avg` (the parameter's shape, zeros at first) is kept: `"param"`, `"fp32"` or `"bf16"`.

    Raises: OptionError: a value out of range.
    Source: Kingma & Ba (2014), Adam, arXiv:1412.6980.

    >>> gradchain.chain(gradchain.first_moment(0.9), gradchain.scale_by_learning_rate(0.1)).hyperparameters
    {'betas': (0.9,), 'lr': 0.1}
    """

    scale = "any"
    source = ADAM

    beta: float = hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    bias_correction: bool = static(default=True)
    storage: str = storage_field()

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"exp_avg": Slot(storage=self.storage)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"correction": 1 / (1 - self.beta**step) if self.bias_correction else 1.0}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        m = ema(ctx.read("exp_avg"), update.value, self.beta)
        value = m * ctx["correction"] if self.bias_correction else m
        return update.average(value), {"exp_avg": m}


class track_first_moment(Stage):
    r"""Keep the average of the direction for other stages to read, and let the direction pass.

    $$m \leftarrow \beta m + (1-\beta)\, u$$

    Args:
        beta: $\beta \in [0, 1)$, default 0.9; `betas[0]` in `param_groups`.
        storage: how `exp_avg` is kept.

    Raises: OptionError: a value out of range.
    Source: GYRO-SGD, where the average only detects oscillation.

    >>> gradchain.chain(gradchain.momentum_project(), gradchain.track_first_moment(0.9)).names
    ('momentum_project', 'track_first_moment')
    """

    scale = "any"
    source = "GYRO, github.com/sunderflowres-stack/gyro_optimizer"

    beta: float = hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    storage: str = storage_field()

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"exp_avg": Slot(storage=self.storage)}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        return update, {"exp_avg": ema(ctx.read("exp_avg"), update.value, self.beta)}


class second_moment(Stage):
    r"""Average the squared gradient over time and set its root as the pending scale.

    $$v \leftarrow \beta v + (1-\beta)\, g^2, \qquad D \leftarrow \sqrt{v} \,/\, \sqrt{1-\beta^t}$$

    $g$ is the effective gradient: what a first moment before this stage averaged, else the direction itself; after
    `as_gradient()`, the direction in any case.

    Args:
        beta: $\beta \in [0, 1)$, default 0.999; `betas[1]` in `param_groups`. A stage before that provides `beta2` takes
            its place in the average.
        bias_correction: divide by $\sqrt{1-\beta^t}$ (default).
        storage: how the slots are kept.
        amsgrad: never let the scale shrink: $\hat v \leftarrow \max(\hat v, v)$ takes the place of $v$ in $D$.

    Slots: `exp_avg_sq` ($v$) and, with `amsgrad`, `max_exp_avg_sq` ($\hat v$): the parameter's shape, zeros at first, never
    negative.
    Raises: OptionError: a value out of range.
    Source: Kingma & Ba (2014), Adam, arXiv:1412.6980; `amsgrad`: Reddi et al. (2018), arXiv:1904.09237, as in `torch.optim`.

    >>> gradchain.chain(gradchain.second_moment(0.99), gradchain.divide(1e-8)).hyperparameters
    {'betas': (None, 0.99), 'eps': 1e-08}
    """

    scale = "sets"
    reads = (earlier("beta2", optional=True),)
    source = ADAM

    beta: float = hyper(default=0.999, ge=0, lt=1, key="betas[1]")
    bias_correction: bool = static(default=True)
    storage: str = storage_field()
    amsgrad: bool = static(default=False)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        names = ("exp_avg_sq", "max_exp_avg_sq") if self.amsgrad else ("exp_avg_sq",)
        return {name: Slot(nonnegative=True, storage=self.storage) for name in names}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"correction": (1 - self.beta**step) ** -0.5 if self.bias_correction else 1.0}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        v = ema(ctx.read("exp_avg_sq"), update.gradient.square(), supplied_beta2(ctx, self.beta))
        slots = {"exp_avg_sq": v}
        if self.amsgrad:
            v = slots["max_exp_avg_sq"] = torch.maximum(ctx.read("max_exp_avg_sq"), v)
        scale = root(v) * ctx["correction"] if self.bias_correction else root(v)
        return update.replace(scale=scale), slots
