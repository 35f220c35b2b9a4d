"""The adv_optm family: Adam, ADOPT, Prodigy, Lion and SignSGD with exchangeable parts (pypi.org/project/adv-optm).

Options and defaults are those of adv_optm 2.5.16; parts that other releases had are options too. Options that the chosen
configuration would ignore are errors. What each option does stands in `adv_options`, and in `help(recipe)`.
"""

from __future__ import annotations

import math

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe

from .adv_options import (
    Adaptivity,
    Anchor,
    Average,
    Decay,
    Division,
    Kourkoutas,
    Layers,
    Momentum,
    OrthoGrad,
    Precision,
    Sign,
    State,
    documented,
    orthogonal,
    step_size,
)

SOURCE = "adv_optm 2.5.16, pypi.org/project/adv-optm"

NEEDS: dict[str, str | tuple[str, ...]] = {
    "nesterov_coef": "nesterov",
    **dict.fromkeys(("beta2_min", "ema_alpha", "tiny_spike", "k_warmup_steps", "kourkoutas_layers"), "kourkoutas_beta"),
    **dict.fromkeys(("alpha", "beta3_ema", "t_alpha"), "ademamix"),
    **dict.fromkeys(("centered_wd_mode", "routed_wd"), "centered_wd"),
    "vector_reshape": ("nnmf_factor", "factored_2nd", "state_precision=factored"),
    **dict.fromkeys(("eps", "clip_lambda"), "not use_atan2"),
    "kappa_p": "not auto_kappa_p",
    "snr_cond": "normed_momentum",
    "cautious": "not grams",
    "factored_2nd": "not nnmf_factor",
    "heavy_ball": "projected_adaptivity",
    "seed": ("stochastic_rounding", "stochastic_sign", "spectral_normalization"),
}
"""Options that mean nothing without another."""


@register_recipe("adv-adamw", source=SOURCE, needs=NEEDS)
@documented
def adv_adamw(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float | None = 1e-8, weight_decay: float = 0.0, *,
    use_bias_correction: bool = True, use_atan2: bool = False, normed_momentum: bool = False,
    nesterov: bool = False, nesterov_coef: float | None = None, grams: bool = False, cautious: bool = False,
    ademamix: bool = False, alpha: float = 5.0, beta3_ema: float = 0.9999, t_alpha: float | None = None,
    orthogonal_gradient: OrthoGrad = "disabled", spectral_normalization: bool = False,
    kourkoutas_beta: bool = False, beta2_min: float = 0.9, ema_alpha: float = 0.95, tiny_spike: float = 1e-9,
    k_warmup_steps: int = 0, kourkoutas_layers: Layers = "shape",
    fisher_wd: bool = False, cautious_wd: bool = False, decoupled_wd: bool = False, routed_wd: bool = False,
    centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, factored_2nd: bool = False,
    vector_reshape: bool = False, stochastic_rounding: bool = True, seed: int = 0,
) -> Chain:  # fmt: skip
    """AdamW_adv: AdamW whose every part can be exchanged."""
    state = State(state_precision, nnmf_factor, vector_reshape, stochastic_rounding, seed, factored_2nd)
    spikes = Kourkoutas(kourkoutas_beta, beta2_min, ema_alpha, tiny_spike, k_warmup_steps, kourkoutas_layers)
    momentum = Momentum(
        betas[0], nesterov, nesterov_coef, grams, cautious, ademamix, alpha, beta3_ema, t_alpha, normed_momentum
    )
    division = Division(eps, use_atan2, fisher_wd)
    decay = Decay(weight_decay, cautious_wd, decoupled_wd, routed_wd, centered_wd, centered_wd_mode)

    average = momentum.stages(state.first)
    second = t.second_moment(betas[1], bias_correction=use_bias_correction, storage=state.second)
    divide = [second, *division.stages()]
    return chain(
        state.working_precision(),
        orthogonal(orthogonal_gradient),
        spikes.stage(),
        *((divide, average) if normed_momentum else (average, divide)),
        use_bias_correction and betas[0] != 0 and not spectral_normalization and t.debias(betas[0]),
        step_size(lr, spectral_normalization, seed, use_atan2),
        decay.stages(),
        state.rounding(),
    )


@register_recipe("adv-adopt", source=SOURCE, needs=NEEDS)
@documented
def adv_adopt(
    lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.9999), eps: float | None = 1e-6, weight_decay: float = 0.0, *,
    clip_lambda: float | None = 0.25, use_atan2: bool = False,
    nesterov: bool = False, nesterov_coef: float | None = None, grams: bool = False, cautious: bool = False,
    ademamix: bool = False, alpha: float = 5.0, beta3_ema: float = 0.9999, t_alpha: float | None = None,
    orthogonal_gradient: OrthoGrad = "disabled", spectral_normalization: bool = False,
    kourkoutas_beta: bool = False, beta2_min: float = 0.9, ema_alpha: float = 0.95, tiny_spike: float = 1e-9,
    k_warmup_steps: int = 0, kourkoutas_layers: Layers = "shape",
    fisher_wd: bool = False, cautious_wd: bool = False, decoupled_wd: bool = False, routed_wd: bool = False,
    centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, factored_2nd: bool = False,
    vector_reshape: bool = False, stochastic_rounding: bool = True, seed: int = 0,
) -> Chain:  # fmt: skip
    """Adopt_adv: ADOPT, which divides by the second moment of the step before and then averages."""
    state = State(state_precision, nnmf_factor, vector_reshape, stochastic_rounding, seed, factored_2nd)
    spikes = Kourkoutas(kourkoutas_beta, beta2_min, ema_alpha, tiny_spike, k_warmup_steps, kourkoutas_layers)
    momentum = Momentum(betas[0], nesterov, nesterov_coef, grams, cautious, ademamix, alpha, beta3_ema, t_alpha)
    division = Division(eps, use_atan2, fisher_wd)
    decay = Decay(weight_decay, cautious_wd, decoupled_wd, routed_wd, centered_wd, centered_wd_mode)

    bounded = use_atan2 or spectral_normalization
    return chain(
        state.working_precision(),
        orthogonal(orthogonal_gradient),
        spikes.stage(),
        t.adopt(betas[1], skip_first=not bounded, initial="raw", storage=state.second),
        division.stages(),
        clip_lambda is not None and not use_atan2 and t.step_clip(clip_lambda),
        momentum.stages(state.first),
        step_size(lr, spectral_normalization, seed, use_atan2),
        decay.stages(),
        state.rounding(),
    )


@register_recipe("adv-prodigy", source=SOURCE, needs=NEEDS)
@documented
def adv_prodigy(
    lr: float = 1.0, betas: tuple[float, float] = (0.9, 0.999), eps: float | None = 1e-8, weight_decay: float = 0.0, *,
    beta3: float | None = None, d0: float = 1e-6, d_coef: float = 1.0, growth_rate: float = math.inf,
    safeguard_warmup: bool = False, slice_p: int = 11, prodigy_steps: int = 0, d_limiter: bool = False,
    use_atan2: bool = False,
    nesterov: bool = False, nesterov_coef: float | None = None, grams: bool = False, cautious: bool = False,
    ademamix: bool = False, alpha: float = 5.0, beta3_ema: float = 0.9999, t_alpha: float | None = None,
    orthogonal_gradient: OrthoGrad = "disabled", spectral_normalization: bool = False,
    kourkoutas_beta: bool = False, beta2_min: float = 0.9, ema_alpha: float = 0.95, tiny_spike: float = 1e-9,
    k_warmup_steps: int = 0, kourkoutas_layers: Layers = "shape",
    fisher_wd: bool = False, cautious_wd: bool = False, decoupled_wd: bool = False, routed_wd: bool = False,
    centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, factored_2nd: bool = False,
    vector_reshape: bool = False, stochastic_rounding: bool = True, seed: int = 0,
) -> Chain:  # fmt: skip
    """Prodigy_adv: Adam that finds its own learning rate; leave `lr` at 1, or give it a schedule that starts there."""
    state = State(state_precision, nnmf_factor, vector_reshape, stochastic_rounding, seed, factored_2nd)
    spikes = Kourkoutas(kourkoutas_beta, beta2_min, ema_alpha, tiny_spike, k_warmup_steps, kourkoutas_layers)
    momentum = Momentum(betas[0], nesterov, nesterov_coef, grams, cautious, ademamix, alpha, beta3_ema, t_alpha)
    division = Division(eps, use_atan2, fisher_wd)
    decay = Decay(weight_decay, cautious_wd, decoupled_wd, routed_wd, centered_wd, centered_wd_mode)
    return chain(
        state.working_precision(),
        orthogonal(orthogonal_gradient),
        spikes.stage(),
        t.prodigy(d0, d_coef, growth_rate, beta3, prodigy_steps, safeguard_warmup, d_limiter, slice_p),
        momentum.stages(state.first),
        t.second_moment(betas[1], bias_correction=False, storage=state.second),
        division.stages(),
        step_size(lr, spectral_normalization, seed, use_atan2),
        decay.stages(),
        state.rounding(),
    )


@register_recipe("adv-lion", source=SOURCE, needs=NEEDS)
@documented
def adv_lion(
    lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, *,
    kappa_p: float = 1.0, auto_kappa_p: bool = False, stochastic_sign: bool = False, cautious: bool = False,
    freeze_on_flip: bool = False, projected_adaptivity: Adaptivity = "disabled",
    clip_threshold: float = 0.0, orthogonal_gradient: OrthoGrad = "disabled", spectral_normalization: bool = False,
    cautious_wd: bool = False, decoupled_wd: bool = False, routed_wd: bool = False,
    centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, vector_reshape: bool = False,
    stochastic_rounding: bool = True, seed: int = 0,
) -> Chain:  # fmt: skip
    """Lion_adv: Lion-K, of which Lion is kappa_p = 1; kappa_p = 2 gives steps of one length instead of one size."""
    state = State(state_precision, nnmf_factor, vector_reshape, stochastic_rounding, seed)
    sign = Sign(auto_kappa_p, stochastic_sign, freeze_on_flip, projected_adaptivity, seed, kappa_p)
    decay = Decay(weight_decay, cautious_wd, decoupled_wd, routed_wd, centered_wd, centered_wd_mode)
    return chain(
        state.working_precision(),
        clip_threshold != 0 and t.clip_by_norm(clip_threshold).rename(max_norm="clip_threshold"),
        orthogonal(orthogonal_gradient),
        t.lion_interpolate(*betas, storage=state.first),
        sign.stages(state.first),
        cautious and t.cautious(),
        step_size(lr, spectral_normalization, seed),
        decay.stages(),
        state.rounding(),
    )


@register_recipe("adv-lion-prodigy", source="adv_optm 1.4.1, pypi.org/project/adv-optm", needs=NEEDS)
@documented
def adv_lion_prodigy(
    lr: float = 1.0, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, *,
    beta3: float | None = None, d0: float = 1e-6, d_coef: float = 1.0, growth_rate: float = math.inf,
    safeguard_warmup: bool = False, slice_p: int = 11, prodigy_steps: int = 0, d_limiter: bool = True,
    kappa_p: float = 1.0, auto_kappa_p: bool = False, stochastic_sign: bool = False, cautious: bool = False,
    freeze_on_flip: bool = False, projected_adaptivity: Adaptivity = "disabled",
    clip_threshold: float = 0.0, orthogonal_gradient: OrthoGrad = "disabled", spectral_normalization: bool = False,
    cautious_wd: bool = False, decoupled_wd: bool = False, routed_wd: bool = False,
    centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, vector_reshape: bool = False,
    stochastic_rounding: bool = True, seed: int = 0,
) -> Chain:  # fmt: skip
    """Lion_Prodigy_adv: Lion with the step size that Prodigy finds."""
    state = State(state_precision, nnmf_factor, vector_reshape, stochastic_rounding, seed)
    sign = Sign(auto_kappa_p, stochastic_sign, freeze_on_flip, projected_adaptivity, seed, kappa_p)
    decay = Decay(weight_decay, cautious_wd, decoupled_wd, routed_wd, centered_wd, centered_wd_mode)
    return chain(
        state.working_precision(),
        clip_threshold != 0 and t.clip_by_norm(clip_threshold).rename(max_norm="clip_threshold"),
        orthogonal(orthogonal_gradient),
        t.prodigy(d0, d_coef, growth_rate, beta3, prodigy_steps, safeguard_warmup, d_limiter, slice_p),
        t.lion_interpolate(*betas, storage=state.first),
        sign.stages(state.first),
        cautious and t.cautious(),
        step_size(lr, spectral_normalization, seed),
        decay.stages(),
        state.rounding(),
    )


@register_recipe("adv-signsgd", source=SOURCE, needs=NEEDS)
@documented
def adv_signsgd(
    lr: float = 1e-4, momentum: float = 0.9, weight_decay: float = 0.0, *,
    normed_momentum: bool = False, snr_cond: bool = False, nesterov: bool = False, nesterov_coef: float | None = None,
    stochastic_sign: bool = False, auto_kappa_p: bool = False, freeze_on_flip: bool = False,
    projected_adaptivity: Adaptivity = "disabled", heavy_ball: bool = False,
    orthogonal_gradient: OrthoGrad = "disabled", spectral_normalization: bool = False,
    geometric_wd: bool = False, cautious_wd: bool = False, decoupled_wd: bool = False, routed_wd: bool = False,
    centered_wd: float = 0.0, centered_wd_mode: Anchor = "float8",
    state_precision: Precision = "auto", nnmf_factor: bool = False, vector_reshape: bool = False,
    stochastic_rounding: bool = True, seed: int = 0,
) -> Chain:  # fmt: skip
    """SignSGD_adv: the sign of an average, or the average of signs."""
    state = State(state_precision, nnmf_factor, vector_reshape, stochastic_rounding, seed)
    average = Average(momentum, normed_momentum, snr_cond, nesterov, nesterov_coef, heavy_ball, nnmf_factor)
    sign = Sign(auto_kappa_p, stochastic_sign, freeze_on_flip, projected_adaptivity, seed)
    decay = Decay(
        weight_decay, cautious_wd, decoupled_wd, routed_wd, centered_wd, centered_wd_mode, geometric_wd, snr_cond
    )

    averaging = average.stages(state.first)
    signing = sign.stages(state.first if momentum != 0 and not normed_momentum else "param")
    return chain(
        state.working_precision(),
        orthogonal(orthogonal_gradient),
        *((signing, averaging) if normed_momentum else (averaging, signing)),
        snr_cond and t.snr_precondition(1.0 if spectral_normalization else 4 / math.pi),
        step_size(lr, spectral_normalization, seed),
        decay.stages(),
        state.rounding(),
    )


# Presets by intent.


@register_recipe("adv-adopt-factored", source=SOURCE)
@documented
def adv_adopt_factored(
    lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.9999), weight_decay: float = 0.0
) -> Chain:
    """Full fine-tuning in little memory: ADOPT with factored moments and atan2, an eighth of a byte per weight."""
    return adv_adopt(lr, betas, weight_decay=weight_decay, use_atan2=True, nnmf_factor=True, vector_reshape=True)


@register_recipe("adv-adopt-factored-ademamix", source=SOURCE)
@documented
def adv_adopt_factored_ademamix(
    lr: float = 4e-5, betas: tuple[float, float] = (0.9, 0.9999), weight_decay: float = 0.0, beta3_ema: float = 0.9999
) -> Chain:
    """Long runs of full fine-tuning: the same with a second, slow momentum; take beta3_ema 0.999 below 4,000 steps.

    Two planes of signs take nearly all of the memory that was promised, so the factors are kept in few bits.
    """
    small = {"adopt.storage": "factored_compact", "first_moment.storage": "factored_compact"}
    preset = adv_adopt_factored(lr, betas, weight_decay).with_options(**small)
    return preset.insert_after("first_moment", t.ademamix(beta3_ema, storage="factored_compact"))


@register_recipe("adv-prodigy-factored", source=SOURCE)
@documented
def adv_prodigy_factored(lr: float = 1.0, d_coef: float = 1.0, weight_decay: float = 0.0) -> Chain:
    """When the learning rate is not known: Prodigy with factored moments and atan2."""
    return adv_prodigy(lr, d_coef=d_coef, weight_decay=weight_decay, use_atan2=True, nnmf_factor=True)


@register_recipe("adv-adamw-orthograd", source=SOURCE)
@documented
def adv_adamw_orthograd(lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> Chain:
    """Fine-tuning that should not overfit: Adam on the part of the gradient that does not just stretch the weights."""
    return adv_adamw(lr, betas, orthogonal_gradient="flattened")


@register_recipe("adv-adamw-scaled", source=SOURCE)
@documented
def adv_adamw_scaled(lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> Chain:
    """Tune once, train anywhere: a width-independent change of a layer's output, for any rank or adapter."""
    return adv_adamw(lr, betas, eps=None, weight_decay=weight_decay, spectral_normalization=True)
