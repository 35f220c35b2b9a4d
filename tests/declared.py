"""What gradchain's own cases do, as their stages said before it was found out."""

from __future__ import annotations

import gradchain as gc
from tests.laws.cases import CASES

PROJECTION = ("mean_cos", "projection_rate", "mean_norm_g", "mean_norm_m", "valid_cosines")

ELEMENTWISE = {
    "debias/second_moment",
    "adamw", "adamw:betas", "add_decayed_weights", "ademamix", "ademamix/alone", "ademamix/warmup", "adopt",
    "adam-atan2", "adopt/factored", "adopt/unskipped", "adv-adamw", "adv-adamw:normed", "adv-adopt",
    "adv-adopt-factored", "adv-adopt-factored-ademamix", "atan2_scale", "snr_precondition",
    "adv-lion", "adv-signsgd", "belief_moment", "belief_moment/raw",
    "adabelief", "as_gradient", "average_weights", "laprop", "lookahead", "cautious_decay",
    "centered_decay/float8", "centered_decay/float8_scaled", "centered_decay/full", "centered_decay/int4",
    "centered_decay/int8", "clip_by_value", "clip_weights", "debias", "decoupled_decay", "decoupled_decay/schedule",
    "divide", "divide_by_hessian", "sophia",
    "factored_moment", "factored_moment/raw", "first_moment", "first_moment/bf16", "first_moment/factored",
    "first_moment/factored_compact", "first_moment/factored_vectors", "first_moment/fp16", "first_moment/fp32",
    "first_moment/int8", "first_moment/raw", "grams", "heavy_ball", "heavy_ball/nesterov", "lion",
    "lion_interpolate", "lion_k", "mars", "mars/zero", "master_weights", "master_weights/fp24",
    "multiply", "nesterov",
    "nesterov/coef", "nesterov/momentum",
    "nesterov/scaled", "promote", "promote/at_least", "promote/bf16", "radam", "radam:decoupled", "rectify", "relative_step",
    "scale_by_learning_rate", "second_moment",
    "second_moment/amsgrad", "second_moment/bf16", "second_moment/factored", "second_moment/int8", "second_moment/raw",
    "sgd", "sgd:dampening", "sgd:nesterov", "sign", "step_clip", "stochastic_round", "track_first_moment",
}  # fmt: skip
"""`factored_moment` did not say so, and is; so is what calls for an arctangent, which is not that of torch."""

RANDOM = {
    "first_moment/bf16", "first_moment/int8", "first_moment/factored_compact", "second_moment/int8",
    "apollo", "low_rank", "scale_by_low_rank",
    "orthogonalize/rank", "second_moment/bf16", "stochastic_sign", "adv-adopt-factored-ademamix",
}  # fmt: skip

JOINT = {
    "clip_by_global_norm": ["clip_by_global_norm"],
    "kourkoutas_beta": ["kourkoutas_beta"],
    "adv-adamw:all": ["kourkoutas_beta"],
    "lamb:bounded": ["clip_by_global_norm"],
    "adv-adopt:all": ["kourkoutas_beta"],
}


def packs(stage: gc.Stage) -> bool:
    """Whether a stage keeps a slot as something else than a row of numbers."""
    kept = {type(slot.kept_as).__name__ for slot in stage.known_slots.values()}
    return not kept <= {"NoneType", "AsParameter", "Float32", "Float8"}


EXACT = sorted(name for name in ELEMENTWISE if not any(map(packs, CASES[name].chain)))
"""Those whose tensors may be cut and joined."""
