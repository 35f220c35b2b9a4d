"""Chains as values: built, printed, compared, edited; and refused with an explanation where their stages do not fit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradchain
from gradchain import chain, recipe
from gradchain import transforms as t
from gradchain._chain.chain import Chain
from tests.test_optimizer import RECIPES, assert_same, make_params, train

LR = t.scale_by_learning_rate(0.1)


def lions(chain_: Chain, steps: int = 4) -> list[torch.Tensor]:
    params = make_params()
    train(gradchain.Optimizer(params, chain_, compile=False), params, range(steps))
    return [p.detach() for p in params]


# Values.


@pytest.mark.parametrize("name", RECIPES)
def test_a_chain_is_a_value(name: str) -> None:
    one, two = recipe(name), recipe(name)
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two}) == 1
    for copied in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copied == one
        assert hash(copied) == hash(one)
        assert str(copied) == str(one)
    assert one.with_options(lr=0.123) != one
    with pytest.raises(AttributeError):
        one.elements = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        one["scale_by_learning_rate"].lr = 3.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RECIPES)
def test_a_chain_prints_as_a_table_of_all_its_stages(name: str) -> None:
    built = recipe(name)
    lines = str(built).splitlines()
    assert lines[0].split() == ["stage", "hyperparameters", "slots", "storage"]
    assert [line.split()[0] for line in lines[2:]] == list(built.names)
    assert all(slot in str(built) for stage in built for slot in stage.known_slots)


def test_repr_is_code() -> None:
    built = recipe("rose", lr=0.5)
    assert eval(repr(built), {**vars(t), "chain": chain}) == built


def test_chains_nest_flat() -> None:
    inner = chain(t.first_moment(), t.second_moment(), t.divide())
    flat = chain(t.first_moment(), t.second_moment(), t.divide(), t.sign(), LR)
    assert chain(inner, chain(), chain(t.sign, None, chain(LR)), False) == flat
    assert chain([inner, None], [t.sign(), LR]) == flat
    assert flat.replace("divide", [t.atan2_scale(), None]).names[2:4] == ("atan2_scale", "sign")
    assert chain(None, False).names == ()
    assert_same(lions(chain(inner, t.sign(), LR)), lions(flat))


@pytest.mark.parametrize("wrong", [True, 1, "sign", lambda g: g, torch.ones(1), ["sign"], int])
def test_only_stages_are_chained(wrong: Any) -> None:
    with pytest.raises(gradchain.ChainError, match=r"stateless"):
        chain(wrong)


def test_looking_inside() -> None:
    built = recipe("adams")
    assert built["matrix/spectral_decay"] is built["spectral_decay"]
    assert "spectral_decay" in built
    assert "vector/decoupled_decay" in built
    assert "divide" not in built
    assert len(built) == len(list(built)) == len(built.names)
    with pytest.raises(gradchain.UnknownOptionError, match=r"'spectral'.*spectral_decay"):
        built["spectral"]


# Contract errors name both stages and the fix.

UNSOUND: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "orphan gate": (
        lambda: chain(t.cv_trust_gate(), LR),
        ["cv_trust_gate", "range_normalize()", "second_moment", "remove"],
    ),
    "orphan divide": (lambda: chain(LR, t.divide()), ["divide", "scale", "range_normalize()", "remove"]),
    "orphan atan2": (lambda: chain(t.atan2_scale()), ["atan2_scale", "range_normalize()"]),
    "never resolved": (
        lambda: chain(t.range_normalize()),
        ["range_normalize", "never resolved", "divide()", "atan2_scale()"],
    ),
    "needs resolved": (
        lambda: chain(t.second_moment(), t.sign(), t.divide()),
        ["sign", "second_moment", "divide()", "between"],
    ),
    "two scales": (
        lambda: chain(t.range_normalize(), t.second_moment(), t.divide()),
        ["second_moment", "range_normalize", "divide()", "remove"],
    ),
    "resolved twice": (lambda: chain(t.range_normalize(), t.divide(), t.atan2_scale()), ["atan2_scale", "pending"]),
    "one slot, two owners": (
        lambda: chain(t.first_moment(), t.lion_interpolate(), LR),
        ["first_moment", "lion_interpolate", "'exp_avg'", "remove"],
    ),
    "slot of nobody": (
        lambda: chain(t.momentum_project(), LR),
        ["momentum_project", "'exp_avg'", "first_moment", "remove"],
    ),
    "slot of an earlier stage": (
        lambda: chain(t.first_moment(), t.momentum_project(), LR),
        ["momentum_project", "first_moment", "'exp_avg'", "after"],
    ),
    "required slot": (lambda: chain(t.debias(), LR), ["debias", "'exp_avg'", "first_moment", "before"]),
    "required slot later": (lambda: chain(t.debias(), t.first_moment(), LR), ["debias", "'exp_avg'", "before"]),
    "one name": (lambda: chain(t.sign(), t.sign()), ["'sign'", "name="]),
    "one name given": (lambda: chain(t.sign(name="a"), t.centralize(name="a")), ["'a'", "name="]),
    "rounding not last": (
        lambda: chain(t.promote("fp32"), t.stochastic_round(), LR),
        ["stochastic_round", "scale_by_learning_rate", "last", "end"],
    ),
    "rounding twice": (
        lambda: chain(t.promote("fp32"), t.stochastic_round(name="a"), t.stochastic_round(name="b")),
        ["a", "b", "last"],
    ),
    "nothing to round": (lambda: chain(LR, t.stochastic_round()), ["stochastic_round", "promote('fp32')", "remove"]),
    "rounding a master": (
        lambda: chain(t.master_weights(), LR, t.stochastic_round()),
        ["stochastic_round", "master_weights", "Remove"],
    ),
    "promotion not first": (lambda: chain(LR, t.promote()), ["promote", "scale_by_learning_rate", "front"]),
    "decay without a rate": (
        lambda: chain(t.sign(), t.decoupled_decay()),
        ["decoupled_decay", "'lr'", "scale_by_learning_rate", "remove"],
    ),
    "edit": (lambda: recipe("rose").without("range_normalize"), ["cv_trust_gate", "range_normalize()"]),
    "edit of two": (lambda: recipe("adamw").replace("divide", t.sign()), ["sign", "second_moment"]),
    "insertion": (
        lambda: recipe("rose").insert_after("stochastic_round", t.sign()),
        ["stochastic_round", "sign", "last"],
    ),
}


@pytest.mark.parametrize(("build", "words"), UNSOUND.values(), ids=UNSOUND)
def test_what_does_not_fit_is_refused(build: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(gradchain.ChainError) as info:
        build()
    assert [word for word in words if word not in str(info.value)] == []
    assert info.value.stage is not None


# Edits.


def test_the_promised_one_stage_edits() -> None:
    rose = recipe("rose").replace("divide", t.atan2_scale())
    adam = recipe("adamw").replace("second_moment", t.range_normalize())
    lion = recipe("lion").insert_before("lion_interpolate", t.momentum_project())
    assert "atan2_scale" in rose.names
    assert adam.names[1] == "range_normalize"
    assert lion.names[:2] == ("momentum_project", "lion_interpolate")
    for edited, plain in ((rose, "rose"), (adam, "adamw"), (lion, "lion")):
        assert len(set(edited) - set(recipe(plain))) == 1
        results = lions(edited)
        assert all(p.isfinite().all() for p in results)
        assert not torch.equal(results[0], lions(recipe(plain))[0])


def test_edits_leave_the_original_alone() -> None:
    original = recipe("adamw")
    shown = str(original)
    original.without("decoupled_decay")
    original.replace("divide", t.atan2_scale())
    original.insert_after("divide", t.sign(name="mine"))
    original.with_options(lr=3.0, betas=(0.1, 0.2))
    assert str(original) == shown


def test_edits_put_stages_where_they_say() -> None:
    built = chain(t.sign(), LR)
    two = chain(t.clip_by_value(), t.clip_by_norm())
    assert built.insert_before("sign", two).names[:3] == ("clip_by_value", "clip_by_norm", "sign")
    assert built.insert_after("sign", two).names == ("sign", "clip_by_value", "clip_by_norm", "scale_by_learning_rate")
    assert built.replace("sign", two).names == ("clip_by_value", "clip_by_norm", "scale_by_learning_rate")
    assert built.replace("sign", chain()).names == built.without("sign").names == ("scale_by_learning_rate",)
    assert built.without() == built
    assert built.without("sign", "scale_by_learning_rate") == chain()
    assert built.insert_after("sign", t.sign(name="again")).names == ("sign", "again", "scale_by_learning_rate")
    with pytest.raises(gradchain.ChainError, match="name="):
        built.insert_after("sign", t.sign())


def test_dependents() -> None:
    assert set(recipe("rose").dependents("range_normalize")) == {"cv_trust_gate", "divide"}
    assert recipe("rose").dependents("cv_trust_gate") == ()
    assert recipe("gyro-adam").dependents("first_moment") == ("momentum_project",)
    assert set(recipe("adamw").dependents("second_moment")) == {"divide"}
    for name in RECIPES:
        built = recipe(name)
        for stage in built.names:
            built.without(stage, *built.dependents(stage))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lr": 0.5}, {"lr": 0.5}),
        ({"betas": (0.5, 0.6)}, {"betas": (0.5, 0.6)}),
        ({"first_moment.beta": 0.5}, {"betas": (0.5, 0.999)}),
        ({"eps": 1e-3}, {"eps": 1e-3}),
        ({"divide.eps": 1e-3}, {"divide.eps": 1e-3, "momentum_project.eps": 1e-8}),
        ({"theta_base": 0.5, "weight_decay": 0.1}, {"theta_base": 0.5, "weight_decay": 0.1}),
        ({"first_moment.storage": "bf16", "bias_correction": None}, None),
        ({"beta": 0.5}, None),
        ({"alpha": 0.5}, None),
        ({"nothing.eps": 0.5}, None),
        ({"betas": 0.5}, None),
        ({"betas": (0.5,)}, None),
        ({"lr": -1}, None),
    ],
)
def test_with_options(options: dict[str, Any], expected: dict[str, Any] | None) -> None:
    built = recipe("gyro-adam")
    if expected is None:
        with pytest.raises(gradchain.OptionError):
            built.with_options(**options)
        return
    assert expected.items() <= built.with_options(**options).hyperparameters.items()


def test_stages_that_disagree_get_keys_of_their_own() -> None:
    apart = recipe("gyro-adam").with_options(**{"divide.eps": 1e-3})
    assert "eps" not in apart.hyperparameters
    together = apart.with_options(**{"momentum_project.eps": 1e-3})
    assert together.hyperparameters["eps"] == 1e-3
    optimizer = gradchain.Optimizer([{"params": make_params(), "divide.eps": 0.5}], apart)
    assert optimizer.param_groups[0]["divide.eps"] == 0.5
    with pytest.raises(gradchain.UnknownOptionError, match=r"'eps'.*divide\.eps"):
        gradchain.Optimizer(make_params(), apart, eps=1.0)


def test_names_and_exposed_keys() -> None:
    built = chain(
        t.first_moment(0.5, name="slow").rename(beta="momentum"),
        t.clip_by_value(2.0, name="before"),
        LR,
        t.clip_by_value(3.0, name="after"),
    )
    assert built.names == ("slow", "before", "scale_by_learning_rate", "after")
    assert built.hyperparameters == {"momentum": 0.5, "before.max_value": 2.0, "lr": 0.1, "after.max_value": 3.0}
    optimizer = gradchain.Optimizer(make_params(), built, momentum=0.25)
    assert optimizer.state[optimizer.param_groups[0]["params"][0]].keys() == {"step", "slow.exp_avg"}
    with pytest.raises(gradchain.UnknownOptionError, match=r"slow.*'alpha'.*beta"):
        built["slow"].rename(alpha="x")
    assert chain(t.sign(name="a"), LR) != chain(t.sign(name="b"), LR)


@pytest.mark.parametrize("key", ["params", "disable", "role", "maximize", "telemetry", "param_names"])
def test_an_exposed_key_cannot_take_a_name_of_the_optimizer(key: str) -> None:
    built = chain(t.clip_by_value(2.0).rename(max_value=key), LR)
    assert built.hyperparameters == {"clip_by_value.max_value": 2.0, "lr": 0.1}


def test_a_key_cannot_be_a_number_and_a_tuple_at_once() -> None:
    with pytest.raises(gradchain.GradchainError, match="betas"):
        gradchain.Optimizer(make_params(), chain(t.clip_by_value().rename(max_value="betas"), t.first_moment(), LR))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_state_bytes_are_what_the_optimizer_keeps(name: str, dtype: torch.dtype) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Conv2d(2, 3, 3)).to(dtype)
    built = recipe(name)
    optimizer = gradchain.Optimizer(net, built)
    held = [s for state in optimizer.state.values() for slot, s in state.items() if slot != "step"]
    expected = sum(s.numel() * s.element_size() for s in held)
    for params in (net, net.parameters(), net.named_parameters(), list(net.parameters()), dict(net.named_parameters())):
        assert built.state_bytes(params) == expected
    assert built.state_bytes(net.to("meta")) == expected
