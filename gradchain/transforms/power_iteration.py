"""Largest singular values by power iteration: one step per update, from vectors that are kept between steps."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import TypeAlias

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._core.noise import random_bits, salt_of
from gradchain._core.reduce import Request, Totals, accumulate, tensor_partials, whole_tensor
from gradchain._core.shard import Shard
from gradchain.ops import finite, nonzero, root, widest

Tensors: TypeAlias = "tuple[torch.Tensor, ...]"

# Below this length an image is no direction: the old vector stays. Absolute, as published (quirk N11).
_STILL = 1e-6


def start_vector(shape: Sequence[int], name: str, seed: int, device: torch.device) -> torch.Tensor:
    """Gaussian vectors along the last axis, of length 1, in float32: a function of shape, name and seed alone."""
    like = torch.empty(tuple(shape), dtype=torch.float32, device=device)
    key = torch.zeros((), dtype=torch.int32, device=device)
    drawn = gaussian(*(random_bits(like, key, salt_of(f"{name}/{part}", seed)) for part in ("radius", "angle")))
    return drawn / drawn.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def start_slot(p: ParamInfo, name: str, seed: int, *shape: int, per_row: bool = True) -> Slot:
    """A slot that begins with random vectors, the same for equal shapes."""

    def fill(param: torch.Tensor, shard: Shard) -> torch.Tensor:
        whole = start_vector(shape, name, seed, param.device)
        return shard.cut(whole) if per_row else whole

    return Slot(fill, shape=shape, per_row=per_row, dtype=torch.promote_types(p.dtype, torch.float32))


def kept(ctx: Context, *slots: str) -> tuple[torch.Tensor, ...]:
    """The vectors in slots, in the dtype that the iteration computes in."""
    dtype = torch.promote_types(ctx.dtype, torch.float32)
    return tuple(ctx.read(slot, storage_dtype=True).to(dtype) for slot in slots)


def gaussian(radius: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Normal numbers made of two sets of random bits, by Box & Muller."""
    return (-2 * _uniform(radius).log()).sqrt() * (2 * math.pi * _uniform(angle)).cos()


def _uniform(bits: torch.Tensor) -> torch.Tensor:
    """Numbers in (0, 1] from the upper 24 bits."""
    return (((bits >> 8) & 0xFFFFFF) + 1).to(torch.float32) / (1 << 24)


def length(x: torch.Tensor) -> torch.Tensor:
    """The norm over the last axis, which is kept."""
    return root(x.square().sum(-1, keepdim=True))


def two_sided(M: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> Generator[Request, Totals, Tensors]:
    """Estimate the largest singular value of a matrix whose rows may be sharded; returns it and the new `u`, `v`."""
    t = yield tensor_partials(v=_over_rows(M, u))
    v = _turned(v, t.v, length(t.v))
    image = (M * v).sum(-1)
    t = yield whole_tensor(norm=image.square(), product=u * image)
    norm = root(t.norm)
    return torch.where(norm >= _STILL, norm, t.product), _turned(u, image, norm), v


def two_sided_blocks(S: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> Tensors:
    """The same for a stack of matrices, each with its own vectors."""
    image = (S * u[..., None]).sum(-2)
    v = _turned(v, image, length(image))
    image = (S * v[..., None, :]).sum(-1)
    norm = length(image)
    sigma = torch.where(norm >= _STILL, norm, (u * image).sum(-1, keepdim=True))
    return sigma, _turned(u, image, norm), v


def one_sided(M: torch.Tensor, v: torch.Tensor, absolute: bool) -> Generator[Request, Totals, Tensors]:
    """Estimate the largest singular value with one vector, by a step with the square; returns it and the new `v`."""
    t = yield tensor_partials(w=_over_rows(M, (M * v).sum(-1)), square=accumulate(finite(M.square())))
    norm = length(t.w)
    moves = norm >= 0.5 if absolute else (norm >= 1e-12 * t.square) & (norm > 0)
    v = torch.where(moves, t.w / nonzero(norm), v).to(v.dtype)
    t = yield whole_tensor(square=(M * v).sum(-1).to(widest(M.device)).square())
    return root(t.square), v


def skew(rows: torch.Tensor, size: int) -> torch.Tensor:
    """The skew-symmetric blocks whose strict upper triangles, row by row, are `rows`."""
    i, j = torch.triu_indices(size, size, 1, device=rows.device)
    upper = rows.new_zeros(len(rows), size * size).index_copy(1, i * size + j, rows).view(-1, size, size)
    return upper - upper.mT


def skew_size(elements: int) -> int:
    """The size of a skew-symmetric block with so many elements above the diagonal."""
    return (1 + math.isqrt(1 + 8 * elements)) // 2


def _over_rows(M: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The local part of `M^T u`, accumulated in float64 where there is one."""
    return finite(M * u[:, None]).sum(0, dtype=widest(M.device))


def _turned(old: torch.Tensor, image: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """The direction of `image`; the old one where `image` vanishes."""
    return torch.where(norm >= _STILL, image / norm.clamp(min=1e-8), old).to(old.dtype)
