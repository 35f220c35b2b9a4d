"""A class for each recipe. Written by `python -m tests.optim_stub`; do not edit."""

import collections.abc
import typing

import torch

import gradchain
from gradchain._optim.edited import FromRecipe as FromRecipe

CLASSES: dict[str, str]

def optimizer_class(recipe: str) -> type[gradchain.Optimizer]: ...
def class_name(recipe: str) -> str: ...

class Rose(gradchain.Optimizer):
    """Rose 1.0.0: each slice of the gradient divided by its range. Keeps no state."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        *,
        weight_decay: float | None = 0.0001,
        wd_schedule: bool | float = False,
        centralize: bool = True,
        stabilize: bool = True,
        bf16_sr: bool = True,
        compute_dtype: str | None = "fp64",
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Rose_1_0_2(gradchain.Optimizer):
    """Rose 1.0.2, the revised shape rules: |max| - min, signs for scalars, no damping of vectors."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        *,
        weight_decay: float | None = 0.0001,
        wd_schedule: bool | float = False,
        centralize: bool = True,
        stabilize: bool = True,
        bf16_sr: bool = True,
        compute_dtype: str | None = "fp64",
        skip_singletons: bool = False,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class GYROAdam(gradchain.Optimizer):
    """GYRO-Adam: AdamW on gradients that are turned away from opposing the momentum."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        theta_base: float = 0.0,
        proj_factor: float = 1.0,
        warmup_steps: int | None = None,
        residual_rtol: float = 1e-06,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class GYROSGD(gradchain.Optimizer):
    """GYRO-SGD: plain gradient steps, turned where they oppose a running average that only detects this."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        momentum: float = 0.9,
        theta_base: float = 0.0,
        proj_factor: float = 1.0,
        warmup_steps: int | None = None,
        eps: float = 1e-08,
        *,
        residual_rtol: float = 1e-06,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Adams(gradchain.Optimizer):
    """Adams: bounded steps by atan2, and decay of the largest singular value of each matrix."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        scalar_vector_weight_decay: float = 0.1,
        *,
        master_dtype: str = "fp32",
        hat_inside: bool = False,
        independent_vector_decay: bool = False,
        restart: bool = False,
        spectral_precision: str = "param",
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdamW_adv(gradchain.Optimizer):
    """AdamW_adv: AdamW whose every part can be exchanged."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = 1e-08,
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
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        spectral_normalization: bool = False,
        kourkoutas_beta: bool = False,
        beta2_min: float = 0.9,
        ema_alpha: float = 0.95,
        tiny_spike: float = 1e-09,
        k_warmup_steps: int = 0,
        kourkoutas_layers: typing.Literal["shape", "role", "tensor"] = "shape",
        fisher_wd: bool = False,
        cautious_wd: bool = False,
        decoupled_wd: bool = False,
        routed_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        factored_2nd: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdamW_adv_OrthoGrad(gradchain.Optimizer):
    """Fine-tuning that should not overfit: Adam on the part of the gradient that does not just stretch the weights."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdamW_adv_Scaled(gradchain.Optimizer):
    """Tune once, train anywhere: a width-independent change of a layer's output, for any rank or adapter."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Adopt_adv(gradchain.Optimizer):
    """Adopt_adv: ADOPT, which divides by the second moment of the step before and then averages."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0001,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float | None = 1e-06,
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
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        spectral_normalization: bool = False,
        kourkoutas_beta: bool = False,
        beta2_min: float = 0.9,
        ema_alpha: float = 0.95,
        tiny_spike: float = 1e-09,
        k_warmup_steps: int = 0,
        kourkoutas_layers: typing.Literal["shape", "role", "tensor"] = "shape",
        fisher_wd: bool = False,
        cautious_wd: bool = False,
        decoupled_wd: bool = False,
        routed_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        factored_2nd: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Adopt_adv_Factored(gradchain.Optimizer):
    """Full fine-tuning in little memory: ADOPT with factored moments and atan2, an eighth of a byte per weight."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0001,
        betas: tuple[float, float] = (0.9, 0.9999),
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Adopt_adv_Factored_AdEMAMix(gradchain.Optimizer):
    """Long runs of full fine-tuning: the same with a second, slow momentum; take beta3_ema 0.999 below 4,000 steps."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 4e-05,
        betas: tuple[float, float] = (0.9, 0.9999),
        weight_decay: float = 0.0,
        beta3_ema: float = 0.9999,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Prodigy_adv(gradchain.Optimizer):
    """Prodigy_adv: Adam that finds its own learning rate; leave `lr` at 1, or give it a schedule that starts there."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = 1e-08,
        weight_decay: float = 0.0,
        *,
        beta3: float | None = None,
        d0: float = 1e-06,
        d_coef: float = 1.0,
        growth_rate: float = float("inf"),
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
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        spectral_normalization: bool = False,
        kourkoutas_beta: bool = False,
        beta2_min: float = 0.9,
        ema_alpha: float = 0.95,
        tiny_spike: float = 1e-09,
        k_warmup_steps: int = 0,
        kourkoutas_layers: typing.Literal["shape", "role", "tensor"] = "shape",
        fisher_wd: bool = False,
        cautious_wd: bool = False,
        decoupled_wd: bool = False,
        routed_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        factored_2nd: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Prodigy_adv_Factored(gradchain.Optimizer):
    """When the learning rate is not known: Prodigy with factored moments and atan2."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 1.0,
        d_coef: float = 1.0,
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Lion_adv(gradchain.Optimizer):
    """Lion_adv: Lion-K, of which Lion is kappa_p = 1; kappa_p = 2 gives steps of one length instead of one size."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        kappa_p: float = 1.0,
        auto_kappa_p: bool = False,
        stochastic_sign: bool = False,
        cautious: bool = False,
        freeze_on_flip: bool = False,
        projected_adaptivity: typing.Literal["disabled", "auto", "mean", "row", "total", "auto_squared"] = "disabled",
        clip_threshold: float = 0.0,
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        spectral_normalization: bool = False,
        cautious_wd: bool = False,
        decoupled_wd: bool = False,
        routed_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Lion_Prodigy_adv(gradchain.Optimizer):
    """Lion_Prodigy_adv: Lion with the step size that Prodigy finds."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        beta3: float | None = None,
        d0: float = 1e-06,
        d_coef: float = 1.0,
        growth_rate: float = float("inf"),
        safeguard_warmup: bool = False,
        slice_p: int = 11,
        prodigy_steps: int = 0,
        d_limiter: bool = True,
        kappa_p: float = 1.0,
        auto_kappa_p: bool = False,
        stochastic_sign: bool = False,
        cautious: bool = False,
        freeze_on_flip: bool = False,
        projected_adaptivity: typing.Literal["disabled", "auto", "mean", "row", "total", "auto_squared"] = "disabled",
        clip_threshold: float = 0.0,
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        spectral_normalization: bool = False,
        cautious_wd: bool = False,
        decoupled_wd: bool = False,
        routed_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class SignSGD_adv(gradchain.Optimizer):
    """SignSGD_adv: the sign of an average, or the average of signs."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0001,
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
        projected_adaptivity: typing.Literal["disabled", "auto", "mean", "row", "total", "auto_squared"] = "disabled",
        heavy_ball: bool = False,
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        spectral_normalization: bool = False,
        geometric_wd: bool = False,
        cautious_wd: bool = False,
        decoupled_wd: bool = False,
        routed_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Muon_adv(gradchain.Optimizer):
    """Muon_adv: Muon whose every part can be exchanged, with Adam for vectors and odd shapes in one optimizer."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        beta1: float = 0.95,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = True,
        nesterov_coef: float | None = None,
        ns_steps: int = 5,
        ns_eps: float | None = 1e-07,
        ns_coeffs: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        ns_precision: typing.Literal["bf16", "fp32", "fp64"] = "bf16",
        accelerated_ns: bool = False,
        cns_a_bound: float | None = None,
        low_rank_ortho: bool = False,
        ortho_rank: int = 128,
        rms_rescaling: bool = True,
        spectral_normalization: bool = False,
        normuon_variant: bool = False,
        beta2_normuon: float = 0.95,
        normuon_eps: float = 1e-08,
        approx_mars: bool = False,
        mars_gamma: float = 0.025,
        mars_initial: typing.Literal["gradient", "zero"] = "gradient",
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        use_muon: bool | None = None,
        cautious_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        adam_betas: tuple[float, float] = (0.9, 0.99),
        adam_eps: float | None = 1e-08,
        adam_weight_decay: float = 0.0,
        adam_use_bias_correction: bool = True,
        adam_use_atan2: bool = False,
        adam_fisher_wd: bool = False,
        adam_nesterov: bool = False,
        adam_nesterov_coef: float | None = None,
        adam_orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        adam_spectral_normalization: bool = False,
        adam_kourkoutas_beta: bool = False,
        adam_beta2_min: float = 0.9,
        adam_ema_alpha: float = 0.95,
        adam_tiny_spike: float = 1e-09,
        adam_k_warmup_steps: int = 0,
        adam_kourkoutas_layers: typing.Literal["shape", "role", "tensor"] = "shape",
        adam_state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        adam_nnmf_factor: bool = False,
        adam_factored_2nd: bool = False,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdaMuon_adv(gradchain.Optimizer):
    """AdaMuon_adv: Muon of signs, divided by a second moment of the orthogonal direction."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float | None = 1e-08,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = True,
        nesterov_coef: float | None = None,
        use_atan2: bool = False,
        kappa_p: float = 1.0,
        auto_projection: bool = True,
        ns_steps: int = 5,
        ns_eps: float | None = 1e-07,
        ns_coeffs: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        ns_precision: typing.Literal["bf16", "fp32", "fp64"] = "bf16",
        accelerated_ns: bool = False,
        cns_a_bound: float | None = None,
        low_rank_ortho: bool = False,
        ortho_rank: int = 128,
        rms_rescaling: bool = True,
        spectral_normalization: bool = False,
        normuon_variant: bool = False,
        approx_mars: bool = False,
        mars_gamma: float = 0.025,
        mars_initial: typing.Literal["gradient", "zero"] = "gradient",
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        use_muon: bool | None = None,
        cautious_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        factored_2nd: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        adam_betas: tuple[float, float] = (0.9, 0.99),
        adam_eps: float | None = 1e-08,
        adam_weight_decay: float = 0.0,
        adam_use_bias_correction: bool = True,
        adam_use_atan2: bool = False,
        adam_fisher_wd: bool = False,
        adam_nesterov: bool = False,
        adam_nesterov_coef: float | None = None,
        adam_orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        adam_spectral_normalization: bool = False,
        adam_kourkoutas_beta: bool = False,
        adam_beta2_min: float = 0.9,
        adam_ema_alpha: float = 0.95,
        adam_tiny_spike: float = 1e-09,
        adam_k_warmup_steps: int = 0,
        adam_kourkoutas_layers: typing.Literal["shape", "role", "tensor"] = "shape",
        adam_state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        adam_nnmf_factor: bool = False,
        adam_factored_2nd: bool = False,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class SinkSGD_adv(gradchain.Optimizer):
    """SinkSGD_adv: rows and columns of an average brought to one size, or the average of gradients so normalised."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        sinkhorn_iterations: int = 5,
        orthogonal_sinkhorn: bool = False,
        normed_momentum: bool = False,
        snr_cond: bool = False,
        nesterov: bool = False,
        nesterov_coef: float | None = None,
        orthogonal_gradient: typing.Literal["disabled", "flattened", "per_rank", "iterative"] = "disabled",
        spectral_normalization: bool = False,
        geometric_wd: bool = False,
        cautious_wd: bool = False,
        decoupled_wd: bool = False,
        routed_wd: bool = False,
        centered_wd: float = 0.0,
        centered_wd_mode: typing.Literal["full", "float8", "float8_scaled", "int8", "int4"] = "float8",
        state_precision: typing.Literal["auto", "fp32", "fp16", "bf16_sr", "int8_sr", "factored"] = "auto",
        nnmf_factor: bool = False,
        vector_reshape: bool = False,
        stochastic_rounding: bool = True,
        seed: int = 0,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class SinkGD(gradchain.Optimizer):
    """SinkGD: each row and each column of a gradient at the same size; no state, no decay."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        iterations: int = 5,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdamW(gradchain.Optimizer):
    """AdamW: Adam with decoupled weight decay."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class SGD(gradchain.Optimizer):
    """SGD with L2 decay and, if `momentum` is not 0, heavy-ball or Nesterov momentum."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Lion(gradchain.Optimizer):
    """Lion: the sign of an interpolated momentum."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Muon(gradchain.Optimizer):
    """Muon for hidden matrices, AdamW for embeddings, heads, norms and biases, in one optimizer."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-07,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        method: str = "quintic",
        adam_lr_ratio: float = 1.0,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-08,
        adam_weight_decay: float = 0.01,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class NorMuon(gradchain.Optimizer):
    """NorMuon: Muon whose neurons step alike, as each row is divided by the root of its average mean square."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        beta2: float = 0.95,
        eps: float = 1e-08,
        *,
        ns_steps: int = 5,
        method: str = "quintic",
        adam_lr_ratio: float = 1.0,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-08,
        adam_weight_decay: float = 0.01,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Scion(gradchain.Optimizer):
    """Scion: steepest descent under norms that fit each layer: orthogonal matrices, and signs for all else."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.000244140625,
        momentum: float = 0.9,
        *,
        hidden_radius: float = 50.0,
        other_radius: float = 3000.0,
        constrained: bool = True,
        ns_steps: int = 5,
        method: str = "quintic",
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class GaLoreAdamW(gradchain.Optimizer):
    """GaLore: AdamW for hidden matrices in the span of a few singular vectors of a gradient, plain AdamW for all else."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
        rank: int = 128,
        update_proj_gap: int = 200,
        scale: float = 0.25,
        proj_type: str = "std",
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class APOLLOAdamW(gradchain.Optimizer):
    """APOLLO: gradients of hidden matrices, scaled as AdamW would scale a few random combinations of their lines."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        disable_nl: bool = False,
        *,
        rank: int = 256,
        update_proj_gap: int = 200,
        scale: float = 1.0,
        proj: str = "random",
        proj_type: str = "std",
        scale_type: str = "channel",
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class SOAP(gradchain.Optimizer):
    """SOAP: Adam in the eigenbasis of Shampoo for hidden matrices, Adam for all else."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.003,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Shampoo(gradchain.Optimizer):
    """Shampoo with the step sizes of Adam: preconditioned momentum, as long as Adam's step for that matrix."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        *,
        shampoo_beta: float = 0.95,
        shampoo_eps: float = 1e-12,
        precondition_frequency: int = 10,
        max_precond_dim: int = 10000,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdamATan2(gradchain.Optimizer):
    """Adam with the quotient replaced by an arctangent: no eps, bounded steps, independent of the gradient's units."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        a: float = 1.27,
        b: float = 1.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Adafactor(gradchain.Optimizer):
    """Adafactor: the gradient over its second moment by rows and columns, in proportion to the weights."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.01,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 0.001),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class CAME(gradchain.Optimizer):
    """CAME: Adafactor with a momentum, which is divided by how much it differs from what it averages."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0002,
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Adam_mini(gradchain.Optimizer):
    """Adam-mini: AdamW with one second moment for each row of a matrix, head of attention, or vector."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        n_heads: int | None = None,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Hyperball(gradchain.Optimizer):
    """AdamH: matrices keep the norm that they began with and step by a fraction of it; all else steps as Adam does."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-08,
        adam_lr_ratio: float = 0.1,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Lamb(gradchain.Optimizer):
    """LAMB: Adam's direction with its decay, in proportion to the norm of each layer's weights."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
        max_grad_norm: float | None = None,
        trust_clip: bool = False,
        always_adapt: bool = False,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Lars(gradchain.Optimizer):
    """LARS: SGD with steps in proportion to the norm of each layer's weights."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 1.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coeff: float = 0.001,
        eps: float = 1e-08,
        trust_clip: bool = False,
        always_adapt: bool = False,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class RAdam(gradchain.Optimizer):
    """RAdam: Adam that does not divide before its second moment can be trusted."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class NAdam(gradchain.Optimizer):
    """NAdam: Adam with Nesterov's look ahead and a momentum that warms up."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum_decay: float = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class MARS(gradchain.Optimizer):
    """MARS: AdamW on gradients corrected by their change, for a momentum of less variance."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.003,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdaBelief(gradchain.Optimizer):
    """AdaBelief: Adam that divides by how far gradients lie from their momentum."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class LaProp(gradchain.Optimizer):
    """LaProp: Adam that divides first, and averages what it has divided."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0004,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class StableAdamW(gradchain.Optimizer):
    """StableAdamW: AdamW with shorter steps where gradients outgrow their second moment."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-06,
        weight_decay: float = 0.01,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class AdamWScheduleFree(gradchain.Optimizer):
    """Schedule-Free AdamW: no schedule, no momentum buffer; call `optimizer.eval()` to evaluate and to save."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class SGDScheduleFree(gradchain.Optimizer):
    """Schedule-Free SGD: no schedule, no momentum buffer; call `optimizer.eval()` to evaluate and to save."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...

class Sophia(gradchain.Optimizer):
    """Sophia: the momentum over the Hessian's diagonal, bounded; it wants `gradchain.give_hessian` every ten steps."""

    def __init__(
        self,
        params: torch.nn.Module | collections.abc.Iterable[typing.Any],
        lr: float = 0.0001,
        betas: tuple[float, float] = (0.96, 0.99),
        eps: float = 1e-12,
        weight_decay: float = 0.1,
        gamma: float = 0.01,
        *,
        disable: collections.abc.Iterable[str] = (),
        compile: typing.Literal["auto"] | typing.Literal["background"] | bool = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: str
        | collections.abc.Sequence[str | None]
        | collections.abc.Mapping[typing.Any, str]
        | collections.abc.Callable[[str, torch.Tensor], str | None]
        | None = None,
        capturable: bool = False,
        nonfinite: typing.Literal["propagate", "skip", "error"] = "propagate",
        nonfinite_scope: typing.Literal["model", "parameter"] | None = None,
        partition_of: torch.nn.Module | collections.abc.Iterable[torch.Tensor] | None = None,
        partition_group: typing.Any = None,
        shadows: collections.abc.Mapping[str, gradchain.Chain] | None = None,
    ) -> None: ...
