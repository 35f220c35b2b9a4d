"""Rose: stateless range normalisation (Kieren, 2026, doi:10.5281/zenodo.19589765)."""

from __future__ import annotations

from typing import Any

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe

SOURCE = "Rose (Kieren, 2026), doi:10.5281/zenodo.19589765"


@register_recipe("rose", source=f"{SOURCE}, release 1.0.0")
def rose(
    lr: float = 1e-3,
    *,
    weight_decay: float | None = 1e-4,
    wd_schedule: bool | float = False,
    centralize: bool = True,
    stabilize: bool = True,
    bf16_sr: bool = True,
    compute_dtype: str | None = "fp64",
    seed: int = 0,
) -> Chain:
    """Rose 1.0.0: each slice of the gradient divided by its range. Keeps no state.

    Args:
        lr: learning rate (the original has no default).
        weight_decay: decoupled decay; `None` removes the stage.
        wd_schedule: couple the decay to the schedule's shape; a number is the reference learning rate.
        centralize: subtract the mean of each slice.
        stabilize: move the ranges towards their mean where they vary much.
        bf16_sr: stochastic rounding of bfloat16 parameters.
        compute_dtype: precision of the step; `None` for the parameter's own.
        seed: of the stochastic rounding.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        _working_precision(compute_dtype, bf16_sr),
        centralize and t.centralize(),
        t.range_normalize(damping=1.0),
        stabilize and t.cv_trust_gate(),
        t.divide(),
        t.scale_by_learning_rate(lr),
        None if weight_decay is None else t.decoupled_decay(weight_decay, clamp=True, **_coupling(wd_schedule)),
        bf16_sr and t.stochastic_round(seed),
    )


@register_recipe("rose-1.0.2", source=f"{SOURCE}, release 1.0.2")
def rose_1_0_2(
    lr: float = 1e-3,
    *,
    weight_decay: float | None = 1e-4,
    wd_schedule: bool | float = False,
    centralize: bool = True,
    stabilize: bool = True,
    bf16_sr: bool = True,
    compute_dtype: str | None = "fp64",
    skip_singletons: bool = False,
    seed: int = 0,
) -> Chain:
    """Rose 1.0.2, the revised shape rules: |max| - min, signs for scalars, no damping of vectors.

    Args:
        skip_singletons: do not centralize slices of one element. By default they are, as published, which freezes
            parameters of shape (n, 1); the optimizer warns of them.

    The other options are those of `rose`.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    chain_1_0_0 = rose(
        lr,
        weight_decay=weight_decay,
        wd_schedule=wd_schedule,
        centralize=centralize,
        stabilize=stabilize,
        bf16_sr=bf16_sr,
        compute_dtype=compute_dtype,
        seed=seed,
    )
    revised = chain_1_0_0.replace("range_normalize", t.range_normalize("abs_range", damping=0.0, floor=0.0))
    return revised.with_options(skip_singletons=skip_singletons) if centralize else revised


def _working_precision(compute_dtype: str | None, bf16_sr: bool) -> t.promote:
    """The compute dtype; native bfloat16 is computed in fp32 if it is to be rounded stochastically."""
    chosen = t.promote(compute_dtype)
    return t.promote(bf16="fp32") if bf16_sr and chosen.dtype is None else chosen


def _coupling(wd_schedule: bool | float) -> dict[str, Any]:
    """`True` finds its own reference learning rate; a number is one; `False` couples to the learning rate itself."""
    if isinstance(wd_schedule, bool):
        return {"schedule": wd_schedule}
    return {"schedule": True, "reference_lr": wd_schedule}
