"""Constraints on the written parameter: boxes, and bounds on norms."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.mixins import Constraint
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import Request, Totals, whole_tensor
from gradchain.ops import nonzero, root, wide, widest

Norms = Generator[Request, Totals, torch.Tensor]

PER = static(default="tensor", choices=("tensor", "row"))


def norms_of(w: torch.Tensor, per: str) -> Norms:
    """The norm of the whole tensor, or of each row, of shape (rows, 1, ...)."""
    w = wide(w)
    if per == "tensor":
        return root((yield whole_tensor(ww=w.square())).ww).to(w.dtype)
    return norms_of_rows(w)


def norms_of_rows(w: torch.Tensor) -> torch.Tensor:
    """The norm of each row, of shape (rows, 1, ...)."""
    rows = w.square().flatten(1).sum(1, dtype=widest(w.device))
    return root(rows).to(w.dtype).view(-1, *[1] * (w.ndim - 1))


def to_norm(w: torch.Tensor, norm: torch.Tensor, wanted: torch.Tensor, ctx: Context) -> torch.Tensor:
    """The weights with another norm; as they are where that is theirs already, up to what rounding makes of it."""
    close = torch.finfo(ctx.dtype).eps / 2 + 2 * torch.finfo(norm.dtype).eps
    stays = ((norm - wanted).abs() <= close * wanted) | (norm == 0)
    factor = torch.where(stays, torch.ones_like(norm), wanted / nonzero(norm))
    ctx.observe("factor", lambda: factor)
    return (wide(w) * factor).to(w.dtype)


class clip_weights(Constraint):
    r"""Keep each weight between two bounds.

    $$\theta \leftarrow \min(\max(\theta, a), b)$$

    Args:
        low: $a$, default -1; `min_weight` in `param_groups`.
        high: $b$, default 1; `max_weight`. It wins where $a > b$.

    Raises: OptionError: a value out of range; ChainError: a stage after it changes the step.
    Source: Arjovsky et al. (2017), Wasserstein GAN, arXiv:1701.07875; `optax.projections.projection_box`.

    >>> step = gradchain.chain(gradchain.scale_by_learning_rate(1.0), gradchain.clip_weights(-0.5, 0.5))
    >>> w, g = torch.zeros(3), torch.tensor([1.0, -0.2, -3.0])
    >>> w + step.update(g, step.init(w), w)[0]
    tensor([-0.5000,  0.2000,  0.5000])
    """

    source = "Wasserstein GAN, arXiv:1701.07875"

    low: float = hyper(default=-1.0, key="min_weight")
    high: float = hyper(default=1.0, key="max_weight")

    def constrain(self, new_param: torch.Tensor, ctx: Context) -> torch.Tensor:
        low, high = (new_param.new_ones(()) * bound for bound in (self.low, self.high))
        ctx.observe("clipped", lambda: (new_param < low) | (new_param > high))
        return new_param.maximum(low).minimum(high)


class clip_weight_norm(Constraint):
    r"""Keep the norm of the weights between a floor and a cap.

    $$\theta \leftarrow \frac{\min(\max(\lVert\theta\rVert, a), b)}{\lVert\theta\rVert}\,\theta$$

    Weights that are all 0 stay so.

    Args:
        min_norm: the floor $a \ge 0$, default 0; `weight_norm_floor` in `param_groups`.
        max_norm: the cap $b > 0$; `None` (default) for no cap; `weight_norm_cap`. It wins where $a > b$.
        per: `"tensor"` (default) for the norm of the whole tensor; `"row"` for that of each slice along the first axis,
            where tensors of rank 0 and 1 are left alone.

    Raises: OptionError: a value out of range; ChainError: a stage after it changes the step.
    Source: the cap per row is the max-norm constraint of Srebro & Shraibman (2005), and of Hinton et al. (2012),
    arXiv:1207.0580.

    >>> step = gradchain.chain(gradchain.scale_by_learning_rate(1.0), gradchain.clip_weight_norm(max_norm=5.0))
    >>> w, g = torch.zeros(2), torch.tensor([-6.0, -8.0])
    >>> w + step.update(g, step.init(w), w)[0]
    tensor([3., 4.])
    """

    source = "max-norm constraint, arXiv:1207.0580"

    min_norm: float = hyper(default=0.0, ge=0, key="weight_norm_floor")
    max_norm: float | None = hyper(default=None, gt=0, optional=True, key="weight_norm_cap")
    per: str = PER

    def constrain(self, new_param: torch.Tensor, ctx: Context) -> Norms:
        if self.per == "row" and new_param.ndim < 2:
            return new_param
        norm = yield from norms_of(new_param, self.per)
        wanted = norm.clamp(min=self.min_norm)
        wanted = wanted if self.max_norm is None else torch.minimum(wanted, torch.ones_like(wanted) * self.max_norm)
        return to_norm(new_param, norm, wanted, ctx)
