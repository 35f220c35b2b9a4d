"""Square-root Sinkhorn: rows and columns of a direction brought to one size, in turn."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import static
from gradchain._core.reduce import Request, Totals, whole_tensor
from gradchain._core.update import Update
from gradchain.ops import finite, nonzero, root, wide
from gradchain.transforms.adapters import Part, sums
from gradchain.transforms.lines import is_matrix, sides

DELTA = 1e-30

Normalizing = Generator[Request, Totals, torch.Tensor]


class sinkhorn(Stage):
    r"""Bring every row and every column of the direction to the same root mean square, 1.

    More than two axes are taken as a matrix $G$, the first axis against the rest. Its longer lines (columns, if it has more
    rows than columns; else rows) come first, then the others, and so on; for lines of $k$ elements

    $$G \leftarrow \frac{\sqrt k}{\max(\lVert G\rVert,\; 1/\sqrt k)}\, G$$

    with the norm of each line. Those that came last are exact, the others nearly so. A line of zeros stays zero. The floor
    lets a line grow $k$ times at most: a direction of far less than 1 takes several iterations to reach its size.

    With `orthogonal`, each half-step also removes what is left along the weights $W$ in each line, and normalises again:

    $$G \leftarrow G - \frac{\sum W \odot G}{\sum W^2 + \delta}\, W, \qquad \delta = 10^{-30}$$

    It skips lines of one element, which are parallel to their weight: a matrix of one row is one line.

    Vectors (less than two axes, or role `vector` or `dora_scale`) become their signs, with either. Everything is computed in
    float32 at least.

    Args:
        iterations: over rows and columns, $\ge 1$, default 5.
        orthogonal: also make lines orthogonal to the weights.
        relative_floor: divide the direction by its root mean square first, so that its unit does not matter. Without, as in
            adv_optm, small directions come out small.
        rows_first: rows before columns for any shape, as in the paper.

    Raises: OptionError: a value out of range.
    Source: Scetbon et al. (2025), Gradient Multi-Normalization, arXiv:2502.06742; adv_optm 2.5 (the floor, the order,
    `orthogonal`).

    >>> step = gradchain.chain(gradchain.sinkhorn())
    >>> w, g = torch.zeros(2, 2), torch.tensor([[8.0, 0.0], [1.0, 2.0]])
    >>> (0 - step.update(g, step.init(w), w)[0]).square().mean(dim=0).round(decimals=4)
    tensor([1., 1.])
    """

    source = "SinkGD, arXiv:2502.06742"

    iterations: int = static(default=5, ge=1)
    orthogonal: bool = static(default=False)
    relative_floor: bool = static(default=False)
    rows_first: bool = static(default=False)

    def update(self, update: Update, ctx: Context) -> Yields:
        g, order = wide(update.value), self._order(ctx)
        if not order:
            return update.replace(value=g.sign())
        if self.relative_floor:
            t = yield whole_tensor(squares=finite(g * g))
            g = finite(g / nonzero(root(t.squares / max(ctx.numel, 1))).to(g.dtype))
        w = wide(ctx.param)
        weight: dict[Part, torch.Tensor] = {}
        for part in order if self.orthogonal else {}:
            t = yield from sums(part, ww=w * w)
            weight[part] = t.ww + DELTA
        for part, k in [*order.items()] * self.iterations:
            g = yield from _turned(g, w, weight[part], part, k) if weight else _normalized(g, part, k)
        return update.replace(value=g)

    def _order(self, ctx: Context) -> dict[Part, int]:
        """The kinds of lines in their order, and the elements of each; none for vectors."""
        if not is_matrix(ctx.shape, ctx.role):
            return {}
        rows, columns = sides(ctx.shape)
        size: dict[Part, int] = {"rows": columns, "columns": rows}
        order: tuple[Part, ...] = ("columns", "rows") if rows > columns and not self.rows_first else ("rows", "columns")
        return {part: size[part] for part in order if size[part] > 1 or not self.orthogonal}


def _factor(squares: torch.Tensor, k: int) -> torch.Tensor:
    """What brings lines of `k` elements to the root mean square 1."""
    return k**0.5 / root(squares).clamp(min=k**-0.5)


def _normalized(g: torch.Tensor, part: Part, k: int) -> Normalizing:
    t = yield from sums(part, gg=g * g)
    return g * _factor(t.gg, k)


def _turned(g: torch.Tensor, w: torch.Tensor, ww: torch.Tensor, part: Part, k: int) -> Normalizing:
    """Normalise lines, remove what they have along the weights, and normalise again: both norms in one request."""
    t = yield from sums(part, gg=g * g, wg=w * g)
    o = finite((g - w * (t.wg / ww)) * _factor(t.gg, k))
    return (yield from _normalized(o, part, k))
