"""Second moments of matrices by the means of their rows and columns: Adafactor's, and CAME's confidence."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot, earlier
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import Request, Totals, accumulate, tensor_partials
from gradchain._core.update import Update
from gradchain.ops import ema, finite, nonzero, root, wide, widest

Means = Generator[Request, Totals, "tuple[torch.Tensor, torch.Tensor, torch.Tensor]"]


def row_column_slots(p: ParamInfo, name: str) -> dict[str, Slot]:
    """The means over the last axis, of shape (..., m, 1), and over the one before, (..., 1, n); float32 or wider."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    row, column = (*p.shape[:-1], 1), (*p.shape[:-2], 1, p.shape[-1])
    return {
        f"{name}_row": Slot(shape=row, per_row=True, dtype=dtype, nonnegative=True),
        f"{name}_col": Slot(shape=column, per_row=p.ndim > 2, dtype=dtype, nonnegative=True),
    }


def row_column_average(x: torch.Tensor, name: str, beta: Number, ctx: Context) -> Means:
    """Average the row and column means of `x` over time; returns both, and the mean of the former.

    The rows of a matrix may be spread over processes; those of a stack of matrices are here.
    """
    m, n = (max(size, 1) for size in ctx.shape[-2:])
    row, column = (ctx.read(f"{name}_{part}", storage_dtype=True) for part in ("row", "col"))
    x, dtype = finite(x), widest(x.device)
    row = ema(row, (x.sum(-1, keepdim=True, dtype=dtype) / n).to(row.dtype), beta)
    below = x.sum(-2, keepdim=True, dtype=dtype)
    if x.ndim > 2:
        mean = row.sum(-2, keepdim=True, dtype=dtype)
    else:
        t = yield tensor_partials(column=below, mean=accumulate(row))
        below, mean = t.column, t.mean
    return row, ema(column, (below / m).to(column.dtype), beta), (mean / m).to(row.dtype)


class row_column_moment(Stage):
    r"""Average the squared gradient over time by rows and columns, and set the root of their product as the pending scale.

    For each $m \times n$ matrix of the last two axes, with $\bar r$ the mean of the entries of $r$:

    $$r \leftarrow \beta_t\, r + (1-\beta_t)\tfrac1n\, g^2\, \mathbf 1_n, \qquad
    c \leftarrow \beta_t\, c + (1-\beta_t)\tfrac1m\, \mathbf 1_m^\top g^2, \qquad
    D \leftarrow \max\!\Big(\sqrt{\frac{r\,c}{\max(\bar r, \epsilon)}},\; \epsilon\Big)$$

    Tensors of rank 0 and 1 keep all elements: $v \leftarrow \beta_t v + (1-\beta_t) g^2$ and
    $D \leftarrow \max(\sqrt v, \epsilon)$.

    Args:
        beta2_decay: $\beta_t = 1 - t^{\gamma}$ with this $\gamma \le 0$, default -0.8: an average over ever more steps,
            which needs no bias correction.
        eps: $\epsilon \ge 0$; `None` (default) takes the resolution of the parameter's dtype, 1.2e-7 in float32.
        constant: $\beta_t = \beta$ instead.
        beta: $\beta \in [0, 1)$, default 0.999, with `constant`; `betas[1]` in `param_groups`.
        floor: bound by $\epsilon$ as above (default). Otherwise $\epsilon$ is added to $g^2$, as in both papers.

    Slots: `exp_avg_sq_row` of shape `(..., m, 1)` and `exp_avg_sq_col`, `(..., 1, n)`, in float32 at least;
        `exp_avg_sq` for vectors and scalars. Zeros at first.
    Raises: OptionError: a value out of range.
    Source: Shazeer & Stern (2018), Adafactor, arXiv:1804.04235; `torch.optim.Adafactor`.

    >>> chain = gradchain.recipe("adamw").replace("second_moment", gradchain.row_column_moment())
    >>> chain.without("first_moment").state_bytes(torch.empty(1024, 1024))
    8192
    """

    scale = "sets"
    source = "Adafactor, arXiv:1804.04235; torch.optim.Adafactor"

    beta2_decay: float = hyper(default=-0.8, le=0, unless="constant")
    eps: float | None = hyper(default=None, ge=0, optional=True, key="moment_eps")
    constant: bool = static(default=False)
    beta: float = hyper(default=0.999, ge=0, lt=1, key="betas[1]", when="constant")
    floor: bool = static(default=True)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return row_column_slots(p, "exp_avg_sq") if p.ndim > 1 else {"exp_avg_sq": Slot(nonnegative=True)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"beta_t": self.beta if self.constant else 1 - step**self.beta2_decay}

    def update(self, update: Update, ctx: Context) -> Yields:
        eps = torch.finfo(ctx.stored_param.dtype).eps if self.eps is None else self.eps
        x = wide(update.gradient).square()
        x = x if self.floor else x + eps
        if x.ndim < 2:
            v = ema(ctx.read("exp_avg_sq"), x, ctx["beta_t"])
            scale, slots = root(v), {"exp_avg_sq": v.to(ctx.dtype)}
        else:
            row, column, mean = yield from row_column_average(x, "exp_avg_sq", ctx["beta_t"], ctx)
            mean = mean.clamp(min=eps) if self.floor else mean
            scale = root(row / nonzero(mean)) * root(column)
            slots = {"exp_avg_sq_row": row, "exp_avg_sq_col": column}
        return update.replace(scale=scale.clamp(min=eps) if self.floor else scale), slots


class confidence(Stage):
    r"""Set the root of the moment's instability as the pending scale, averaged over time by rows and columns.

    With $m$ the moment, $u$ what it averaged, and rows, columns and $\bar R$ as in `row_column_moment`:

    $$U = (u - m)^2 + \epsilon, \qquad R \leftarrow \beta R + (1-\beta)\tfrac1n U \mathbf 1_n, \qquad
    C \leftarrow \beta C + (1-\beta)\tfrac1m \mathbf 1_m^\top U, \qquad D \leftarrow \sqrt{R\,C / \bar R}$$

    Where updates keep differing from their average, steps shrink; where they agree, steps grow. Tensors of rank 0 and 1 get
    $D = 1$: they step by the moment.

    Args:
        beta: $\beta \in [0, 1)$, default 0.9999; `betas[2]` in `param_groups`.
        eps: $\epsilon \ge 0$, default 1e-16.

    Slots: `exp_avg_res_row` of shape `(..., m, 1)` and `exp_avg_res_col`, `(..., 1, n)`, in float32 at least, zeros
        at first.
    Raises: OptionError: a value out of range; ChainError: no stage before it owns `exp_avg`.
    Source: Luo et al. (2023), CAME, arXiv:2307.02047.

    >>> gradchain.chain(gradchain.first_moment(), gradchain.confidence(), gradchain.divide()).names
    ('first_moment', 'confidence', 'divide')
    """

    scale = "sets"
    reads = (earlier("exp_avg"),)
    source = "CAME, arXiv:2307.02047"

    beta: float = hyper(default=0.9999, ge=0, lt=1, key="betas[2]")
    eps: float = hyper(default=1e-16, ge=0, key="confidence_eps")

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return row_column_slots(p, "exp_avg_res") if p.ndim > 1 else {}

    def update(self, update: Update, ctx: Context) -> Yields:
        if update.value.ndim < 2:
            return update.replace(scale=update.value.new_ones((1,) * update.value.ndim))
        U = (wide(update.gradient) - wide(update.value)).square() + self.eps
        row, column, mean = yield from row_column_average(U, "exp_avg_res", self.beta, ctx)
        slots = {"exp_avg_res_row": row, "exp_avg_res_col": column}
        return update.replace(scale=root(row / nonzero(mean)) * root(column)), slots
