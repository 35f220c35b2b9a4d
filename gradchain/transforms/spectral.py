"""Decay of the largest singular value."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.mixins import Decay
from gradchain._chain.registry import label_function
from gradchain._chain.stage import Number, Yields
from gradchain._core.fields import follow, hyper, static
from gradchain._core.reduce import Request, Totals, tensor_partials, whole_tensor
from gradchain._core.update import Update
from gradchain.ops import compute_dtype, minimum, root, where, wide
from gradchain.ops._traced import LANES, apart, is_traced

_TINY = 1e-12


def _is_matrix(shape: torch.Size) -> bool:
    return len(shape) >= 2 and shape[-1] != 1 and shape[-2] != 1


@label_function
def matrix_or_vector(name: str, param: torch.Tensor) -> str:
    """Label parameters for spectral decay.

    Returns: `"matrix"` if the last two axes are longer than 1 and `param.use_spectral_decay` is not false, or `"vector"`.
    """
    wanted = bool(getattr(param, "use_spectral_decay", True))
    return "matrix" if wanted and _is_matrix(param.shape) else "vector"


class spectral_decay(Decay):
    r"""Shrink the largest singular value of each matrix, found by one step of power iteration per update.

    For each $M \times N$ matrix $W$ (the last two axes; all others are a batch), with $u$ kept from step to step:

    $$v = \frac{W^\top u}{\lVert W^\top u\rVert}, \qquad u \leftarrow \frac{W v}{\lVert W v\rVert}, \qquad
    \sigma = \lVert W v\rVert, \qquad \theta \leftarrow \theta - \sqrt{M}\,\eta\lambda\,\sigma\, u v^\top$$

    $u$ starts as all ones, so early $\sigma$ are lower estimates. With $\lambda = 0$, $u$ and $\sigma$ stay as they are.

    Args:
        weight_decay: $\lambda \ge 0$, default 0.1.
        restart: if $u$ has become 0 (a matrix that was zero, or whose columns sum to 0, when first seen), start again
            from ones. By default it stays 0 and that matrix is never decayed, as in the original.
        precision: `"param"` iterates on the parameter as stored; `"compute"` on the master weights, if there are any.
        clamp: bound $\sqrt{M}\,\eta\lambda$, which turns unstable above 2; `None` for no bound.

    Slots: `u` (the shape without the last axis) and `sigma` (without the last two), in the parameter's dtype (float32 for
    float16). Parameters that are no matrices are not decayed; adding one to an optimizer warns. Route them to another decay
    with `partition(..., matrix_or_vector)`.
    Raises: OptionError: a value out of range.
    Source: Adams, pypi.org/project/adams-torch; Yoshida & Miyato (2017), arXiv:1705.10941.

    >>> gradchain.recipe("adams")["spectral_decay"]
    spectral_decay()
    """

    scale = "any"
    source = "Adams, pypi.org/project/adams-torch; arXiv:1705.10941"

    weight_decay: float = hyper(default=0.1, ge=0)
    restart: bool = static(default=False)
    precision: str = static(default="param", choices=("param", "compute"))
    clamp: float | None = hyper(default=None, gt=0, optional=True)
    lr: float | None = follow("lr")

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        if not _is_matrix(p.shape):
            p.warn(
                f"spectral_decay does not decay a parameter of shape {tuple(p.shape)}; route such parameters to "
                "decoupled_decay with partition({...}, matrix_or_vector)."
            )
            return {}
        sigma = Slot(shape=p.shape[:-2], per_row=p.ndim > 2)
        return {"u": Slot(1.0, shape=p.shape[:-1], per_row=True), "sigma": sigma}

    def scalars(self, step: Number) -> dict[str, Number]:
        assert self.lr is not None
        return {"strength": self.lr * self.weight_decay}

    def update(self, update: Update, ctx: Context) -> Yields:
        if not _is_matrix(ctx.shape):
            return update
        weight = ctx.stored_param if self.precision == "param" else ctx.param
        W = weight.to(compute_dtype(weight.dtype))  # 1e-12 is 0 in float16
        u, sigma = ctx.read("u").to(W.dtype), ctx.read("sigma")
        if self.restart:
            u = yield from _restarted(u)
        if ctx.shard.group is None or W.ndim > 2:
            v = _alone((W.mT @ u[..., None]).squeeze(-1), W)
        else:  # parts in half precision would add up to something else than the whole
            v = (yield tensor_partials(v=wide(W).mT @ wide(u))).v.to(W.dtype)
        v = _alone(v / _alone(v.norm(dim=-1, keepdim=True).clamp(min=_TINY), W), W)
        q = _alone(_image(W, v), W)
        norm = _alone((yield from _row_norm(q)), W)
        new_u = _alone(q / norm.clamp(min=_TINY), W)
        new_sigma = (norm.square() / norm.clamp(min=_TINY)).squeeze(-1)
        amplitude = ctx.shape[-2] ** 0.5 * ctx["strength"]
        amplitude = amplitude if self.clamp is None else minimum(amplitude, self.clamp)
        decay = _alone(amplitude * (new_sigma[..., None] * new_u)[..., None] * v[..., None, :], W)
        ctx.observe("sigma", lambda: new_sigma)
        on = self.weight_decay != 0
        return update.add_decay(decay), {"u": where(on, new_u, u), "sigma": where(on, new_sigma, sigma)}


def _image(W: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """`W v`. Libraries compute it on one thread; where it is compiled for a CPU, a loop over rows has all of them."""
    if W.ndim == 2 and is_traced() and W.device.type == "cpu" and W.dtype != torch.bfloat16:
        return (W * v[..., None, :]).sum(-1)
    return (W @ v[..., None]).squeeze(-1)


def _alone(x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """Of many small matrices, what is compiled for a CPU in a loop of its own: else each of their elements computes it."""
    if is_traced() and W.ndim > 2 and W.shape[-1] <= LANES and W.device.type == "cpu":
        return apart(x, x.shape)
    return x


def _restarted(u: torch.Tensor) -> Generator[Request, Totals, torch.Tensor]:
    """Ones where the vector over the last axis, which spans shards if there is no other, is 0."""
    if u.ndim > 1:
        return torch.where((u == 0).all(dim=-1, keepdim=True), torch.ones_like(u), u)
    totals = yield whole_tensor(live=u != 0)
    return torch.where(totals.live == 0, torch.ones_like(u), u)


def _row_norm(q: torch.Tensor) -> Generator[Request, Totals, torch.Tensor]:
    """The norm over the last axis, which spans shards if `q` is a vector; keeps the axis."""
    if q.ndim > 1:
        return q.norm(dim=-1, keepdim=True)
    totals = yield whole_tensor(qq=wide(q).square())
    return root(totals.qq).to(q.dtype)[None]
