"""MARS: gradients corrected by how they have changed since the last step."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Number, Slots, Stage, storage_field
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.ops import where


class mars(Stage):
    r"""Add a multiple of the change of the gradient since the last step, which lowers the variance of a momentum after it.

    $$u \leftarrow u + \gamma\,\frac{\beta}{1-\beta}\,(u - g_{t-1}), \qquad g_{t-1}: \text{the } u \text{ that came in at
    the last step}, \quad g_0 = g_1$$

    Everything after it takes the result for the gradient. The paper scales that down to a norm of at most 1:
    `clip_by_norm(1.0)` after this stage. Signature: `mars(gamma=0.025, beta=0.95, initial="gradient", storage="param")`.

    Args:
        gamma: $\gamma \ge 0$, default 0.025; 0 changes nothing. `mars_gamma` in `param_groups`.
        beta: $\beta \in [0, 1)$ of the momentum after it, default 0.95; shares `betas[0]` with it. Where that goes by
            another name, `.rename(beta="momentum")`.
        initial: $g_0$: the first `"gradient"` (default), so that the first step is left alone; or `"zero"`, which
            multiplies the first gradient by $1 + \gamma\beta/(1-\beta)$, as the approximate MARS of adv_optm does.
        storage: how `prev_grad` (the parameter's shape, zeros before the first step) is kept.

    It is the paper's approximation: the last gradient is that of the last batch, not of this one at the last point.

    Raises: OptionError: a value out of range.
    Source: Yuan et al. (2024), MARS: Unleashing the Power of Variance Reduction, arXiv:2411.10438; adv_optm.

    >>> gradchain.recipe("adamw").insert_before("first_moment", gradchain.mars(0.025, 0.9)).names[:2]
    ('mars', 'first_moment')
    """

    source = "MARS, arXiv:2411.10438"

    gamma: float = hyper(default=0.025, ge=0, key="mars_gamma")
    beta: float = hyper(default=0.95, ge=0, lt=1, key="betas[0]")
    initial: str = static(default="gradient", choices=("gradient", "zero"))
    storage: str = storage_field()

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"prev_grad": Slot(storage=self.storage)}

    def scalars(self, step: Number) -> dict[str, Number]:
        rate = self.gamma * self.beta / (1 - self.beta)
        return {"rate": where(step == 1, 0.0, rate) if self.initial == "gradient" else rate}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        g = update.value
        return update.replace(value=g + ctx["rate"] * (g - ctx.read("prev_grad"))), {"prev_grad": g}
