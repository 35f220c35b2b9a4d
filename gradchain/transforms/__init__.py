"""The transforms, one small module a family."""

from gradchain.transforms.clip import clip_by_global_norm, clip_by_norm, clip_by_value
from gradchain.transforms.decay import add_decayed_weights, decoupled_decay
from gradchain.transforms.elementwise import scale_by_learning_rate, sign
from gradchain.transforms.moments import debias, first_moment, second_moment, track_first_moment
from gradchain.transforms.momentum import heavy_ball, lion_interpolate
from gradchain.transforms.precision import master_weights, promote, stochastic_round
from gradchain.transforms.project import momentum_project, orthograd
from gradchain.transforms.range import centralize, cv_trust_gate, range_normalize
from gradchain.transforms.resolve import atan2_scale, divide
from gradchain.transforms.spectral import spectral_decay

__all__ = [
    "add_decayed_weights",
    "atan2_scale",
    "centralize",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "cv_trust_gate",
    "debias",
    "decoupled_decay",
    "divide",
    "first_moment",
    "heavy_ball",
    "lion_interpolate",
    "master_weights",
    "momentum_project",
    "orthograd",
    "promote",
    "range_normalize",
    "scale_by_learning_rate",
    "second_moment",
    "sign",
    "spectral_decay",
    "stochastic_round",
    "track_first_moment",
]
