"""Replays a golden case: the published system's gradients and learning rates, through our recipe.

`run(case)` gives the parameters after the steps that the case has snapshots of. The case's options are the published
ones; the few that our recipes spell otherwise are translated here, so that the recipes stay clean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import gradchain
from gradchain._chain.chain import Chain
from gradchain._core.noise import round_to_bf16
from tests.parity import adv_optm

Case = Mapping[str, Any]


@dataclass
class Replayed:
    """What a replay leaves behind."""

    optimizer: gradchain.Optimizer
    params: list[torch.nn.Parameter]
    snapshots: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    telemetry: list[dict[str, float]] = field(default_factory=list)
    shared: list[dict[str, float]] = field(default_factory=list)
    betas: list[list[torch.Tensor | None]] = field(default_factory=list)


def run(case: Case, *, compile: bool = False, edit: Callable[[Chain], Chain] = lambda chain: chain) -> Replayed:
    """Replay a case, optionally with an edited chain, and keep telemetry and state."""
    dtype = getattr(torch, case["dtype"])
    params = [torch.nn.Parameter(p.to(dtype).clone()) for p in case["params0"]]
    for param, attributes in zip(params, case.get("per_param") or [{}] * len(params)):
        for name, value in attributes.items():
            setattr(param, name, value)
    name, options, optimizer_options, edits = translate(case)
    group = {"params": params, **group_extras(case)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(removes the whole gradient|does not decay).*")
        chain = gradchain.recipe(name, **options)
        if case["hyperparameters"].get("bf16_sr") == "generator":
            generator = torch.Generator().manual_seed(case["generator_seed"])
            chain = chain.replace("stochastic_round", GeneratorRound(generator))
        for change in (*edits, edit):
            chain = change(chain)
        optimizer = gradchain.Optimizer([group], chain, compile=compile, **optimizer_options)
    adv_optm.load_start(case, optimizer)
    result = Replayed(optimizer, params)
    for step, (grads, lr) in enumerate(zip(case["grads"], case["lrs"]), start=1):
        optimizer.param_groups[0]["lr"] = lr
        for param, grad in zip(params, grads):
            param.grad = None if grad is None else grad.to(dtype).clone()
        optimizer.step()
        result.telemetry.append(optimizer.telemetry())
        result.shared.append({key: float(optimizer.param_groups[0][key]) for _, _, key in chain.bindings.shared})
        result.betas.append([kept_beta(optimizer.state[param]) for param in params])
        if step in case["snapshots"]:
            result.snapshots[step] = [param.detach().clone() for param in params]
    return result


def kept_beta(state: Mapping[str, Any]) -> torch.Tensor | None:
    """The beta2 that a parameter was stepped with, if it was not a constant."""
    beta2 = state.get("kourkoutas_beta.beta2")
    return None if beta2 is None else beta2.clone()


class GeneratorRound(gradchain.Precision):
    """Stochastic rounding as the published Rose does it: one draw per parameter and step from a torch generator.

    Our own `stochastic_round` hashes a counter instead, so this one lives in the tests: it is not pure.
    """

    generator: torch.Generator = gradchain.static()

    def write(self, new_param: torch.Tensor, ctx: gradchain.Context) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if ctx.stored_param.dtype != torch.bfloat16:
            return new_param, {}
        bits = torch.empty(new_param.shape, dtype=torch.int32).random_(0, 65536, generator=self.generator)
        return round_to_bf16(new_param, bits), {}


def group_extras(case: Case) -> dict[str, Any]:
    """Extra group entries: those of the case, and the one that the published Rose writes itself at its first step."""
    if adv_optm.is_ours(case):
        return {"role": adv_optm.roles(case)}
    extras = dict(case.get("group_extras") or case.get("group_extra") or {})
    extras = {key: value for key, value in extras.items() if key not in STATIC}
    if case["optimizer"].startswith("rose"):
        extras.setdefault("initial_lr", case["lrs"][0])
    return extras


def translate(case: Case) -> tuple[str, dict[str, Any], dict[str, Any], list[Callable[[Chain], Chain]]]:
    """The recipe, its options, the options of the optimizer, and what to change in the chain."""
    published = case["optimizer"]
    if adv_optm.is_ours(case):
        translation = adv_optm.translate(case)
        return translation.recipe, translation.options, {}, translation.edits
    if published not in _TRANSLATIONS:
        raise ValueError(f"no recipe reproduces {published!r}; known: {', '.join(_TRANSLATIONS)}")
    recipe, renamed, of_optimizer = _TRANSLATIONS[published]
    parameters = {parameter.name: parameter for parameter in gradchain._chain.recipes.find_recipe(recipe).parameters}
    options: dict[str, Any] = {}
    optimizer_options: dict[str, Any] = {}
    for key, value in case["hyperparameters"].items():
        value = tuple(value) if isinstance(value, list) else value
        value = True if (key, value) == ("bf16_sr", "generator") else value
        if key == "wd_schedule":  # published: only a Python float other than 0.0 is a reference
            value = value if isinstance(value, float) and value else bool(value)
        target = optimizer_options if key in of_optimizer else options
        target[renamed.get(key, key)] = value
    # Published groups may override what is structure here: give it to the whole chain, since there is one group.
    extras = case.get("group_extras") or case.get("group_extra") or {}
    options |= {key: value for key, value in extras.items() if key in STATIC and key in parameters}
    if "warmup_steps" in parameters and options.get("warmup_steps") is None:  # published: by the constructor's betas
        slower = options.get("momentum", 0.9) if "momentum" in parameters else options.get("betas", (0.9, 0.999))[1]
        options["warmup_steps"] = round(1 / (1 - slower))
    return recipe, options, optimizer_options, []


STATIC = ("centralize", "stabilize", "wd_schedule", "compute_dtype", "bf16_sr")


# published name -> our recipe, options by another name, options that belong to the optimizer
_TRANSLATIONS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "rose-1.0": ("rose", {}, ()),
    "rose-1.1": ("rose-1.0.2", {}, ()),
    "gyro-adam": ("gyro-adam", {}, ("telemetry",)),
    "gyro-sgd": ("gyro-sgd", {}, ("telemetry",)),
    "adams": ("adams", {}, ()),
}
