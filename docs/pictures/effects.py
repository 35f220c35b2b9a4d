"""What each picture of the gallery shows: two chains, one with the transform, on the same 2-D problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import gradchain as g
from gradchain import Stage

Points = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Effect:
    """Two chains of stages on one problem, and a sentence that says what to see."""

    without: Sequence[Any]
    with_it: Sequence[Any]
    says: str
    noise: float = 0.0
    spike: int | None = None
    """The step whose gradient is ten times as large."""
    start: Points = ((-1.6, 1.0),)
    """Rows of the parameter; each is a point of the plane."""
    steps: int = 24
    curve: tuple[float, float] = (1.0, 6.0)
    """The curvatures of the bowl."""
    dtype: torch.dtype = torch.float32
    evaluated: bool = False
    """Whether the path is that of the points where the parameter is seen, and not where it is trained."""
    hessian: bool = False
    """Whether the curvatures are given to the chain, for its stage that divides by them."""


TWO = ((-1.6, 1.0), (-0.2, -0.9))


def lr(rate: float) -> Stage:
    return g.scale_by_learning_rate(rate)


def adam(*more: Stage, rate: float = 0.12) -> list[Stage]:
    return [g.first_moment(0.8), g.second_moment(0.9), *more, g.divide(1e-8), lr(rate)]


NORMED = [g.range_normalize(), g.divide(), lr(0.15)]
AVERAGE = g.first_moment(0.7, bias_correction=False)

EFFECTS: dict[str, Effect] = {
    "centralize": Effect(
        [lr(0.1)], [g.centralize(), lr(0.1)],
        "Moves along one diagonal: what the entries of a row have in common is dropped.",
    ),
    "range_normalize": Effect(
        [lr(0.02)], [g.range_normalize(), g.divide(), lr(0.15)],
        "Steps keep their size however flat the slope is.", curve=(1.0, 3.0),
    ),
    "cv_trust_gate": Effect(
        NORMED, [g.range_normalize(), g.cv_trust_gate(), g.divide(), lr(0.15)],
        "Two rows with different ranges: the steep one steps further, the flat one less far.",
        start=((-1.6, 1.2), (-0.5, -0.2)), steps=9,
    ),
    "schedule_free": Effect(
        [lr(0.1)], [lr(0.1), g.schedule_free(0.8)],
        "Where the parameter is seen: noise is averaged away, without a schedule that ends.", noise=3.0, steps=40,
        evaluated=True,
    ),
    "average_weights": Effect(
        [lr(0.1)], [lr(0.1), g.average_weights(0.8)],
        "Where the parameter is seen: an average of the grey points.", noise=3.0, steps=40, evaluated=True,
    ),
    "lookahead": Effect(
        [lr(0.3)], [lr(0.3), g.lookahead(5, 0.5)],
        "After every fifth step it goes back half of the way to where it was five steps before.", steps=20,
    ),
    "sam": Effect(
        [lr(0.1)], [g.sam(0.6), lr(0.1)],
        "Takes the gradient a little further up: longer steps across the steep axis, and no rest at the minimum.",
    ),
    "first_moment": Effect([lr(0.15)], [g.first_moment(0.85), lr(0.15)], "Averages noise away.", noise=2.5),
    "track_first_moment": Effect(
        [lr(0.1)], [g.track_first_moment(), lr(0.1)],
        "Changes no step: it keeps an average that other stages read.",
    ),
    "second_moment": Effect(
        [lr(0.05)], [g.second_moment(0.9), g.divide(1e-8), lr(0.12)],
        "Both axes move at the same pace, however unlike their slopes.", curve=(0.4, 8.0), steps=16,
    ),
    "as_gradient": Effect(
        [g.first_moment(0.8), g.sign(), g.second_moment(0.9), g.divide(1e-8), lr(0.12)],
        [g.first_moment(0.8), g.sign(), g.as_gradient(), g.second_moment(0.9), g.divide(1e-8), lr(0.12)],
        "Signs are divided by the size of signs, which is 1, and no longer by that of the gradient.",
    ),
    "debias": Effect(
        [g.first_moment(0.9, bias_correction=False), lr(0.1)],
        [g.first_moment(0.9, bias_correction=False), g.debias(0.9), lr(0.1)],
        "The first steps have their full length.", steps=6,
    ),
    "factored_moment": Effect(
        adam(), [g.factored_moment(0.8, 0.9), g.divide(1e-8), lr(0.12)],
        "Two rows: nearly the path of both dense moments, from sums of rows and columns.", start=TWO,
    ),
    "adopt": Effect(
        [g.second_moment(0.9), g.divide(1e-8), lr(0.12)], [g.adopt(0.9, skip_first=False), g.divide(1e-8), lr(0.12)],
        "A gradient ten times as large is not yet in its own divisor, so its step is long.", spike=6, steps=9,
    ),
    "step_clip": Effect(
        [g.adopt(0.9, skip_first=False), g.divide(1e-8), lr(0.12)],
        [g.adopt(0.9, skip_first=False), g.divide(1e-8), g.step_clip(0.25), lr(0.12)],
        "The long step after ADOPT's divisor is bounded.", spike=6, steps=9,
    ),
    "kourkoutas_beta": Effect(
        [g.second_moment(0.99, bias_correction=False), g.divide(1e-8), lr(0.02)],
        [g.kourkoutas_beta(beta2_min=0.5), g.second_moment(0.99, bias_correction=False), g.divide(1e-8), lr(0.02)],
        "Where gradients jump, the divisor averages over fewer steps.", spike=6, steps=20,
    ),
    "belief_moment": Effect(
        adam(rate=0.05), [g.first_moment(0.8), g.belief_moment(0.9), g.divide(1e-16), lr(0.05)],
        "Steps grow while the gradient is what the momentum expects.", curve=(0.5, 3.0), steps=14,
    ),
    "mars": Effect(
        [g.first_moment(0.8), lr(0.2)], [g.mars(0.15, 0.8), g.first_moment(0.8), lr(0.2)],
        "Looks at how the gradient changes, and swings less.", curve=(1.0, 5.0),
    ),
    "heavy_ball": Effect(
        [lr(0.03)], [g.heavy_ball(0.8), lr(0.03)], "Gains speed downhill, and overshoots.", curve=(1.0, 4.0),
    ),
    "lion_interpolate": Effect(
        [g.sign(), lr(0.1)], [g.lion_interpolate(0.8, 0.9), g.sign(), lr(0.1)],
        "Signs of an average turn later than signs of the gradient, and not for noise.", noise=2.5,
    ),
    "ademamix": Effect(
        [g.first_moment(0.8), lr(0.08)], [g.first_moment(0.8), g.ademamix(beta3=0.97, alpha=3.0), lr(0.08)],
        "A second, slow momentum adds to the first.", curve=(0.5, 4.0),
    ),
    "nadam_momentum": Effect(
        [g.first_moment(0.8), lr(0.2)], [g.nadam_momentum(0.8), lr(0.2)],
        "Half of the momentum at first, and a look ahead: it turns sooner.", curve=(1.0, 5.0),
    ),
    "nesterov": Effect(
        [AVERAGE, lr(0.35)], [AVERAGE, g.nesterov(), lr(0.35)], "Looks a step ahead, and swings less.", curve=(1.0, 5.0),
    ),
    "grams": Effect(
        [AVERAGE, lr(0.45)], [AVERAGE, g.grams(), lr(0.45)],
        "The size is that of the momentum, the sign that of the gradient.", curve=(1.0, 5.0),
    ),
    "cautious": Effect(
        [AVERAGE, lr(0.45)], [AVERAGE, g.cautious(), lr(0.45)],
        "Elements of the momentum that oppose the gradient are left out.", curve=(1.0, 5.0),
    ),
    "sign": Effect([lr(0.1)], [g.sign(), lr(0.1)], "Each element moves by the same amount."),
    "multiply": Effect([lr(0.1)], [g.multiply(0.5), lr(0.1)], "Half the step, with a factor of 0.5.", steps=10),
    "scale_by_learning_rate": Effect(
        [lr(0.02)], [lr(0.1)], "A rate of 0.02, and of 0.1.", steps=12,
    ),
    "lion_k": Effect(
        [g.lion_k(1.0), lr(0.1)], [g.lion_k(2.0), lr(0.1)],
        "Signs for κ = 1; for κ = 2 steps of the same length in any direction.",
    ),
    "stochastic_sign": Effect(
        [g.sign(), lr(0.06)], [g.stochastic_sign(), lr(0.06)],
        "Two rows: signs are drawn at random, and right on average.", steps=30, start=TWO,
    ),
    "freeze_on_flip": Effect(
        [g.sign(), lr(0.3)], [g.freeze_on_flip(), g.sign(), lr(0.3)],
        "An element whose sign has just changed waits.", start=((-1.7, 0.8),),
    ),
    "projected_adaptivity": Effect(
        [g.sign(), lr(0.12)], [g.projected_adaptivity("mean"), lr(0.12)],
        "Signs, but of the average size of the gradient: steps shrink near the end.", curve=(1.0, 2.0),
    ),
    "sinkhorn": Effect(
        [lr(0.08)], [g.sinkhorn(), lr(0.12)],
        "Two rows as one matrix: rows and columns step by the same length, however unlike their slopes.",
        start=TWO, steps=14, curve=(0.5, 8.0),
    ),
    "snr_precondition": Effect(
        [g.sign(), AVERAGE, lr(0.08)], [g.sign(), AVERAGE, g.snr_precondition(), lr(0.08)],
        "Elements whose signs agree step further than those whose signs change.", noise=2.0,
    ),
    "momentum_project": Effect(
        [g.first_moment(0.8), lr(0.2)], [g.momentum_project(warmup_steps=0), g.first_moment(0.8), lr(0.2)],
        "A gradient that opposes the momentum is turned aside, at its full length.", curve=(1.0, 4.0), steps=14,
    ),
    "orthograd": Effect(
        [lr(0.03)], [g.orthograd(), lr(0.03)],
        "Only the part across the weights is left: the point goes round the origin.", start=((-0.6, 1.2),), steps=30,
    ),
    "divide": Effect(
        [g.second_moment(0.9), g.divide(1e-8), lr(0.12)], [g.second_moment(0.9), g.divide(1.0), lr(0.12)],
        "Resolves a scale. A large ε, here 1, damps steps where gradients are small.",
    ),
    "atan2_scale": Effect(
        [g.adopt(0.9, skip_first=False), g.divide(1e-8), lr(0.12)],
        [g.adopt(0.9, skip_first=False), g.atan2_scale(), lr(0.12)],
        "Resolves a scale by an arctangent: no step exceeds a bound.", spike=6, steps=9,
    ),
    "rectify": Effect(
        adam(), [g.first_moment(0.8), g.second_moment(0.9, bias_correction=False), g.rectify(0.9), lr(0.12)],
        "Plain momentum for five steps, and divided ones after them.", curve=(0.4, 2.0), steps=20,
    ),
    "divide_by_hessian": Effect(
        [lr(0.1)], [g.divide_by_hessian(1.0, beta=0.0), lr(0.15)],
        "Divided by the curvatures of the bowl, every step points at the minimum.", hessian=True, steps=16,
    ),
    "scale_update": Effect(
        [lr(0.08)], [g.scale_update(), lr(0.25)],
        "Every update has the same spectral norm, whatever the gradient's.", start=TWO, steps=8,
    ),
    "row_column_moment": Effect(
        adam(), [g.first_moment(0.8), g.row_column_moment(), g.divide(1e-8), lr(0.12)],
        "Two rows as one matrix: nearly the path of a dense second moment, from a number for each row and column.",
        start=TWO,
    ),
    "confidence": Effect(
        [AVERAGE, lr(0.35)], [AVERAGE, g.confidence(0.9, 0.01), g.divide(), lr(0.12)],
        "Two rows: steps are shorter while gradients differ from their average, and longer once they agree.", start=TWO,
        noise=1.0,
    ),
    "block_second_moment": Effect(
        adam(), [g.first_moment(0.8), g.block_second_moment(0.9), g.divide(1e-8), lr(0.12)],
        "One divisor for both axes: the direction is that of the momentum, the pace is Adam's.", start=TWO,
    ),
    "clip_by_rms": Effect(
        [lr(0.06)], [g.clip_by_rms(1.4), lr(0.06)],
        "A direction whose elements are too large on average is shortened, each tensor by itself.", spike=4, steps=12,
        curve=(1.0, 3.0),
    ),
    "scale_by_param_rms": Effect(
        [g.sign(), lr(0.12)], [g.sign(), g.scale_by_param_rms(), lr(0.12)],
        "Steps shrink as the point nears the origin, where its weights are small.", start=((-1.6, 1.4),), steps=16,
    ),
    "relative_step": Effect(
        [g.sign(), lr(0.4)], [g.sign(), g.relative_step(0.4)],
        "From the seventh step on, steps shrink with the root of their number.", steps=24,
    ),
    "trust_ratio": Effect(
        [lr(0.06)], [g.trust_ratio(), lr(0.25)],
        "Steps are in proportion to the distance from the origin, however steep the slope is.",
        steps=9, curve=(1.0, 3.0),
    ),
    "prodigy": Effect(
        adam(rate=0.004),
        [g.prodigy(d0=0.004, slice_p=1), *adam(rate=1.0)],
        "Starts with the same tiny rate, and finds a larger one.", steps=60,
    ),
    "decoupled_decay": Effect(
        [lr(0.08)], [lr(0.08), g.decoupled_decay(1.0)], "Pulled to the origin beside the step.",
    ),
    "geometric_decay": Effect(
        [lr(0.08), g.decoupled_decay(1.5)], [lr(0.08), g.geometric_decay(1.5)],
        "Elements shrink by one amount, not in proportion.",
    ),
    "centered_decay": Effect(
        [lr(0.08)], [lr(0.08), g.centered_decay(1.0)], "Pulled back to where it began.",
    ),
    "cautious_decay": Effect(
        [lr(0.08), g.decoupled_decay(2.0)], [lr(0.08), g.cautious_decay(), g.decoupled_decay(2.0)],
        "Decays only the elements that the step moves to 0 as well.",
    ),
    "fisher_decay": Effect(
        [*adam()[:-1], lr(0.1), g.decoupled_decay(1.5)],
        [*adam(g.fisher_decay("atan2"))[:-1], lr(0.1), g.decoupled_decay(1.5)],
        "Decays less where gradients are large.",
    ),
    "add_decayed_weights": Effect(
        [*adam()], [g.add_decayed_weights(3.0), *adam()], "Decay as part of the gradient: divided by the scale too.",
    ),
    "spectral_decay": Effect(
        [lr(0.08)], [lr(0.08), g.spectral_decay(1.2)],
        "Two rows as one matrix: only its largest singular value shrinks.", start=TWO,
    ),
    "orthogonalize": Effect(
        [g.scale_update(), lr(0.25)], [g.orthogonalize("svd"), lr(0.1)],
        "Two rows as one matrix: both of its directions step equally far, also the one that the gradient hardly shows.",
        start=TWO, steps=16,
    ),
    "scale_by_shape": Effect(
        [g.orthogonalize("svd"), lr(0.1)], [g.orthogonalize("svd"), g.scale_by_shape("rms"), lr(0.1)],
        "Two rows: the size of a step follows from the shape, here 0.28 of what it was.", start=TWO, steps=16,
    ),
    "normalize_rms": Effect(
        [lr(0.03)], [g.normalize_rms(1.0), lr(0.1)], "Steps keep their length however flat the slope is.", steps=20,
    ),
    "row_second_moment": Effect(
        [lr(0.05)], [g.row_second_moment(0.8), g.divide(1e-8), lr(0.08)],
        "Two rows, each over its own size: both keep their directions, and move at one pace.", start=TWO, steps=16,
    ),
    "soap": Effect(
        adam(), [g.soap(0.8, 0.9, every=1), lr(0.12)],
        "Two rows as one matrix: Adam in a basis that is made of both gradients, after a first step that only looks.",
        start=TWO,
    ),
    "shampoo": Effect(
        [lr(0.06)], [g.shampoo(0.9, every=1, graft=False), lr(0.2)],
        "Two rows as one matrix, divided by the roots of what its rows and its columns share.", start=TWO, steps=16,
    ),
    "low_rank": Effect(
        [lr(0.06)], [g.low_rank(1, every=6), g.full_rank(), lr(0.06)],
        "Two rows as one matrix: steps in the one direction that the gradient of every sixth step shows most.", start=TWO,
    ),
    "full_rank": Effect(
        adam(), [g.low_rank(1, every=4), *adam()[:-1], g.full_rank(), lr(0.12)],
        "Two rows as one matrix: Adam along one singular vector, which is found anew every four steps.", start=TWO,
    ),
    "scale_by_low_rank": Effect(
        adam(), [g.low_rank(1, 4), *adam()[:-1], g.scale_by_low_rank("tensor"), lr(0.12)],
        "Two rows as one matrix: along the gradient, as far as Adam goes along one singular vector.", start=TWO,
    ),
    "limit_norm_growth": Effect(
        [lr(0.06)], [g.limit_norm_growth(1.01), lr(0.06)],
        "A gradient that is ten times as long as the one before is brought to about its length.", spike=4, steps=12,
        curve=(1.0, 3.0),
    ),
    "clip_by_global_norm": Effect(
        [lr(0.06)], [g.clip_by_global_norm(2.0), lr(0.06)],
        "A gradient that is too long is shortened, with those of all other parameters.", spike=4, steps=12, curve=(1.0, 3.0),
    ),
    "clip_by_norm": Effect(
        [lr(0.06)], [g.clip_by_norm(2.0), lr(0.06)], "A gradient that is too long is shortened, each tensor by itself.",
        spike=4, steps=12, curve=(1.0, 3.0),
    ),
    "clip_by_value": Effect(
        [lr(0.06)], [g.clip_by_value(1.5), lr(0.06)], "Each element is bounded, so the direction turns.", steps=16,
        curve=(1.0, 3.0), spike=4,
    ),
    "clip_by_scale": Effect(
        [g.second_moment(0.9), g.divide(1e-8), lr(0.12)],
        [g.second_moment(0.9), g.clip_by_scale(), g.divide(1e-8), lr(0.12)],
        "The step of a gradient ten times as large is shortened to the usual length.", spike=6, steps=9,
    ),
    "clip_weights": Effect(
        [lr(0.1)], [lr(0.1), g.clip_weights(-1.2, 0.2)],
        "Each weight stays between its bounds, here -1.2 and 0.2.",
    ),
    "clip_weight_norm": Effect(
        [lr(0.1)], [lr(0.1), g.clip_weight_norm(max_norm=0.6)],
        "The point is put back onto a disc round the origin at each step.", start=((-1.2, 1.0),),
    ),
    "project_to_sphere": Effect(
        [lr(0.05)], [lr(0.05), g.project_to_sphere()],
        "The point keeps its distance from the origin, and goes round it to the lowest place there.", steps=30,
        start=((-0.7, 1.0),),
    ),
    "promote": Effect(
        [lr(0.004)], [g.promote("fp32"), lr(0.004), g.stochastic_round()],
        "bfloat16 weights, tiny steps: computed in float32 they can be rounded well.", steps=400, dtype=torch.bfloat16,
        curve=(1.0, 1.5),
    ),
    "master_weights": Effect(
        [lr(0.002)], [g.master_weights(), lr(0.002)],
        "bfloat16 weights, tiny steps: a float32 copy adds up what rounding would lose.", steps=600, dtype=torch.bfloat16,
        curve=(1.0, 1.5),
    ),
    "stochastic_round": Effect(
        [g.promote("fp32"), lr(0.002)], [g.promote("fp32"), lr(0.002), g.stochastic_round()],
        "bfloat16 weights, tiny steps: rounded at random, they act on average.", steps=600, dtype=torch.bfloat16,
        curve=(1.0, 1.5),
    ),
}  # fmt: skip
"""One for each transform."""
