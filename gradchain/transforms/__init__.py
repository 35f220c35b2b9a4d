"""The transforms, one small module a family."""

from gradchain.transforms.add_decayed_weights import add_decayed_weights
from gradchain.transforms.adopt import adopt, step_clip
from gradchain.transforms.agreement import cautious, grams
from gradchain.transforms.as_gradient import as_gradient
from gradchain.transforms.averaging import average_weights, lookahead
from gradchain.transforms.belief import belief_moment
from gradchain.transforms.blocks import block_second_moment
from gradchain.transforms.cautious_decay import cautious_decay
from gradchain.transforms.centered_decay import centered_decay
from gradchain.transforms.clip import clip_by_global_norm, clip_by_norm, clip_by_rms, clip_by_value
from gradchain.transforms.clip_by_scale import clip_by_scale
from gradchain.transforms.constraints import clip_weight_norm, clip_weights
from gradchain.transforms.cv_trust_gate import cv_trust_gate
from gradchain.transforms.debias import debias
from gradchain.transforms.decoupled_decay import decoupled_decay
from gradchain.transforms.direction import ademamix, nesterov
from gradchain.transforms.elementwise import multiply, scale_by_learning_rate, sign
from gradchain.transforms.factored import factored_moment
from gradchain.transforms.fisher_decay import fisher_decay
from gradchain.transforms.freeze_on_flip import freeze_on_flip
from gradchain.transforms.full_rank import full_rank, scale_by_low_rank
from gradchain.transforms.geometric_decay import geometric_decay
from gradchain.transforms.kourkoutas import kourkoutas_beta
from gradchain.transforms.lion_k import lion_k
from gradchain.transforms.low_rank import low_rank
from gradchain.transforms.mars import mars
from gradchain.transforms.master_weights import master_weights
from gradchain.transforms.moments import first_moment, second_moment, track_first_moment
from gradchain.transforms.momentum import heavy_ball, lion_interpolate
from gradchain.transforms.nadam import nadam_momentum
from gradchain.transforms.norm_growth import limit_norm_growth
from gradchain.transforms.orthogonalize import orthogonalize
from gradchain.transforms.orthograd import orthograd
from gradchain.transforms.precision import promote, stochastic_round
from gradchain.transforms.prodigy import prodigy
from gradchain.transforms.project import momentum_project
from gradchain.transforms.projected_adaptivity import projected_adaptivity
from gradchain.transforms.radam import rectify
from gradchain.transforms.range import centralize, range_normalize
from gradchain.transforms.relative_step import relative_step
from gradchain.transforms.resolve import atan2_scale, divide
from gradchain.transforms.row_column import confidence, row_column_moment
from gradchain.transforms.row_moment import row_second_moment
from gradchain.transforms.sam import sam
from gradchain.transforms.scale import scale_update
from gradchain.transforms.schedule_free import schedule_free
from gradchain.transforms.shampoo import shampoo
from gradchain.transforms.shape_scale import normalize_rms, scale_by_shape
from gradchain.transforms.sinkhorn import sinkhorn
from gradchain.transforms.snr_precondition import snr_precondition
from gradchain.transforms.soap import soap
from gradchain.transforms.sophia import divide_by_hessian
from gradchain.transforms.spectral import spectral_decay
from gradchain.transforms.sphere import project_to_sphere
from gradchain.transforms.stochastic_sign import stochastic_sign
from gradchain.transforms.trust import scale_by_param_rms, trust_ratio

__all__ = [
    "add_decayed_weights",
    "ademamix",
    "adopt",
    "as_gradient",
    "atan2_scale",
    "average_weights",
    "belief_moment",
    "block_second_moment",
    "cautious",
    "cautious_decay",
    "centered_decay",
    "centralize",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_rms",
    "clip_by_scale",
    "clip_by_value",
    "clip_weight_norm",
    "clip_weights",
    "confidence",
    "cv_trust_gate",
    "debias",
    "decoupled_decay",
    "divide",
    "divide_by_hessian",
    "factored_moment",
    "first_moment",
    "fisher_decay",
    "freeze_on_flip",
    "full_rank",
    "geometric_decay",
    "grams",
    "heavy_ball",
    "kourkoutas_beta",
    "limit_norm_growth",
    "lion_interpolate",
    "lion_k",
    "lookahead",
    "low_rank",
    "mars",
    "master_weights",
    "momentum_project",
    "multiply",
    "nadam_momentum",
    "nesterov",
    "normalize_rms",
    "orthogonalize",
    "orthograd",
    "prodigy",
    "project_to_sphere",
    "projected_adaptivity",
    "promote",
    "range_normalize",
    "rectify",
    "relative_step",
    "row_column_moment",
    "row_second_moment",
    "sam",
    "scale_by_learning_rate",
    "scale_by_low_rank",
    "scale_by_param_rms",
    "scale_by_shape",
    "scale_update",
    "schedule_free",
    "second_moment",
    "shampoo",
    "sign",
    "sinkhorn",
    "snr_precondition",
    "soap",
    "spectral_decay",
    "step_clip",
    "stochastic_round",
    "stochastic_sign",
    "track_first_moment",
    "trust_ratio",
]
