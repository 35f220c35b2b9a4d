"""Trust in slices: their scales move to the mean where they vary much."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import finite, nonzero, root
from gradchain.transforms.range import ROSE


class cv_trust_gate(Stage):
    r"""Pull the pending scales towards their mean where they vary much.

    With $\mu$ and $\sigma$ the mean and the population standard deviation of all scales $R_i$:

    $$\tau = \frac{\mu}{\mu + \sigma}, \qquad R_i \leftarrow \mu + \tau\,(R_i - \mu)$$

    $1/\tau - 1$ is the coefficient of variation. Since $\sigma/\mu \le \sqrt{n-1}$, the gate never closes fully for
    few slices: $\tau \ge 1/(1+\sqrt{n-1})$. One scale passes unchanged; all zeros stay zeros.

    Raises: ChainError: no scale is pending.
    Source: Rose.

    >>> gradchain.recipe("rose").without("cv_trust_gate").names[1:4]
    ('centralize', 'range_normalize', 'divide')
    """

    scale = "edits"
    source = ROSE

    def update(self, update: Update, ctx: Context) -> Yields:
        assert update.scale is not None
        R = finite(update.scale)
        t = yield whole_tensor(n=torch.ones_like(R), R=R, RR=R.to(torch.float64).square())
        mu = t.R / t.n
        sigma = root((t.RR / t.n - mu.square()).clamp(min=0))
        tau = mu / nonzero(mu + sigma)
        ctx.observe("trust", lambda: tau)
        return update.replace(scale=R - (R - mu) * (1 - tau))
