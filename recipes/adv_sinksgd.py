"""SinkSGD_adv of adv_optm: steps whose rows and columns have one size. Its options stand in `adv_options`."""

from __future__ import annotations

import math

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe

from .adv_options import Anchor, Average, Decay, OrthoGrad, Precision, State, documented, orthogonal, step_size
from .adv_optm import NEEDS, SOURCE


@register_recipe("adv-sinksgd", source=SOURCE, needs=NEEDS)
@documented
def adv_sinksgd(
    lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0, *,
    sinkhorn_iterations: int = 5, orthogonal_sinkhorn: bool = False,
    normed_momentum: bool = False, snr_cond: bool = False, nesterov: bool = False, nesterov_coef: float | None = None,
    orthogonal_gradient: OrthoGrad = "disabled", spectral_normalization: bool = False,
    geometric_wd: bool = False, cautious_wd: bool = False, decoupled_wd: bool = False, routed_wd: bool = False,
    centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, vector_reshape: bool = False,
    stochastic_rounding: bool = True, seed: int = 0,
) -> Chain:  # fmt: skip
    """SinkSGD_adv: rows and columns of an average brought to one size, or the average of gradients so normalised."""
    state = State(state_precision, nnmf_factor, vector_reshape, stochastic_rounding, seed)
    average = Average(momentum, normed_momentum, snr_cond, nesterov, nesterov_coef, False, nnmf_factor)
    decay = Decay(
        weight_decay, cautious_wd, decoupled_wd, routed_wd, centered_wd, centered_wd_mode, geometric_wd, snr_cond,
        "row_column",
    )  # fmt: skip

    averaging, even = average.stages(state.first), t.sinkhorn(sinkhorn_iterations, orthogonal_sinkhorn)
    return chain(
        state.working_precision(),
        orthogonal(orthogonal_gradient),
        *((even, averaging) if normed_momentum else (averaging, even)),
        snr_cond and t.snr_precondition(1.0 if spectral_normalization else 4 / math.pi, "row_column"),
        step_size(lr, spectral_normalization, seed),
        decay.stages(),
        state.rounding(),
    )
