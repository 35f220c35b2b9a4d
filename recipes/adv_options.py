"""What the adv_optm recipes share: their options, in groups that check themselves and return stages.

A field of a group is the option of that name; its annotation says what the option does, once for all recipes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_type_hints

import torch

from gradchain import transforms as t
from gradchain._chain.partition import partition
from gradchain._chain.registry import label_function
from gradchain.errors import OptionError, shown
from gradchain.transforms.centered_decay import ADAPTERS

OrthoGrad = Literal["disabled", "flattened", "per_rank", "iterative"]
Layers = Literal["shape", "role", "tensor"]
Precision = Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"]
Adaptivity = Literal["disabled", "auto", "mean", "row", "total", "auto_squared"]
Anchor = Literal["full", "float8", "float8_scaled", "int8", "int4"]
Digits = Literal["bf16", "fp32", "fp64"]
Initial = Literal["gradient", "zero"]
Parts: TypeAlias = "list[Any]"
"""Stages, partitions and lists of them; `False` and `None` are left out."""

STORAGES = {"auto": "param", "bf16_sr": "bf16", "int8_sr": "int8"}
"""The storages that `state_precision` calls by another name."""


@dataclass(frozen=True)
class State:
    """How moments and parameters are stored, and the precision in which a step is computed."""

    state_precision: Annotated[Precision, 'storage: "auto", "fp32", "fp16", "bf16_sr", "int8_sr" or "factored".']
    nnmf_factor: Annotated[bool, "factored moments. Not with another `state_precision`."]
    vector_reshape: Annotated[bool, "factor vectors too. Needs factored moments."]
    stochastic_rounding: Annotated[bool, "round bfloat16 parameters at random; compute in float32 at least."]
    seed: Annotated[int, "of rounding, stochastic signs and the start of power iterations."]
    factored_2nd: Annotated[bool, "factor the second moment only. Not with `nnmf_factor`."] = False

    def __post_init__(self) -> None:
        given = f"state_precision = {shown(self.state_precision)}"
        if self._name not in get_args(Precision):
            raise OptionError(f"{given} is not one of {', '.join(map(repr, get_args(Precision)))}. Pass one of these.")
        if self.nnmf_factor and self._name not in ("auto", "factored"):
            raise OptionError(f"{given} has no effect with nnmf_factor=True. Leave out one.")

    @property
    def _name(self) -> str:
        return str(self.state_precision).lower()

    @property
    def _factors(self) -> str:
        return "factored_vectors" if self.vector_reshape else "factored"

    @property
    def first(self) -> str:
        """The storage of the first moment."""
        if self.nnmf_factor or self._name == "factored":
            return self._factors
        return STORAGES.get(self._name, self._name)

    @property
    def second(self) -> str:
        """The storage of the second moment."""
        return self._factors if self.factored_2nd else self.first

    def working_precision(self) -> Any:
        """float32 at least, unless states and parameters are handled in the parameter's own dtype."""
        wide = self._name != "auto" or self.nnmf_factor or self.factored_2nd or self.stochastic_rounding
        return wide and t.promote(at_least="fp32")

    def rounding(self) -> Any:
        return self.stochastic_rounding and t.stochastic_round(self.seed)


@dataclass(frozen=True)
class Kourkoutas:
    """A second moment that forgets faster when gradients spike."""

    kourkoutas_beta: Annotated[bool, "lower the second moment's decay rate after a spike of the gradient."]
    beta2_min: Annotated[float, "the lowest such rate, below `betas[1]`, the highest."]
    ema_alpha: Annotated[float, "decay rate of the average norm that spikes are compared with."]
    tiny_spike: Annotated[float, "added to that norm."]
    k_warmup_steps: Annotated[int, "steps until the lowered rate is fully in force."]
    kourkoutas_layers: Annotated[Layers, 'a layer is all parameters of one "shape", of one "role", or each "tensor".']

    def stage(self) -> Any:
        return self.kourkoutas_beta and t.kourkoutas_beta(
            self.beta2_min, self.ema_alpha, self.tiny_spike, self.k_warmup_steps, layers=self.kourkoutas_layers
        )


@dataclass(frozen=True)
class Momentum:
    """The first moment of Adam, and the direction that is made of it."""

    beta1: float
    nesterov: Annotated[bool, "look ahead by one step."]
    nesterov_coef: Annotated[float | None, "how much momentum is in that mix; `None`: its decay rate."]
    grams: Annotated[bool, "signs of the gradient, sizes of the momentum."]
    cautious: Annotated[bool, "drop what disagrees in sign with the gradient. Not with `grams`."]
    ademamix: Annotated[bool, "add a second, slow momentum."]
    alpha: Annotated[float, "weight of the slow momentum."]
    beta3_ema: Annotated[float, "decay rate of the slow momentum; 0.999 for runs of a few thousand steps."]
    t_alpha: Annotated[float | None, "steps over which `alpha` grows to its value; `None`: it is constant."]
    normed_momentum: Annotated[bool, "normalise first, then average."] = False

    def __post_init__(self) -> None:
        if self.normed_momentum and self.beta1 == 0:
            raise OptionError(
                "normed_momentum = True has no effect with betas[0] = 0: there is no momentum. Leave it out."
            )

    def stages(self, storage: str) -> Parts:
        return [
            self.beta1 != 0 and t.first_moment(self.beta1, bias_correction=False, storage=storage),
            self.nesterov and t.nesterov(self.nesterov_coef),
            self.cautious and t.cautious(),
            self.grams and t.grams(),
            self.ademamix and t.ademamix(self.beta3_ema, self.alpha, self.t_alpha, storage=storage),
        ]


@dataclass(frozen=True)
class Average:
    """The average of SignSGD and SinkSGD: of gradients, or of gradients that are normalised already."""

    momentum: Annotated[float, "decay rate of the average; 0: none."]
    normed_momentum: bool
    snr_cond: Annotated[
        bool, "weigh an average of normalised gradients by how much they agree. Needs `normed_momentum`."
    ]
    nesterov: bool
    nesterov_coef: float | None
    heavy_ball: Annotated[bool, "let projected adaptivity measure the sum of gradients, as in 2.4, not their average."]
    nnmf_factor: bool

    def __post_init__(self) -> None:
        averages = ("normed_momentum", "snr_cond", "nesterov", "heavy_ball", "nnmf_factor")
        for option in averages if self.momentum == 0 else ():
            if getattr(self, option):
                raise OptionError(
                    f"{option} = True has no effect with momentum = 0. Pass momentum > 0, or leave {option} out."
                )

    def stages(self, storage: str) -> Parts:
        mean = t.first_moment(self.momentum, bias_correction=False, storage=storage).rename(beta="momentum")
        average = t.heavy_ball(self.momentum, storage=storage) if self.heavy_ball else mean
        return [
            self.momentum != 0 and average,
            self.nesterov and t.nesterov(self.nesterov_coef, scaled=self.normed_momentum),
        ]


@dataclass(frozen=True)
class Division:
    """The quotient by the second moment, or its arctangent."""

    eps: Annotated[float | None, "added to the divisor; `None`: 1/sqrt(N) for N elements. Not with `use_atan2`."]
    use_atan2: Annotated[bool, "arctangent times 4/pi in place of the quotient."]
    fisher_wd: Annotated[bool, "weigh decays by the inverse of the divisor."]

    def stages(self) -> Parts:
        fisher = self.fisher_wd and t.fisher_decay("atan2" if self.use_atan2 else "rms")
        return [fisher, t.atan2_scale() if self.use_atan2 else t.divide(self.eps)]


@dataclass(frozen=True)
class Sign:
    """A signed step along a direction."""

    auto_kappa_p: Annotated[bool, "`kappa_p` 2 for convolutions, 1 for all else."]
    stochastic_sign: Annotated[bool, "signs at random, right on average."]
    freeze_on_flip: Annotated[bool, "leave out elements that have just changed their sign."]
    projected_adaptivity: Annotated[Adaptivity, 'signs times a norm: "auto", "mean", "row", "total", "auto_squared".']
    seed: int
    kappa_p: Annotated[float, "1: signs; 2: steps of one length; or between. Not with `auto_kappa_p`."] = 1.0

    def __post_init__(self) -> None:
        if self.stochastic_sign and (self._adaptive or self.kappa_p != 1 or self.auto_kappa_p):
            raise OptionError(
                "stochastic_sign = True excludes kappa_p, auto_kappa_p and projected_adaptivity. Drop them."
            )
        if self._adaptive and self.kappa_p != 1:
            given = shown(self.projected_adaptivity)
            raise OptionError(f"projected_adaptivity = {given} is for signs, kappa_p = 1. Drop one of them.")

    @property
    def _adaptive(self) -> bool:
        return self.projected_adaptivity != "disabled"

    def stages(self, storage: str) -> Parts:
        """`storage` is that of the momentum."""
        sign, freeze = self._sign(), self.freeze_on_flip and self._freeze(storage)
        signed: Parts = [sign, freeze] if self.projected_adaptivity == "total" else [freeze, sign]
        if self.auto_kappa_p and (self._adaptive or self.freeze_on_flip):  # these are for signs
            return [partition({"convolution": t.lion_k(2.0), "other": signed}, convolution_or_other)]
        return signed

    def _sign(self) -> Any:
        if self._adaptive:
            return t.projected_adaptivity(self.projected_adaptivity)
        return t.stochastic_sign(self.seed) if self.stochastic_sign else t.lion_k(self.kappa_p, self.auto_kappa_p)

    def _freeze(self, storage: str) -> Any:
        """A factored momentum keeps its signs anyway; that of a vector may not be factored."""
        if not storage.startswith("factored"):
            return t.freeze_on_flip()
        return partition({"tensor": t.freeze_on_flip("momentum"), "vector": t.freeze_on_flip()}, tensor_or_vector)


@dataclass(frozen=True)
class Decay:
    """Decay to zero, then to where the parameter started."""

    weight_decay: Annotated[float, "decoupled decay to zero."]
    cautious_wd: Annotated[bool, "decay only where the step agrees in sign."]
    decoupled_wd: Annotated[bool, "decay by `lr` over its peak or first value, not by `lr`."]
    routed_wd: Annotated[
        bool, "for adapters: `weight_decay` for DoRA scales only; `centered_wd` for all, to zero for LoRA and OFT."
    ]
    centered_wd: Annotated[float, "decay to where the parameter started."]
    centered_wd_mode: Annotated[Anchor, 'keep the start as "full", "float8", "float8_scaled", "int8" or "int4".']
    geometric_wd: Annotated[bool, "decays that take the same from all elements; SinkSGD's, by rows and columns."] = (
        False
    )
    snr_cond: bool = False
    by: str = "element"

    def stages(self) -> Parts:
        to_zero, to_start = self._to_zero(self.weight_decay), self._to_start()
        decays: Parts = [to_zero, self.centered_wd != 0 and to_start]
        if self.routed_wd:  # LoRA factors and OFT blocks are differences to a frozen model: to them, the start is zero
            adapter = self._to_zero(self.centered_wd).rename(weight_decay="centered_wd")
            branches = {"dora_scale": decays, **{role: [adapter] for role in ADAPTERS}, "other": decays[1:]}
            decays = [partition(branches, only_by_role)]
        return [self.cautious_wd and t.cautious_decay(), *decays]

    def _to_zero(self, strength: float) -> t.decoupled_decay:
        if self.geometric_wd:
            return t.geometric_decay(strength, schedule=self.decoupled_wd, snr=self.snr_cond, by=self.by)
        return t.decoupled_decay(strength, schedule=self.decoupled_wd)

    def _to_start(self) -> t.centered_decay:
        decay = t.centered_decay(self.centered_wd, schedule=self.decoupled_wd, anchor=self.centered_wd_mode)
        return replace(decay, geometric=True, snr=self.snr_cond, by=self.by) if self.geometric_wd else decay


def orthogonal(mode: OrthoGrad) -> Any:
    return mode != "disabled" and t.orthograd(mode)


def step_size(lr: float, spectral_normalization: bool, seed: int, use_atan2: bool = False) -> Parts:
    """Scale to the learning rate; arctangents are brought to its unit if nothing else does so."""
    unit = use_atan2 and t.multiply(4 / math.pi)
    return [t.scale_update(seed=seed) if spectral_normalization else unit, t.scale_by_learning_rate(lr)]


@label_function
def tensor_or_vector(name: str, param: torch.Tensor) -> str:
    """Label `"tensor"` what has two axes or more, `"vector"` all else."""
    return "tensor" if param.ndim >= 2 else "vector"


@label_function
def convolution_or_other(name: str, param: torch.Tensor) -> str:
    """Label `"convolution"` what has four axes or more, `"other"` all else."""
    return "convolution" if param.ndim >= 4 else "other"


@label_function
def only_by_role(name: str, param: torch.Tensor) -> str:
    """Label everything `"other"`: only a role that names a branch leads elsewhere."""
    return "other"


MEANINGS = {
    "beta1": "decay rate of the momentum, in [0, 1).",
    "use_muon": "all are matrices, or none is; `None`: by shape, or by a role `muon` or `adam`.",
    "normuon_variant": "divide each row by the root of the average of its mean square.",
    "beta2_normuon": "decay rate of that average.",
    "normuon_eps": "added to that root.",
    "approx_mars": "correct the gradient by its change since the last step.",
    "mars_gamma": "how much.",
    "mars_initial": 'the gradient before the first: `"gradient"`: that itself; `"zero"`: none, as published.',
    "auto_projection": "`kappa_p` 2 for convolutions, 1 for all else.",
    "adam_betas": "decay rates of the two averages.",
    "adam_weight_decay": "decoupled decay to zero of what Adam steps.",
    "adam_use_bias_correction": "correct the bias of both moments.",
    "lr": "learning rate.",
    "betas": "decay rates of the two averages, each in [0, 1).",
    "use_bias_correction": "correct the bias of both moments, as Adam does.",
    "clip_lambda": "clip what is averaged to (t - 1)**clip_lambda; `None`: do not. Not with `use_atan2`.",
    "beta3": "decay rate of the sums that `d`, the step size, is estimated from; `None`: sqrt(betas[1]).",
    "d0": "the first `d`; one that is far too small costs steps.",
    "d_coef": "multiplies the estimate.",
    "growth_rate": "how much `d` may grow in a step, as a factor.",
    "safeguard_warmup": "keep the learning rate out of the estimate's denominator, for schedules that warm up.",
    "slice_p": "measure with one element in so many.",
    "prodigy_steps": "stop adapting `d` after so many steps; 0: never.",
    "d_limiter": "let an estimate be at most 2**(1/4) times `d`.",
    "clip_threshold": "clip the norm of each gradient; 0: do not.",
    "orthogonal_gradient": 'remove the part along the weights: "flattened", "per_rank" or "iterative".',
    "sinkhorn_iterations": "how often rows and columns are brought to one size in turn.",
    "orthogonal_sinkhorn": "and made orthogonal to the weights.",
    "spectral_normalization": "normalise updates by the role of the parameter.",
}
for group in (State, Kourkoutas, Momentum, Average, Division, Sign, Decay):
    hints = get_type_hints(group, include_extras=True)
    MEANINGS.update({name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")})

Build = TypeVar("Build", bound=Callable[..., Any])


def documented(build: Build) -> Build:
    """Append `Args:`, `Returns:` and `Raises:` to the docstring of a recipe; an option without a meaning is a `KeyError`."""
    arguments = "\n".join(f"    {name}: {meaning(name)}" for name in inspect.signature(build).parameters)
    build.__doc__ = (
        f"{inspect.getdoc(build)}\n\nArgs:\n{arguments}\n\nReturns:\n    The chain, for an optimizer or to be edited.\n\n"
        "Raises:\n    OptionError: a value out of range, or an option that the others leave without effect."
    )
    return build


def meaning(option: str) -> str:
    """What an option does; those of Adam beside Muon mean what they mean in AdamW_adv."""
    return MEANINGS[option] if option in MEANINGS else f"`{option.removeprefix('adam_')}` of AdamW_adv."
