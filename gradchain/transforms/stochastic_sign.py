"""Signs at random, right on average."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import static
from gradchain._core.reduce import tensor_partials_max
from gradchain._core.update import Update
from gradchain.ops import wide

_TINY = 1e-12


class stochastic_sign(Stage):
    r"""Take random signs whose mean is the direction, with rows and columns scaled to a maximum of 1.

    With $u$ as a matrix (first axis by all others):

    $$y_{ij} = \frac{u_{ij}}{\max_j \lvert u_{ij}\rvert}, \qquad y_{ij} \leftarrow \frac{y_{ij}}{\max_i \lvert y_{ij}\rvert},
    \qquad u \leftarrow \operatorname{sign}(y + \xi), \quad \xi \sim \mathcal{U}[-1, 1)$$

    Each maximum is at least $10^{-12}$. An element of exactly 0 stays 0. Tensors of rank 0 and 1, and parameters with the
    role `dora_scale` or `vector`, get plain signs.

    Args:
        seed: an integer, default 0. The noise is a hash of seed, step, parameter and element.

    Raises: OptionError: a value out of range.
    Source: adv_optm, where an element of 0 gets a sign at random.

    >>> gradchain.recipe("lion").replace("sign", gradchain.stochastic_sign()).names[:2]
    ('lion_interpolate', 'stochastic_sign')
    """

    source = "adv_optm, pypi.org/project/adv-optm"

    seed: int = static(default=0)

    def update(self, update: Update, ctx: Context) -> Yields:
        if len(ctx.shape) < 2 or ctx.numel == 0 or ctx.role in ("dora_scale", "vector"):
            return update.replace(value=update.value.sign())
        y = wide(update.value).flatten(1)
        y = y / y.abs().amax(1, keepdim=True).clamp(min=_TINY)
        t = yield tensor_partials_max(columns=y.abs().amax(0) if len(y) else y.new_zeros(y.shape[1]))
        y = (y / t.columns.to(y.dtype).clamp(min=_TINY)).view(update.value.shape)
        xi = (ctx.random_bits(seed=self.seed) >> 8).to(y.dtype) / 2**23  # 24 bits: in float32 never rounded up to 1
        return update.replace(value=torch.where(y == 0, y, (y + xi).sign()))
