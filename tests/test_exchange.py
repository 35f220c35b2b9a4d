"""Moving in from an optimizer of torch in mid-run, and out again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import transforms as t

Make = Callable[[Any], torch.optim.Optimizer]


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 8), (5,), (), (2, 3, 4))
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def steps(optimizer: torch.optim.Optimizer, first: int, last: int, skip: int | None = None) -> None:
    """Equal gradients in equal steps, whoever steps; the parameter `skip` has none."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for number, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator).to(param.dtype)
            param.grad = None if number == skip else grad
        optimizer.step()


def values(params: list[nn.Parameter]) -> list[torch.Tensor]:
    return [param.detach().clone() for param in params]


def same_state(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Bit for bit, in torch's form."""
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        assert ours["state"][index].keys() == state.keys()
        for key, value in state.items():
            assert ours["state"][index][key].dtype == value.dtype, key
            assert torch.equal(ours["state"][index][key], value), key
    assert ours["param_groups"] == theirs["param_groups"]


def adamw(**options: Any) -> gradchain.Chain:
    return gradchain.recipe("adamw", **options)


def moments(option: str, value: Any) -> gradchain.Chain:
    """AdamW with an option of both moments."""
    return adamw().with_options(**{f"{moment}_moment.{option}": value for moment in ("first", "second")})


def adam(chain: gradchain.Chain) -> gradchain.Chain:
    """Adam of torch: the decay is added to the gradient."""
    return chain.without("decoupled_decay").insert_before("first_moment", t.add_decayed_weights(0.0))


CASES: dict[str, tuple[Make, Callable[[], gradchain.Chain]]] = {
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=3e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2), adamw),
    "AdamW-amsgrad": (lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True), lambda: adamw(amsgrad=True)),
    "AdamW-maximize": (lambda p: torch.optim.AdamW(p, lr=1e-2, maximize=True), adamw),
    "Adam": (lambda p: torch.optim.Adam(p, lr=1e-2), adamw),
    "Adam-l2": (lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1), lambda: adam(adamw())),
    "RAdam": (lambda p: torch.optim.RAdam(p, lr=1e-2, weight_decay=0.1), lambda: gradchain.recipe("radam")),
    "RAdam-decoupled": (
        lambda p: torch.optim.RAdam(p, lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
        lambda: gradchain.recipe("radam", decoupled_weight_decay=True),
    ),
    "NAdam": (
        lambda p: torch.optim.NAdam(p, lr=1e-2, weight_decay=0.1, momentum_decay=0.1),
        lambda: gradchain.recipe("nadam"),
    ),
    "Adafactor": (
        lambda p: torch.optim.Adafactor(p, lr=3e-2, beta2_decay=-0.7, eps=(1e-5, 1e-2), d=1.5, weight_decay=0.1),
        lambda: gradchain.recipe("adafactor"),
    ),
    "SGD": (lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=0.1), lambda: gradchain.recipe("sgd")),
    "SGD-momentum": (
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, dampening=0.3, weight_decay=0.1),
        lambda: gradchain.recipe("sgd", momentum=0.5),
    ),
    "SGD-nesterov": (
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
        lambda: gradchain.recipe("sgd", momentum=0.5, nesterov=True),
    ),
}


@pytest.mark.parametrize("skip", [None, 1], ids=["all", "one-without-gradient"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_may_switch_and_switch_back(case: str, skip: int | None) -> None:
    make, chain = CASES[case]
    straight, moved = parameters(), parameters()
    steps(uninterrupted := make(straight), 0, 12, skip)

    steps(first := make(moved), 0, 4, skip)
    before = copy.deepcopy(first.state_dict())
    ours = gradchain.Optimizer(moved, chain(), compile=False)
    report = gradchain.import_state(ours, first)
    assert report.parameters == len(before["state"])
    same_state(gradchain.export_state(ours, like=first), before)
    same_state(first.state_dict(), before)  # it was only read
    steps(ours, 4, 8, skip)
    last = make(moved)
    last.load_state_dict(gradchain.export_state(ours, like=last))
    steps(last, 8, 12, skip)
    for a, b in zip(moved, straight):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-7)
    assert last.state_dict()["param_groups"] == uninterrupted.state_dict()["param_groups"]


def test_all_that_schedulers_and_names_put_into_groups_moves_too() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    named = list(model.named_parameters())
    theirs = torch.optim.AdamW([{"params": named[:2]}, {"params": named[2:], "lr": 0.5}])
    torch.optim.lr_scheduler.LambdaLR(theirs, lambda _: 0.25)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    theirs.step()
    ours = gradchain.Optimizer([{"params": named[1::-1]}, {"params": named[2:]}], adamw())  # by name, not by place
    gradchain.import_state(ours, theirs)
    assert [(group["initial_lr"], group["lr"]) for group in ours.param_groups] == [(1e-3, 2.5e-4), (0.5, 0.125)]
    for param in model.parameters():
        assert torch.equal(ours.state[param]["second_moment.exp_avg_sq"], theirs.state[param]["exp_avg_sq"])
    back = gradchain.export_state(ours, like="torch.optim.AdamW")
    assert back["param_groups"][1]["initial_lr"] == 0.5
    assert back["param_groups"][0]["param_names"] == ["0.bias", "0.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_moments_are_kept_bit_for_bit_or_widened(dtype: torch.dtype) -> None:
    params = parameters(dtype)
    steps(theirs := torch.optim.AdamW(params), 0, 3)
    ours = gradchain.Optimizer(params, adamw())
    gradchain.import_state(ours, theirs.state_dict())
    for param in params:
        held = theirs.state[param]["exp_avg"]
        assert torch.equal(ours.state[param]["first_moment.exp_avg"].to(dtype), held)
    if dtype != torch.float64:
        wide = gradchain.Optimizer(params, moments("storage", "fp32"))
        gradchain.import_state(wide, theirs)
        assert torch.equal(wide.state[params[0]]["first_moment.exp_avg"].to(dtype), theirs.state[params[0]]["exp_avg"])
    restored = torch.optim.AdamW(params)
    restored.load_state_dict(gradchain.export_state(ours, like="torch.optim.AdamW"))
    same_state(restored.state_dict(), theirs.state_dict())


def stepped(make: Make) -> torch.optim.Optimizer:
    steps(optimizer := make(parameters()), 0, 2)
    return optimizer


REFUSED: dict[str, tuple[Make, Any, type[Exception], str]] = {
    "amsgrad": (lambda p: torch.optim.AdamW(p, amsgrad=True), adamw(), gradchain.OptionError, "amsgrad = True"),
    "no-amsgrad": (torch.optim.AdamW, adamw(amsgrad=True), gradchain.OptionError, "amsgrad = False"),
    "decay-of-another-kind": (
        lambda p: torch.optim.Adam(p, weight_decay=0.1),
        adamw(),
        gradchain.OptionError,
        "decoupled_weight_decay = False",
    ),
    "decay-without-a-stage": (
        torch.optim.AdamW,
        adamw().without("decoupled_decay"),
        gradchain.OptionError,
        "this chain has no weight_decay",
    ),
    "nesterov": (
        lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True),
        gradchain.recipe("sgd", momentum=0.9),
        gradchain.OptionError,
        "nesterov = True",
    ),
    "momentum-without-a-stage": (
        lambda p: torch.optim.SGD(p, momentum=0.9),
        gradchain.recipe("sgd"),
        gradchain.OptionError,
        "this chain has no momentum",
    ),
    "slots-without-a-stage": (
        torch.optim.AdamW,
        gradchain.recipe("lion", weight_decay=0.1),
        gradchain.StateError,
        "parameter 0 of group 0: exp_avg of torch.optim.AdamW has no place here",
    ),
    "slots-that-are-missing": (
        lambda p: torch.optim.Adam(p),
        adamw().insert_before("second_moment", t.ademamix()),
        gradchain.StateError,
        "wants ademamix.exp_avg_slow",
    ),
    "another-meaning": (
        torch.optim.AdamW,
        gradchain.recipe("adv-adamw", normed_momentum=True),
        gradchain.StateError,
        "in this order",
    ),
    "another-storage": (
        torch.optim.AdamW,
        gradchain.recipe("adv-adamw", nnmf_factor=True),
        gradchain.StateError,
        "storage='param'",
    ),
    "a-narrower-storage": (
        torch.optim.AdamW,
        moments("storage", "bf16"),
        gradchain.StateError,
        "cannot hold it",
    ),
    "out-of-range": (
        lambda p: torch.optim.SGD(p, momentum=1.5),
        gradchain.recipe("sgd", momentum=0.9),
        gradchain.StateError,
        "momentum = 1.5",
    ),
    "decay-of-another-kind-in-NAdam": (
        lambda p: torch.optim.NAdam(p, weight_decay=0.1),
        gradchain.recipe("nadam", decoupled_weight_decay=True),
        gradchain.OptionError,
        "decoupled_weight_decay = False",
    ),
    "another-momentum": (torch.optim.NAdam, adamw(), gradchain.OptionError, "this chain has no momentum_decay"),
    "unknown": (torch.optim.Adamax, adamw(), gradchain.StateError, "not recognised.*exp_inf"),
    "unknown-to-torch": (torch.optim.Adadelta, adamw(), gradchain.StateError, "not recognised"),
    "other-groups": (
        lambda p: torch.optim.AdamW([{"params": p[:2]}, {"params": p[2:]}]),
        adamw(),
        gradchain.StateError,
        "groups of",
    ),
}


@pytest.mark.parametrize("as_dict", [False, True], ids=["optimizer", "dict"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_over_is_an_error_and_changes_nothing(case: str, as_dict: bool) -> None:
    make, chain, error, text = REFUSED[case]
    source = stepped(make)
    ours = gradchain.Optimizer(parameters(), chain)
    steps(ours, 0, 1)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(error, match=text):
        gradchain.import_state(ours, source.state_dict() if as_dict else source)
    after = ours.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, state in before["state"].items():
        assert all(torch.equal(after["state"][index][key], value) for key, value in state.items())


@pytest.mark.parametrize("source", [None, [], {"state": {}}, {"state": [], "param_groups": []}, torch.zeros(2)])
def test_what_is_no_optimizer_is_refused(source: Any) -> None:
    with pytest.raises(gradchain.StateError, match="Nothing was loaded"):
        gradchain.import_state(gradchain.Optimizer(parameters(), adamw()), source)


@pytest.mark.parametrize("spoil", [{"exp_avg": 3.0}, {"exp_avg": torch.zeros(3)}, {"step": "two"}, {"step": -1}])
def test_a_damaged_state_is_refused(spoil: dict[str, Any]) -> None:
    content = copy.deepcopy(stepped(torch.optim.AdamW).state_dict())
    content["state"][0].update(spoil)
    with pytest.raises(gradchain.StateError, match="parameter 0 of group 0"):
        gradchain.import_state(gradchain.Optimizer(parameters(), adamw()), content)


def test_our_own_state_dict_has_another_door() -> None:
    ours = gradchain.Optimizer(parameters(), adamw())
    with pytest.raises(gradchain.StateError, match="load_state_dict"):
        gradchain.import_state(ours, ours)
    with pytest.raises(gradchain.OptionError, match="pass gradchain's first"):
        gradchain.import_state(torch.optim.AdamW(parameters()), ours)  # type: ignore[arg-type]


def test_stages_without_state_may_be_exchanged() -> None:
    source = stepped(lambda p: torch.optim.AdamW(p, weight_decay=0.0))
    ours = gradchain.Optimizer(parameters(), gradchain.recipe("adam-atan2"))
    report = gradchain.import_state(ours, source)
    assert "eps" in report.left
    assert report.hyperparameters == ("lr", "betas", "weight_decay", "maximize")


EXPORTS: dict[str, tuple[gradchain.Chain, Any, type[Exception], str]] = {
    "another-stage": (gradchain.recipe("adam-atan2"), "torch.optim.AdamW", gradchain.OptionError, "nothing like atan2"),
    "l2": (
        adam(adamw()).with_options(weight_decay=0.1),
        "torch.optim.AdamW",
        gradchain.OptionError,
        "decoupled_weight_decay",
    ),
    "uncorrected": (
        moments("bias_correction", False),
        "torch.optim.AdamW",
        gradchain.OptionError,
        "bias_correction = False",
    ),
    "storage": (moments("storage", "int8"), "torch.optim.AdamW", gradchain.StateError, "nothing like"),
    "unrectified": (adamw(), "torch.optim.RAdam", gradchain.OptionError, "nothing like divide"),
    "unknown": (adamw(), "torch.optim.Adamax", gradchain.UnknownNameError, "pass one of torch.optim.AdamW"),
    "no-such-class": (adamw(), "torch.nowhere.AdamW", gradchain.UnknownNameError, "cannot be imported"),
    "amsgrad": (
        adamw(),
        torch.optim.AdamW(parameters(), amsgrad=True),
        gradchain.OptionError,
        "amsgrad = True",
    ),
    "no-amsgrad": (
        adamw(amsgrad=True),
        torch.optim.AdamW(parameters()),
        gradchain.OptionError,
        "amsgrad = False",
    ),
    "groups": (adamw(), torch.optim.AdamW(parameters()[:2]), gradchain.StateError, "other groups"),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_what_cannot_be_exported_is_an_error(case: str) -> None:
    chain, like, error, text = EXPORTS[case]
    ours = gradchain.Optimizer(parameters(), chain)
    steps(ours, 0, 2)
    with pytest.raises(error, match=text):
        gradchain.export_state(ours, like=like)


def test_a_stage_that_started_late_has_a_count_of_its_own() -> None:
    ours = gradchain.Optimizer(parameters(), adamw(), disable=["second_moment", "divide"])
    steps(ours, 0, 2)
    ours.param_groups[0]["disable"] = ()
    steps(ours, 2, 3)
    with pytest.raises(gradchain.StateError, match="counts steps that a stage missed"):
        gradchain.export_state(ours, like="torch.optim.AdamW")


def test_what_is_exported_is_a_copy() -> None:
    params = parameters()
    steps(ours := gradchain.Optimizer(params, adamw()), 0, 2)
    content = gradchain.export_state(ours, like="torch.optim.AdamW")
    content["state"][0]["exp_avg"].zero_()
    assert ours.state[params[0]]["first_moment.exp_avg"].abs().sum() > 0


GYRO: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "gyro-adam": (
        {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1},
        {"exp_avg": "first_moment.exp_avg", "exp_avg_sq": "second_moment.exp_avg_sq"},
    ),
    "gyro-sgd": ({"lr": 1e-2, "momentum": 0.9, "eps": 1e-8}, {"exp_avg": "track_first_moment.exp_avg"}),
}


@pytest.mark.parametrize("recipe", GYRO)
def test_gyro_is_known_by_its_names(recipe: str) -> None:
    # The package is on no index: this is its state dict by the names of its specification.
    published, slots = GYRO[recipe]
    straight, moved = parameters(), parameters()
    options: dict[str, Any] = {**published, "theta_base": 0.0, "proj_factor": 1.0, "warmup_steps": 3}
    steps(first := gradchain.optimizer(recipe, moved, compile=False, **options), 0, 5)
    states = {
        index: {"step": 5, **{key: first.state[param][name].clone() for key, name in slots.items()}}
        for index, param in enumerate(moved)
    }
    groups = [{**options, "telemetry": False, "params": [*states]}]
    ours = gradchain.optimizer(recipe, moved, compile=False)
    report = gradchain.import_state(ours, {"state": states, "param_groups": groups})
    assert "gyro" in report.source
    steps(ours, 5, 9)
    steps(gradchain.optimizer(recipe, straight, compile=False, **options), 0, 9)
    assert all(torch.equal(a, b) for a, b in zip(moved, straight))


@pytest.mark.parametrize("recipe", GYRO)
def test_gyro_gets_it_back_by_its_names(recipe: str) -> None:
    published, slots = GYRO[recipe]
    options: dict[str, Any] = {**published, "theta_base": 0.0, "proj_factor": 1.0, "warmup_steps": 3}

    def step(self: Any) -> None: ...

    name = recipe.replace("gyro-adam", "GYROAdam").replace("gyro-sgd", "GYROSGD")
    stand_in = type(name, (torch.optim.Optimizer,), {"__module__": "gyro_optimizer.core", "step": step})
    theirs = stand_in(params := parameters(), {**options, "telemetry": False})
    steps(ours := gradchain.optimizer(recipe, params, compile=False, **{**options, "lr": 0.5}), 0, 5)
    theirs.load_state_dict(gradchain.export_state(ours, like=theirs))
    assert theirs.param_groups[0]["lr"] == 0.5
    for param in params:
        state = theirs.state[param]
        assert state.keys() == {"step", *slots}
        assert state["step"] == 5
        assert all(torch.equal(state[key], ours.state[param][slot]) for key, slot in slots.items())
    with pytest.raises(gradchain.OptionError, match="something else than gyro_optimizer"):
        gradchain.export_state(
            gradchain.Optimizer(params, ours.chain.insert_before(slots["exp_avg"].split(".")[0], t.clip_by_value(1.0))),
            like=theirs,
        )
