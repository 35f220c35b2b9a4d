"""The registry: every transform in the smallest chain that holds it, every recipe with a few options.

A law is a test over `CASES`. A new transform or recipe needs a case here, and gets all the laws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import gradchain as gc
from gradchain import Chain, chain

SHAPES = [(), (1,), (7,), (1, 1), (5, 1), (1, 6), (8, 16), (4, 3, 3, 3), (2, 6, 10), (2, 3, 4, 5)]
MATRICES = [(1, 6), (8, 16), (4, 3, 3, 3), (2, 6, 10), (2, 3, 4, 5)]
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


LR = gc.scale_by_learning_rate(0.05)
PROJECT = gc.momentum_project(0.05, 0.9, 0)
GIVEN = {"horizon": "it sets the default of warmup_steps, which is given"}
DETECTOR = {"track_first_moment": "it only keeps state for other stages"}

# The name up to "/" is the transform that the case is for.
TRANSFORMS: dict[str, Case] = {
    "add_decayed_weights": equivariant(gc.add_decayed_weights(0.1), LR, units=("weight_decay",)),
    "atan2_scale": invariant(gc.second_moment(0.9), gc.atan2_scale(1.2, 0.8), LR),
    "atan2_scale/range": invariant(
        gc.range_normalize(floor=0.1), gc.atan2_scale(), LR, units=("damping", "floor")
    ),
    "centralize": equivariant(gc.centralize(), LR),
    "centralize/singletons": equivariant(gc.centralize(skip_singletons=False), LR),
    "clip_by_global_norm": equivariant(gc.clip_by_global_norm(2.0), LR, units=("max_norm",)),
    "clip_by_norm": equivariant(gc.clip_by_norm(0.5), LR, units=("max_norm",)),
    "clip_by_value": equivariant(gc.clip_by_value(0.3), LR, units=("max_value",)),
    "cv_trust_gate": invariant(
        gc.range_normalize(floor=0.1), gc.cv_trust_gate(), gc.divide(), LR, units=("damping", "floor", "eps")
    ),
    "debias": equivariant(gc.first_moment(0.8, bias_correction=False), gc.debias(0.8), LR),
    "decoupled_decay": equivariant(gc.decoupled_decay(0.1), LR),
    "decoupled_decay/schedule": equivariant(
        gc.decoupled_decay(0.5, schedule=True, reference_lr=0.1, clamp=True), LR
    ),
    "decoupled_decay/gate": equivariant(
        gc.decoupled_decay(0.1).expose(gate="max_norm"), gc.clip_by_norm(0.5), LR, units=("max_norm",)
    ),
    "divide": invariant(gc.second_moment(0.9), gc.divide(0.1), LR, units=("eps",)),
    "first_moment": equivariant(gc.first_moment(0.8), LR),
    "first_moment/raw": equivariant(gc.first_moment(0.8, bias_correction=False), LR),
    "first_moment/fp32": equivariant(gc.first_moment(0.8, storage="fp32"), LR),
    "first_moment/bf16": equivariant(gc.first_moment(0.8, storage="bf16"), LR),
    "heavy_ball": equivariant(gc.heavy_ball(0.8, 0.1), LR),
    "heavy_ball/nesterov": equivariant(gc.heavy_ball(0.8, 0.1, nesterov=True), LR),
    "lion_interpolate": equivariant(gc.lion_interpolate(), LR),
    "master_weights": equivariant(gc.master_weights(), LR),
    "momentum_project": equivariant(
        PROJECT, gc.track_first_moment(0.8), LR, units=("eps",), inert=GIVEN
    ),
    "momentum_project/first_moment": equivariant(PROJECT, gc.first_moment(0.8), LR, units=("eps",), inert=GIVEN),
    "momentum_project/horizon": equivariant(
        gc.momentum_project(horizon=0.6), gc.track_first_moment(0.8), LR, units=("eps",)
    ),
    "orthograd": equivariant(gc.orthograd(), LR),
    "promote": equivariant(gc.promote("fp64"), LR),
    "promote/bf16": equivariant(gc.promote(bf16="fp32"), LR),
    "range_normalize": invariant(
        gc.range_normalize(floor=0.1), gc.divide(), LR, units=("damping", "floor", "eps")
    ),
    "range_normalize/abs": invariant(
        gc.range_normalize("abs_range", 0.5, 0.1), gc.divide(), LR, units=("damping", "floor", "eps"),
        scaling_shapes=((), (1,), (7,), *MATRICES),  # a positive slice of one element has range 0 and passes undivided
    ),
    "scale_by_learning_rate": equivariant(LR),
    "second_moment": invariant(gc.second_moment(0.9), gc.divide(0.1), LR, units=("eps",)),
    "second_moment/raw": invariant(
        gc.second_moment(0.9, bias_correction=False, storage="fp32"), gc.divide(0.1), LR, units=("eps",)
    ),
    "second_moment/bf16": invariant(gc.second_moment(0.9, storage="bf16"), gc.divide(0.1), LR, units=("eps",)),
    "sign": invariant(gc.sign(), LR),
    "spectral_decay": equivariant(gc.spectral_decay(0.2), LR),
    "spectral_decay/restart": equivariant(gc.spectral_decay(0.2, restart=True, precision="compute", clamp=0.02), LR),
    "stochastic_round": equivariant(gc.promote("fp32"), LR, gc.stochastic_round()),
    "track_first_moment": equivariant(
        gc.track_first_moment(), LR, inert={"betas": "a detector without a reader"}, silent=DETECTOR
    ),
}  # fmt: skip


def recipe(
    name: str,
    scaling: Literal["equivariant", "invariant"],
    units: tuple[str, ...] = (),
    shapes: list[tuple[int, ...]] = SHAPES,
    silent: Mapping[str, str] | None = None,
    **options: object,
) -> Case:
    return Case(gc.recipe(name, lr=0.05, **options), scaling, units, tuple(shapes), silent=silent or {})


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
    "adam-atan2": recipe("adam-atan2", "invariant"),
}  # fmt: skip

CASES: dict[str, Case] = {**TRANSFORMS, **RECIPES}
