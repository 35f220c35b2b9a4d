"""Second moments of the rows and of the columns of a matrix, their eigenvectors and their roots."""

from __future__ import annotations

from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._core.shard import Shard
from gradchain.errors import OptionError

SIDES = ("left", "right")


def matrix_sides(address: str, p: ParamInfo) -> tuple[int, int]:
    """The rows and columns of a parameter: its first axis, and all others. OptionError for a vector."""
    if p.ndim < 2:
        raise OptionError(
            f"{address} takes matrices, and got a parameter of shape {tuple(p.shape)}. Send it through another branch: "
            "partition({'matrix': [...], 'other': [...]}, 'hidden_matrices')."
        )
    return p.shape[0], p.shape[1:].numel()


def side_slots(address: str, p: ParamInfo, largest: int, kinds: tuple[str, ...]) -> dict[str, Slot]:
    """For each side of at most `largest` lines, a square slot of each kind, in float32 at least; `basis` begins as 1."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    slots: dict[str, Slot] = {}
    for side, size in zip(SIDES, matrix_sides(address, p)):
        if size <= largest:
            rows = side == "left"
            for kind in kinds:
                fill: Any = 0.0 if kind == "moment" else _identity(size, rows)
                slots[f"{kind}_{side}"] = Slot(fill, shape=(size, size), per_row=rows, dtype=dtype)
    return slots


def kept(ctx: Context, kinds: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The slots of `side_slots` that this parameter has: those of its left side, which has its rows, and of its right."""
    left, right = ([f"{kind}_{side}" for kind in kinds] for side in SIDES)
    return [x for x in left if ctx.read_or(x, None) is not None], [x for x in right if ctx.read_or(x, None) is not None]


def moved_sides(left: bool, right: bool) -> list[str]:
    """The sides that are there, in the order of their slots."""
    return [side for side, there in zip(SIDES, (left, right)) if there]


def second_moment(moment: torch.Tensor, g: torch.Tensor, side: str, beta: torch.Tensor) -> torch.Tensor:
    """Average the products of the rows of `g`, or of its columns, into their moment."""
    return beta * moment + (1 - beta) * (g @ g.mT if side == "left" else g.mT @ g)


def _identity(size: int, rows: bool) -> Any:
    def fill(param: torch.Tensor, shard: Shard) -> torch.Tensor:
        whole = torch.eye(size, device=param.device)
        return shard.cut(whole) if rows else whole

    return fill


def eigenvectors(moment: torch.Tensor, old: torch.Tensor, exact: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal eigenvectors, those of the largest eigenvalues first; unless exact, by one step of orthogonal iteration.

    Returns: the basis, and 1 where the moment was not finite, so that the old basis stays.
    """
    good = torch.isfinite(moment).all(dim=-1).all(dim=-1)[..., None, None]
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    safe = torch.where(good, moment, eye)
    new = torch.linalg.eigh(safe).eigenvectors.flip(-1) if exact else torch.linalg.qr(safe @ old).Q
    kept = torch.isfinite(new).all(dim=-1).all(dim=-1)[..., None, None] & good
    return torch.where(kept, new, old), (~kept)[..., 0, 0].to(moment.dtype)


def inverse_root(
    moment: torch.Tensor, old: torch.Tensor, eps: torch.Tensor, exponent: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(moment + eps I) ** -exponent` of a symmetric matrix.

    Returns: that, and 1 where it was not finite, so that the old one stays.
    """
    good = torch.isfinite(moment).all(dim=-1).all(dim=-1)[..., None, None]
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    values, vectors = torch.linalg.eigh(torch.where(good, moment, eye))
    powers = (values.clamp(min=0) + eps[..., None].to(values.dtype)) ** -exponent
    new = (vectors * powers[..., None, :]) @ vectors.mT
    kept = torch.isfinite(new).all(dim=-1).all(dim=-1)[..., None, None] & good
    return torch.where(kept, new, old), (~kept)[..., 0, 0].to(moment.dtype)
