"""What the state of other optimizers is called, and what it is called here: one entry for each, and nothing else.

A key of theirs is paired with `stage.slot`, by the name under which the stage is registered; where in the chain it stands
is looked up. The pairs stand in the order in which these stages have to run for the slots to mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gradchain._optim.conversions import (
    DEBIASED,
    FLAT,
    SHAPED,
    SIGNS,
    SLICED,
    adams_state,
    adv_group,
    adv_state,
    heavyball_state,
    prodigy_group,
)
from gradchain._optim.sources import Flag, Source, averages_after, has, never, option


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


ADAM = {"exp_avg": "first_moment.exp_avg", "exp_avg_sq": "second_moment.exp_avg_sq"}
AFTER = dict(reversed(ADAM.items()))
"""The same, averaged after the division."""
ADAM_STAGES = frozenset({"first_moment", "second_moment", "divide", "scale_by_learning_rate"})
CORRECTED = {"first_moment.bias_correction": True, "second_moment.bias_correction": True}
MACHINE = frozenset({"foreach", "fused", "capturable", "differentiable"})
DECAYS = frozenset({"decoupled_decay", "add_decayed_weights"})
DECAY_KIND = Flag(has("decoupled_decay"), exact=True, when="weight_decay")
DECOUPLED = replace(DECAY_KIND, fixed=True)

TORCH = (
    Source(
        "torch.optim.AdamW",
        group=frozenset({"betas", "amsgrad", "capturable"}),
        absent=frozenset({"momentum_decay"}),
        slots={**ADAM, "max_exp_avg_sq": "second_moment.max_exp_avg_sq"},
        numbers=_same("lr", "betas", "eps", "weight_decay", "maximize"),
        flags={"amsgrad": Flag(option("second_moment", "amsgrad"), exact=True), "decoupled_weight_decay": DECOUPLED},
        left=MACHINE,
        optional=frozenset({"max_exp_avg_sq"}),
        algorithm=ADAM_STAGES | DECAYS,
        options=CORRECTED,
        also=("torch.optim.Adam",),
    ),
    Source(
        "torch.optim.RAdam",
        group=frozenset({"betas", "capturable", "decoupled_weight_decay"}),
        absent=frozenset({"amsgrad", "momentum_decay"}),
        slots=ADAM,
        numbers=_same("lr", "betas", "eps", "weight_decay", "maximize"),
        flags={"decoupled_weight_decay": DECAY_KIND},
        left=MACHINE,
        algorithm=ADAM_STAGES - {"divide"} | DECAYS | {"rectify"},
    ),
    Source(
        "torch.optim.NAdam",
        group=frozenset({"betas", "momentum_decay"}),
        slots={
            **{key: f"nadam_momentum.{key}" for key in ("exp_avg", "mu_product")},
            "exp_avg_sq": ADAM["exp_avg_sq"],
        },
        numbers=_same("lr", "betas", "eps", "weight_decay", "momentum_decay", "maximize"),
        flags={"decoupled_weight_decay": DECAY_KIND},
        left=MACHINE,
        algorithm=ADAM_STAGES - {"first_moment"} | DECAYS | {"nadam_momentum"},
        options={"second_moment.bias_correction": True},
    ),
    Source(
        "torch.optim.Adafactor",
        group=frozenset({"beta2_decay"}),
        slots={
            "row_var": "row_column_moment.exp_avg_sq_row",
            "col_var": "row_column_moment.exp_avg_sq_col",
            "variance": "row_column_moment.exp_avg_sq",
        },
        numbers=_same("lr", "beta2_decay", "eps", "weight_decay", "maximize") | {"d": "max_rms"},
        left=MACHINE,
        recipe="adafactor",
    ),
    Source(
        "torch.optim.SGD",
        group=frozenset({"momentum", "dampening", "nesterov", "weight_decay"}),
        absent=frozenset({"weight_decouple", "trust_coefficient"}),
        slots={"momentum_buffer": "heavy_ball.momentum_buffer"},
        numbers=_same("lr", "momentum", "dampening", "weight_decay", "maximize"),
        flags={"nesterov": Flag(option("heavy_ball", "nesterov"))},
        count="",
        left=MACHINE,
        algorithm=frozenset({"heavy_ball", "add_decayed_weights", "scale_by_learning_rate"}),
    ),
)

ADAMS = (
    Source(
        "adams.Adams_ZeRO",
        group=frozenset({"scalar_vector_weight_decay"}),
        slots={
            "master_param": "master_weights.master_param",
            **ADAM,
            **{key: f"spectral_decay.{key}" for key in ("u", "sigma")},
        },
        numbers=_same("lr", "betas", "weight_decay", "scalar_vector_weight_decay"),
        convert=dict.fromkeys(("master_param", *ADAM), FLAT),
        optional=frozenset({"master_param"}),
        recipe="adams",
        state_of=adams_state,
    ),
)

FACTORS = {
    "exp_avg": {"mu_m_nmf": "row", "mv_m_nmf": "column", "sign": "sign"},
    "exp_avg_sq": {"mu_v_nmf": "row", "mv_v_nmf": "column"},
}


def _factored(slots: Mapping[str, str]) -> dict[str, str]:
    """Slots as they are, or as factors."""
    parts = {key: {k: f"{ours}.{part}" for k, part in FACTORS.get(key, {}).items()} for key, ours in slots.items()}
    return {name: ours for key in slots for name, ours in {key: slots[key], **parts[key]}.items()}


ADV = Source(
    "adv_optm.AdamW_adv",
    group=frozenset({"nnmf_factor", "use_bias_correction"}),
    where={"normed_momentum": False},
    slots=_factored(ADAM),
    numbers=_same("lr", "betas", "eps", "weight_decay"),
    flags={
        "nesterov": Flag(has("nesterov")),
        "fisher_wd": Flag(has("fisher_decay")),
        "cautious_wd": Flag(has("cautious_decay")),
        "orthogonal_gradient": Flag(has("orthograd")),
        "use_atan2": Flag(has("atan2_scale")),
        "geometric_wd": Flag(has("geometric_decay")),
        "snr_cond": Flag(has("snr_precondition")),
        "stochastic_sign": Flag(has("stochastic_sign")),
        "use_bias_correction": Flag(option("second_moment", "bias_correction"), exact=True),
        **dict.fromkeys(
            ("nesterov_coef", "spectral_normalization", "centered_wd", "kourkoutas_beta", "auto_kappa_p"), Flag(never)
        ),
    },
    count="int",
    convert={"sign": SIGNS},
    recipe="adv-adamw",
    state_of=adv_state,
    group_of=adv_group,
    left=frozenset(
        {
            "factored",
            "factored_2nd",
            "effective_shape",
            "shifter",
            "nnmf_factor",
            "vector_reshape",
            "state_precision",
            "actual_state_precision",
            "compiled_optimizer",
            "centered_wd_mode",
            "beta2_min",
            "ema_alpha",
            "tiny_spike",
            "k_warmup_steps",
            "k_logging",
            "fsdp_in_use",
        }
    ),
    unmapped={
        "exp_avg_scale": "its 8-bit codes have another scale than ours",
        "exp_avg_sq_scale": "its 8-bit codes are linear, and ours are fourth powers",
        "kourkoutas_r_ema": "it averages the norm of a layer, which is kept by another layout here",
        "anchor_data": "it keeps the start of a parameter in another layout",
    },
)
PRODIGY = {"s": "prodigy.s", "p0": "prodigy.p0"}
ESTIMATE = _same("d", "d_max", "d_numerator", "d_coef", "growth_rate", "beta3")
PRODIGY_FLAGS = {name: Flag(option("prodigy", name), exact=True) for name in ("d0", "safeguard_warmup")}

ADV_OPTM = (
    ADV,
    replace(ADV, where={"normed_momentum": True}, slots=_factored(AFTER)),
    replace(
        ADV,
        name="adv_optm.Adopt_adv",
        recipe="adv-adopt",
        group=frozenset({"nnmf_factor", "factored_2nd", "eps"}),
        where={},
        absent=frozenset({"use_bias_correction", "d0"}),
        slots=_factored({"exp_avg_sq": "adopt.exp_avg_sq", "exp_avg": "first_moment.exp_avg"}),
    ),
    replace(
        ADV,
        name="adv_optm.Prodigy_adv",
        recipe="adv-prodigy",
        group=frozenset({"nnmf_factor", "factored_2nd", "d0"}),
        where={},
        slots=PRODIGY | _factored(ADAM),
        numbers={**ADV.numbers, **ESTIMATE} | _same("k", "prodigy_steps"),
        flags={
            **ADV.flags,
            **PRODIGY_FLAGS,
            **{name: Flag(option("prodigy", name), exact=True) for name in ("slice_p", "d_limiter")},
        },
        convert={**ADV.convert, **dict.fromkeys(PRODIGY, SLICED)},
    ),
    replace(
        ADV,
        name="adv_optm.Lion_adv",
        recipe="adv-lion",
        group=frozenset({"nnmf_factor", "kappa_p"}),
        where={},
        absent=frozenset({"d0"}),
        slots=_factored({"exp_avg": "lion_interpolate.exp_avg"}),
        flags={**ADV.flags, "kappa_p": Flag(option("lion_k", "kappa", 1.0), exact=True)},
    ),
    replace(
        ADV,
        name="adv_optm.SignSGD_adv",
        recipe="adv-signsgd",
        group=frozenset({"nnmf_factor", "momentum", "snr_cond"}),
        absent=frozenset({"sinkhorn_iterations"}),
        where={},
        slots=_factored({"exp_avg": "first_moment.exp_avg"}),
        numbers=_same("lr", "momentum", "weight_decay"),
        flags={
            **ADV.flags,
            "normed_momentum": Flag(averages_after("lion_k", "stochastic_sign", "projected_adaptivity"), exact=True),
        },
    ),
    replace(
        ADV,
        name="adv_optm.SinkSGD_adv",
        recipe="adv-sinksgd",
        group=frozenset({"nnmf_factor", "momentum", "sinkhorn_iterations"}),
        where={},
        slots={
            "momentum_buffer": "first_moment.exp_avg",
            "mu_b_nmf": "first_moment.exp_avg.row",
            "mv_b_nmf": "first_moment.exp_avg.column",
            "sign": "first_moment.exp_avg.sign",
        },
        numbers=_same("lr", "momentum", "weight_decay"),
        flags={
            **ADV.flags,
            "normed_momentum": Flag(averages_after("sinkhorn"), exact=True),
            "sinkhorn_iterations": Flag(option("sinkhorn", "iterations"), exact=True),
            "orthogonal_sinkhorn": Flag(option("sinkhorn", "orthogonal")),
        },
        settings={"momentum": 0.9},  # whatever it is: with 0 there is no state to take over
    ),
)

EASY = Source(
    "pytorch_optimizer.Lion",
    group=frozenset({"betas", "weight_decouple", "fixed_decay"}),
    absent=frozenset({"eps"}),
    slots={"exp_avg": "lion_interpolate.exp_avg"},
    numbers=_same("lr", "betas", "weight_decay"),
    flags={
        "weight_decouple": Flag(has("decoupled_decay"), exact=True, when="weight_decay"),
        "fixed_decay": Flag(never),
    },
    count="step",
    left=frozenset({"foreach"}),
    closed=True,
    algorithm=frozenset({"lion_interpolate", "sign", "decoupled_decay", "scale_by_learning_rate"}),
)

PYTORCH_OPTIMIZER = (
    EASY,
    replace(
        EASY,
        name="pytorch_optimizer.ADOPT",
        recipe="adv-adopt",
        group=EASY.group | {"eps"},
        absent=frozenset(),
        slots={"exp_avg_sq": "adopt.exp_avg_sq", "exp_avg": "first_moment.exp_avg"},
        numbers=_same("lr", "betas", "eps", "weight_decay"),
        first=-1,  # its bound, a root of the count, is one step ahead of ours
        running=True,
    ),
    replace(
        EASY,
        name="pytorch_optimizer.Prodigy",
        recipe="adv-prodigy",
        settings={"slice_p": 1},
        group_of=prodigy_group,
        called={"use_bias_correction": "bias_correction"},
        group=EASY.group | {"d0", "d_de_nom"},
        absent=frozenset(),
        slots=PRODIGY | ADAM,
        numbers=_same("lr", "betas", "eps", "weight_decay") | ESTIMATE | {"step": "k"},
        flags={
            **EASY.flags,
            **PRODIGY_FLAGS,
            "bias_correction": Flag(option("second_moment", "bias_correction"), exact=True),
        },
        first=1,
        convert=dict.fromkeys(PRODIGY, SHAPED),
        left=EASY.left | {"d_de_nom", "d_hat"},
    ),
    replace(
        EASY,
        name="pytorch_optimizer.ROSE",
        recipe="rose-1.0.2",
        group=frozenset({"wd_schedule", "centralize", "stabilize", "weight_decouple"}),
        absent=frozenset(),
        slots={},
        numbers=_same("lr", "weight_decay"),
        flags={
            **EASY.flags,
            "centralize": Flag(has("centralize")),
            "stabilize": Flag(has("cv_trust_gate")),
            "wd_schedule": Flag(never),
        },
        left=EASY.left | {"bf16_sr", "compute_dtype"},
    ),
)

HEAVYBALL = (
    Source(
        "heavyball.AdamW",
        group=frozenset({"beta2_scale", "step_count", "mars", "cautious_weight_decay"}),
        slots={f"update_by_adam_{key}_0": ours for key, ours in ADAM.items()},
        numbers=_same("lr", "betas", "eps", "weight_decay"),
        flags={
            "caution": Flag(has("cautious")),
            **dict.fromkeys(("mars", "cautious_weight_decay", "warmup_steps", "ecc", "param_ecc"), Flag(never)),
        },
        count="step_count",
        convert={f"update_by_adam_{key}_0": DEBIASED for key in ADAM},
        left=frozenset(
            {
                "is_initialized",
                "multi_tensor",
                "storage_dtype",
                "mars_gamma",
                "param_count",
                "is_preconditioning",
                "base_lr",
                "prev_lr",
                "step",
            }
        ),
        recipe="adamw",
        state_of=heavyball_state,
        also=("heavyball.ForeachAdamW",),
    ),
)

GYRO_NUMBERS = _same("lr", "theta_base", "proj_factor", "warmup_steps", "eps")
GYRO = (
    Source(
        "gyro_optimizer.GYROAdam",
        group=frozenset({"theta_base", "proj_factor", "betas"}),
        slots=ADAM,
        numbers=GYRO_NUMBERS | _same("betas", "weight_decay"),
        recipe="gyro-adam",
        count="int",
        left=frozenset({"telemetry"}),
    ),
    Source(
        "gyro_optimizer.GYROSGD",
        group=frozenset({"theta_base", "proj_factor", "momentum"}),
        slots={"exp_avg": "track_first_moment.exp_avg"},
        numbers=GYRO_NUMBERS | _same("momentum"),
        recipe="gyro-sgd",
        count="int",
        left=frozenset({"telemetry"}),
    ),
)

SOURCES = (*TORCH, *ADAMS, *ADV_OPTM, *PYTORCH_OPTIMIZER, *HEAVYBALL, *GYRO)
