"""Every recipe has a class, for whoever names an optimizer by its import path."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle
import sys
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import optim
from tests import optim_stub
from tests.laws.running import gradients, tensors
from tests.processes import python

SHAPES = [(4, 3), (5,)]
PUBLISHED = [
    "Rose", "Rose_1_0_2", "GYROAdam", "GYROSGD", "Adams", "AdamW_adv", "Adopt_adv", "Prodigy_adv", "Lion_adv",
    "Lion_Prodigy_adv", "SignSGD_adv", "SinkSGD_adv", "Muon_adv", "AdaMuon_adv", "SinkGD", "AdamW", "SGD", "Lion",
    "AdamATan2", "RAdam", "NAdam", "MARS", "AdaBelief", "LaProp", "StableAdamW", "Sophia",
]  # fmt: skip


def params() -> list[nn.Parameter]:
    return [nn.Parameter(x) for x in tensors(1, SHAPES)]


def train(optimizer: torch.optim.Optimizer, steps: int = 3, start: int = 0) -> list[torch.Tensor]:
    held = [param for group in optimizer.param_groups for param in group["params"]]
    for step in gradients(start + steps, SHAPES)[start:]:
        for param, grad in zip(held, step, strict=True):
            param.grad = grad
        optimizer.step()
    return [param.detach().clone() for param in held]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def test_every_recipe_has_a_class_and_the_published_names_are_there() -> None:
    assert sorted(optim.CLASSES.values()) == [r for r in gradchain.recipes() if r in optim.CLASSES.values()]
    shipped = {r for r in gradchain.recipes() if gradchain.recipes.__name__ in sys.modules[_module(r)].__name__}
    assert shipped == {*optim.CLASSES.values()}
    assert {*PUBLISHED} <= {*optim.CLASSES}
    assert {*optim.CLASSES} <= {*dir(optim)}


def _module(recipe: str) -> str:
    from gradchain._chain.recipes import find_recipe

    return inspect.unwrap(find_recipe(recipe).build).__module__


@pytest.mark.parametrize("name", optim.CLASSES)
def test_a_class_is_its_recipe(name: str) -> None:
    cls = getattr(importlib.import_module("gradchain.optim"), name)
    assert issubclass(cls, torch.optim.Optimizer)
    assert (cls.__name__, cls.__module__) == (name, "gradchain.optim")
    ours, theirs = cls(params()), gradchain.optimizer(optim.CLASSES[name], params())
    assert type(ours) is cls
    assert same(train(ours), train(theirs))
    assert ours.name == name
    assert theirs.name == optim.CLASSES[name]


@pytest.mark.parametrize("name", optim.CLASSES)
def test_it_says_what_it_takes_and_what_it_does(name: str) -> None:
    cls = getattr(optim, name)
    signature = inspect.signature(cls)
    assert inspect.signature(cls.__init__).parameters.keys() == {"self", *signature.parameters}
    assert next(iter(signature.parameters)) == "params"
    assert {"lr", "weight_decay", "disable", "compile", "nonfinite"} <= {*signature.parameters, "weight_decay"}
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in signature.parameters.values())
    assert all(not isinstance(p.annotation, str) for p in signature.parameters.values()), "types, not their names"
    for stage in gradchain.recipe(optim.CLASSES[name]).names:
        assert f"`{stage}`" in cls.__doc__
    assert "Source:" in cls.__doc__


@pytest.mark.parametrize("name", optim.CLASSES)
def test_it_is_pickled_and_copied_in_mid_run(name: str) -> None:
    optimizer = getattr(optim, name)(params(), lr=0.01)
    train(optimizer)
    restored, copied = pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)
    assert type(restored) is type(copied) is type(optimizer)
    expected = train(optimizer, start=3)
    assert same(train(restored, start=3), expected)
    assert same(train(copied, start=3), expected)


def test_positions_are_those_of_the_recipe_and_lists_pass_for_tuples() -> None:
    optimizer = optim.AdamW(params(), 0.02, [0.8, 0.9], weight_decay=0)
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("kind", "said", "arguments"),
    [
        (gradchain.UnknownOptionError, "Did you mean 'betas'", {"beta": (0.9, 0.99)}),
        (gradchain.UnknownOptionError, "foreach", {"foreach": True}),
        (gradchain.OptionError, "lr = -1", {"lr": -1}),
        (gradchain.OptionError, "compile", {"compile": "yes"}),
    ],
)
def test_wrong_options(kind: type[Exception], said: str, arguments: Any) -> None:
    with pytest.raises(kind, match=said):
        optim.AdamW(params(), **arguments)


def test_too_many_positions_and_none() -> None:
    with pytest.raises(gradchain.UnknownOptionError, match="too many positional"):
        optim.AdamW(params(), 0.1, (0.9, 0.99), 1e-8, 0.1, False, ())  # type: ignore[call-arg]
    with pytest.raises(gradchain.UnknownOptionError, match="params"):
        optim.AdamW()  # type: ignore[call-arg]


class Halved(optim.AdamW):
    """A class of a user's, on one of ours."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr=lr / 2)


def test_it_can_be_subclassed() -> None:
    optimizer = Halved(params(), lr=0.1)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.name == "Halved"
    assert same(train(pickle.loads(pickle.dumps(optimizer))), train(optim.AdamW(params(), lr=0.05)))


def test_a_recipe_of_a_users_has_a_class(own_recipes: None) -> None:
    @gradchain.register_recipe("test-own.descent", source="a test")
    def own(lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99)) -> gradchain.Chain:
        return gradchain.chain(gradchain.first_moment(betas[0]), gradchain.scale_by_learning_rate(lr))

    cls = optim.optimizer_class("test-own.descent")
    assert cls is optim.optimizer_class("test-own.descent") is optim.TestOwnDescent  # type: ignore[attr-defined]
    assert type(pickle.loads(pickle.dumps(cls(params())))) is cls

    @gradchain.register_recipe("test-own.descent", source="a test")
    def other(rate: float = 0.1) -> gradchain.Chain:
        return gradchain.chain(gradchain.scale_by_learning_rate(rate))

    assert "rate" in inspect.signature(optim.optimizer_class("test-own.descent")).parameters


def test_unknown_classes() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'Rose'"):
        optim.Rosé  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(gradchain.UnknownNameError, match="rose"):
        optim.optimizer_class("ros")


def test_an_option_cannot_go_by_the_name_of_one_of_every_optimizer(own_recipes: None) -> None:
    @gradchain.register_recipe("test-clash", source="a test")
    def clash(lr: float = 0.1, telemetry: bool = False) -> gradchain.Chain:
        return gradchain.chain(gradchain.scale_by_learning_rate(lr))

    with pytest.raises(gradchain.ChainError, match="telemetry"):
        optim.optimizer_class("test-clash")


def test_what_type_checkers_see_is_what_there_is() -> None:
    assert optim_stub.STUB.read_text(encoding="utf-8") == optim_stub.stub(), "run python -m tests.optim_stub"


def test_a_process_that_has_only_the_path() -> None:
    code = (
        "import importlib, json, torch; m, c = 'gradchain.optim.Adams'.rsplit('.', 1); "
        "o = getattr(importlib.import_module(m), c)([torch.nn.Parameter(torch.ones(2, 2))], lr=1e-3); "
        "print(json.dumps([type(o).__name__, o.param_groups[0]['lr']]))"
    )
    ran = python(code)
    assert json.loads(ran.stdout) == ["Adams", 0.001], ran.stderr


# Edits as strings and literals.


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"without": ["decoupled_decay"]}, ["first_moment", "second_moment", "divide", "scale_by_learning_rate"]),
        ({"without": "decoupled_decay, first_moment"}, ["second_moment", "divide", "scale_by_learning_rate"]),
        (
            {"replace": {"divide": "atan2_scale"}},
            ["first_moment", "second_moment", "atan2_scale", "decoupled_decay", "scale_by_learning_rate"],
        ),
        (
            {
                "replace": "divide=atan2_scale(a=1.0, b=2.0)",
                "insert_before": {"first_moment": ["centralize", "clip_by_norm(1.0)"]},
            },
            ["centralize", "clip_by_norm", "first_moment", "second_moment", "atan2_scale", "decoupled_decay",
             "scale_by_learning_rate"],
        ),
        (
            {"insert_after": {"divide": {"stage": "clip_by_norm", "max_norm": 2.0}}, "weight_decay": 0.3},
            ["first_moment", "second_moment", "divide", "clip_by_norm", "decoupled_decay", "scale_by_learning_rate"],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_edits_are_strings(arguments: dict[str, Any], names: list[str]) -> None:
    optimizer = optim.FromRecipe(params(), recipe="adamw", lr=0.01, **arguments)
    assert list(optimizer.chain.names) == names
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert optimizer.param_groups[0].get("weight_decay", 0.3) == arguments.get("weight_decay", 0.01) or (
        "weight_decay" not in optimizer.param_groups[0]
    )
    restored = pickle.loads(pickle.dumps(optimizer))
    assert same(train(restored), train(optimizer))


def test_options_are_those_of_the_recipe_or_of_the_edited_chain() -> None:
    made = optim.FromRecipe(
        params(), "rose", options="weight_decay=0.1, centralize=False", replace={"divide": "atan2_scale"}, a=2.0
    )
    assert made.chain["atan2_scale"].a == 2.0  # type: ignore[attr-defined]
    assert "centralize" not in made.chain
    assert made.chain["decoupled_decay"].weight_decay == 0.1  # type: ignore[attr-defined]
    run = optim.FromRecipe(params(), "rose", compile=False, nonfinite="skip", options={"lr": 0.5})
    assert run.param_groups[0]["lr"] == 0.5


def test_a_chain_in_a_file_is_edited_too(tmp_path: Any) -> None:
    path = tmp_path / "chain.toml"
    path.write_text(gradchain.recipe("adamw").to_toml(), encoding="utf-8")
    made = optim.FromRecipe(params(), str(path), lr=0.2, without=["decoupled_decay"])
    assert made.param_groups[0]["lr"] == 0.2
    assert "decoupled_decay" not in made.chain


@pytest.mark.parametrize(
    ("kind", "said", "arguments"),
    [
        (gradchain.UnknownNameError, "rose", {"recipe": "ros"}),
        (gradchain.UnknownNameError, "atan2_scale", {"replace": {"divide": "atan_scale"}}),
        (gradchain.UnknownOptionError, "second_moment", {"without": ["second_momen"]}),
        (gradchain.UnknownOptionError, "betas", {"beats": (0.9, 0.99)}),
        (gradchain.OptionError, "divide=sign", {"replace": "divide"}),
        (gradchain.OptionError, "not a name, nor a call", {"replace": {"divide": "__import__('os').getcwd()"}}),
        (gradchain.OptionError, "not a name, nor a call", {"replace": {"divide": "sign(**{'a': 1})"}}),
        (gradchain.OptionError, "text such as", {"options": 3}),
        (gradchain.OptionError, "list of stage names", {"without": {"divide": 1}}),
        (gradchain.OptionError, "name a stage as", {"replace": {"divide": 3}}),
        (gradchain.ChainError, "scale", {"without": ["divide"]}),
    ],
    ids=str,
)
def test_wrong_edits(kind: type[Exception], said: str, arguments: Any) -> None:
    with pytest.raises(kind, match=said):
        optim.FromRecipe(params(), **{"recipe": "adamw", **arguments})
