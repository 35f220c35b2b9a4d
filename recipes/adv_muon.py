"""Muon_adv and AdaMuon_adv of adv_optm: orthogonal steps for matrices, AdamW_adv for all else."""

from __future__ import annotations

import math
from typing import Any

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.partition import partition
from gradchain._chain.recipes import register_recipe
from gradchain.errors import OptionError, shown

from .adv_muon_options import Auxiliary, Matrices, adv_muon_or_adam
from .adv_options import (
    Anchor,
    Decay,
    Digits,
    Division,
    Initial,
    Kourkoutas,
    Layers,
    Momentum,
    OrthoGrad,
    Parts,
    Precision,
    State,
    convolution_or_other,
    documented,
    orthogonal,
)
from .adv_optm import NEEDS, SOURCE

OF_MATRICES = (
    "beta1", "betas", "eps", "weight_decay", "nesterov", "nesterov_coef", "use_atan2", "auto_projection", "ns_steps",
    "ns_eps", "ns_coeffs", "ns_precision", "accelerated_ns", "low_rank_ortho", "rms_rescaling", "normuon_variant",
    "approx_mars", "orthogonal_gradient", "state_precision", "nnmf_factor", "factored_2nd",
)  # fmt: skip
OF_ADAM = (
    "adam_betas", "adam_eps", "adam_weight_decay", "adam_use_bias_correction", "adam_use_atan2", "adam_fisher_wd",
    "adam_nesterov", "adam_orthogonal_gradient", "adam_spectral_normalization", "adam_kourkoutas_beta",
    "adam_state_precision", "adam_nnmf_factor", "adam_factored_2nd",
)  # fmt: skip

MUON_NEEDS: dict[str, str | tuple[str, ...]] = {
    **NEEDS,
    **dict.fromkeys(("beta2_normuon", "normuon_eps"), "normuon_variant"),
    **dict.fromkeys(("mars_gamma", "mars_initial"), "approx_mars"),
    "ns_coeffs": "not accelerated_ns", "cns_a_bound": "accelerated_ns", "ortho_rank": "low_rank_ortho",
    "kappa_p": "not auto_projection", "use_atan2": "not normuon_variant", "eps": "not use_atan2",
    "factored_2nd": "not normuon_variant and not nnmf_factor and not state_precision=factored",
    "vector_reshape": ("adam_nnmf_factor", "adam_factored_2nd", "adam_state_precision=factored"),
    "seed": ("stochastic_rounding", "spectral_normalization", "adam_spectral_normalization", "low_rank_ortho"),
    "adam_nesterov_coef": "adam_nesterov",
    **{f"adam_{name}": "adam_kourkoutas_beta" for name in (
        "beta2_min", "ema_alpha", "tiny_spike", "k_warmup_steps", "kourkoutas_layers",
    )},
    "adam_eps": "not adam_use_atan2",
    "adam_factored_2nd": "not adam_nnmf_factor and not adam_state_precision=factored",
}  # fmt: skip
for names, routed in ((OF_MATRICES, "not use_muon=false"), (OF_ADAM, "not use_muon")):
    MUON_NEEDS.update({name: " and ".join(filter(None, (MUON_NEEDS.get(name), routed))) for name in names})  # pyright: ignore


@register_recipe("adv-muon", source=SOURCE, needs=MUON_NEEDS)
@documented
def adv_muon(
    lr: float = 1e-3, beta1: float = 0.95, weight_decay: float = 0.0, *,
    nesterov: bool = True, nesterov_coef: float | None = None,
    ns_steps: int = 5, ns_eps: float | None = 1e-7, ns_coeffs: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    ns_precision: Digits = "bf16", accelerated_ns: bool = False, cns_a_bound: float | None = None,
    low_rank_ortho: bool = False, ortho_rank: int = 128, rms_rescaling: bool = True, spectral_normalization: bool = False,
    normuon_variant: bool = False, beta2_normuon: float = 0.95, normuon_eps: float = 1e-8,
    approx_mars: bool = False, mars_gamma: float = 0.025, mars_initial: Initial = "gradient",
    orthogonal_gradient: OrthoGrad = "disabled", use_muon: bool | None = None,
    cautious_wd: bool = False, centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, vector_reshape: bool = False,
    stochastic_rounding: bool = True, seed: int = 0,
    adam_betas: tuple[float, float] = (0.9, 0.99), adam_eps: float | None = 1e-8, adam_weight_decay: float = 0.0,
    adam_use_bias_correction: bool = True, adam_use_atan2: bool = False, adam_fisher_wd: bool = False,
    adam_nesterov: bool = False, adam_nesterov_coef: float | None = None,
    adam_orthogonal_gradient: OrthoGrad = "disabled", adam_spectral_normalization: bool = False,
    adam_kourkoutas_beta: bool = False, adam_beta2_min: float = 0.9, adam_ema_alpha: float = 0.95,
    adam_tiny_spike: float = 1e-9, adam_k_warmup_steps: int = 0, adam_kourkoutas_layers: Layers = "shape",
    adam_state_precision: Precision = "auto", adam_nnmf_factor: bool = False, adam_factored_2nd: bool = False,
) -> Chain:  # fmt: skip
    """Muon_adv: Muon whose every part can be exchanged, with Adam for vectors and odd shapes in one optimizer."""
    state = State(state_precision, nnmf_factor, False, stochastic_rounding, seed)
    aux = State(adam_state_precision, adam_nnmf_factor, vector_reshape, stochastic_rounding, seed, adam_factored_2nd)
    spikes = Kourkoutas(
        adam_kourkoutas_beta, adam_beta2_min, adam_ema_alpha, adam_tiny_spike, adam_k_warmup_steps,
        adam_kourkoutas_layers,
    )  # fmt: skip
    adam = Auxiliary(
        aux, spikes, _plain(adam_betas[0], adam_nesterov, adam_nesterov_coef),
        Division(adam_eps, adam_use_atan2, adam_fisher_wd), adam_betas[1], adam_use_bias_correction,
        adam_orthogonal_gradient, adam_spectral_normalization, adam_use_atan2, adam_weight_decay,
    )  # fmt: skip
    matrices = Matrices(
        ns_steps, ns_eps, ns_coeffs, accelerated_ns, cns_a_bound, low_rank_ortho, ortho_rank, rms_rescaling,
        spectral_normalization, seed, ns_precision,
    )  # fmt: skip
    decay = (cautious_wd, False, False, centered_wd, centered_wd_mode)
    muon: Parts = [
        approx_mars and t.mars(mars_gamma, beta1, mars_initial).rename(beta="beta1"),
        orthogonal(orthogonal_gradient),
        t.first_moment(beta1, bias_correction=False, storage=state.first).rename(beta="beta1"),
        nesterov and t.nesterov(nesterov_coef).rename(beta="beta1"),
        matrices.orthogonalize(),
        normuon_variant and t.row_second_moment(beta2_normuon).rename(beta="beta2_normuon"),
        normuon_variant and t.divide(normuon_eps).rename(eps="normuon_eps"),
        matrices.size(),
    ]
    return _routed(use_muon, state, muon, Decay(weight_decay, *decay), adam, lr, decay)


@register_recipe("adv-adamuon", source=SOURCE, needs=MUON_NEEDS)
@documented
def adv_adamuon(
    lr: float = 1e-3, betas: tuple[float, float] = (0.95, 0.95), eps: float | None = 1e-8, weight_decay: float = 0.0, *,
    nesterov: bool = True, nesterov_coef: float | None = None, use_atan2: bool = False,
    kappa_p: float = 1.0, auto_projection: bool = True,
    ns_steps: int = 5, ns_eps: float | None = 1e-7, ns_coeffs: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    ns_precision: Digits = "bf16", accelerated_ns: bool = False, cns_a_bound: float | None = None,
    low_rank_ortho: bool = False, ortho_rank: int = 128, rms_rescaling: bool = True, spectral_normalization: bool = False,
    normuon_variant: bool = False,
    approx_mars: bool = False, mars_gamma: float = 0.025, mars_initial: Initial = "gradient",
    orthogonal_gradient: OrthoGrad = "disabled", use_muon: bool | None = None,
    cautious_wd: bool = False, centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, factored_2nd: bool = False, vector_reshape: bool = False,
    stochastic_rounding: bool = True, seed: int = 0,
    adam_betas: tuple[float, float] = (0.9, 0.99), adam_eps: float | None = 1e-8, adam_weight_decay: float = 0.0,
    adam_use_bias_correction: bool = True, adam_use_atan2: bool = False, adam_fisher_wd: bool = False,
    adam_nesterov: bool = False, adam_nesterov_coef: float | None = None,
    adam_orthogonal_gradient: OrthoGrad = "disabled", adam_spectral_normalization: bool = False,
    adam_kourkoutas_beta: bool = False, adam_beta2_min: float = 0.9, adam_ema_alpha: float = 0.95,
    adam_tiny_spike: float = 1e-9, adam_k_warmup_steps: int = 0, adam_kourkoutas_layers: Layers = "shape",
    adam_state_precision: Precision = "auto", adam_nnmf_factor: bool = False, adam_factored_2nd: bool = False,
) -> Chain:  # fmt: skip
    """AdaMuon_adv: Muon of signs, divided by a second moment of the orthogonal direction."""
    state = State(state_precision, nnmf_factor, False, stochastic_rounding, seed, factored_2nd)
    aux = State(adam_state_precision, adam_nnmf_factor, vector_reshape, stochastic_rounding, seed, adam_factored_2nd)
    spikes = Kourkoutas(
        adam_kourkoutas_beta, adam_beta2_min, adam_ema_alpha, adam_tiny_spike, adam_k_warmup_steps,
        adam_kourkoutas_layers,
    )  # fmt: skip
    adam = Auxiliary(
        aux, spikes, _plain(adam_betas[0], adam_nesterov, adam_nesterov_coef),
        Division(adam_eps, adam_use_atan2, adam_fisher_wd), adam_betas[1], adam_use_bias_correction,
        adam_orthogonal_gradient, adam_spectral_normalization, adam_use_atan2, adam_weight_decay,
    )  # fmt: skip
    matrices = Matrices(
        ns_steps, ns_eps, ns_coeffs, accelerated_ns, cns_a_bound, low_rank_ortho, ortho_rank, rms_rescaling,
        spectral_normalization, seed, ns_precision,
    )  # fmt: skip
    decay = (cautious_wd, False, False, centered_wd, centered_wd_mode)
    second = [t.as_gradient(), t.second_moment(betas[1], bias_correction=False, storage=state.second)]
    rows = [t.row_second_moment(betas[1]).rename(beta="betas[1]")]
    muon: Parts = [
        approx_mars and t.mars(mars_gamma, betas[0], mars_initial),
        orthogonal(orthogonal_gradient),
        t.first_moment(betas[0], bias_correction=False, storage=state.first),
        nesterov and t.nesterov(nesterov_coef),
        _projected(kappa_p, auto_projection),
        matrices.orthogonalize(),
        *(rows if normuon_variant else second),
        t.atan2_scale() if use_atan2 else t.divide(eps),
        matrices.size(4 / math.pi if use_atan2 else 1.0),
    ]
    return _routed(use_muon, state, muon, Decay(weight_decay, *decay), adam, lr, decay)


def _plain(beta1: float, nesterov: bool, coef: float | None) -> Momentum:
    """Adam's momentum without what Adam beside Muon does not have."""
    return Momentum(beta1, nesterov, coef, False, False, False, 5.0, 0.9999, None)


def _projected(kappa_p: float, auto: bool) -> Any:
    """Signs, or a power between them and the direction itself, which is what 2 stands for."""
    if auto:
        return partition({"convolution": [], "other": [t.lion_k(1.0)]}, convolution_or_other)
    return kappa_p != 2 and t.lion_k(kappa_p)


def _routed(
    use_muon: bool | None, state: State, muon: Parts, own: Decay, adam: Auxiliary, lr: float, decay: Any
) -> Chain:
    """Matrices to Muon, all else to Adam; each with its own decay, and both with one learning rate."""
    if use_muon is not None and not isinstance(use_muon, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"use_muon = {shown(use_muon)}: pass True, False or None.")
    branches: dict[str, Any] = {
        "muon": [state.working_precision(), *muon, *own.stages()],
        "adam": [adam.state.working_precision(), *adam.stages(), *_renamed(Decay(adam.weight_decay, *decay).stages())],
    }
    middle = (
        branches["muon" if use_muon else "adam"] if use_muon is not None else [partition(branches, adv_muon_or_adam)]
    )
    return chain(*middle, t.scale_by_learning_rate(lr), state.rounding())


def _renamed(decays: Parts) -> Parts:
    return [x.rename(weight_decay="adam_weight_decay") if isinstance(x, t.decoupled_decay) else x for x in decays]
