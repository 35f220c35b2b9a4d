"""Transforms that resolve a pending scale."""

from __future__ import annotations

import math

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Number, Stage
from gradchain._core.fields import follow, hyper
from gradchain._core.update import Update
from gradchain.ops import arctan_ratio, nonzero


class divide(Stage):
    r"""Divide the direction by the pending scale. Where the divisor is exactly 0 the direction passes undivided.

    $$u \leftarrow \frac{u}{D + \epsilon}, \qquad \epsilon = \frac{1}{L\sqrt N} \text{ if it is not given}$$

    Args:
        eps: $\epsilon \ge 0$, default 0. `None` takes $1/(L\sqrt N)$, with $N$ the number of elements of the parameter: what
            an element of a gradient of norm $1/L$ measures on average.
        n_layers: $L > 0$, default 1; only with `eps=None`.

    Where a stage multiplies the gradients by a step size `d`, as `prodigy` does, $\epsilon$ is multiplied by it too.

    Raises: OptionError: a value out of range, or `n_layers` beside `eps`; ChainError: no scale is pending.
    Source: `eps=None` from adv_optm 2.5, `n_layers` from 2.4.

    >>> gradchain.chain(gradchain.second_moment(0.999), gradchain.divide(1e-8)).names
    ('second_moment', 'divide')
    """

    scale = "resolves"

    eps: float | None = hyper(default=0.0, ge=0, optional=True)
    n_layers: float = hyper(default=1.0, gt=0, unless="eps")
    d: float | None = follow("d", optional=True)

    def scalars(self, step: Number) -> dict[str, Number]:
        eps = 1 / self.n_layers if self.eps is None else self.eps
        return {"shift": eps if self.d is None else self.d * eps}

    def update(self, update: Update, ctx: Context) -> Update:
        assert update.scale is not None
        shift = ctx["shift"] / math.sqrt(max(ctx.numel, 1)) if self.eps is None else ctx["shift"]
        divisor = update.scale + shift
        least = torch.finfo(divisor.dtype).smallest_normal
        if not (isinstance(shift, float) and shift > least):  # else only a scale of -eps is left to be 0
            divisor = nonzero(divisor)
        return update.replace(value=update.value / divisor, scale=None)


class atan2_scale(Stage):
    r"""Resolve the pending scale by the two-argument arctangent: bounded, without $\epsilon$, independent of units.

    $$u \leftarrow a \operatorname{atan2}(u,\; b\, D), \qquad \operatorname{atan2}(0, 0) = 0$$

    Each element is at most $a\pi/2$ in size. $a = 4/\pi$ gives a constant gradient steps of about the learning rate.

    Args:
        a: $> 0$, default 1.
        b: $> 0$, default 1.

    Raises: OptionError: a value out of range; ChainError: no scale is pending.
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
        return update.replace(value=self.a * arctan_ratio(value, scale.to(value.dtype)), scale=None)
