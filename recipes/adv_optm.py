"""The adv_optm family: Adam, ADOPT, Prodigy, Lion and SignSGD with exchangeable parts (pypi.org/project/adv-optm).

Options and defaults are those of adv_optm 2.5.16; parts that other releases had are options too. Options that the chosen
configuration would ignore are errors.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.partition import partition
from gradchain._chain.recipes import register_recipe
from gradchain._chain.registry import label_function
from gradchain.errors import OptionError, shown

SOURCE = "adv_optm 2.5.16, pypi.org/project/adv-optm"

FACTORED = ("nnmf_factor", "factored_2nd", "state_precision=factored")
NEEDS: dict[str, str | tuple[str, ...]] = {
    "nesterov_coef": "nesterov",
    "beta2_min": "kourkoutas_beta",
    "ema_alpha": "kourkoutas_beta",
    "tiny_spike": "kourkoutas_beta",
    "k_warmup_steps": "kourkoutas_beta",
    "kourkoutas_layers": "kourkoutas_beta",
    "alpha": "ademamix",
    "beta3_ema": "ademamix",
    "t_alpha": "ademamix",
    "centered_wd_mode": "centered_wd",
    "vector_reshape": FACTORED,
    "eps": "not use_atan2",
    "clip_lambda": "not use_atan2",
    "kappa_p": "not auto_kappa_p",
    "snr_cond": "normed_momentum",
    "cautious": "not grams",
    "factored_2nd": "not nnmf_factor",
    "heavy_ball": ("projected_adaptivity",),
    "seed": ("stochastic_rounding", "stochastic_sign", "spectral_normalization"),
}
"""Options that mean nothing without another."""


@register_recipe("adv-adamw", source=SOURCE, needs=NEEDS)
def adv_adamw(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = 1e-8,
    weight_decay: float = 0.0,
    *,
    use_bias_correction: bool = True,
    use_atan2: bool = False,
    normed_momentum: bool = False,
    nesterov: bool = False,
    nesterov_coef: float | None = None,
    grams: bool = False,
    cautious: bool = False,
    ademamix: bool = False,
    alpha: float = 5.0,
    beta3_ema: float = 0.9999,
    t_alpha: float | None = None,
    orthogonal_gradient: str = "disabled",
    kourkoutas_beta: bool = False,
    beta2_min: float = 0.9,
    ema_alpha: float = 0.95,
    tiny_spike: float = 1e-9,
    k_warmup_steps: int = 0,
    kourkoutas_layers: str = "shape",
    spectral_normalization: bool = False,
    fisher_wd: bool = False,
    cautious_wd: bool = False,
    decoupled_wd: bool = False,
    centered_wd: float = 0.0,
    centered_wd_mode: str = "float8",
    state_precision: str = "auto",
    nnmf_factor: bool = False,
    factored_2nd: bool = False,
    vector_reshape: bool = False,
    stochastic_rounding: bool = True,
    seed: int = 0,
) -> Chain:
    """AdamW_adv: AdamW whose every part can be exchanged."""
    first, second = _storages(state_precision, nnmf_factor, factored_2nd, vector_reshape)
    averaging: Parts = [
        *_first_moment(betas[0], first),
        *_mixed(nesterov, nesterov_coef, grams, cautious),
        ademamix and t.ademamix(beta3_ema, alpha, t_alpha, storage=first),
    ]
    normalisation: Parts = [
        t.second_moment(betas[1], bias_correction=use_bias_correction, storage=second),
        fisher_wd and t.fisher_decay("atan2" if use_atan2 else "rms"),
        _resolved(eps, use_atan2),
    ]
    if normed_momentum and betas[0] == 0:
        raise OptionError("normed_momentum = True has no effect with betas[0] = 0: there is no momentum. Leave it out.")
    debias = use_bias_correction and betas[0] != 0 and not spectral_normalization
    return chain(
        _working_precision(state_precision, nnmf_factor or factored_2nd, stochastic_rounding),
        _orthogonal(orthogonal_gradient),
        kourkoutas_beta
        and t.kourkoutas_beta(beta2_min, ema_alpha, tiny_spike, k_warmup_steps, layers=kourkoutas_layers),
        *([normalisation, averaging] if normed_momentum else [averaging, normalisation]),
        debias and t.debias(betas[0]),
        *_scaled(lr, spectral_normalization, seed, use_atan2),
        *_decay(weight_decay, cautious_wd, decoupled_wd, centered_wd, centered_wd_mode),
        stochastic_rounding and t.stochastic_round(seed),
    )


@register_recipe("adv-adopt", source=SOURCE, needs=NEEDS)
def adv_adopt(
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.9999),
    eps: float | None = 1e-6,
    weight_decay: float = 0.0,
    *,
    clip_lambda: float | None = 0.25,
    use_atan2: bool = False,
    nesterov: bool = False,
    nesterov_coef: float | None = None,
    grams: bool = False,
    cautious: bool = False,
    ademamix: bool = False,
    alpha: float = 5.0,
    beta3_ema: float = 0.9999,
    t_alpha: float | None = None,
    orthogonal_gradient: str = "disabled",
    kourkoutas_beta: bool = False,
    beta2_min: float = 0.9,
    ema_alpha: float = 0.95,
    tiny_spike: float = 1e-9,
    k_warmup_steps: int = 0,
    kourkoutas_layers: str = "shape",
    spectral_normalization: bool = False,
    fisher_wd: bool = False,
    cautious_wd: bool = False,
    decoupled_wd: bool = False,
    centered_wd: float = 0.0,
    centered_wd_mode: str = "float8",
    state_precision: str = "auto",
    nnmf_factor: bool = False,
    factored_2nd: bool = False,
    vector_reshape: bool = False,
    stochastic_rounding: bool = True,
    seed: int = 0,
) -> Chain:
    """Adopt_adv: ADOPT, which divides by the second moment of the step before and then averages.

    Args:
        clip_lambda: what is averaged is clipped to (t - 1)**clip_lambda; `None` for no clipping.
    """
    first, second = _storages(state_precision, nnmf_factor, factored_2nd, vector_reshape)
    return chain(
        _working_precision(state_precision, nnmf_factor or factored_2nd, stochastic_rounding),
        _orthogonal(orthogonal_gradient),
        kourkoutas_beta
        and t.kourkoutas_beta(beta2_min, ema_alpha, tiny_spike, k_warmup_steps, layers=kourkoutas_layers),
        t.adopt(betas[1], skip_first=not (use_atan2 or spectral_normalization), initial="raw", storage=second),
        fisher_wd and t.fisher_decay("atan2" if use_atan2 else "rms"),
        _resolved(eps, use_atan2),
        clip_lambda is not None and not use_atan2 and t.step_clip(clip_lambda),
        *_first_moment(betas[0], first),
        *_mixed(nesterov, nesterov_coef, grams, cautious),
        ademamix and t.ademamix(beta3_ema, alpha, t_alpha, storage=first),
        *_scaled(lr, spectral_normalization, seed, use_atan2),
        *_decay(weight_decay, cautious_wd, decoupled_wd, centered_wd, centered_wd_mode),
        stochastic_rounding and t.stochastic_round(seed),
    )


@register_recipe("adv-prodigy", source=SOURCE, needs=NEEDS)
def adv_prodigy(
    lr: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = 1e-8,
    weight_decay: float = 0.0,
    *,
    beta3: float | None = None,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
    safeguard_warmup: bool = False,
    slice_p: int = 11,
    prodigy_steps: int = 0,
    d_limiter: bool = False,
    use_atan2: bool = False,
    nesterov: bool = False,
    nesterov_coef: float | None = None,
    grams: bool = False,
    cautious: bool = False,
    ademamix: bool = False,
    alpha: float = 5.0,
    beta3_ema: float = 0.9999,
    t_alpha: float | None = None,
    orthogonal_gradient: str = "disabled",
    kourkoutas_beta: bool = False,
    beta2_min: float = 0.9,
    ema_alpha: float = 0.95,
    tiny_spike: float = 1e-9,
    k_warmup_steps: int = 0,
    kourkoutas_layers: str = "shape",
    spectral_normalization: bool = False,
    fisher_wd: bool = False,
    cautious_wd: bool = False,
    decoupled_wd: bool = False,
    centered_wd: float = 0.0,
    centered_wd_mode: str = "float8",
    state_precision: str = "auto",
    nnmf_factor: bool = False,
    factored_2nd: bool = False,
    vector_reshape: bool = False,
    stochastic_rounding: bool = True,
    seed: int = 0,
) -> Chain:
    """Prodigy_adv: Adam that finds its own learning rate; leave `lr` at 1, or give it a schedule that starts there."""
    first, second = _storages(state_precision, nnmf_factor, factored_2nd, vector_reshape)
    return chain(
        _working_precision(state_precision, nnmf_factor or factored_2nd, stochastic_rounding),
        _orthogonal(orthogonal_gradient),
        kourkoutas_beta
        and t.kourkoutas_beta(beta2_min, ema_alpha, tiny_spike, k_warmup_steps, layers=kourkoutas_layers),
        t.prodigy(d0, d_coef, growth_rate, beta3, prodigy_steps, safeguard_warmup, d_limiter, slice_p),
        *_first_moment(betas[0], first),
        *_mixed(nesterov, nesterov_coef, grams, cautious),
        ademamix and t.ademamix(beta3_ema, alpha, t_alpha, storage=first),
        t.second_moment(betas[1], bias_correction=False, storage=second),
        fisher_wd and t.fisher_decay("atan2" if use_atan2 else "rms"),
        _resolved(eps, use_atan2),
        *_scaled(lr, spectral_normalization, seed, use_atan2),
        *_decay(weight_decay, cautious_wd, decoupled_wd, centered_wd, centered_wd_mode),
        stochastic_rounding and t.stochastic_round(seed),
    )


@register_recipe("adv-lion", source=SOURCE, needs=NEEDS)
def adv_lion(
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    *,
    kappa_p: float = 1.0,
    auto_kappa_p: bool = False,
    stochastic_sign: bool = False,
    cautious: bool = False,
    freeze_on_flip: bool = False,
    projected_adaptivity: str = "disabled",
    clip_threshold: float = 0.0,
    orthogonal_gradient: str = "disabled",
    spectral_normalization: bool = False,
    cautious_wd: bool = False,
    decoupled_wd: bool = False,
    centered_wd: float = 0.0,
    centered_wd_mode: str = "float8",
    state_precision: str = "auto",
    nnmf_factor: bool = False,
    vector_reshape: bool = False,
    stochastic_rounding: bool = True,
    seed: int = 0,
) -> Chain:
    """Lion_adv: Lion-K, of which Lion is kappa_p = 1; kappa_p = 2 gives steps of one length instead of one size.

    Args:
        clip_threshold: clip the norm of each gradient; 0 does not.
    """
    storage, _ = _storages(state_precision, nnmf_factor, False, vector_reshape)
    return chain(
        _working_precision(state_precision, nnmf_factor, stochastic_rounding),
        clip_threshold != 0 and t.clip_by_norm(clip_threshold).expose(max_norm="clip_threshold"),
        _orthogonal(orthogonal_gradient),
        t.lion_interpolate(*betas, storage=storage),
        *_signed(stochastic_sign, freeze_on_flip, projected_adaptivity, kappa_p, auto_kappa_p, storage, cautious, seed),
        *_scaled(lr, spectral_normalization, seed),
        *_decay(weight_decay, cautious_wd, decoupled_wd, centered_wd, centered_wd_mode),
        stochastic_rounding and t.stochastic_round(seed),
    )


@register_recipe("adv-lion-prodigy", source="adv_optm 1.4.1, pypi.org/project/adv-optm", needs=NEEDS)
def adv_lion_prodigy(
    lr: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    *,
    beta3: float | None = None,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
    safeguard_warmup: bool = False,
    slice_p: int = 11,
    prodigy_steps: int = 0,
    d_limiter: bool = True,
    kappa_p: float = 1.0,
    auto_kappa_p: bool = False,
    stochastic_sign: bool = False,
    cautious: bool = False,
    freeze_on_flip: bool = False,
    projected_adaptivity: str = "disabled",
    clip_threshold: float = 0.0,
    orthogonal_gradient: str = "disabled",
    spectral_normalization: bool = False,
    cautious_wd: bool = False,
    decoupled_wd: bool = False,
    centered_wd: float = 0.0,
    centered_wd_mode: str = "float8",
    state_precision: str = "auto",
    nnmf_factor: bool = False,
    vector_reshape: bool = False,
    stochastic_rounding: bool = True,
    seed: int = 0,
) -> Chain:
    """Lion_Prodigy_adv: Lion with the step size that Prodigy finds."""
    storage, _ = _storages(state_precision, nnmf_factor, False, vector_reshape)
    return chain(
        _working_precision(state_precision, nnmf_factor, stochastic_rounding),
        clip_threshold != 0 and t.clip_by_norm(clip_threshold).expose(max_norm="clip_threshold"),
        _orthogonal(orthogonal_gradient),
        t.prodigy(d0, d_coef, growth_rate, beta3, prodigy_steps, safeguard_warmup, d_limiter, slice_p),
        t.lion_interpolate(*betas, storage=storage),
        *_signed(stochastic_sign, freeze_on_flip, projected_adaptivity, kappa_p, auto_kappa_p, storage, cautious, seed),
        *_scaled(lr, spectral_normalization, seed),
        *_decay(weight_decay, cautious_wd, decoupled_wd, centered_wd, centered_wd_mode),
        stochastic_rounding and t.stochastic_round(seed),
    )


@register_recipe("adv-signsgd", source=SOURCE, needs=NEEDS)
def adv_signsgd(
    lr: float = 1e-4,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    *,
    normed_momentum: bool = False,
    snr_cond: bool = False,
    nesterov: bool = False,
    nesterov_coef: float | None = None,
    stochastic_sign: bool = False,
    auto_kappa_p: bool = False,
    freeze_on_flip: bool = False,
    projected_adaptivity: str = "disabled",
    heavy_ball: bool = False,
    orthogonal_gradient: str = "disabled",
    spectral_normalization: bool = False,
    geometric_wd: bool = False,
    cautious_wd: bool = False,
    decoupled_wd: bool = False,
    centered_wd: float = 0.0,
    centered_wd_mode: str = "float8",
    state_precision: str = "auto",
    nnmf_factor: bool = False,
    vector_reshape: bool = False,
    stochastic_rounding: bool = True,
    seed: int = 0,
) -> Chain:
    """SignSGD_adv: the sign of an average, or the average of signs.

    Args:
        heavy_ball: let projected adaptivity measure the sum of past gradients, as in 2.4, instead of their average.
    """
    averages = {
        "normed_momentum": normed_momentum, "snr_cond": snr_cond, "nesterov": nesterov, "heavy_ball": heavy_ball,
        "nnmf_factor": nnmf_factor,
    }  # fmt: skip
    if momentum == 0 and any(averages.values()):
        option = next(name for name, given in averages.items() if given)
        raise OptionError(f"{option} = True has no effect with momentum = 0. Pass momentum > 0, or leave {option} out.")
    storage, _ = _storages(state_precision, nnmf_factor, False, vector_reshape)
    watched = storage if momentum != 0 and not normed_momentum else "param"
    sign = _signed(stochastic_sign, freeze_on_flip, projected_adaptivity, 1.0, auto_kappa_p, watched, False, seed)
    if heavy_ball:
        average: Any = t.heavy_ball(momentum, storage=storage)
    else:
        average = t.first_moment(momentum, bias_correction=False, storage=storage).expose(beta="momentum")
    averaging: Parts = [
        momentum != 0 and average,
        nesterov and t.nesterov(nesterov_coef, scaled=normed_momentum),
    ]
    return chain(
        _working_precision(state_precision, nnmf_factor, stochastic_rounding),
        _orthogonal(orthogonal_gradient),
        *([sign, averaging] if normed_momentum else [averaging, sign]),
        snr_cond and t.snr_precondition(1.0 if spectral_normalization else 4 / math.pi),
        *_scaled(lr, spectral_normalization, seed),
        *_decay(weight_decay, cautious_wd, decoupled_wd, centered_wd, centered_wd_mode, geometric_wd, snr_cond),
        stochastic_rounding and t.stochastic_round(seed),
    )


# Presets by intent.


@register_recipe("adv-adopt-factored", source=SOURCE)
def adv_adopt_factored(
    lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.9999), weight_decay: float = 0.0
) -> Chain:
    """Full fine-tuning in little memory: ADOPT with factored moments and atan2, an eighth of a byte per weight."""
    return adv_adopt(lr, betas, weight_decay=weight_decay, use_atan2=True, nnmf_factor=True, vector_reshape=True)


@register_recipe("adv-adopt-factored-ademamix", source=SOURCE)
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
def adv_prodigy_factored(lr: float = 1.0, d_coef: float = 1.0, weight_decay: float = 0.0) -> Chain:
    """When the learning rate is not known: Prodigy with factored moments and atan2."""
    return adv_prodigy(lr, d_coef=d_coef, weight_decay=weight_decay, use_atan2=True, nnmf_factor=True)


@register_recipe("adv-adamw-orthograd", source=SOURCE)
def adv_adamw_orthograd(lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> Chain:
    """Fine-tuning that should not overfit: Adam on the part of the gradient that does not just stretch the weights."""
    return adv_adamw(lr, betas, orthogonal_gradient="flattened")


@register_recipe("adv-adamw-scaled", source=SOURCE)
def adv_adamw_scaled(lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> Chain:
    """Tune once, train anywhere: steps of one size in what a layer puts out, for any width, rank or adapter."""
    return adv_adamw(lr, betas, eps=None, weight_decay=weight_decay, spectral_normalization=True)


# Parts.


@label_function
def tensor_or_vector(name: str, param: torch.Tensor) -> str:
    """Label `"tensor"` what has two axes or more, `"vector"` all else."""
    return "tensor" if param.ndim >= 2 else "vector"


@label_function
def convolution_or_other(name: str, param: torch.Tensor) -> str:
    """Label `"convolution"` what has four axes or more, `"other"` all else."""
    return "convolution" if param.ndim >= 4 else "other"


Parts = list[Any]


def _working_precision(state_precision: str, factored: bool, stochastic_rounding: bool) -> t.promote | None:
    """float32 at least, unless states and parameters are to be handled as the parameter is."""
    plain = state_precision.lower() == "auto" and not factored
    return None if plain and not stochastic_rounding else t.promote(at_least="fp32")


PRECISIONS = {
    "auto": "param", "fp32": "fp32", "fp16": "fp16", "bf16_sr": "bf16", "int8_sr": "int8", "factored": "factored",
}  # fmt: skip


def _storages(state_precision: str, nnmf_factor: bool, factored_2nd: bool, vector_reshape: bool) -> tuple[str, str]:
    """The storages of the first and the second moment."""
    if state_precision.lower() not in PRECISIONS:
        known = ", ".join(repr(name) for name in PRECISIONS)
        raise OptionError(f"state_precision = {shown(state_precision)} is not one of {known}. Pass one of these.")
    if nnmf_factor and state_precision.lower() not in ("auto", "factored"):
        raise OptionError(
            f"state_precision = {shown(state_precision)} has no effect with nnmf_factor=True. Leave out one."
        )
    factors = "factored_vectors" if vector_reshape else "factored"
    first = PRECISIONS["factored" if nnmf_factor else state_precision.lower()]
    first = factors if first == "factored" else first
    return first, factors if factored_2nd else first


def _orthogonal(mode: str) -> t.orthograd | None:
    return None if mode == "disabled" else t.orthograd(mode)


def _first_moment(beta1: float, storage: str) -> Parts:
    """No average at all for beta1 = 0."""
    return [t.first_moment(beta1, bias_correction=False, storage=storage)] if beta1 != 0 else []


def _mixed(nesterov: bool, nesterov_coef: float | None, grams: bool, cautious: bool) -> Parts:
    """What makes a direction of the momentum."""
    return [nesterov and t.nesterov(nesterov_coef), cautious and t.cautious(), grams and t.grams()]


def _resolved(eps: float | None, use_atan2: bool) -> Any:
    return t.atan2_scale() if use_atan2 else t.divide(eps)


def _signed(
    stochastic_sign: bool,
    freeze_on_flip: bool,
    projected_adaptivity: str,
    kappa: float,
    auto: bool,
    storage: str,
    cautious: bool,
    seed: int,
) -> Parts:
    """What makes a signed step of a direction."""
    freeze: Any = t.freeze_on_flip()
    if storage.startswith("factored"):  # the momentum keeps its signs anyway
        freeze = partition({"tensor": t.freeze_on_flip("momentum"), "vector": t.freeze_on_flip()}, tensor_or_vector)
    adaptive = projected_adaptivity != "disabled"
    if stochastic_sign and (adaptive or kappa != 1 or auto):
        raise OptionError("stochastic_sign = True excludes kappa_p, auto_kappa_p and projected_adaptivity. Drop them.")
    if adaptive and kappa != 1:
        raise OptionError(
            f"projected_adaptivity = {shown(projected_adaptivity)} is for signs, kappa_p = 1. Drop one of them."
        )
    if adaptive:
        sign: Any = t.projected_adaptivity(projected_adaptivity)
    else:
        sign = t.stochastic_sign(seed) if stochastic_sign else t.lion_k(kappa, auto)
    signed: Parts = (
        [sign, freeze_on_flip and freeze] if projected_adaptivity == "total" else [freeze_on_flip and freeze, sign]
    )
    if auto and (adaptive or freeze_on_flip):  # these are for signs
        signed = [partition({"convolution": t.lion_k(2.0), "other": signed}, convolution_or_other)]
    return [*signed, cautious and t.cautious()]


def _scaled(lr: float, spectral_normalization: bool, seed: int, use_atan2: bool = False) -> Parts:
    """To the learning rate; arctangents are brought to its unit if nothing else does so."""
    arc = use_atan2 and t.multiply(4 / math.pi)
    return [t.scale_update(seed=seed) if spectral_normalization else arc, t.scale_by_learning_rate(lr)]


def _decay(
    weight_decay: float,
    cautious_wd: bool,
    decoupled_wd: bool,
    centered_wd: float,
    centered_wd_mode: str,
    geometric: bool = False,
    snr: bool = False,
) -> Parts:
    """Decay to the origin, then to where the parameter started."""
    snr = geometric and snr
    if geometric:
        origin: Any = t.geometric_decay(weight_decay, schedule=decoupled_wd, snr=snr)
    else:
        origin = t.decoupled_decay(weight_decay, schedule=decoupled_wd)
    start = t.centered_decay(centered_wd, schedule=decoupled_wd, anchor=centered_wd_mode, geometric=geometric, snr=snr)
    return [cautious_wd and t.cautious_decay(), origin, centered_wd != 0 and start]
