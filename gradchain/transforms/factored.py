"""Both moments of Adam, kept as vectors and signs."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot, earlier
from gradchain._chain.stage import Number, Slots, Stage
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.ops import ema, root
from gradchain.transforms.moments import supplied_beta2


class factored_moment(Stage):
    r"""Average the direction and its square over time, both kept as two vectors and a bit per element.

    $$m \leftarrow \beta_1 m + (1-\beta_1)\, g, \quad v \leftarrow \beta_2 v + (1-\beta_2)\, g^2, \qquad
    u \leftarrow \frac{m}{1-\beta_1^t}, \quad D \leftarrow \frac{\sqrt{v}}{\sqrt{1-\beta_2^t}}$$

    The same as `first_moment` and `second_moment` in `factored` storage: rebuilt, averaged, used, and factored again.

    Args:
        beta1: $\beta_1 \in [0, 1)$, default 0.9; `betas[0]` in `param_groups`.
        beta2: $\beta_2 \in [0, 1)$, default 0.999; `betas[1]`.
        bias_correction: divide by $1-\beta^t$ (default).
        vectors: factor vectors too. By default they are kept in float32.

    Slots: `exp_avg` and `exp_avg_sq`, zeros at first.
    Raises: OptionError: a value out of range.
    Source: Park & Lee (2024), SMMF, arXiv:2412.08894.

    >>> chain = gradchain.chain(
    ...     gradchain.factored_moment(), gradchain.divide(1e-8), gradchain.scale_by_learning_rate(1e-3)
    ... )
    >>> chain.state_bytes(torch.empty(1024, 1024)) / 1024**2
    0.140625
    """

    scale = "sets"
    reads = (earlier("beta2", optional=True),)
    source = "SMMF, arXiv:2412.08894"

    beta1: float = hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    beta2: float = hyper(default=0.999, ge=0, lt=1, key="betas[1]")
    bias_correction: bool = static(default=True)
    vectors: bool = static(default=False)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        storage = "factored_vectors" if self.vectors else "factored"
        return {"exp_avg": Slot(storage=storage), "exp_avg_sq": Slot(nonnegative=True, storage=storage)}

    def scalars(self, step: Number) -> dict[str, Number]:
        if not self.bias_correction:
            return {"first": 1.0, "second": 1.0}
        return {"first": 1 / (1 - self.beta1**step), "second": (1 - self.beta2**step) ** -0.5}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        m = ema(ctx.read("exp_avg"), update.value, self.beta1)
        v = ema(ctx.read("exp_avg_sq"), update.gradient.square(), supplied_beta2(ctx, self.beta2))
        averaged = update.average(m * ctx["first"]).replace(scale=root(v) * ctx["second"])
        return averaged, {"exp_avg": m, "exp_avg_sq": v}
