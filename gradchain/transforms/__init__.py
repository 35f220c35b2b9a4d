"""The transforms, one small module a family."""

from gradchain.transforms.adopt import adopt, step_clip
from gradchain.transforms.agreement import cautious, grams
from gradchain.transforms.belief import belief_moment
from gradchain.transforms.clip import clip_by_global_norm, clip_by_norm, clip_by_value
from gradchain.transforms.clip_by_scale import clip_by_scale
from gradchain.transforms.debias import debias
from gradchain.transforms.decay import (
    add_decayed_weights,
    cautious_decay,
    centered_decay,
    decoupled_decay,
    fisher_decay,
    geometric_decay,
)
from gradchain.transforms.direction import ademamix, nesterov
from gradchain.transforms.elementwise import multiply, scale_by_learning_rate, sign
from gradchain.transforms.factored import factored_moment
from gradchain.transforms.kourkoutas import kourkoutas_beta
from gradchain.transforms.mars import mars
from gradchain.transforms.moments import first_moment, second_moment, track_first_moment
from gradchain.transforms.momentum import heavy_ball, lion_interpolate
from gradchain.transforms.nadam import nadam_momentum
from gradchain.transforms.orthograd import orthograd
from gradchain.transforms.precision import master_weights, promote, stochastic_round
from gradchain.transforms.prodigy import prodigy
from gradchain.transforms.project import momentum_project
from gradchain.transforms.radam import rectify
from gradchain.transforms.range import centralize, cv_trust_gate, range_normalize
from gradchain.transforms.resolve import atan2_scale, divide
from gradchain.transforms.scale import scale_update
from gradchain.transforms.signs import (
    freeze_on_flip,
    lion_k,
    projected_adaptivity,
    snr_precondition,
    stochastic_sign,
)
from gradchain.transforms.sophia import divide_by_hessian
from gradchain.transforms.spectral import spectral_decay

__all__ = [
    "add_decayed_weights",
    "ademamix",
    "adopt",
    "atan2_scale",
    "belief_moment",
    "cautious",
    "cautious_decay",
    "centered_decay",
    "centralize",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_scale",
    "clip_by_value",
    "cv_trust_gate",
    "debias",
    "decoupled_decay",
    "divide",
    "divide_by_hessian",
    "factored_moment",
    "first_moment",
    "fisher_decay",
    "freeze_on_flip",
    "geometric_decay",
    "grams",
    "heavy_ball",
    "kourkoutas_beta",
    "lion_interpolate",
    "lion_k",
    "mars",
    "master_weights",
    "momentum_project",
    "multiply",
    "nadam_momentum",
    "nesterov",
    "orthograd",
    "prodigy",
    "projected_adaptivity",
    "promote",
    "range_normalize",
    "rectify",
    "scale_by_learning_rate",
    "scale_update",
    "second_moment",
    "sign",
    "snr_precondition",
    "spectral_decay",
    "step_clip",
    "stochastic_round",
    "stochastic_sign",
    "track_first_moment",
]
