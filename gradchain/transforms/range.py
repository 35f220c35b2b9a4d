"""Rose's transforms of slices: centering and range normalisation of slices, without any state.

A *slice* is what one index of the leading axis selects: a row of a matrix, a filter of a convolution.
"""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import whole_tensor_max
from gradchain._core.update import Update

ROSE = "Rose (Kieren, 2026), doi:10.5281/zenodo.19589765"


def _inner(tensor: torch.Tensor) -> tuple[int, ...]:
    """All axes but the leading one."""
    return tuple(range(1, tensor.ndim))


def _slice_size(shape: torch.Size) -> int:
    """Elements in one slice."""
    return shape[1:].numel()


class centralize(Stage):
    r"""Subtract from each slice its mean. Tensors of rank 0 and 1 pass unchanged.

    $$g_i \leftarrow g_i - \operatorname{mean}(g_i) \quad \text{for each slice } i$$

    Args:
        skip_singletons: leave slices of one element alone (default). If false, a parameter of shape `(n, 1)` gets the
            gradient 0 and never moves, as in Rose 1.0.2; adding such a parameter to an optimizer warns.

    Raises: OptionError: a value out of range.
    Source: Yong et al. (2020), Gradient Centralization, arXiv:2004.01461; Rose.

    >>> step = gradchain.chain(gradchain.centralize())
    >>> w, g = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])
    >>> step.update(g, step.init(w), w)[0]
    tensor([[ 1., -1.]])
    """

    source = "Gradient Centralization, arXiv:2004.01461"

    skip_singletons: bool = static(default=True)

    def update(self, update: Update, ctx: Context) -> Update:
        g = update.value
        if g.ndim < 2 or (self.skip_singletons and _slice_size(g.shape) == 1):
            return update
        return update.replace(value=g - g.mean(dim=_inner(g), keepdim=True))

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        if not self.skip_singletons and p.ndim >= 2 and _slice_size(p.shape) == 1:
            p.warn(
                f"centralize removes the whole gradient of a parameter of shape {tuple(p.shape)}: its slices have one "
                "element, so only weight decay will move it. Pass skip_singletons=True to leave such slices alone."
            )
        return {}


class range_normalize(Stage):
    r"""Set the pending scale to the range of each slice; `divide()` or `atan2_scale()` resolves it.

    With `rule="range"` (Rose 1.0.0), for a gradient $g$ with slices $g_i$:

    | shape | scale |
    |---|---|
    | one element | $\lvert g\rvert + c$ |
    | slices of one element: `(n,)`, `(n, 1)`, ... | $\max g - \min g + d$, one number |
    | otherwise | $\max g_i - \min g_i$ for each slice, shape `(n, 1, ...)` |

    With `rule="abs_range"` (Rose 1.0.2): rank 0 gives $\lvert g\rvert + c$, rank 1 gives
    $\lvert\max g\rvert - \min g + d$, higher ranks $\lvert\max g_i\rvert - \min g_i$. The absolute value makes the
    scale of an all-negative slice $\lvert\max\rvert + \lvert\min\rvert$, so $g$ and $-g$ do not give opposite steps.

    Args:
        rule: `"range"` or `"abs_range"`.
        damping: $d \ge 0$, default 1; Rose 1.0.2 uses 0.
        floor: $c \ge 0$; by default the cube root of the decimal resolution of the compute dtype (1e-5 in fp64, 1e-2
            in fp32); Rose 1.0.2 uses 0, which makes the step of a scalar its sign.
        flat_rtol: take slices of two axes or more as flat, with scale 0, if $\max - \min <$ `flat_rtol`
            $\cdot\max\lvert g_i\rvert$; `None` (default) for never. A row of equal elements whose mean rounds leaves equal
            residues when it is centralized; `"abs_range"` divides negative ones by twice their size: a step of half the
            learning rate without a gradient. 1e-6 prevents that.

    Raises: OptionError: a value out of range.

    >>> gradchain.chain(gradchain.range_normalize(), gradchain.divide(), gradchain.scale_by_learning_rate(1e-3))
    chain(range_normalize(), divide(), scale_by_learning_rate())
    """

    scale = "sets"
    source = ROSE

    rule: str = static(default="range", choices=("range", "abs_range"))
    damping: float = hyper(default=1.0, ge=0)
    floor: float | None = hyper(default=None, ge=0, optional=True)
    flat_rtol: float | None = hyper(default=None, ge=0, optional=True)

    def update(self, update: Update, ctx: Context) -> Yields:
        g = update.value
        signed = self.rule == "range"
        if ctx.numel == 0:
            return update.replace(scale=torch.ones_like(g))
        if (ctx.numel == 1 and signed) or g.ndim == 0:
            floor = torch.finfo(g.dtype).resolution ** (1 / 3) if self.floor is None else self.floor
            return update.replace(scale=g.abs() + floor)
        if (_slice_size(g.shape) == 1 and signed) or g.ndim == 1:
            ends = yield whole_tensor_max(high=g, negated_low=-g)
            high = ends.high if signed else ends.high.abs()
            return update.replace(scale=(high + ends.negated_low + self.damping).reshape((1,) * g.ndim))
        high, low = g.amax(dim=_inner(g), keepdim=True), g.amin(dim=_inner(g), keepdim=True)
        scale = (high if signed else high.abs()) - low
        if self.flat_rtol is not None:
            flat = high - low < self.flat_rtol * torch.maximum(high.abs(), low.abs())
            scale = torch.where(flat, torch.zeros_like(scale), scale)
        return update.replace(scale=scale)
