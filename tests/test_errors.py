"""Bad input gets an error that names stage, field, value, range and fix, and leaves parameters and state untouched."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import transforms as t
from tests.test_optimizer import RECIPES, assert_same, frozen_copy, make_params, recipe_optimizer, set_grads, train

NAN = math.nan

# recipe, options, what the message must say
BAD_OPTIONS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("adamw", {"lr": -1e-3}, ["scale_by_learning_rate.lr", "-0.001", "[0, inf)", "Pass"]),
    ("adamw", {"lr": NAN}, ["scale_by_learning_rate.lr", "nan", "[0, inf)", "Pass"]),
    ("adamw", {"lr": math.inf}, ["scale_by_learning_rate.lr", "inf", "[0, inf)", "Pass"]),
    ("adamw", {"lr": "1e-3"}, ["scale_by_learning_rate.lr", "'1e-3'", "str", "number"]),
    ("adamw", {"lr": None}, ["scale_by_learning_rate.lr", "None", "number"]),
    ("adamw", {"lr": True}, ["scale_by_learning_rate.lr", "True", "bool", "number"]),
    ("adamw", {"lr": 1j}, ["scale_by_learning_rate.lr", "complex", "number"]),
    ("adamw", {"lr": torch.ones(2)}, ["scale_by_learning_rate.lr", "(2,)", "one element"]),
    ("adamw", {"betas": (1.0, 0.9)}, ["first_moment.beta", "1.0", "[0, 1)", "Pass"]),
    ("adamw", {"betas": (0.9, -0.1)}, ["second_moment.beta", "-0.1", "[0, 1)", "Pass"]),
    ("adamw", {"betas": (0.9, NAN)}, ["second_moment.beta", "nan", "[0, 1)", "Pass"]),
    ("adamw", {"betas": 0.9}, ["betas", "0.9"]),
    ("adamw", {"betas": (0.9,)}, ["betas", "(0.9,)"]),
    ("adamw", {"betas": (0.9, 0.99, 0.999)}, ["betas", "(0.9, 0.99, 0.999)"]),
    ("adamw", {"betas": "ab"}, ["beta", "'a"]),
    ("lion", {"betas": (0.9,)}, ["betas", "(0.9,)"]),
    ("lion", {"betas": (0.9, 0.99, 0.5)}, ["betas", "(0.9, 0.99, 0.5)"]),
    ("adamw", {"eps": -1e-8}, ["divide.eps", "-1e-08", "[0, inf)", "Pass"]),
    ("adamw", {"weight_decay": -1}, ["decoupled_decay.weight_decay", "-1", "[0, inf)", "Pass"]),
    ("sgd", {"momentum": 1.0}, ["heavy_ball.momentum", "1.0", "[0, 1)", "Pass"]),
    ("sgd", {"momentum": None}, ["heavy_ball.momentum", "None", "number"]),
    ("sgd", {"nesterov": 1}, ["nesterov", "1", "True or False"]),
    ("adam-atan2", {"a": 0.0}, ["atan2_scale.a", "0.0", "(0, inf)", "Pass"]),
    ("gyro-adam", {"theta_base": 1.0}, ["momentum_project.theta_base", "1.0", "[0, 1)", "Pass"]),
    ("gyro-adam", {"theta_base": -0.1}, ["momentum_project.theta_base", "-0.1", "[0, 1)", "Pass"]),
    ("gyro-sgd", {"proj_factor": 1.5}, ["momentum_project.proj_factor", "1.5", "[0, 1]", "Pass"]),
    ("gyro-sgd", {"proj_factor": NAN}, ["momentum_project.proj_factor", "nan", "[0, 1]", "Pass"]),
    ("gyro-sgd", {"warmup_steps": -1}, ["momentum_project.warmup_steps", "-1", "[0, inf)"]),
    ("gyro-sgd", {"momentum": 1.0}, ["momentum", "1.0", "[0, 1)"]),
    ("adams", {"master_dtype": "int8"}, ["master_weights.dtype", "'int8'", "fp32"]),
    ("adams", {"spectral_precision": "fp32"}, ["spectral_decay.precision", "'fp32'", "'compute'", "Pass"]),
    ("adams", {"restart": "yes"}, ["restart", "'yes'", "True or False"]),
    ("rose", {"compute_dtype": "fp8"}, ["promote.dtype", "'fp8'", "fp64"]),
    ("rose", {"compute_dtype": 32}, ["promote.dtype", "32", "fp64"]),
    ("rose", {"seed": 1.5}, ["stochastic_round.seed", "1.5", "integer"]),
    ("rose", {"wd_schedule": -1.0}, ["decoupled_decay.reference_lr", "-1.0", "(0, inf)"]),
    ("rose", {"wd_schedule": "yes"}, ["'yes'", "number"]),
    ("rose", {"stabilize": None}, ["stabilize", "None", "True or False"]),
    ("rose", {"lr": 0.0, "wd_schedule": True}, ["decoupled_decay.reference_lr", "0.0", "reference_lr > 0"]),
]


@pytest.mark.parametrize(("name", "options", "words"), BAD_OPTIONS, ids=[f"{n}-{o}" for n, o, _ in BAD_OPTIONS])
def test_a_bad_option_is_explained(name: str, options: dict[str, Any], words: list[str]) -> None:
    params = make_params()
    before = [p.detach().clone() for p in params]
    with pytest.raises(gradchain.OptionError) as info:
        train(gradchain.optimizer(name, params, **options), params, [0])
    assert [word for word in words if word not in str(info.value)] == []
    assert_same([p.detach() for p in params], before)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: gradchain.recipe("roze"), LookupError, ["'roze'", "'rose'"]),
        (lambda: gradchain.recipe("gyro"), LookupError, ["'gyro-adam'", "'gyro-sgd'"]),
        (lambda: gradchain.recipe("?"), LookupError, list(RECIPES)),
        (lambda: gradchain.recipe(""), LookupError, list(RECIPES)),
        (lambda: gradchain.recipe(None), LookupError, ["None"]),
        (lambda: gradchain.recipe(["rose"]), LookupError, ["['rose']"]),
        (lambda: gradchain.optimizer("rose", make_params(), weigth_decay=0.1), TypeError, ["'rose'", "'weight_decay'"]),
        (lambda: gradchain.recipe("adamw", fused=True), TypeError, ["'adamw'", "'fused'", "betas"]),
        (lambda: t.divide(epsilon=1.0), TypeError, ["divide", "'epsilon'", "eps"]),
        (lambda: t.divide(1.0, 2.0, 3.0), TypeError, ["divide"]),
        (lambda: t.divide(name=5), gradchain.OptionError, ["name", "5"]),
        (lambda: t.first_moment(storage=8), gradchain.OptionError, ["first_moment.storage", "8", "string"]),
        (
            lambda: gradchain.Optimizer(make_params(), gradchain.recipe("adamw"), beta=1),
            TypeError,
            ["'beta'", "'betas'"],
        ),
        (lambda: gradchain.Optimizer(make_params(), t.sign()), gradchain.OptionError, ["sign()", "chain("]),
        (lambda: gradchain.Optimizer(make_params(), "adamw"), gradchain.OptionError, ["'adamw'", "recipe"]),
        (lambda: recipe_optimizer("adamw", make_params(), compile="yes"), gradchain.OptionError, ["'yes'", "'auto'"]),
        (lambda: recipe_optimizer("adamw", make_params(), telemetry=-1), gradchain.OptionError, ["telemetry", "-1"]),
        (lambda: recipe_optimizer("adamw", make_params(), disable="divide"), gradchain.OptionError, ["['divide']"]),
        (lambda: recipe_optimizer("adamw", make_params(), disable=3), gradchain.OptionError, ["disable", "3"]),
        (lambda: recipe_optimizer("adamw", make_params(), disable=None), gradchain.OptionError, ["disable", "None"]),
        (
            lambda: recipe_optimizer("rose", make_params(), disable=["cv_gate"]),
            gradchain.OptionError,
            ["cv_trust_gate"],
        ),
        (
            lambda: recipe_optimizer("rose", make_params(), disable=["divide"]),
            gradchain.ChainError,
            ["divide", "disable"],
        ),
    ],
)
def test_a_wrong_name_or_argument_is_explained(build: Callable[[], Any], error: type, words: list[str]) -> None:
    with pytest.raises(error) as info:
        build()
    assert isinstance(info.value, gradchain.GradchainError)
    assert [word for word in words if word not in str(info.value)] == []


# Groups: at construction, added later, and written to in mid-run.

BAD_ENTRIES: list[tuple[dict[str, Any], list[str]]] = [
    ({"lr": -1.0}, ["scale_by_learning_rate.lr", "-1.0", "[0, inf)"]),
    ({"lr": NAN}, ["scale_by_learning_rate.lr", "nan", "[0, inf)"]),
    ({"lr": "fast"}, ["scale_by_learning_rate.lr", "'fast'"]),
    ({"betas": (0.9, 1.0)}, ["betas[1]", "1.0", "[0, 1)"]),
    ({"betas": (0.9,)}, ["betas[1]", "(0.9,)"]),
    ({"betas": 0.9}, ["betas", "0.9", "tuple"]),
    ({"betas": None}, ["betas", "None", "tuple"]),
    ({"theta_base": 1.0}, ["momentum_project.theta_base", "1.0", "[0, 1)"]),
    ({"disable": ["exp_avg"]}, ["'exp_avg'"]),
    ({"disable": ["divide"]}, ["divide", "second_moment"]),
    ({"disable": "divide"}, ["['divide']"]),
    ({"disable": 1}, ["disable", "1"]),
    ({"role": 3}, ["role", "3"]),
    ({"maximize": "no"}, ["maximize", "'no'"]),
]
IDS = [str(entry) for entry, _ in BAD_ENTRIES]


@pytest.mark.parametrize(
    ("entry", "words"), [*BAD_ENTRIES, ({"momentum": 0.9}, ["momentum = 0.9"])], ids=[*IDS, "unknown"]
)
def test_a_bad_group_is_refused(entry: dict[str, Any], words: list[str]) -> None:
    params = make_params()
    late = nn.Parameter(torch.ones(2))
    optimizer = recipe_optimizer("gyro-adam", params)
    train(optimizer, params, range(2))
    before = frozen_copy(optimizer)
    for build in (
        lambda: recipe_optimizer("gyro-adam", [{"params": params}, {"params": late, **entry}]),
        lambda: optimizer.add_param_group({"params": late, **entry}),
    ):
        with pytest.raises(gradchain.GradchainError) as info:
            build()
        assert [word for word in ["group 1", *words] if word not in str(info.value)] == []
    assert len(optimizer.param_groups) == 1
    assert_same(frozen_copy(optimizer), before)


@pytest.mark.parametrize(("entry", "words"), BAD_ENTRIES, ids=IDS)
def test_a_value_that_turns_bad_in_mid_run_fails_before_anything_is_written(entry: Any, words: list[str]) -> None:
    params = make_params()
    optimizer = recipe_optimizer("gyro-adam", [{"params": params[:2]}, {"params": params[2:]}])
    train(optimizer, params, range(2))
    good = dict(optimizer.param_groups[1])
    optimizer.param_groups[1].update(entry)
    set_grads(params, 2)
    before = frozen_copy(optimizer)
    for _ in range(2):  # the second time as well
        with pytest.raises(gradchain.GradchainError) as info:
            optimizer.step()
        assert [word for word in ["group 1", *words] if word not in str(info.value)] == []
        assert_same(frozen_copy(optimizer), before)
    optimizer.param_groups[1].update(good)
    optimizer.step()


def test_a_list_that_is_changed_in_place_is_checked_again() -> None:
    params = make_params()
    optimizer = recipe_optimizer("adamw", [{"params": params, "betas": [0.9, 0.99]}])
    train(optimizer, params, range(2))
    optimizer.param_groups[0]["betas"][0] = 1.5
    with pytest.raises(gradchain.OptionError, match=r"first_moment\.beta.*1\.5"):
        optimizer.step()


# Parameters and gradients.


def test_complex_parameters_are_refused() -> None:
    named = [("a", torch.ones(2)), ("w", torch.ones(2, dtype=torch.complex64))]
    with pytest.raises(gradchain.ParameterError, match=r"w .*complex64.*view_as_real"):
        recipe_optimizer("adamw", named)


def sparse(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor([[0]], torch.ones(1, *shape[1:]), shape, check_invariants=True)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_sparse_gradient_on_the_last_leaves_all_untouched(name: str, compile: bool) -> None:
    params = make_params(shapes=[(6, 4), (5,), (3, 2)])
    optimizer = recipe_optimizer(name, [{"params": params[:1]}, {"params": params[1:]}], compile=compile)
    set_grads(params, 0)
    params[2].grad = sparse((3, 2))
    before = [p.detach().clone() for p in params]
    with pytest.raises(gradchain.GradientError, match=r"1 of group 1 .*\(3, 2\).* sparse .*SparseAdam"):
        optimizer.step()
    assert_same([p.detach() for p in params], before)
    assert all(int(optimizer.state[p]["step"]) == 0 for p in params)


def test_a_sparse_gradient_names_its_parameter() -> None:
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = recipe_optimizer("adamw", embedding)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(gradchain.GradientError, match=r"parameter weight .*sparse=False"):
        optimizer.step()


# State dicts.

WRONG_STATE: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "another chain": (
        lambda: recipe_optimizer("lion", make_params()).state_dict(),
        ["lion_interpolate", "first_moment"],
    ),
    "other shapes": (
        lambda: recipe_optimizer("adamw", make_params(shapes=[(6, 4), (5,), (), (2,)])).state_dict(),
        ["(2,)"],
    ),
    "fewer parameters": (lambda: recipe_optimizer("adamw", make_params()[:3]).state_dict(), ["[3]", "[4]"]),
    "more groups": (
        lambda: recipe_optimizer("adamw", [{"params": p} for p in make_params()]).state_dict(),
        ["[1, 1, 1, 1]", "[4]", "group"],
    ),
    "bad rate": (
        lambda: _changed(recipe_optimizer("adamw", make_params()).state_dict(), lr=-1.0),
        ["scale_by_learning_rate.lr", "-1.0", "[0, inf)"],
    ),
    "empty": (dict, ["param_groups"]),
    "no state": (lambda: {"param_groups": [{"params": [0, 1, 2, 3]}]}, ["state"]),
    "no dict": (lambda: [1], ["list"]),
    "of torch": (lambda: _torch_state(), ["gradchain", "chain"]),
    "of a module": (lambda: nn.Linear(2, 2).state_dict(), ["param_groups"]),
}


def _changed(state: Any, **entries: Any) -> Any:
    state["param_groups"][0].update(entries)
    return state


def _torch_state() -> Any:
    params = make_params()
    optimizer = torch.optim.AdamW(params)
    train(optimizer, params, range(2))
    return optimizer.state_dict()


@pytest.mark.parametrize(("build", "words"), WRONG_STATE.values(), ids=WRONG_STATE)
def test_a_wrong_state_dict_is_refused_and_changes_nothing(build: Callable[[], Any], words: list[str]) -> None:
    params, twins = make_params(), make_params()
    optimizer, twin = recipe_optimizer("adamw", params), recipe_optimizer("adamw", twins)
    train(optimizer, params, range(2))
    train(twin, twins, range(2))
    before, groups = frozen_copy(optimizer), copy.copy(optimizer.param_groups[0])
    with pytest.raises(gradchain.GradchainError) as info:
        optimizer.load_state_dict(build())
    assert [word for word in words if word not in str(info.value)] == []
    assert_same(frozen_copy(optimizer), before)
    assert optimizer.param_groups[0] == groups
    train(optimizer, params, range(2, 4))
    train(twin, twins, range(2, 4))
    assert_same(params, twins)
