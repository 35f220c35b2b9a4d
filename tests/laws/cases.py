"""The registry: every transform in the smallest chain that holds it, every recipe with a few options.

A law is a test over `CASES`. A new transform or recipe needs a case here, and gets all the laws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

import gradchain as gc
from gradchain import Chain, chain

SHAPES = [(), (1,), (7,), (1, 1), (4, 1), (1, 4), (8, 16), (4, 3, 3, 3), (2, 4, 3)]
"""Every rank, and sides of 1 wherever they may be. Most sides are at most 4: such shapes are traced as they are."""
FEW_SHAPES = [(), (7,), (1, 4), (8, 16), (4, 3, 3, 3)]
"""For laws about what is called, and not about numbers."""
MATRICES = [(1, 4), (8, 16), (4, 3, 3, 3), (2, 4, 3)]
"""Shapes whose slices along the first axis have more than one element."""


@dataclass(frozen=True)
class Case:
    """A chain and what is true of it.

    `scaling` says what happens to the step if all gradients are multiplied by c, together with the hyperparameters
    named in `units`, which have the gradient's unit: "equivariant" (c times the step), "invariant" (the same step).
    The law holds for `scaling_shapes`. `inert` names hyperparameters that cannot matter here, with the reason;
    `silent` names stages that can go without a trace in the parameters.
    """

    chain: Chain
    scaling: Literal["equivariant", "invariant"]
    units: tuple[str, ...] = ()
    scaling_shapes: tuple[tuple[int, ...], ...] = tuple(SHAPES)
    inert: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)


def equivariant(*stages: object, units: tuple[str, ...] = (), **facts: Any) -> Case:
    return Case(chain(*stages), "equivariant", units, **facts)  # type: ignore[arg-type]


def invariant(*stages: object, units: tuple[str, ...] = (), **facts: Any) -> Case:
    return Case(chain(*stages), "invariant", units, **facts)  # type: ignore[arg-type]


def of_matrices(*stages: object) -> gc.Partition:
    """Stages that take matrices only; the others step by their signs."""
    return gc.partition({"matrix": list(stages), "vector": [gc.sign()]}, gc.matrix_or_vector)


LR = gc.scale_by_learning_rate(0.05)
PROJECT = gc.momentum_project(0.05, 0.9, 0)
GIVEN = {"horizon": "it sets the default of warmup_steps, which is given"}
NO_BLOCKS = {"oft_scale_factor": "there are no parameters with role oft"}
WITHOUT_HESSIAN = dict.fromkeys(("gamma", "hessian_beta"), "no estimate of the Hessian is given")
DETECTOR = {"track_first_moment": "it only keeps state for other stages"}


@gc.label_function
def tensor_or_scalar(name: str, param: Any) -> str:
    return "tensor" if param.ndim else "scalar"


# Prodigy's d does not grow under gradients that turn at every step, as the laws' do; tests/transforms/test_prodigy.py has
# others.
STUCK = dict.fromkeys(("d_coef", "growth_rate", "beta3", "prodigy_steps"), "d never grows")
WITHOUT_HESSIAN = dict.fromkeys(("gamma", "hessian_beta"), "no estimate of the Hessian is given")
WIDE = {"muon/scale_by_shape": "no matrix here has more rows than columns"}
NO_UNIT: tuple[tuple[int, ...], ...] = ()
"""Shapes of the scaling law for chains that compare gradients with a fixed number."""

# The name up to "/" is the transform that the case is for.
TRANSFORMS: dict[str, Case] = {
    "add_decayed_weights": equivariant(gc.add_decayed_weights(0.1), LR, units=("weight_decay",)),
    "adopt": invariant(
        gc.adopt(0.9), gc.divide(0.1), gc.first_moment(0.8, bias_correction=False), LR, gc.decoupled_decay(0.1),
        units=("eps",),
    ),
    "adopt/unskipped": invariant(
        gc.add_decayed_weights(0.1), gc.adopt(0.9, skip_first=False, initial="raw"), gc.atan2_scale(), LR,
        units=("weight_decay",),
    ),
    "adopt/factored": invariant(
        gc.adopt(0.9, skip_first=False, storage="factored"), gc.divide(0.1), LR, units=("eps",)
    ),
    "ademamix": equivariant(gc.first_moment(0.8), gc.ademamix(0.95, 3.0), LR),
    "ademamix/warmup": equivariant(gc.first_moment(0.8), gc.ademamix(0.95, 3.0, 4.0, "fp32"), LR),
    "ademamix/alone": equivariant(gc.ademamix(0.95, 3.0), LR),
    "atan2_scale": invariant(gc.second_moment(0.9), gc.atan2_scale(1.2, 0.8), LR),
    "atan2_scale/range": invariant(
        gc.range_normalize(floor=0.1), gc.atan2_scale(), LR, units=("damping", "floor")
    ),
    "average_weights": equivariant(
        LR, gc.average_weights(0.8), silent={"average_weights": "it is seen in eval mode only"},
        inert={"decay": "the average is seen in eval mode only"},
    ),
    # The eps inside of the average has the unit of a square, so that it is small.
    "belief_moment": invariant(
        gc.first_moment(0.8), gc.belief_moment(0.9, 0.3), gc.divide(0.3), LR, scaling_shapes=NO_UNIT
    ),
    "belief_moment/raw": invariant(
        gc.first_moment(0.8), gc.belief_moment(0.9, 0.0, bias_correction=False), gc.divide(0.0), LR
    ),
    "block_second_moment": invariant(gc.block_second_moment(0.9), gc.divide(0.1), LR, units=("eps",)),
    "cautious_decay": equivariant(gc.first_moment(0.8), LR, gc.cautious_decay(), gc.decoupled_decay(0.1)),
    **{
        f"centered_decay/{anchor}": equivariant(LR, gc.centered_decay(0.5, anchor=anchor))
        for anchor in gc.storage.ANCHORS
    },
    "centered_decay/after": equivariant(gc.decoupled_decay(0.1), LR, gc.centered_decay(0.5, fan_in=True)),
    "centered_decay/geometric": equivariant(LR, gc.centered_decay(0.5, geometric=True)),
    "centered_decay/snr": invariant(
        gc.sign(), gc.first_moment(0.8), LR, gc.centered_decay(0.5, anchor="int8", geometric=True, snr=True)
    ),
    "cautious": equivariant(gc.lion_interpolate(0.9, 0.5), gc.cautious(), LR),
    "cautious/raw": equivariant(
        gc.orthograd(), gc.cautious(), LR, inert={"floor": "nearly all elements keep their signs"}
    ),
    "centralize": equivariant(gc.centralize(), LR),
    "centralize/singletons": equivariant(gc.centralize(skip_singletons=False), LR),
    "clip_by_global_norm": equivariant(gc.clip_by_global_norm(2.0), LR, units=("max_norm",)),
    "clip_by_norm": equivariant(gc.clip_by_norm(0.5), LR, units=("max_norm",)),
    "clip_by_scale": invariant(
        gc.second_moment(0.5), gc.clip_by_scale(0.7), gc.divide(0.1), LR, gc.decoupled_decay(0.1), units=("eps",)
    ),
    "clip_by_rms": equivariant(gc.clip_by_rms(0.5), LR, units=("max_rms",)),
    "clip_weight_norm": invariant(gc.sign(), LR, gc.clip_weight_norm(0.5, 2.0)),
    "clip_weight_norm/row": invariant(gc.sign(), LR, gc.clip_weight_norm(0.5, 2.0, per="row")),
    "clip_weights": invariant(gc.sign(), LR, gc.clip_weights(-0.5, 0.8)),
    "clip_by_value": equivariant(gc.clip_by_value(0.3), LR, units=("max_value",)),
    "confidence": invariant(
        gc.sign(), gc.first_moment(0.8, bias_correction=False), gc.confidence(0.9, 0.01), gc.divide(0.1), LR
    ),
    "cv_trust_gate": invariant(
        gc.range_normalize(floor=0.1), gc.cv_trust_gate(), gc.divide(), LR, units=("damping", "floor", "eps")
    ),
    "as_gradient": invariant(
        gc.first_moment(0.8), gc.as_gradient(), gc.second_moment(0.9), gc.divide(), LR, units=("eps",)
    ),
    "debias": equivariant(gc.first_moment(0.8, bias_correction=False), gc.debias(0.8), LR),
    "debias/second_moment": invariant(
        gc.second_moment(0.9, bias_correction=False), gc.divide(0.1),
        gc.debias(0.9, of="second_moment").rename(beta="betas[1]"), LR, units=("eps",),
    ),
    "decoupled_decay": equivariant(gc.decoupled_decay(0.1), LR),
    "decoupled_decay/schedule": equivariant(
        gc.decoupled_decay(0.5, schedule=True, reference_lr=0.1, clamp=True), LR
    ),
    "decoupled_decay/fan_in": equivariant(gc.decoupled_decay(0.5, fan_in=True), LR),
    "decoupled_decay/gate": equivariant(
        gc.decoupled_decay(0.1).rename(gate="max_norm"), gc.clip_by_norm(0.5), LR, units=("max_norm",)
    ),
    "divide": invariant(gc.second_moment(0.9), gc.divide(0.1), LR, units=("eps",)),
    "divide/by_size": invariant(
        gc.sign(), gc.second_moment(0.9, bias_correction=False), gc.divide(None), LR  # signs have no units
    ),
    "divide_by_hessian": invariant(gc.divide_by_hessian(0.5, 0.3), LR, units=("eps",), inert=WITHOUT_HESSIAN),
    "factored_moment": invariant(gc.factored_moment(0.8, 0.9), gc.divide(0.1), LR, units=("eps",)),
    "factored_moment/raw": invariant(
        gc.factored_moment(0.8, 0.9, bias_correction=False, vectors=True), gc.divide(0.1), LR, units=("eps",)
    ),
    "first_moment": equivariant(gc.first_moment(0.8), LR),
    "first_moment/raw": equivariant(gc.first_moment(0.8, bias_correction=False), LR),
    "first_moment/fp32": equivariant(gc.first_moment(0.8, storage="fp32"), LR),
    "first_moment/bf16": equivariant(gc.first_moment(0.8, storage="bf16"), LR),
    "first_moment/int8": equivariant(gc.first_moment(0.8, storage="int8"), LR),
    "first_moment/factored": equivariant(gc.first_moment(0.8, storage="factored"), LR),
    "first_moment/factored_compact": equivariant(gc.first_moment(0.8, storage="factored_compact"), LR),
    "first_moment/factored_vectors": equivariant(gc.first_moment(0.8, storage="factored_vectors"), LR),
    # The weights have the gradient's unit, so what fixes its length comes first.
    "fisher_decay": invariant(
        gc.clip_by_norm(0.01), gc.second_moment(0.9), gc.fisher_decay(), gc.divide(0.01), LR, gc.decoupled_decay(0.1)
    ),
    "fisher_decay/atan2": invariant(
        gc.clip_by_norm(0.01), gc.second_moment(0.9), gc.fisher_decay("atan2"), gc.atan2_scale(), LR,
        gc.decoupled_decay(0.1),
    ),
    "fisher_decay/free_of_units": invariant(
        gc.clip_by_norm(0.01), gc.second_moment(0.9), gc.fisher_decay(), gc.atan2_scale(), LR, gc.decoupled_decay(0.1)
    ),
    "full_rank": equivariant(
        of_matrices(gc.low_rank(2, 2), gc.first_moment(0.5), gc.full_rank()), LR, scaling_shapes=NO_UNIT
    ),
    "geometric_decay": equivariant(gc.geometric_decay(0.1), LR),
    "geometric_decay/row_column": invariant(
        gc.sign(), gc.first_moment(0.8, bias_correction=False), gc.snr_precondition(by="row_column"), LR,
        gc.geometric_decay(0.1, snr=True, by="row_column"),
    ),
    "geometric_decay/snr": invariant(
        gc.sign(), gc.first_moment(0.8, bias_correction=False), gc.geometric_decay(0.1, snr=True), LR
    ),
    "freeze_on_flip": equivariant(gc.freeze_on_flip(), LR),
    "freeze_on_flip/momentum": equivariant(gc.first_moment(0.8), gc.freeze_on_flip("momentum"), LR),
    "freeze_on_flip/buffer": equivariant(gc.heavy_ball(0.5), gc.freeze_on_flip("momentum"), LR),
    "grams": equivariant(gc.lion_interpolate(0.9, 0.5), gc.grams(), LR),
    "heavy_ball": equivariant(gc.heavy_ball(0.8, 0.1), LR),
    "heavy_ball/nesterov": equivariant(gc.heavy_ball(0.8, 0.1, nesterov=True), LR),
    "kourkoutas_beta": invariant(
        gc.kourkoutas_beta(0.3, k_warmup_steps=4), gc.second_moment(0.9), gc.divide(0.1), LR, units=("eps", "tiny_spike")
    ),
    "kourkoutas_beta/switch": invariant(
        gc.first_moment(0.8), gc.kourkoutas_beta(0.3, 0.8, 1e-3, 3, warm_in="switch", layers="tensor"), gc.adopt(0.9),
        gc.divide(0.1), LR, units=("eps", "tiny_spike"),
    ),
    "limit_norm_growth": equivariant(gc.first_moment(0.8), gc.limit_norm_growth(1.05), LR),
    "lion_interpolate": equivariant(gc.lion_interpolate(), LR),
    "lion_k": invariant(gc.lion_k(), LR),
    "lion_k/2": invariant(gc.lion_k(2.0), LR),
    "lion_k/1.5": invariant(gc.lion_k(1.5), LR),
    "lion_k/auto": invariant(gc.lion_k(auto=True), LR),
    "lookahead": equivariant(gc.decoupled_decay(0.1), LR, gc.lookahead(2, 0.7)),
    "low_rank": equivariant(
        of_matrices(gc.low_rank(1, 3, "gaussian"), gc.first_moment(0.8), gc.full_rank()), LR,
        scaling_shapes=((8, 16), (4, 3, 3, 3)),
    ),
    "low_rank/long": equivariant(
        of_matrices(gc.low_rank(2, 2, side="long"), gc.first_moment(0.8, storage="factored"), gc.full_rank()), LR,
        scaling_shapes=NO_UNIT,
    ),
    "mars": equivariant(gc.mars(0.3, 0.8), LR),
    "mars/zero": equivariant(gc.mars(0.3, 0.8, initial="zero"), gc.first_moment(0.8), LR),
    "master_weights": equivariant(gc.master_weights(), LR),
    "master_weights/fp24": equivariant(gc.master_weights("fp24"), gc.first_moment(0.8), LR),
    "momentum_project": equivariant(
        PROJECT, gc.track_first_moment(0.8), LR, units=("eps",), inert=GIVEN
    ),
    "momentum_project/first_moment": equivariant(PROJECT, gc.first_moment(0.8), LR, units=("eps",), inert=GIVEN),
    "momentum_project/horizon": equivariant(
        gc.momentum_project(horizon=0.6), gc.track_first_moment(0.8), LR, units=("eps",)
    ),
    "nadam_momentum": equivariant(gc.nadam_momentum(0.8, 0.5), LR),
    "nesterov": equivariant(gc.first_moment(0.8), gc.nesterov(), LR),
    "nesterov/coef": equivariant(
        gc.first_moment(0.8, bias_correction=False), gc.nesterov(0.6), gc.debias(0.8), LR
    ),
    "nesterov/momentum": equivariant(gc.heavy_ball(0.8), gc.nesterov(), LR),
    "nesterov/scaled": invariant(gc.sign(), gc.first_moment(0.8), gc.nesterov(scaled=True), LR),
    "normalize_rms": invariant(gc.normalize_rms(0.5), LR),
    "orthogonalize": invariant(
        of_matrices(gc.orthogonalize(precision=None)), LR
    ),
    "orthogonalize/rank": invariant(
        of_matrices(gc.first_moment(0.8), gc.orthogonalize("gram", 3, precision="fp32", rank=2)), LR,
    ),
    "orthograd": equivariant(gc.orthograd(), LR),
    "orthograd/per_rank": equivariant(gc.orthograd("per_rank"), LR),
    "orthograd/iterative": equivariant(
        gc.orthograd("iterative"), LR, scaling_shapes=((7,), (8, 16))  # where the norms are above the floors
    ),
    "orthograd/relative_floor": equivariant(gc.orthograd("iterative", 2, True), LR),
    "project_to_sphere": invariant(gc.trust_ratio(), LR, gc.project_to_sphere()),
    "project_to_sphere/row": invariant(gc.sign(), LR, gc.project_to_sphere(False, 0.8, per="row")),
    "project_to_sphere/rows": invariant(gc.sign(), LR, gc.project_to_sphere(per="row")),
    "projected_adaptivity": equivariant(gc.projected_adaptivity(), LR, gc.decoupled_decay(0.1)),
    "projected_adaptivity/total": equivariant(gc.projected_adaptivity("total"), LR),
    "projected_adaptivity/row": equivariant(gc.projected_adaptivity("row"), LR, gc.decoupled_decay(0.1)),
    "projected_adaptivity/auto": equivariant(gc.projected_adaptivity("auto"), LR, gc.decoupled_decay(0.1)),
    "projected_adaptivity/squared": equivariant(
        gc.projected_adaptivity("auto_squared"), LR,
        scaling_shapes=((), (1,), (7,)),  # matrices are stepped by the square of their gradient's size
    ),
    # The gradient is multiplied by d, and d's estimate does not depend on its unit: only sign-like steps stay the same.
    "prodigy": invariant(
        gc.prodigy(1e-2, slice_p=2), gc.second_moment(0.9, bias_correction=False), gc.divide(0.1), LR, units=("eps",),
        inert=STUCK,
    ),
    "prodigy/options": invariant(
        gc.prodigy(1e-2, 0.5, 1.5, 0.8, 3, safeguard_warmup=True, d_limiter=True, slice_p=1),
        gc.second_moment(0.9, bias_correction=False), gc.divide(0.1), LR, units=("eps",), inert=STUCK,
    ),
    "promote": equivariant(gc.promote("fp64"), LR),
    "promote/at_least": equivariant(gc.promote(at_least="fp32"), LR),
    "promote/bf16": equivariant(gc.promote(bf16="fp32"), LR),
    "range_normalize": invariant(
        gc.range_normalize(floor=0.1), gc.divide(), LR, units=("damping", "floor", "eps")
    ),
    "range_normalize/abs": invariant(
        gc.range_normalize("abs_range", 0.5, 0.1), gc.divide(), LR, units=("damping", "floor", "eps"),
        scaling_shapes=((), (1,), (7,), *MATRICES),  # a positive slice of one element has range 0 and passes undivided
    ),
    "multiply": equivariant(gc.multiply(-0.5), LR),
    "rectify": invariant(
        gc.second_moment(0.9, bias_correction=False), gc.rectify(0.9, 0.1), LR,
        scaling_shapes=NO_UNIT,  # five steps take the gradient as it is, and those after them divide it
    ),
    "relative_step": equivariant(gc.relative_step(0.5)),
    "row_column_moment": invariant(gc.row_column_moment(-0.6), gc.divide(0.1), LR, units=("eps",)),
    "row_column_moment/constant": invariant(
        gc.row_column_moment(eps=1e-12, constant=True, beta=0.9, floor=False), gc.atan2_scale(), LR
    ),
    "row_second_moment": invariant(
        gc.partition({"tensor": [gc.row_second_moment(0.9), gc.divide(0.1)], "scalar": []}, tensor_or_scalar), LR,
        units=("eps",), scaling_shapes=tuple(SHAPES[1:]),
    ),
    "scale_by_learning_rate": equivariant(LR),
    "scale_by_param_rms": invariant(gc.sign(), gc.scale_by_param_rms(0.3), LR),
    "scale_by_low_rank": invariant(
        of_matrices(
            gc.low_rank(2, 2, "gaussian"), gc.first_moment(0.8), gc.second_moment(0.9), gc.divide(0.1),
            gc.scale_by_low_rank(),
        ),
        LR, units=("eps",),
    ),
    "scale_by_low_rank/tensor": invariant(
        of_matrices(gc.low_rank(2, 2), gc.second_moment(0.9), gc.atan2_scale(), gc.scale_by_low_rank("tensor")), LR,
        scaling_shapes=NO_UNIT,
    ),
    "scale_by_shape": equivariant(gc.scale_by_shape("unit"), LR),
    "scale_by_shape/rms": equivariant(gc.scale_by_shape("rms"), LR),
    "scale_update": invariant(
        gc.scale_update(), LR, inert=NO_BLOCKS,
        scaling_shapes=((), (1,), (7,), (8, 16), (2, 4, 3)),  # those whose directions are above the floor
    ),
    "scale_update/momentum": invariant(
        gc.first_moment(0.8), gc.sign(), gc.scale_update(vectors="rms", blocks="rms", seed=1), LR, inert=NO_BLOCKS
    ),
    "scale_update/one_sided": invariant(
        gc.scale_update(vectors="l2", blocks="l2", power="one_sided"), LR, inert=NO_BLOCKS
    ),
    "schedule_free": equivariant(gc.decoupled_decay(0.1), LR, gc.schedule_free(0.7, 2, 1.0)),
    "shampoo": invariant(of_matrices(gc.shampoo(0.8, 1e-12, 2)), LR, scaling_shapes=NO_UNIT),
    "shampoo/ungrafted": equivariant(
        of_matrices(gc.first_moment(0.8), gc.shampoo(0.8, 0.3, 1, exponent=0.5, graft=False)), LR, scaling_shapes=NO_UNIT
    ),
    "soap": invariant(of_matrices(gc.soap(0.8, 0.9, 0.7, 0.1, every=2)), LR, units=("eps",)),
    "soap/one_side": invariant(
        of_matrices(gc.soap(0.8, 0.9, eps=0.1, every=3, largest=8, storage="fp32", spread=True)), LR, units=("eps",)
    ),
    "second_moment": invariant(gc.second_moment(0.9), gc.divide(0.1), LR, units=("eps",)),
    "second_moment/raw": invariant(
        gc.second_moment(0.9, bias_correction=False, storage="fp32"), gc.divide(0.1), LR, units=("eps",)
    ),
    "first_moment/fp16": equivariant(gc.first_moment(0.8, storage="fp16"), LR),
    "second_moment/int8": invariant(gc.second_moment(0.9, storage="int8"), gc.divide(0.1), LR, units=("eps",)),
    "second_moment/factored": invariant(gc.second_moment(0.9, storage="factored"), gc.divide(0.1), LR, units=("eps",)),
    "second_moment/bf16": invariant(gc.second_moment(0.9, storage="bf16"), gc.divide(0.1), LR, units=("eps",)),
    "second_moment/amsgrad": invariant(gc.second_moment(0.9, amsgrad=True), gc.divide(0.1), LR, units=("eps",)),
    "sign": invariant(gc.sign(), LR),
    "sinkhorn": invariant(
        gc.sinkhorn(2), LR, scaling_shapes=((), (1,), (7,), (8, 16))  # where all lines are above the floors
    ),
    "sinkhorn/orthogonal": invariant(gc.sinkhorn(1, orthogonal=True, relative_floor=True, rows_first=True), LR),
    "snr_precondition": invariant(
        gc.sign(), gc.first_moment(0.8, bias_correction=False), gc.snr_precondition(), LR
    ),
    "spectral_decay": equivariant(gc.spectral_decay(0.2), LR),
    "spectral_decay/restart": equivariant(gc.spectral_decay(0.2, restart=True, precision="compute", clamp=0.02), LR),
    "step_clip": invariant(gc.adopt(0.9), gc.divide(0.1), gc.step_clip(), LR, units=("eps",)),
    "stochastic_round": equivariant(gc.promote("fp32"), LR, gc.stochastic_round()),
    "stochastic_sign": invariant(gc.stochastic_sign(), LR),
    "track_first_moment": equivariant(
        gc.track_first_moment(), LR, inert={"betas": "a detector without a reader"}, silent=DETECTOR
    ),
    "trust_ratio": invariant(gc.trust_ratio(0.5, 0.01, max_weight_norm=2.0), LR, units=("trust_eps",)),
    "trust_ratio/separate": invariant(
        gc.add_decayed_weights(0.1), gc.trust_ratio(
            0.02, 0.1, 0.5, norms="separate", over_lr=True, always=False
        ).rename(decay="weight_decay"), LR, scaling_shapes=NO_UNIT,
    ),
}  # fmt: skip


def recipe(
    name: str,
    scaling: Literal["equivariant", "invariant"],
    units: tuple[str, ...] = (),
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    silent: Mapping[str, str] | None = None,
    inert: Mapping[str, str] | None = None,
    **options: object,
) -> Case:
    chain = gc.recipe(name, **{"lr": 0.05, **options})
    return Case(chain, scaling, units, tuple(shapes), silent=silent or {}, inert=inert or {})


# The name up to ":" is the recipe.
RECIPES: dict[str, Case] = {
    "rose": recipe("rose", "invariant", ("eps",), MATRICES),
    "rose:plain": recipe(
        "rose", "invariant", ("eps",), MATRICES, {"promote": "it has no dtype"},
        centralize=False, stabilize=False, bf16_sr=False, compute_dtype=None,
    ),
    "rose:native": recipe("rose", "invariant", ("eps",), MATRICES, compute_dtype=None, weight_decay=None),
    "rose:schedule": recipe("rose", "invariant", ("eps",), MATRICES, wd_schedule=0.02, weight_decay=0.3),
    "rose-1.0.2": recipe("rose-1.0.2", "invariant", ("eps",), MATRICES),
    "rose-1.0.2:plain": recipe("rose-1.0.2", "invariant", ("eps",), MATRICES, centralize=False, stabilize=False),
    "rose-1.0.2:singletons": recipe("rose-1.0.2", "invariant", ("eps",), MATRICES, skip_singletons=True),
    "gyro-adam": recipe("gyro-adam", "invariant", ("eps",), betas=(0.8, 0.6), weight_decay=0.1),
    "gyro-adam:now": recipe("gyro-adam", "invariant", ("eps",), theta_base=0.1, proj_factor=0.7, warmup_steps=0),
    "gyro-sgd": recipe("gyro-sgd", "equivariant", ("eps",), momentum=0.6),
    "gyro-sgd:now": recipe("gyro-sgd", "equivariant", ("eps",), proj_factor=0.5, warmup_steps=0),
    "adams": recipe("adams", "invariant"),
    "adams:departures": recipe(
        "adams", "invariant", hat_inside=True, independent_vector_decay=True, restart=True,
        spectral_precision="compute", weight_decay=0.3,
    ),
    "adams:fp64": recipe("adams", "invariant", master_dtype="fp64"),
    "adamw": recipe("adamw", "invariant", ("eps",)),
    "adamw:betas": recipe("adamw", "invariant", ("eps",), betas=(0.5, 0.9), eps=1e-3, weight_decay=0.3),
    "sgd": recipe("sgd", "equivariant", ("weight_decay",)),
    "sgd:nesterov": recipe(
        "sgd", "equivariant", ("weight_decay",), momentum=0.9, weight_decay=0.1, nesterov=True
    ),
    "sgd:dampening": recipe("sgd", "equivariant", ("weight_decay",), momentum=0.5, dampening=0.3),
    "lion": recipe("lion", "invariant", weight_decay=0.1),
    "muon": recipe(
        "muon", "invariant", ("adam_eps",), (), momentum=0.8, weight_decay=0.3,
        adjust_lr_fn="match_rms_adamw", adam_lr_ratio=0.5,  # bfloat16 rounds scaled matrices otherwise
    ),
    "normuon": recipe("normuon", "invariant", ("adam_eps",), NO_UNIT),
    "scion": recipe("scion", "invariant", (), NO_UNIT, hidden_radius=2.0,
        other_radius=3.0),
    "soap": recipe("soap", "invariant", ("eps",), NO_UNIT, precondition_frequency=2, eps=1e-3),
    "shampoo": recipe("shampoo", "invariant", ("eps",), NO_UNIT, precondition_frequency=2),
    "galore-adamw": recipe(
        "galore-adamw", "invariant", ("eps",), NO_UNIT, betas=(0.5, 0.9), rank=2, update_proj_gap=2, weight_decay=0.1
    ),
    "apollo": recipe("apollo", "invariant", ("eps",), NO_UNIT, rank=2, update_proj_gap=2, scale=4.0),
    "apollo:mini": recipe(
        "apollo", "invariant", ("eps",), NO_UNIT, rank=1, update_proj_gap=3, scale=4.0, proj="svd", scale_type="tensor",
        disable_nl=True, weight_decay=0.1,
    ),
    "adam-atan2": recipe("adam-atan2", "invariant"),
    "schedule-free-adamw": recipe("schedule-free-adamw", "invariant", ("eps",), weight_decay=0.1, warmup_steps=2),
    "schedule-free-sgd": recipe("schedule-free-sgd", "equivariant", weight_decay=0.1, warmup_steps=2, r=1.0),
    "radam": recipe("radam", "invariant", (), NO_UNIT),
    "radam:decoupled": recipe(
        "radam", "invariant", (), NO_UNIT, betas=(0.8, 0.9), weight_decay=0.1, decoupled_weight_decay=True
    ),
    "mars-adamw": recipe("mars-adamw", "invariant", (), NO_UNIT, betas=(0.8, 0.9), weight_decay=0.1),
    "adabelief": recipe("adabelief", "invariant", (), NO_UNIT, eps=1e-4),
    "laprop": recipe("laprop", "invariant", ("eps",), weight_decay=0.1),
    "sophia": recipe(
        "sophia", "invariant", ("eps",), eps=0.3, inert=WITHOUT_HESSIAN,
        silent={"clip_by_value": "no quotient is above the bound"},
    ),
    "stable-adamw": recipe("stable-adamw", "invariant", ("eps",), betas=(0.8, 0.5)),
    "nadam": recipe("nadam", "invariant", ("eps", "weight_decay")),
    "nadam:decoupled": recipe(
        "nadam", "invariant", ("eps",), momentum_decay=0.5, weight_decay=0.1, decoupled_weight_decay=True
    ),
    "adafactor": recipe("adafactor", "invariant", ("divide_eps",), eps=(1e-30, 1e-3), weight_decay=0.1),
    "adafactor:floor": recipe("adafactor", "invariant", ("divide_eps",)),
    "adafactor:all": recipe(
        "adafactor", "invariant", ("divide_eps",), NO_UNIT, beta2_decay=-0.5, eps=(0.1, 0.5), d=0.5, weight_decay=0.1
    ),
    "adam-mini": recipe("adam-mini", "invariant", ("eps",), betas=(0.8, 0.9), weight_decay=0.1),
    "came": recipe("came", "invariant", ("divide_eps",), NO_UNIT, eps=(1e-12, 1e-8), weight_decay=0.1),
    "hyperball": recipe("hyperball", "invariant", ("eps",), adam_lr_ratio=0.5),
    "lamb": recipe("lamb", "invariant", ("eps",)),
    "lamb:bounded": recipe(
        "lamb", "invariant", ("eps", "max_grad_norm"), max_grad_norm=1.0, bias_correction=False, trust_clip=True,
        always_adapt=True,
    ),
    "lars": recipe("lars", "invariant", ("eps", "weight_decay"), weight_decay=0.1),
    "lars:momentum": recipe(
        "lars", "invariant", ("eps",), NO_UNIT, momentum=0.9, dampening=0.1, trust_coeff=0.1, trust_clip=True,
        always_adapt=True,
    ),
    "adv-adamw": recipe("adv-adamw", "invariant", ("eps",)),
    "adv-adamw:all": recipe(
        "adv-adamw", "invariant", ("eps",), NO_UNIT, betas=(0.8, 0.9), nesterov=True, cautious=True, ademamix=True,
        t_alpha=3.0, beta3_ema=0.9, orthogonal_gradient="iterative", kourkoutas_beta=True, beta2_min=0.3, fisher_wd=True,
        cautious_wd=True, weight_decay=0.1, centered_wd=0.3, state_precision="factored",
    ),
    "adv-adamw:normed": recipe("adv-adamw", "invariant", normed_momentum=True, use_atan2=True, grams=True),
    "adv-adamw:scaled": recipe(
        "adv-adamw", "invariant", (), NO_UNIT, inert={"oft_scale_factor": "it is for the role oft"}, eps=None,
        spectral_normalization=True,
    ),
    "adv-adopt": recipe("adv-adopt", "invariant", ("eps",), betas=(0.8, 0.9)),
    "adv-adopt:all": recipe(
        "adv-adopt", "invariant", ("eps",), NO_UNIT, clip_lambda=0.1, betas=(0.8, 0.9), nesterov=True,
        nesterov_coef=0.3, grams=True,
        orthogonal_gradient="per_rank", kourkoutas_beta=True, beta2_min=0.3, fisher_wd=True, weight_decay=0.1,
        factored_2nd=True, inert={"tiny_spike": "1e-9 is lost in float32 factors"},
    ),
    "adv-prodigy": recipe("adv-prodigy", "invariant", ("eps",), inert=STUCK, d0=0.1),
    "adv-prodigy:all": recipe(
        "adv-prodigy", "invariant", ("eps",), NO_UNIT, inert=STUCK, d0=0.1, beta3=0.5, d_coef=2.0,
        growth_rate=1.5, safeguard_warmup=True,
        slice_p=2, prodigy_steps=3, d_limiter=True, nesterov=True, fisher_wd=True, weight_decay=0.1,
    ),
    "adv-lion": recipe("adv-lion", "invariant", weight_decay=0.1),
    "adv-lion:round": recipe("adv-lion", "invariant", kappa_p=2.0, weight_decay=0.1, cautious_wd=True),
    "adv-lion:frozen": recipe("adv-lion", "invariant", freeze_on_flip=True, nnmf_factor=True, auto_kappa_p=True),
    "adv-lion-prodigy": recipe("adv-lion-prodigy", "invariant", inert=STUCK, d0=0.1, slice_p=1),
    "adv-muon": recipe("adv-muon", "invariant", ("adam_eps",), NO_UNIT, weight_decay=0.1),
    "adv-muon:rows": recipe(
        "adv-muon", "invariant", (), NO_UNIT, silent=WIDE, ns_precision="fp32", accelerated_ns=True, normuon_variant=True,
        rms_rescaling=False, approx_mars=True, weight_decay=0.3, cautious_wd=True, adam_weight_decay=0.2,
        adam_use_atan2=True, adam_nesterov=True, nnmf_factor=True,
    ),
    "adv-adamuon": recipe("adv-adamuon", "invariant", ("adam_eps",), NO_UNIT, ns_precision="fp32"),
    "adv-adamuon:power": recipe(
        "adv-adamuon", "invariant", ("adam_eps",), NO_UNIT, silent=WIDE, ns_precision="fp32",
        auto_projection=False, kappa_p=1.5,
        use_atan2=True, rms_rescaling=False, factored_2nd=True, weight_decay=0.1,
    ),
    "adv-signsgd": recipe("adv-signsgd", "invariant", weight_decay=0.1),
    "adv-signsgd:snr": recipe(
        "adv-signsgd", "invariant", normed_momentum=True, snr_cond=True, geometric_wd=True, weight_decay=0.1,
        centered_wd=0.5, centered_wd_mode="full", nesterov=True,
    ),
    "sinkgd": recipe("sinkgd", "invariant", iterations=1),
    "sinkgd:default": recipe("sinkgd", "invariant"),
    "adv-sinksgd": recipe("adv-sinksgd", "invariant", (), ((), (7,), (8, 16)), weight_decay=0.1),
    "adv-sinksgd:snr": recipe(
        "adv-sinksgd", "invariant", (), ((), (7,), (8, 16)), momentum=0.8, normed_momentum=True, snr_cond=True,
        geometric_wd=True, weight_decay=0.1, centered_wd=0.5, centered_wd_mode="full", nesterov=True,
    ),
    "adv-sinksgd:orthogonal": recipe(
        "adv-sinksgd", "invariant", (), NO_UNIT, momentum=0.8, orthogonal_sinkhorn=True, sinkhorn_iterations=2,
        nesterov=True, nesterov_coef=0.3, orthogonal_gradient="iterative", cautious_wd=True, weight_decay=0.1,
        nnmf_factor=True,
    ),
    "adv-adopt-factored": recipe("adv-adopt-factored", "invariant"),
    "adv-adopt-factored-ademamix": recipe("adv-adopt-factored-ademamix", "invariant"),
    "adv-prodigy-factored": recipe(
        "adv-prodigy-factored", "invariant", inert={"growth_rate": "d hardly grows"}, lr=100.0  # times d = 1e-6
    ),
    "adv-adamw-orthograd": recipe("adv-adamw-orthograd", "invariant", ("eps",)),
    "adv-adamw-scaled": recipe(
        "adv-adamw-scaled", "invariant", (), NO_UNIT, inert={"oft_scale_factor": "it is for the role oft"}
    ),
}  # fmt: skip

CASES: dict[str, Case] = {**TRANSFORMS, **RECIPES}


def covering(cases: Mapping[str, Case]) -> list[str]:
    """The first cases that between them have every stage that any of them has."""
    seen: set[type] = set()
    chosen: list[str] = []
    for name, case in cases.items():
        kinds = {type(stage) for _, stage in case.chain.addressed}
        if not kinds <= seen:
            chosen.append(name)
            seen |= kinds
    return chosen


STORED = (
    "first_moment/int8",
    "first_moment/bf16",
    "first_moment/factored",
    "second_moment/int8",
    "second_moment/factored",
)
"""Cases of storages."""
COVERING = covering(
    {name: RECIPES[name] for name in ("rose", "gyro-adam", "adams", "adv-adamw:all", "adv-lion", "muon")}
)
FAST = [*covering(TRANSFORMS), *STORED, *COVERING]
"""Cases that suffice where a law holds of a chain if it holds of its stages; `make check` has the others."""


def selected(names: Iterable[str], fast: Iterable[str] = FAST) -> list[Any]:
    """Names to parametrize a test with: those that are not fast are slow."""
    quick = {*fast}
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]
