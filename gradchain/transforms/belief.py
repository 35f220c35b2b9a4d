"""AdaBelief: divide by how far gradients lie from their momentum."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot, earlier
from gradchain._chain.stage import Number, Slots, Stage, storage_field
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.ops import ema, root


class belief_moment(Stage):
    r"""Average the squared distance of the gradient from its momentum and set its root as the pending scale.

    $$s \leftarrow \beta s + (1-\beta)\,(g - m)^2 + \epsilon, \qquad D \leftarrow \sqrt{s} \,/\, \sqrt{1-\beta^t}$$

    $g$ is the effective gradient, $m$ the `exp_avg` of a stage before, new and without bias correction. Where gradients
    are as expected, $D$ is small and steps are long.

    Args:
        beta: $\beta \in [0, 1)$, default 0.999; `betas[1]` in `param_groups`.
        eps: $\epsilon \ge 0$, default 1e-16; shares `eps` with the division, which adds it once more.
        bias_correction: divide by $\sqrt{1-\beta^t}$ (default).
        storage: how `exp_avg_var` ($s$, the parameter's shape, zeros at first, never negative) is kept.

    Raises: OptionError: a value out of range; ChainError: no stage before it owns `exp_avg`.
    Source: Zhuang et al. (2020), AdaBelief Optimizer, arXiv:2010.07468.

    >>> gradchain.chain(gradchain.first_moment(), gradchain.belief_moment(), gradchain.divide(1e-16)).hyperparameters
    {'betas': (0.9, 0.999), 'eps': 1e-16}
    """

    scale = "sets"
    reads = (earlier("exp_avg"),)
    source = "AdaBelief, arXiv:2010.07468"

    beta: float = hyper(default=0.999, ge=0, lt=1, key="betas[1]")
    eps: float = hyper(default=1e-16, ge=0)
    bias_correction: bool = static(default=True)
    storage: str = storage_field()

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"exp_avg_var": Slot(nonnegative=True, storage=self.storage)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"correction": (1 - self.beta**step) ** -0.5 if self.bias_correction else 1.0}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        surprise = update.gradient - ctx.read("exp_avg")
        s = ema(ctx.read("exp_avg_var"), surprise.square(), self.beta) + self.eps
        scale = root(s) * ctx["correction"] if self.bias_correction else root(s)
        return update.replace(scale=scale), {"exp_avg_var": s}
