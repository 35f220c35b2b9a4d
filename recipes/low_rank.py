"""Adam's moments for a few rows or columns of each matrix: GaLore and APOLLO; AdamW for all else."""

from __future__ import annotations

from typing import Any

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.partition import partition
from gradchain._chain.recipes import register_recipe
from gradchain._core.fields import Interval, Spec, check_number
from gradchain.errors import OptionError, shown
from gradchain.transforms.hidden import hidden_matrices

SIDES = {"std": "short", "reverse_std": "long", "left": "left", "right": "right"}
"""The kinds of projections, by their published names."""

PROJECTIONS = {"svd": "svd", "random": "gaussian"}


@register_recipe("galore-adamw", source="GaLore, arXiv:2403.03507; galore-torch")
def galore_adamw(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0, *,
    rank: int = 128, update_proj_gap: int = 200, scale: float = 0.25, proj_type: str = "std",
) -> Chain:  # fmt: skip
    """GaLore: AdamW for hidden matrices in the span of a few singular vectors of a gradient, plain AdamW for all else.

    Args:
        rank: how many singular vectors.
        update_proj_gap: steps between two projections.
        scale: what steps of matrices are multiplied by.
        proj_type: `"std"`: singular vectors of the shorter side; `"reverse_std"`: of the longer; `"left"`, `"right"`.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    side = named("proj_type", proj_type, SIDES)
    matrix = [
        t.low_rank(rank, update_proj_gap, side=side),
        *raw_adam(betas, eps),
        t.full_rank(),
        t.multiply(scale).rename(factor="scale"),
    ]
    return chain(
        partition({"matrix": matrix, "other": raw_adam(betas, eps)}, hidden_matrices),
        *corrected(betas),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("apollo", source="APOLLO, arXiv:2412.05270; apollo-torch")
def apollo(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0,
    disable_nl: bool = False, *, rank: int = 256, update_proj_gap: int = 200, scale: float = 1.0, proj: str = "random",
    proj_type: str = "std", scale_type: str = "channel",
) -> Chain:  # fmt: skip
    """APOLLO: gradients of hidden matrices, scaled as AdamW would scale a few random combinations of their lines.

    APOLLO-Mini is `rank=1, scale_type="tensor", scale=128`. All else has plain AdamW.

    Args:
        disable_nl: do not limit how fast the norm of a step may grow.
        rank: how many combinations.
        update_proj_gap: steps between two projections.
        scale: the square of what steps of matrices are multiplied by, as published.
        proj: `"random"`, or `"svd"`: singular vectors.
        proj_type: as for `galore-adamw`.
        scale_type: a factor for each `"channel"`, or one for each `"tensor"`.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    projection, side = named("proj", proj, PROJECTIONS), named("proj_type", proj_type, SIDES)
    check_number("scale", scale, Spec(dynamic=True, interval=Interval(low=0)))
    matrix: list[Any] = [
        t.low_rank(rank, update_proj_gap, projection, side),
        *raw_adam(betas, eps),
        t.scale_by_low_rank(scale_type),
        not disable_nl and t.limit_norm_growth(),
        t.multiply(scale**0.5).rename(factor="root_scale"),
    ]
    return chain(
        partition({"matrix": matrix, "other": raw_adam(betas, eps)}, hidden_matrices),
        *corrected(betas),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


def named(option: str, value: str, known: dict[str, str]) -> str:
    """What an option is called here."""
    if value not in known:
        raise OptionError(f"{option} = {shown(value)} is not one of {', '.join(map(repr, known))}.")
    return known[value]


def raw_adam(betas: tuple[float, float], eps: float) -> list[Any]:
    """The quotient of Adam's moments as they are."""
    return [
        t.first_moment(betas[0], bias_correction=False),
        t.second_moment(betas[1], bias_correction=False),
        t.divide(eps),
    ]


def corrected(betas: tuple[float, float]) -> list[Any]:
    """The bias corrections of both moments."""
    return [
        t.debias(betas[0]),
        t.debias(betas[1], of="second_moment", name="debias_second").rename(beta="betas[1]"),
    ]
