"""The options of the adv_optm recipes: typed, documented, checked by their groups; decay routed by role."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import pytest
import torch

import gradchain as gc
from gradchain._chain.recipes import find_recipe
from gradchain.recipes import adv_options
from gradchain.recipes.adv_options import Average, Decay, Momentum, Sign, State

ADV = [name for name in gc.recipes() if name.startswith("adv-")]
FULL = ["adv-adamw", "adv-adopt", "adv-prodigy", "adv-lion", "adv-lion-prodigy", "adv-signsgd", "adv-sinksgd"]


@pytest.mark.parametrize("name", ADV)
def test_every_option_is_typed_and_documented(name: str) -> None:
    build = find_recipe(name).build
    hints, doc = typing.get_type_hints(build), inspect.getdoc(build) or ""
    for option, parameter in inspect.signature(build).parameters.items():
        assert f"\n    {option}: {adv_options.meaning(option)}" in doc
        if isinstance(parameter.default, str):
            assert parameter.default in typing.get_args(hints[option])


def test_no_meaning_is_left_over() -> None:
    options = {parameter.name for name in ADV for parameter in find_recipe(name).parameters}
    assert set(adv_options.MEANINGS) <= options
    assert {option.removeprefix("adam_") for option in options} <= set(adv_options.MEANINGS)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: State("fp7", False, False, True, 0), "not one of 'auto', 'fp32'"),  # type: ignore[arg-type]
        (lambda: State("int8_sr", True, False, True, 0), "no effect with nnmf_factor=True"),
        (lambda: Momentum(0.0, False, None, False, False, False, 5.0, 0.99, None, True), "there is no momentum"),
        (lambda: Average(0.0, False, False, True, None, False, False), "nesterov = True has no effect"),
        (lambda: Sign(True, True, False, "disabled", 0), "stochastic_sign = True excludes"),
        (lambda: Sign(False, False, False, "mean", 0, 2.0), "for signs, kappa_p = 1"),
    ],
)
def test_groups_check_themselves(build: Any, words: str) -> None:
    with pytest.raises(gc.OptionError, match=words):
        build()


def test_groups_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Decay(0.1, False, False, False, 0.0, "full").weight_decay = 0.2  # type: ignore[misc]


# Routed decay.

DECAY = {"weight_decay": 0.1, "centered_wd": 0.4, "centered_wd_mode": "full", "stochastic_rounding": False}


def drift(name: str, role: str | None, shape: tuple[int, ...], **options: Any) -> torch.Tensor:
    """The second step of a parameter that was moved from 1 to 3 in between, without a gradient; in units of the rate."""
    param = torch.nn.Parameter(torch.ones(shape))
    optimizer = gc.optimizer(name, [param], lr=0.01, role=role, compile=False, **DECAY, **options)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    with torch.no_grad():
        param.fill_(3.0)
    optimizer.step()
    return (3.0 - param.detach()) / 0.01


@pytest.mark.parametrize("name", ["adv-adamw", "adv-adopt", "adv-lion", "adv-signsgd", "adv-sinksgd"])
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
def test_ordinary_decay_is_for_the_dora_scale_alone(name: str, shape: tuple[int, ...]) -> None:
    expected = {
        "dora_scale": 0.1 * 3 + 0.4 * (3 * (1 - 0.001) - 1),
        "lora_A": 0.4 * 3,
        "lora_B": 0.4 * 3,
        "oft": 0.4 * 3,
        "vector": 0.4 * (3 - 1),
        None: 0.4 * (3 - 1),
    }
    for role, size in expected.items():
        torch.testing.assert_close(
            drift(name, role, shape, routed_wd=True), torch.full(shape, size), rtol=1e-4, atol=1e-4, msg=str(role)
        )


def test_without_routing_lora_has_the_ordinary_decay_and_no_other() -> None:
    torch.testing.assert_close(drift("adv-adamw", "lora_A", (4, 3)), torch.full((4, 3), 0.3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FULL)
def test_routing_needs_a_centered_decay(name: str) -> None:
    with pytest.raises(gc.OptionError, match="option routed_wd = True has no effect without centered_wd"):
        gc.recipe(name, routed_wd=True, weight_decay=0.1)


def test_routes_are_saved_and_share_their_strength() -> None:
    chain = gc.recipe("adv-signsgd", routed_wd=True, centered_wd=0.1, geometric_wd=True, cautious_wd=True)
    assert gc.Chain.from_config(chain.to_config()) == chain
    changed = chain.with_options(centered_wd=0.7)
    strengths = {
        stage.weight_decay
        for name, stage in zip(changed.names, changed)
        if not name.startswith("dora") and isinstance(stage, gc.decoupled_decay)
    }
    assert strengths == {0.7}


# Muon_adv and AdaMuon_adv, where a switch decides about other options.

CHANGED: dict[str, Any] = {
    "use_muon": True, "ns_precision": "fp32", "mars_initial": "zero", "betas": (0.8, 0.7), "adam_betas": (0.8, 0.7),
    "ns_coeffs": (2.0, -1.5, 0.5), "orthogonal_gradient": "iterative", "adam_orthogonal_gradient": "iterative",
    "state_precision": "bf16_sr", "adam_state_precision": "bf16_sr", "centered_wd_mode": "int8",
    "adam_kourkoutas_layers": "tensor", "eps": None, "adam_eps": None, "ns_eps": None,
    **dict.fromkeys(("nesterov_coef", "adam_nesterov_coef", "cns_a_bound"), 0.3),
}  # fmt: skip
SWITCHES: list[dict[str, Any]] = [
    {}, {"use_muon": True}, {"use_muon": False}, {"accelerated_ns": True}, {"low_rank_ortho": True}, {"nesterov": False},
    {"normuon_variant": True}, {"approx_mars": True}, {"rms_rescaling": False}, {"centered_wd": 0.1},
    {"rms_rescaling": False, "spectral_normalization": True}, {"nnmf_factor": True}, {"state_precision": "factored"},
    {"stochastic_rounding": False}, {"adam_nnmf_factor": True}, {"adam_state_precision": "factored"},
    {"adam_use_atan2": True}, {"adam_kourkoutas_beta": True}, {"adam_nesterov": True}, {"adam_factored_2nd": True},
    {"adam_spectral_normalization": True}, {"use_atan2": True}, {"auto_projection": False}, {"factored_2nd": True},
]  # fmt: skip
SYNONYMS = ("nnmf_factor", "adam_nnmf_factor")  # of state_precision = "factored"


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else 0.5 * value + 0.1


@pytest.mark.parametrize("name", ["adv-muon", "adv-adamuon"])
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_an_option_changes_the_chain_or_is_an_error(name: str, switch: dict[str, Any]) -> None:
    parameters = {parameter.name: parameter.default for parameter in find_recipe(name).parameters}
    if not switch.keys() <= parameters.keys():
        return
    chain = gc.recipe(name, **switch)
    silent: list[str] = []
    for option, default in parameters.items():
        if option in switch or (option in SYNONYMS and "factored" in switch.values()):
            continue
        value = CHANGED[option] if option in CHANGED else other(default)
        try:
            if gc.recipe(name, **switch, **{option: value}) == chain:
                silent.append(option)
        except gc.OptionError:
            pass
    assert silent == []


@pytest.mark.parametrize("name", ["adv-muon", "adv-adamuon"])
@pytest.mark.parametrize("shape", [(), (7,)])
def test_vectors_cannot_be_declared_matrices(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(gc.OptionError, match="takes matrices"):
        gc.optimizer(name, [torch.nn.Parameter(torch.ones(shape))], use_muon=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_muon": True, "adam_eps": 1e-6}, "adam_eps = 1e-06 has no effect with use_muon = True"),
        ({"use_muon": False, "nesterov": False}, "nesterov = False has no effect with use_muon = False"),
        ({"nnmf_factor": True, "factored_2nd": True}, "factored_2nd = True has no effect with nnmf_factor = True"),
    ],
)
def test_what_the_others_leave_without_effect_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(gc.OptionError, match=words):
        gc.recipe("adv-adamuon", **options)
