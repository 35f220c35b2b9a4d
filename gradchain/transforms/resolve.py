"""Transforms that resolve a pending scale."""

from __future__ import annotations

import torch

from gradchain.context import Context
from gradchain.fields import hyper
from gradchain.ops import arctangent, nonzero
from gradchain.stage import Stage
from gradchain.update import Update


class divide(Stage):
    r"""Divide the direction by the pending scale. Where the divisor is exactly 0 the direction passes undivided.

    $$u \leftarrow \frac{u}{D + \epsilon}$$

    Args:
        eps: $\epsilon \ge 0$, default 0.

    Raises:
        OptionError: `eps` is negative.
        ChainError: no scale is pending.

    >>> gradchain.chain(gradchain.second_moment(0.999), gradchain.divide(1e-8)).names
    ('second_moment', 'divide')
    """

    scale = "resolves"

    eps: float = hyper(default=0.0, ge=0)

    def update(self, update: Update, ctx: Context) -> Update:
        assert update.scale is not None
        return update.replace(value=update.value / nonzero(update.scale + self.eps), scale=None)


class atan2_scale(Stage):
    r"""Resolve the pending scale by the two-argument arctangent: bounded, free of $\epsilon$, blind to units.

    $$u \leftarrow a \operatorname{atan2}(u,\; b\, D), \qquad \operatorname{atan2}(0, 0) = 0$$

    Each element is at most $a\pi/2$ in size. $a = 4/\pi$ gives a constant gradient steps of about the learning rate.

    Args:
        a: $> 0$, default 1.
        b: $> 0$, default 1.

    Source: Everett et al. (2024), Scaling Exponents Across Parameterizations and Optimizers, arXiv:2407.05872.

    >>> gradchain.recipe("rose").replace("divide", gradchain.atan2_scale()).names[4]
    'atan2_scale'
    """

    scale = "resolves"
    source = "Everett et al., arXiv:2407.05872"

    a: float = hyper(default=1.0, gt=0)
    b: float = hyper(default=1.0, gt=0)

    def update(self, update: Update, ctx: Context) -> Update:
        assert update.scale is not None
        value, scale = torch.broadcast_tensors(update.value, self.b * update.scale)
        return update.replace(value=self.a * arctangent(value, scale.to(value.dtype)), scale=None)
