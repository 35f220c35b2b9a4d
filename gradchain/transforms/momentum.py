"""Momentum that is not a plain average: heavy ball, Nesterov, and Lion's interpolation."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Number, Slots, Stage, storage_field
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.errors import OptionError
from gradchain.ops import ema, where


def is_zero(value: object) -> bool:
    """Whether an option is off; a tensor may become anything."""
    return isinstance(value, (int, float)) and value == 0


class heavy_ball(Stage):
    r"""Accumulate the direction, as `torch.optim.SGD` does.

    $$b \leftarrow \mu b + (1-\tau)\, u \quad (b \leftarrow u \text{ at } t = 1), \qquad
    u \leftarrow \begin{cases} u + \mu b & \text{Nesterov} \\ b & \text{otherwise} \end{cases}$$

    Args:
        momentum: $\mu \in [0, 1)$, default 0.9.
        dampening: $\tau \in [0, 1]$, default 0.
        nesterov: look ahead by one step.
        storage: how `momentum_buffer` (the parameter's shape) is kept.

    Raises: OptionError: a value out of range, or Nesterov or dampening without momentum.
    Source: Polyak (1964); Nesterov (1983); Sutskever et al. (2013).

    >>> gradchain.chain(gradchain.heavy_ball(0.9), gradchain.scale_by_learning_rate(0.1)).hyperparameters
    {'momentum': 0.9, 'dampening': 0.0, 'lr': 0.1}
    """

    source = "Sutskever et al., ICML 2013"

    momentum: float = hyper(default=0.9, ge=0, lt=1)
    dampening: float = hyper(default=0.0, ge=0, le=1)
    nesterov: bool = static(default=False)
    storage: str = storage_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("nesterov", "dampening"):
            if is_zero(self.momentum) and not is_zero(getattr(self, name)):
                raise OptionError(
                    f"{self.address}.{name} = {getattr(self, name)} has no meaning with momentum = 0. Pass a momentum in "
                    f"(0, 1), such as 0.9, or leave {name} out."
                )

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"momentum_buffer": Slot(storage=self.storage)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"incoming": where(step == 1, 1.0, 1 - self.dampening)}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        g = update.value
        b = self.momentum * ctx.read("momentum_buffer") + ctx["incoming"] * g
        value = g + self.momentum * b if self.nesterov else b
        return update.average(value), {"momentum_buffer": b}


class lion_interpolate(Stage):
    r"""Lion's two averages over one buffer: one for the direction, one to remember.

    $$u \leftarrow \beta_1 m + (1-\beta_1)\, g, \qquad m \leftarrow \beta_2 m + (1-\beta_2)\, g$$

    `sign()` after it makes the Lion update.

    Args:
        beta1: $\beta_1 \in [0, 1)$, default 0.9; `betas[0]`.
        beta2: $\beta_2 \in [0, 1)$, default 0.99; `betas[1]`.
        storage: how `exp_avg` (the parameter's shape, zeros at first) is kept.

    Raises: OptionError: a value out of range.
    Source: Chen et al. (2023), Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675.

    >>> gradchain.chain(gradchain.lion_interpolate(), gradchain.sign(), gradchain.scale_by_learning_rate(1e-4)).names
    ('lion_interpolate', 'sign', 'scale_by_learning_rate')
    """

    source = "Lion, arXiv:2302.06675"

    beta1: float = hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    beta2: float = hyper(default=0.99, ge=0, lt=1, key="betas[1]")
    storage: str = storage_field()

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"exp_avg": Slot(storage=self.storage)}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        g, m = update.value, ctx.read("exp_avg")
        return update.average(ema(m, g, self.beta1)), {"exp_avg": ema(m, g, self.beta2)}
