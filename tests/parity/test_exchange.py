"""Moving in, in mid-run, from the packages as they are published; and out, where they can go on."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import gradchain

SHAPES = ((6, 8), (6,), (4, 3, 2), (7, 11))


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def values(params: list[nn.Parameter]) -> list[torch.Tensor]:
    return [param.detach().clone() for param in params]


def steps(optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()


@dataclass(frozen=True)
class Case:
    """A class of a package, and our recipe."""

    package: str
    extra: str
    name: str
    recipe: str
    options: dict[str, Any]
    ours: dict[str, Any]

    def theirs(self, params: list[nn.Parameter]) -> torch.optim.Optimizer:
        reason = f"pip install gradchain[{self.extra}]"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(pytest.importorskip(self.package, reason=reason), self.name)(params, **self.options)


def adv(name: str, recipe: str, ours: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case("adv_optm", "parity", name, recipe, options, options if ours is None else {**options, **ours})


def easy(name: str, recipe: str, ours: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case("pytorch_optimizer", "bench", name, recipe, options, ours or {})


CASES = {
    "adams": Case("adams", "parity", "Adams_ZeRO", "adams", {"lr": 1e-2}, {}),
    "adamw-adv": adv("AdamW_adv", "adv-adamw", lr=1e-2, weight_decay=0.1),
    "adamw-adv-nesterov-atan2": adv("AdamW_adv", "adv-adamw", lr=1e-2, nesterov=True, use_atan2=True),
    "adamw-adv-uncorrected": adv("AdamW_adv", "adv-adamw", lr=1e-2, use_bias_correction=False),
    "adamw-adv-factored": adv("AdamW_adv", "adv-adamw", lr=1e-2, nnmf_factor=True),
    "adamw-adv-factored-vectors": adv("AdamW_adv", "adv-adamw", lr=1e-2, nnmf_factor=True, vector_reshape=True),
    "adamw-adv-factored-2nd": adv("AdamW_adv", "adv-adamw", lr=1e-2, factored_2nd=True),
    "adopt-adv": adv("Adopt_adv", "adv-adopt", lr=1e-2),
    "adopt-adv-factored": adv("Adopt_adv", "adv-adopt", lr=1e-2, nnmf_factor=True),
    "prodigy-adv": adv("Prodigy_adv", "adv-prodigy", d0=1e-4),
    "prodigy-adv-slices": adv("Prodigy_adv", "adv-prodigy", d0=1e-4, slice_p=3),
    "lion-adv": adv("Lion_adv", "adv-lion", lr=1e-3, weight_decay=0.1),
    "lion-adv-factored": adv("Lion_adv", "adv-lion", lr=1e-3, nnmf_factor=True),
    "signsgd-adv": adv("SignSGD_adv", "adv-signsgd", lr=1e-3),
    "signsgd-adv-normed": adv("SignSGD_adv", "adv-signsgd", lr=1e-3, normed_momentum=True, snr_cond=True),
    "sinksgd-adv": adv("SinkSGD_adv", "adv-sinksgd", lr=1e-3, momentum=0.9, weight_decay=0.1),
    "sinksgd-adv-factored": adv("SinkSGD_adv", "adv-sinksgd", lr=1e-3, momentum=0.9, nnmf_factor=True),
    "sinksgd-adv-normed": adv(
        "SinkSGD_adv", "adv-sinksgd", lr=1e-3, momentum=0.9, normed_momentum=True, snr_cond=True, sinkhorn_iterations=3
    ),
    "lion": easy("Lion", "lion", lr=1e-3, weight_decay=0.1),
    "adopt": easy("ADOPT", "adv-adopt", lr=1e-2),
    "prodigy": easy("Prodigy", "adv-prodigy", {"slice_p": 1}),
    "rose": easy("ROSE", "rose-1.0.2", lr=1e-2, weight_decay=0.0),
    "heavyball-adamw": Case("heavyball", "bench", "AdamW", "adamw", {"lr": 1e-2, "weight_decay": 0.1}, {}),
}


def ours(case: Case, params: list[nn.Parameter]) -> gradchain.Optimizer:
    return gradchain.optimizer(case.recipe, params, compile=False, **case.ours)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("as_dict", [False, True], ids=["optimizer", "dict"])
@pytest.mark.parametrize("name", CASES)
def test_a_run_may_switch(name: str, as_dict: bool) -> None:
    case = CASES[name]
    straight, moved = parameters(), parameters()
    start = values(straight)
    steps(case.theirs(straight), 0, 12)
    steps(theirs := case.theirs(moved), 0, 5)
    mine = ours(case, moved)
    if as_dict and name == "adopt":  # others there have all the same keys
        with pytest.raises(gradchain.StateError, match="not recognised"):
            gradchain.import_state(mine, theirs.state_dict())
        return
    report = gradchain.import_state(mine, theirs.state_dict() if as_dict else theirs)
    assert report.source.endswith(case.name)
    steps(mine, 5, 12)
    close(straight, moved, start)


def close(straight: list[nn.Parameter], moved: list[nn.Parameter], start: list[torch.Tensor]) -> None:
    """As in test_live.py."""
    move = max(float((a - b).abs().max()) for a, b in zip(values(straight), start))
    assert move > 0
    for expected, found in zip(values(straight), values(moved)):
        error = (found - expected).abs()
        allowed = 2e-5 * move + 12 * 2**-23 * expected.abs()
        assert bool((error <= allowed).all()), f"off by {float(error.max()) / move:.1e} of the largest move"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_run_may_switch_back(name: str) -> None:
    case = CASES[name]
    straight, moved = parameters(), parameters()
    start = values(straight)
    steps(before := case.theirs(straight), 0, 8)
    if case.name == "Prodigy_adv":  # 2.5.16: its own resume is another run, by 7e-4 of the next sum
        saved = copy.deepcopy(before.state_dict())
        before = case.theirs(straight)
        before.load_state_dict(saved)
    steps(before, 8, 12)
    steps(theirs := case.theirs(moved), 0, 4)
    gradchain.import_state(mine := ours(case, moved), theirs)
    steps(mine, 4, 8)
    last = case.theirs(moved)
    last.load_state_dict(gradchain.export_state(mine, like=last))
    steps(last, 8, 12)
    close(straight, moved, start)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_what_was_taken_over_is_given_back(name: str) -> None:
    """Bit for bit where it is kept in one form; a bias correction is multiplied in and divided out."""
    case = CASES[name]
    steps(theirs := case.theirs(params := parameters()), 0, 4)
    gradchain.import_state(mine := ours(case, params), theirs)
    before, after = theirs.state_dict(), gradchain.export_state(mine, like=theirs)
    assert after["state"].keys() == before["state"].keys()
    for index, state in before["state"].items():
        if case.package == "heavyball":  # it counts in the first of its parameters only
            for view in (after["state"][index][0], state[0]):
                view.pop("step", None)
        same(after["state"][index], state, exact=case.package != "heavyball")


def same(found: Any, expected: Any, exact: bool) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same(found[key], value, exact)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0 if exact else 3e-7, atol=0)
    else:
        assert (found, type(found)) == (expected, type(expected))


BY_NAME = ("adams", "adamw-adv", "adopt-adv", "lion-adv", "signsgd-adv", "lion", "rose", "heavyball-adamw")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", BY_NAME)
def test_a_class_may_be_named(name: str) -> None:
    """With its own settings."""
    case = CASES[name]
    pytest.importorskip(case.package, reason=f"pip install gradchain[{case.extra}]")
    steps(mine := ours(case, parameters()), 0, 3)
    content = gradchain.export_state(mine, like=f"{case.package}.{case.name}")
    assert content["param_groups"][0]["lr"] == mine.param_groups[0]["lr"]


ELSEWHERE = {
    "nesterov": ("adamw-adv", {"nesterov": True}, r"there is nothing like nesterov"),
    "atan2": ("adamw-adv", {"use_atan2": True}, r"divide is missing.*atan2_scale"),
    "cautious": ("adamw-adv", {"cautious": True}, "there is nothing like cautious"),
    "uncorrected": ("adamw-adv", {"use_bias_correction": False}, r"bias_correction is False, not True"),
    "slices": ("prodigy-adv-slices", {"slice_p": 5}, r"slice_p is 5, not 3"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_chain_that_does_something_else_stays_here(name: str) -> None:
    case_name, options, text = ELSEWHERE[name]
    case = CASES[case_name]
    theirs = case.theirs(parameters())
    steps(mine := gradchain.optimizer(case.recipe, parameters(), **{**case.ours, **options}), 0, 2)
    with pytest.raises(gradchain.OptionError, match=text):
        gradchain.export_state(mine, like=theirs)


@pytest.mark.parametrize(
    ("name", "options", "ours"),
    [
        ("adopt", {"weight_decay": 0.1}, {"weight_decay": 0.1}),  # weight_decouple is off by default
        ("prodigy", {"weight_decay": 0.1, "fixed_decay": True}, {"weight_decay": 0.1}),
        ("rose", {"centralize": False}, {}),
        ("heavyball-adamw", {"caution": True}, {}),
        ("heavyball-adamw", {"warmup_steps": 10}, {}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_settings_that_the_recipe_has_no_option_for_are_compared(
    name: str, options: dict[str, Any], ours: dict[str, Any]
) -> None:
    case = CASES[name]
    theirs = dataclasses.replace(case, options={**case.options, **options}).theirs(parameters())
    steps(mine := gradchain.optimizer(case.recipe, parameters(), **{**case.ours, **ours}), 0, 2)
    with pytest.raises(gradchain.OptionError, match=r"Nothing was exported"):
        gradchain.export_state(mine, like=theirs)


@pytest.mark.parametrize("option", ["kourkoutas_beta", "nesterov", "orthogonal_gradient", "nnmf_factor"])
def test_an_optimizer_that_does_something_else_is_refused(option: str) -> None:
    case = CASES["adamw-adv"]
    theirs = pytest.importorskip("adv_optm", reason="pip install gradchain[parity]").AdamW_adv(
        parameters(), **{option: True}
    )
    steps(mine := ours(case, parameters()), 0, 2)
    with pytest.raises(gradchain.OptionError, match="Nothing was exported"):
        gradchain.export_state(mine, like=theirs)


@pytest.mark.parametrize("name", ["SGDW", "LARS", "RAdam", "EXAdam", "AdamP", "Lamb", "AdaBelief", "Tiger"])
def test_others_with_such_keys_are_not_mistaken(name: str) -> None:
    package = pytest.importorskip("pytorch_optimizer", reason="pip install gradchain[bench]")
    steps(theirs := getattr(package, name)(parameters()), 0, 2)
    for source in (theirs, theirs.state_dict()):
        with pytest.raises(gradchain.StateError, match="not recognised"):
            gradchain.import_state(gradchain.optimizer("adamw", parameters()), source)
