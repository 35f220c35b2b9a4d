"""Signs at the average size of the direction."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import static
from gradchain._core.reduce import Request, Totals, tensor_partials, whole_tensor
from gradchain._core.update import Update
from gradchain.ops import finite, nonzero, wide


class projected_adaptivity(Stage):
    r"""Signs at the average size of the direction: the steepest descent under a bound on each element.

    $$u \leftarrow \operatorname{sign}(u) \odot \ell$$

    The decays that follow are multiplied by $\ell$ too. With $\lvert u\rvert$ as a matrix (first axis by all others), $r$
    the means of its rows, $c$ those of its columns and $\mu$ the mean of all:

    | `norm` | $\ell$ |
    |---|---|
    | `"total"` | $\lVert u\rVert_1$, the sum of all elements |
    | `"mean"` | $\mu$ |
    | `"row"` | $r$ |
    | `"auto"` | $r c^\top / \mu$, unless the role says otherwise |
    | `"auto_squared"` | as `"auto"`, but $r c^\top$, which has the unit of $u^2$: as published |

    Under the last two, `lora_A` and `oft` take $r$, `lora_B` takes $c$; under `"auto"`, `dora_scale` and `vector` take
    $\mu$. Under the last three, tensors of rank 0 and 1 take $\mu$.

    Args:
        norm: one of these, default `"mean"`.

    Raises: OptionError: a value out of range.
    Source: adv_optm, `l1_adaptive`.

    >>> gradchain.recipe("lion").replace("sign", gradchain.projected_adaptivity("auto")).names[:2]
    ('lion_interpolate', 'projected_adaptivity')
    """

    source = "adv_optm, pypi.org/project/adv-optm"

    norm: str = static(default="mean", choices=("total", "mean", "row", "auto", "auto_squared"))

    def update(self, update: Update, ctx: Context) -> Yields:
        u = wide(update.value)
        size = (yield from self._size(u.abs(), ctx)).to(u.dtype)
        return update.replace(value=u.sign() * size).weigh_decay(size)

    def _size(self, sizes: torch.Tensor, ctx: Context) -> Generator[Request, Totals, torch.Tensor]:
        """The factor of all signs, or of those of each row or column."""
        kind = self._kind(ctx)
        if kind in ("total", "mean"):
            t = yield whole_tensor(sizes=sizes)
            return t.sizes / (max(ctx.numel, 1) if kind == "mean" else 1)
        matrix = sizes.flatten(1)
        rows = matrix.sum(1, keepdim=True) / max(matrix.shape[1], 1)
        if kind == "row":
            return rows.view(len(rows), *[1] * (sizes.ndim - 1))
        t = yield tensor_partials(columns=matrix.sum(0, dtype=torch.float64))
        columns = t.columns / max(ctx.shape[0], 1)
        if kind == "column":
            return columns.view(1, *sizes.shape[1:])
        if self.norm == "auto":
            columns = columns / nonzero(columns.sum() / max(matrix.shape[1], 1))
        return finite(rows * columns.to(rows.dtype)).view(sizes.shape)

    def _kind(self, ctx: Context) -> str:
        if self.norm in ("total", "mean"):
            return self.norm
        if len(ctx.shape) < 2:
            return "mean"
        if self.norm == "row":
            return "row"
        kinds = {"lora_A": "row", "oft": "row", "lora_B": "column"}
        if self.norm == "auto":  # published: matrices like others
            kinds |= {"dora_scale": "mean", "vector": "mean"}
        return kinds.get(ctx.role or "", "outer")
