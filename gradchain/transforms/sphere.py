"""Weights of constant norm."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.mixins import Constraint
from gradchain._chain.stage import Slots, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.shard import Shard
from gradchain._core.update import Update
from gradchain.transforms.constraints import PER, Norms, norms_of, norms_of_rows, to_norm


class project_to_sphere(Constraint):
    r"""Keep the norm of the weights at a constant: that of the start, or a given one.

    $$\theta \leftarrow R\,\frac{\theta}{\lVert\theta\rVert}$$

    Args:
        initial: take for $R$ the norm of the weights before their first step (default). Weights that begin at 0 are free
            until they have moved.
        radius: $R > 0$, default 1, without `initial`; `weight_norm` in `param_groups`.
        per: `"tensor"` (default) for the norm of the whole tensor; `"row"` for that of each slice along the first axis,
            where tensors of rank 0 and 1 are left alone.

    Slots: `radius`, if it is the initial one: a number, or one for each row; in float32 at least.
    Raises: OptionError: a value out of range; ChainError: a stage after it changes the step.
    Source: Wen et al. (2026), Hyperball, arXiv:2606.16899; rows of length 1 as in nGPT, arXiv:2410.01131.

    >>> step = gradchain.chain(gradchain.scale_by_learning_rate(1.0), gradchain.project_to_sphere(False, 5.0))
    >>> w, g = torch.tensor([3.0, 0.0]), torch.tensor([0.0, -4.0])
    >>> w + step.update(g, step.init(w), w)[0]
    tensor([3., 4.])
    """

    source = "Hyperball, arXiv:2606.16899"

    initial: bool = static(default=True)
    radius: float = hyper(default=1.0, gt=0, key="weight_norm", unless="initial")
    per: str = PER

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        dtype = torch.promote_types(p.dtype, torch.float32)
        if not self.initial or (self.per == "row" and p.ndim < 2):
            return {}
        if self.per == "tensor":  # found in the first step: here may be some of the rows
            return {"radius": Slot(shape=(), dtype=dtype, nonnegative=True)}

        def fill(param: torch.Tensor, shard: Shard) -> torch.Tensor:
            return norms_of_rows(param.to(dtype))

        return {
            "radius": Slot(fill, shape=(p.shape[0], *[1] * (p.ndim - 1)), per_row=True, dtype=dtype, nonnegative=True)
        }

    def update(self, update: Update, ctx: Context) -> Update | tuple[Update, Slots] | Yields:
        if not self.initial or (self.per == "row" and update.value.ndim < 2):
            return update
        return self._kept(update, ctx)

    def _kept(self, update: Update, ctx: Context) -> Yields:
        """Note the norm of weights that have just begun to be other than 0."""
        radius = ctx.read("radius", storage_dtype=True)
        norm = yield from norms_of(ctx.param, self.per)
        return update, {"radius": torch.where(radius > 0, radius, norm.to(radius.dtype))}

    def constrain(self, new_param: torch.Tensor, ctx: Context) -> Norms:
        if self.per == "row" and new_param.ndim < 2:
            return new_param
        norm = yield from norms_of(new_param, self.per)
        if not self.initial:
            return to_norm(new_param, norm, norm.new_ones(()) * self.radius, ctx)
        radius = ctx.read("radius", storage_dtype=True).to(norm.dtype)
        return to_norm(new_param, norm, torch.where(radius > 0, radius, norm), ctx)
