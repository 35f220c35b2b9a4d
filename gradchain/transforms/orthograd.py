"""OrthoGrad: make gradients orthogonal to the weights, as one vector, by rank, or by rows and columns in turn."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import static
from gradchain._core.reduce import Request, Totals
from gradchain._core.update import Update
from gradchain.ops import finite, nonzero, root, wide
from gradchain.transforms.adapters import Part, numel_of, ranks_of, sums

DELTA = 1e-30
OVERSHOOT = 1.01
"""The multiple of the part along the weights that a sweep removes."""

Projecting = Generator[Request, Totals, torch.Tensor]


class orthograd(Stage):
    r"""Remove from the gradient its part along the weights, keep its length.

    $$o = g - \frac{\langle w, g\rangle}{\lVert w\rVert^2 + \delta}\, w, \qquad
    g \leftarrow o\,\frac{\lVert g\rVert}{\lVert o\rVert + \delta}, \qquad \delta = 10^{-30}$$

    A part of one element is parallel to its weight and passes unchanged.

    | mode | the formula is applied to |
    |---|---|
    | `"flattened"` | the tensor as one vector |
    | `"per_rank"` | each rank of a LoRA factor, each block of OFT (roles `lora_A`, `lora_B`, `oft`); others as one vector |
    | `"iterative"` | columns and rows of a matrix in turn; vectors and the roles `vector`, `dora_scale` as one vector |

    Iterative: $G$, $W$ of more than two axes are taken as matrices of $m$ rows. Over axis 0 first if $m$ is the larger
    side, else over axis 1, then over the other, and so on:

    $$G \leftarrow G - 1.01\, W \odot \frac{\sum W \odot G}{\sum W^2 + \delta}, \qquad
    G \leftarrow G \odot \frac{T}{\max(\lVert G\rVert, \ell)}, \qquad T = \max(\lVert G_{\text{in}}\rVert, \ell)$$

    with sums and norms over the axis, and $\ell = 1/\sqrt{\text{its size}}$. Rows and columns shorter than $\ell$ are
    projected, but do not get their length back. A column of one element is parallel to its weight and all but vanishes:
    give matrices with one row or column the role `vector`. Everything is computed in float32 at least.

    Args:
        mode: `"flattened"` (default), `"per_rank"` or `"iterative"`.
        sweeps: of the iterative mode over both axes, $\ge 1$, default 3.
        relative_floor: multiply $\ell$ by the root mean square of the gradient, so that a gradient twice as large comes
            out twice as large. Without, as in the original, small gradients are shortened. Iterative mode only.

    Raises: OptionError: an option out of range, or one of the iterative mode with another.
    Source: Prieto et al. (2025), Grokking at the Edge of Numerical Stability, arXiv:2501.04697; adv_optm 2.4 (by rank)
    and 2.5 (iterative).

    >>> gradchain.recipe("adamw").insert_before("first_moment", gradchain.orthograd()).names[0]
    'orthograd'
    """

    source = "OrthoGrad, arXiv:2501.04697"

    mode: str = static(default="flattened", choices=("flattened", "per_rank", "iterative"))
    sweeps: int = static(default=3, ge=1, when="mode=iterative")
    relative_floor: bool = static(default=False, when="mode=iterative")

    def update(self, update: Update, ctx: Context) -> Yields:
        g, w = wide(update.value), wide(ctx.param)
        if self.mode == "iterative" and g.ndim >= 2 and ctx.role not in ("vector", "dora_scale"):
            value = yield from alternating(g, w, ctx.shape, self.sweeps, self.relative_floor)
        else:
            part = ranks_of(ctx.role, g.ndim) if self.mode == "per_rank" else "whole"
            if numel_of(part, ctx.shape) == 1:
                return update
            value = yield from across(g, w, part)
        return update.replace(value=value)


def across(g: torch.Tensor, w: torch.Tensor, part: Part) -> Projecting:
    """Remove from each part of `g` its component along `w` and restore its length; 0 if only rounding is left."""
    t = yield from sums(part, wg=w * g, ww=w * w, gg=g * g)
    o = finite(g - w * (t.wg / (t.ww + DELTA)))
    norms = yield from sums(part, oo=o * o)
    rounding = 8 * torch.finfo(g.dtype).eps
    length, left = root(t.gg), root(norms.oo)
    return o * torch.where(left > rounding * length, length / (left + DELTA), 0.0)


def alternating(g: torch.Tensor, w: torch.Tensor, shape: torch.Size, sweeps: int, relative: bool) -> Projecting:
    """Remove from columns and rows of `g` in turn their components along `w`, and restore their lengths."""
    rows, columns = max(shape[0], 1), max(shape[1:].numel(), 1)
    size: dict[Part, int] = {"columns": rows, "rows": columns}
    order: tuple[Part, ...] = ("columns", "rows") if rows > columns else ("rows", "columns")
    floor: dict[Part, torch.Tensor] = {part: g.new_full((), size[part] ** -0.5) for part in order}
    if relative:
        t = yield from sums("whole", gg=g * g)
        rms = root(t.gg / (rows * columns)).to(g.dtype)
        floor = {part: floor[part] * rms for part in order}
    weight: dict[Part, torch.Tensor] = {}
    target: dict[Part, torch.Tensor] = {}
    for part in order:
        t = yield from sums(part, ww=w * w, gg=g * g)
        weight[part] = t.ww + DELTA
        target[part] = torch.maximum(root(t.gg), floor[part])
    for part in order * sweeps:
        t = yield from sums(part, wg=w * g)
        g = finite(g - OVERSHOOT * w * (t.wg / weight[part]))
        t = yield from sums(part, gg=g * g)
        g = g * (target[part] / nonzero(torch.maximum(root(t.gg), floor[part])))
    return g
