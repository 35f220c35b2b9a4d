"""What the options of each adv_optm release are called here.

The recipes have the names of 2.5.16. Earlier releases spelt options otherwise, had other defaults, and had faults that
goldens show; those are put together here from our stages, so that the recipes stay clean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

import gradchain
from gradchain._chain.chain import Chain
from gradchain._chain.stage import storage_field
from gradchain.ops import ema

Case = Mapping[str, Any]
Edit = Callable[[Chain], Chain]

RECIPES = {
    "AdamW_adv": "adv-adamw",
    "Adopt_adv": "adv-adopt",
    "Prodigy_adv": "adv-prodigy",
    "Lion_adv": "adv-lion",
    "Lion_Prodigy_adv": "adv-lion-prodigy",
    "SignSGD_adv": "adv-signsgd",
    "SinkSGD_adv": "adv-sinksgd",
    "Muon_adv": "adv-muon",
    "AdaMuon_adv": "adv-adamuon",
}
RENAMED = {
    "use_AdEMAMix": "ademamix",
    "use_grams": "grams",
    "grams_moment": "grams",
    "use_cautious": "cautious",
    "cautious_mask": "cautious",
    "factored": "nnmf_factor",
    "scaled_optm": "spectral_normalization",
    "l1_adaptive": "projected_adaptivity",
}
ROLES = {"_is_lora_A": "lora_A", "_is_lora_B": "lora_B", "_is_dora_scale": "dora_scale", "_is_oft": "oft"}
IGNORED = ("fsdp_in_use", "k_logging", "compiled_optimizer")


@dataclass
class Translation:
    """Our recipe, its options, what to change in its chain, and the extra entries of the group."""

    recipe: str
    options: dict[str, Any]
    edits: list[Edit] = field(default_factory=list)
    group: dict[str, Any] = field(default_factory=dict)


def is_ours(case: Case) -> bool:
    return case["optimizer"].startswith("adv_optm")


def roles(case: Case) -> list[str | None]:
    """The roles of the parameters, by the attributes that the published package looks at."""
    marks = case.get("per_param") or [{}] * len(case["params0"])
    return [next((role for mark, role in ROLES.items() if attributes.get(mark)), None) for attributes in marks]


def translate(case: Case) -> Translation:
    version, _, published = case["optimizer"].removeprefix("adv_optm-").partition("/")
    recipe = RECIPES[published]
    known = {parameter.name for parameter in gradchain._chain.recipes.find_recipe(recipe).parameters}
    given = {RENAMED.get(key, key): value for key, value in case["hyperparameters"].items() if key not in IGNORED}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    options = {**{key: value for key, value in _defaults(version, published).items() if key in known}, **given}
    result = Translation(recipe, options)
    _translate_old(version, published, case, result)
    if published in ("Muon_adv", "AdaMuon_adv"):
        _published_muon(case, result)
    if options.get("use_atan2"):  # published: without effect
        options.pop("eps", None)
        options.pop("clip_lambda", None)
    if not (options.get("nnmf_factor") or options.get("factored_2nd") or options.get("state_precision") == "factored"):
        options.pop("vector_reshape", None)
    if not options.get("centered_wd"):
        options.pop("centered_wd_mode", None)
    if options.get("orthogonal_sinkhorn"):
        result.edits.append(lambda chain: chain.insert_after("sinkhorn", freeze_singletons()))
    if options.get("spectral_normalization") and version == "2.5.16":
        _published_spectral(options, published, result)
    return result


def _defaults(version: str, published: str) -> dict[str, Any]:
    """The defaults of earlier releases that differ from those of 2.5.16."""
    if version == "2.5.16":
        return {}
    if version.startswith("0.1"):
        return {"nnmf_factor": True, "vector_reshape": True, "use_bias_correction": False}
    defaults: dict[str, Any] = {"use_bias_correction": True, "vector_reshape": version.startswith("1.1")}
    if published == "SignSGD_adv" and version.startswith("2.4"):
        defaults["auto_kappa_p"] = True
    return defaults


def _translate_old(version: str, published: str, case: Case, result: Translation) -> None:
    options = result.options
    old = version != "2.5.16"
    options.pop("factored", None)
    if isinstance(options.get("orthogonal_gradient"), bool) or "use_orthograd" in options:
        on = options.pop("use_orthograd", options.get("orthogonal_gradient", False))
        rows = version.startswith("2.4.dev") and version != "2.4.dev2"
        options["orthogonal_gradient"] = ("per_rank" if rows else "flattened") if on else "disabled"
    if options.get("kourkoutas_beta") and old:
        result.edits.append(lambda chain: chain.with_options(warm_in="switch"))
    if "projected_adaptivity" in options:
        on = options.pop("projected_adaptivity")
        if on:
            options["projected_adaptivity"] = "total" if version == "2.4.dev2" else "auto_squared"
    if published == "SignSGD_adv" and old and options.get("momentum", 0.9) != 0:
        # 2.1 to 2.4 sum gradients up; dev2 then divided by what makes the sum a bias-corrected average.
        if options.get("projected_adaptivity") == "total":
            result.edits.append(lambda chain: chain.with_options(bias_correction=True))
        else:
            mu, storage = options.get("momentum", 0.9), "factored" if options.get("nnmf_factor") else "param"
            ball = gradchain.heavy_ball(mu, storage=storage, name="first_moment")
            result.edits.append(lambda chain: chain.replace("first_moment", ball))
    if published == "Lion_Prodigy_adv" and version.startswith("0.1"):
        options.setdefault("d_limiter", False)
        result.edits.append(
            lambda chain: chain.replace("lion_interpolate", lion_of_raw_gradients(*chain.hyperparameters["betas"]))
        )
    if options.pop("variance_reduction", False):
        betas = options.get("betas", (0.9, 0.99))
        storage = "factored_vectors" if options.get("nnmf_factor") else "param"
        result.edits.append(
            lambda chain: chain.replace("lion_interpolate", lion_of_corrected_momentum(*betas, storage))
        )
    if old and options.get("spectral_normalization"):
        _scaled_of_2_4(version, case, result)
    if version.startswith("2.4") and options.get("centered_wd"):  # published: it never acts
        result.edits.append(lambda chain: chain.without("centered_decay"))


def _scaled_of_2_4(version: str, case: Case, result: Translation) -> None:
    """`scaled_optm` of the 2.4 snapshots: other norms, one power step from one side, and decay by fan-in."""
    options = result.options
    first = version == "2.4.dev2"
    scale = gradchain.scale_update(
        vectors="rms" if first else "l2", blocks="rms" if first else "l2", power="one_sided_absolute"
    )
    result.edits.append(lambda chain: chain.replace("scale_update", scale))
    weight_decay, centered = options.get("weight_decay", 0.0), options.get("centered_wd", 0.0)
    result.edits.append(lambda chain: chain.replace("decoupled_decay", _decay_of_2_4(weight_decay, centered, first)))
    layers = (case.get("group_extra") or {}).get("n_layers")
    if version == "2.4.dev6" and result.recipe != "adv-lion" and not options.get("use_atan2"):
        options["eps"] = None
        result.edits.append(lambda chain: chain.with_options(n_layers=float(layers)))
    if options.get("use_atan2"):  # published: switched off, with a warning
        options["use_atan2"] = False


def _decay_of_2_4(weight_decay: float, centered_wd: float, first: bool) -> Any:
    """Decay by eta / eta_0 and fan-in: of vectors, none but DoRA scales.

    In dev2 OFT has no fan-in, and LoRA and OFT take their strength from `centered_wd`, if there is one.
    """
    decay = gradchain.decoupled_decay(weight_decay, schedule=True, fan_in=True)
    nothing = gradchain.decoupled_decay(0.0).rename(weight_decay="vector_wd")
    branches = {"matrix": decay, "vector": nothing, "dora_scale": decay}
    if first:
        own = gradchain.decoupled_decay(centered_wd or weight_decay, schedule=True, fan_in=True)
        own = own.rename(weight_decay="adapter_wd")
        branches |= {"lora_A": own, "lora_B": own, "oft": dataclasses.replace(own, fan_in=False)}
    return gradchain.partition(branches, matrix_or_vector)


def matrix_or_vector(name: str, param: torch.Tensor) -> str:
    return "matrix" if param.ndim >= 2 else "vector"


def _published_spectral(options: dict[str, Any], published: str, result: Translation) -> None:
    """2.5.16 divides the normalised update by the bias correction of the first moment (a fault; ours does not)."""
    beta1 = options.get("betas", (0.9, 0.999))[0]
    if published == "AdamW_adv" and options.get("use_bias_correction", True) and beta1 != 0:
        result.edits.append(lambda chain: chain.insert_after("scale_update", gradchain.debias(beta1)))


def _published_muon(case: Case, result: Translation) -> None:
    """What 2.5.16 does otherwise: MARS begins at a gradient of 0 (M19), AdaMuon's arctangent makes steps longer (M8)."""
    options = result.options
    if options.get("approx_mars"):
        options.setdefault("mars_initial", "zero")
    if options.get("spectral_normalization"):
        options["rms_rescaling"] = False  # published: switched off, with a warning
    if options.get("use_atan2") and options.get("rms_rescaling", True):
        result.edits.append(lambda chain: chain.insert_after("normalize_rms", gradchain.multiply(4 / math.pi)))
    if options.get("low_rank_ortho"):
        recorded_sketches.recorded = case["trace"]["sketches"]
        result.edits.append(lambda chain: chain.replace("orthogonalize", recorded_sketches(rank=options["ortho_rank"])))


class recorded_sketches(gradchain.orthogonalize):
    """Orthogonalisation in the span of sketches that adv_optm has drawn; its generator is not ours."""

    recorded: ClassVar[Any] = ()

    def scalars(self, step: Any) -> dict[str, Any]:
        return {"at": step}

    def sketch(self, ctx: gradchain.Context, columns: int, rank: int) -> torch.Tensor:
        drawn = [x for x in self.recorded[min(int(ctx["at"]), len(self.recorded)) - 1] if x.shape == (columns, rank)]
        return drawn[0] if drawn else super().sketch(ctx, columns, rank)


class lion_of_raw_gradients(gradchain.Stage):
    """Lion_Prodigy_adv of 0.1.4: its direction mixes the momentum of scaled gradients with the raw gradient (a fault)."""

    beta1: float = gradchain.hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    beta2: float = gradchain.hyper(default=0.99, ge=0, lt=1, key="betas[1]")

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        return {"exp_avg": gradchain.Slot()}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> Any:
        m = ctx.read("exp_avg")
        raw = ctx.gradient.to(ctx.dtype)
        return update.average(ema(m, raw, self.beta1)), {"exp_avg": ema(m, update.value, self.beta2)}


class lion_of_corrected_momentum(gradchain.Stage):
    """`variance_reduction` of 0.1.4. Where the storage of m is exact, m is the gradient: `lion_interpolate(beta1, 0)`."""

    beta1: float = gradchain.hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    beta2: float = gradchain.hyper(default=0.99, ge=0, lt=1, key="betas[1]")
    storage: str = storage_field()

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        return {"exp_avg": gradchain.Slot(storage=self.storage), "prev_grad": gradchain.Slot()}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> Any:
        g, m = update.value, ctx.read("exp_avg")
        reduced = g + self.beta2 * (m - ctx.read("prev_grad"))  # both are zeros at first, so m becomes g
        return update.average(ema(m, g, self.beta1)), {"exp_avg": reduced, "prev_grad": g}


class freeze_singletons(gradchain.Stage):
    """Orthogonal Sinkhorn of 2.5.16: a line of one element is all along its weight, so nothing is left of it (a fault)."""

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> gradchain.Update:
        frozen = len(ctx.shape) >= 2 and 1 in (ctx.shape[0], ctx.shape[1:].numel())
        return update.replace(value=torch.zeros_like(update.value)) if frozen else update


# State.


def load_start(case: Case, optimizer: gradchain.Optimizer) -> None:
    """Begin with the published start vectors of power iterations."""
    saved = optimizer.state_dict()
    changed = False
    for index, start in enumerate(case.get("state0") or []):
        for name in ("spectral_u", "spectral_v"):
            key = next((key for key in saved["state"][index] if key.endswith(f"scale_update.{name}")), "")
            if name in (start or {}) and key:
                saved["state"][index][key] = start[name].reshape(saved["state"][index][key].shape)
                changed = True
    if changed:
        optimizer.load_state_dict(saved)
