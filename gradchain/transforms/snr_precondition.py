"""Damping by noise: the mean sign over its spread."""

from __future__ import annotations

import math

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import earlier
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.ops import arctan_ratio, wide
from gradchain.transforms.lines import BY, is_matrix, spreads


class snr_precondition(Stage):
    r"""Damp the mean sign by its spread: small where signs are random.

    $$E = \sqrt{\max(1 - m_{t-1}^2,\, 10^{-30})}, \qquad u \leftarrow a \operatorname{atan2}(u, E)$$

    $m_{t-1}$ is the `exp_avg` of a stage before, as it was after the last step. A number that is 1 or -1 with mean $m$ has
    the variance $1 - m^2$.

    With `by="row_column"`, matrices (first axis by all others) have one spread for each row and for each column. It suits an
    average of directions whose rows and columns have the root mean square 1, as `sinkhorn` makes them:

    $$R_i = \max(1 - \operatorname{mean}_j m_{ij}^2,\, 10^{-30}), \quad C_j = \max(1 - \operatorname{mean}_i m_{ij}^2,\,
    10^{-30}), \qquad u_{ij} \leftarrow a \arctan\frac{u_{ij}}{\sqrt{R_i C_j}}$$

    Vectors (less than two axes, or role `vector` or `dora_scale`) stay with the first formula.

    Args:
        a: $> 0$, default $4/\pi$.
        by: `"element"` (default) or `"row_column"`.

    Raises: OptionError: a value out of range; ChainError: no stage before it owns `exp_avg`.
    Source: adv_optm, `snr_cond`, of SignSGD_adv and, by rows and columns, of SinkSGD_adv.

    >>> average = first_moment(0.9, bias_correction=False)
    >>> gradchain.chain(sign(), average, snr_precondition(), scale_by_learning_rate(1e-4)).names[2]
    'snr_precondition'
    """

    reads = (earlier("exp_avg"),)
    source = "adv_optm, pypi.org/project/adv-optm"

    a: float = hyper(default=4 / math.pi, gt=0)
    by: str = static(default="element", choices=BY)

    def update(self, update: Update, ctx: Context) -> Update | Yields:
        u, m = wide(update.value), wide(ctx.previous("exp_avg"))
        if self.by == "row_column" and is_matrix(ctx.shape, ctx.role):
            return self._by_lines(update, u, m, ctx)
        E = (1 - m * m).clamp(min=1e-30).sqrt()
        return update.replace(value=self.a * arctan_ratio(u, E))

    def _by_lines(self, update: Update, u: torch.Tensor, m: torch.Tensor, ctx: Context) -> Yields:
        rows, columns = yield from spreads(m, ctx.shape)
        return update.replace(value=self.a * arctan_ratio(u, rows * columns))
