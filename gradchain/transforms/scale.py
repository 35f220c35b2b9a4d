"""Scale an update by the rank and role of its parameter."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Slots, Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import Request, Totals, whole_tensor, whole_tensor_max
from gradchain._core.update import Update
from gradchain.errors import OptionError
from gradchain.ops import root, wide
from gradchain.transforms.power_iteration import (
    kept,
    length,
    one_sided,
    skew,
    skew_size,
    start_slot,
    two_sided,
    two_sided_blocks,
)

Scaling = Generator[Request, Totals, "tuple[torch.Tensor, Slots]"]

_TINY = 1e-12


def _kind(shape: torch.Size, role: str | None) -> Literal["vector", "blocks", "matrix"]:
    if len(shape) < 2 or role in ("dora_scale", "vector"):
        return "vector"
    return "blocks" if role == "oft" else "matrix"


class scale_update(Stage):
    r"""Normalise the direction by the rank and role of its parameter. The learning rate comes after it.

    Vectors, and any parameter with role `dora_scale` or `vector`:

    $$u \leftarrow \frac{u}{\max(\lVert u\rVert_\infty, 10^{-12})}$$

    All others are matrices $M$ of $m$ rows and $n$ columns, the first axis against the rest. One step of power
    iteration per update with kept $a$ (length $m$) and $b$ (length $n$) estimates the spectral norm from below:

    $$b \leftarrow \frac{M^\top a}{\lVert M^\top a\rVert}, \qquad a \leftarrow \frac{M b}{\lVert M b\rVert}, \qquad
    \sigma = a^\top M b, \qquad u \leftarrow \frac{\tau\, u}{\max(\sigma, 1/(\sqrt m + \sqrt n))}$$

    with $\tau = 1$ for role `lora_A`, else $\sqrt{m/n}$. An image shorter than $10^{-6}$ leaves its vector as it is.
    The floor shrinks tiny directions instead of scaling them up.

    With role `oft` each row is the strict upper triangle, row by row, of a skew-symmetric $s \times s$ block, which
    takes the same step with its own vectors; the row is multiplied by $c / (2\max(\sigma, 1/(2\sqrt s)))$.

    Args:
        vectors: `"max"`; or `"l2"`: $u / \max(\lVert u\rVert, 10^{-12})$; or `"rms"`: $\sqrt N$ times that.
        blocks: `"spectral"`; or `"l2"`: rows of `oft` get the length $\sqrt{s/8}$; or `"rms"`: their root mean square
            becomes 1.
        power: for matrices, `"two_sided"`; or `"one_sided"`: $w = M^\top M b$, $b \leftarrow w/\lVert w\rVert$ if
            $\lVert w\rVert \ge 10^{-12}\lVert M\rVert_F^2$, then $u \leftarrow \sqrt{m/n}\,u / \max(\lVert M b\rVert,
            10^{-12})$ whatever the role; or `"one_sided_absolute"`: the same if $\lVert w\rVert \ge \frac12$, as
            published, where smaller updates keep the first, random $b$ and come out far too large.
        oft_scale_factor: $c > 0$, default 1.
        seed: an integer, default 0, for the first vectors: Gaussian, of length 1, the same for equal shapes.

    Slots: `spectral_u` ($a$, one number per row) and `spectral_v` ($b$, one per column); for `oft` both of shape
    (rows, $s$). In float32, or in float64 for float64 parameters. None for vectors, no `spectral_u` for one-sided
    matrices, and none for `oft` unless spectral.
    Raises: OptionError: a value out of range, or a parameter with role `oft` whose rows are no triangles.
    Source: adv_optm 2.5.16, and 2.4 for the other values of the options; Yoshida & Miyato (2017), arXiv:1705.10941.

    >>> gradchain.recipe("lion").insert_after("sign", gradchain.scale_update()).names[:3]
    ('lion_interpolate', 'sign', 'scale_update')
    """

    source = "adv_optm 2.5.16; arXiv:1705.10941"

    vectors: str = static(default="max", choices=("max", "l2", "rms"))
    blocks: str = static(default="spectral", choices=("spectral", "l2", "rms"))
    power: str = static(default="two_sided", choices=("two_sided", "one_sided", "one_sided_absolute"))
    oft_scale_factor: float = hyper(default=1.0, gt=0)
    seed: int = static(default=0)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        kind = _kind(p.shape, p.role)
        if kind == "vector":
            return {}
        rows, columns = p.shape[0], p.shape[1:].numel()
        if kind == "matrix":
            right = {"spectral_v": start_slot(p, "spectral_v", self.seed, columns, per_row=False)}
            left = {"spectral_u": start_slot(p, "spectral_u", self.seed, rows)}
            return {**left, **right} if self.power == "two_sided" else right
        size = skew_size(columns)
        if size * (size - 1) // 2 != columns:
            raise OptionError(
                f"{self.address}: role 'oft' on a parameter of shape {tuple(p.shape)}, whose rows of {columns} are no upper "
                f"triangles of square blocks; for blocks of size {size} they would have {size * (size - 1) // 2} elements. "
                "Give this parameter another role, or None."
            )
        names = ("spectral_u", "spectral_v") if self.blocks == "spectral" else ()
        return {name: start_slot(p, name, self.seed, rows, size) for name in names}

    def update(self, update: Update, ctx: Context) -> Yields:
        u, kind = wide(update.value), _kind(ctx.shape, ctx.role)
        if kind == "vector":
            return update.replace(value=(yield from self._vector(u, ctx.numel)))
        if kind == "blocks":
            value, slots = self._blocks(u.flatten(1), ctx)
        else:
            value, slots = yield from self._matrix(u.flatten(1), ctx)
        return update.replace(value=value.reshape(update.value.shape)), slots

    def _vector(self, u: torch.Tensor, numel: int) -> Generator[Request, Totals, torch.Tensor]:
        if self.vectors == "max":
            t = yield whole_tensor_max(size=u.abs())
            return u / t.size.clamp(min=_TINY)
        t = yield whole_tensor(square=u.square())
        return u * ((numel**0.5 if self.vectors == "rms" else 1.0) / root(t.square).clamp(min=_TINY))

    def _blocks(self, rows: torch.Tensor, ctx: Context) -> tuple[torch.Tensor, Slots]:
        columns = rows.shape[1]
        size = skew_size(columns)
        if self.blocks != "spectral":
            wanted = columns if self.blocks == "rms" else size / 8
            return rows * (wanted**0.5 / length(rows).clamp(min=_TINY)), {}
        sigma, a, b = two_sided_blocks(skew(rows, size), *kept(ctx, "spectral_u", "spectral_v"))
        ctx.observe("sigma", lambda: sigma)
        scale = 0.5 * self.oft_scale_factor / sigma.clamp(min=0.5 / size**0.5)
        return rows * scale, {"spectral_u": a, "spectral_v": b}

    def _matrix(self, M: torch.Tensor, ctx: Context) -> Scaling:
        m, n = ctx.shape[0], max(1, M.shape[1])  # of the whole: here may be some of the rows
        if self.power != "two_sided":
            absolute = self.power == "one_sided_absolute"
            sigma, b = yield from one_sided(M, *kept(ctx, "spectral_v"), absolute=absolute)
            ctx.observe("sigma", lambda: sigma)
            return M * ((m / n) ** 0.5 / sigma.clamp(min=_TINY)), {"spectral_v": b}
        sigma, a, b = yield from two_sided(M, *kept(ctx, "spectral_u", "spectral_v"))
        ctx.observe("sigma", lambda: sigma)
        target = 1.0 if ctx.role == "lora_A" else (m / n) ** 0.5
        return M * (target / sigma.clamp(min=1 / (m**0.5 + n**0.5))), {"spectral_u": a, "spectral_v": b}
