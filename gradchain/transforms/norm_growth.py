"""A bound on how fast the norm of a direction may grow."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import hyper
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import nonzero, root, wide


class limit_norm_growth(Stage):
    r"""Scale a direction down whose norm is more than $\gamma$ times that of the step before.

    $$u \leftarrow u \cdot \min\!\Big(1,\; \frac{\gamma\, n}{\lVert u\rVert}\Big), \qquad n \leftarrow \lVert u\rVert$$

    $n$ is the norm that the last direction had behind this stage. As long as it is 0, nothing is scaled; a norm that is not
    finite is not kept. It needs no bound in the unit of the gradient, and softens spikes.

    Args:
        max_growth: $\gamma > 0$, default 1.01.

    Slots: `norm` ($n$), a number in float32.
    Raises: OptionError: a value out of range.
    Source: Chen et al. (2024), Fira, arXiv:2410.01623; APOLLO, arXiv:2412.05270.

    >>> gradchain.chain(gradchain.limit_norm_growth(), gradchain.scale_by_learning_rate(0.1)).hyperparameters
    {'max_growth': 1.01, 'lr': 0.1}
    """

    source = "Fira, arXiv:2410.01623"

    max_growth: float = hyper(default=1.01, gt=0)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"norm": Slot(shape=(), dtype=torch.float32)}

    def update(self, update: Update, ctx: Context) -> Yields:
        u, last = wide(update.value), ctx.read("norm", storage_dtype=True)
        t = yield whole_tensor(uu=u.square())
        norm = root(t.uu)
        bound = self.max_growth * last.to(norm.dtype)
        factor = torch.where(last > 0, (bound / nonzero(norm)).clamp(max=1), torch.ones_like(norm))
        factor = torch.where(norm == 0, torch.ones_like(factor), factor)
        ctx.observe("factor", lambda: factor)
        kept = torch.where(norm.isfinite(), (norm * factor).to(last.dtype), last)
        return update.replace(value=(u * factor).to(ctx.dtype)), {"norm": kept}
