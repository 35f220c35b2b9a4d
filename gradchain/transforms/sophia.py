"""Sophia: divide by an average of estimates of the Hessian's diagonal, which are given from outside."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Stage
from gradchain._core.fields import hyper
from gradchain._core.update import Update

GIVEN = "it acts once an estimate of the Hessian has been given"


class divide_by_hessian(Stage):
    r"""Divide the direction by an average of estimates of the Hessian's diagonal.

    $$u \leftarrow \frac{u}{\max(\gamma h,\, \epsilon)}, \qquad
    h \leftarrow \beta h + (1-\beta)\,\hat h \quad \text{with each estimate } \hat h \text{ that is given}$$

    A step leaves $h$ as it is: `gradchain.give_hessian(optimizer, estimates)` averages it, every ten steps or so. Before
    the first estimate, and where the curvature is negative, the divisor is $\epsilon$; `clip_by_value(1.0)` after this
    stage bounds such elements by the learning rate.

    Args:
        gamma: $\gamma > 0$, default 0.01: the smaller, the more elements reach the bound.
        eps: $\epsilon > 0$, default 1e-12.
        beta: $\beta \in [0, 1)$, default 0.99; `hessian_beta` in `param_groups`.

    Slot: `hessian` ($h$, the parameter's shape, zeros at first), in float32 at least.
    Raises: OptionError: a value out of range.
    Source: Liu et al. (2023), Sophia: A Scalable Stochastic Second-order Optimizer, arXiv:2305.14342.

    >>> gradchain.recipe("sophia").names[:3]
    ('first_moment', 'divide_by_hessian', 'clip_by_value')
    """

    source = "Sophia, arXiv:2305.14342"

    gamma: float = hyper(default=0.01, gt=0, inert=GIVEN)
    eps: float = hyper(default=1e-12, gt=0)
    beta: float = hyper(default=0.99, ge=0, lt=1, key="hessian_beta", inert=GIVEN)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"hessian": Slot(dtype=torch.promote_types(p.dtype, torch.float32))}

    def update(self, update: Update, ctx: Context) -> Update:
        h = ctx.read("hessian", storage_dtype=True)
        least = torch.ones_like(h) * self.eps
        return update.replace(value=update.value / torch.maximum(self.gamma * h, least))
