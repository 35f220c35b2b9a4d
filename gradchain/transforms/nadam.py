"""NAdam's momentum: Nesterov's look ahead, with a rate that grows over the steps."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Number, Slots, Stage, storage_field
from gradchain._core.fields import hyper
from gradchain._core.update import Update
from gradchain.ops import ema, widest


class nadam_momentum(Stage):
    r"""Average the direction, and mix the average with the direction by rates that a schedule warms up.

    $$\mu_t = \beta\,\big(1 - \tfrac12\, 0.96^{\,t\psi}\big), \qquad P_t = \prod_{i \le t} \mu_i, \qquad
    m \leftarrow \beta m + (1-\beta)\, u$$

    $$u \leftarrow \frac{1-\mu_t}{1-P_t}\, u + \frac{\mu_{t+1}}{1-P_t\,\mu_{t+1}}\, m$$

    The rate begins near $\beta/2$ and tends to $\beta$.

    Args:
        beta: $\beta \in [0, 1)$, default 0.9; `betas[0]` in `param_groups`.
        momentum_decay: $\psi \ge 0$, default 4e-3: how soon the rate grows.
        storage: how `exp_avg` is kept.

    Slots: `exp_avg` ($m$, the parameter's shape, zeros at first), `mu_product` ($P$, one number in float32, as in torch).
    Raises: OptionError: a value out of range.
    Source: Dozat (2016), Incorporating Nesterov Momentum into Adam; `torch.optim.NAdam`.

    >>> gradchain.chain(gradchain.nadam_momentum(), gradchain.scale_by_learning_rate(0.1)).hyperparameters
    {'betas': (0.9,), 'momentum_decay': 0.004, 'lr': 0.1}
    """

    source = "NAdam (Dozat, 2016), torch.optim.NAdam"

    beta: float = hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    momentum_decay: float = hyper(default=4e-3, ge=0)
    storage: str = storage_field()

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"exp_avg": Slot(storage=self.storage), "mu_product": Slot(1.0, shape=(), dtype=torch.float32)}

    def scalars(self, step: Number) -> dict[str, Number]:
        def rate(t: Number) -> Number:
            return self.beta * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

        return {"mu": rate(step), "mu_next": rate(step + 1)}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        last = ctx.read("mu_product", storage_dtype=True)
        product = last * (torch.ones_like(last) * ctx["mu"]).to(last.dtype)  # as rounded by torch, eager and compiled
        exact = product.to(widest(product.device))
        g = update.value
        m = ema(ctx.read("exp_avg"), g, self.beta)
        fresh, old = (1 - ctx["mu"]) / (1 - exact), ctx["mu_next"] / (1 - exact * ctx["mu_next"])
        return update.average(fresh * g + old * m), {"exp_avg": m, "mu_product": product}
