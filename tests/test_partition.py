"""Routing: by label function, by role, by name; nested, edited, saved; and refused where a label has no branch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import chain, label_function, partition, recipe
from gradchain import transforms as t
from tests.test_optimizer import assert_same, frozen_copy, make_params, recipe_optimizer, set_grads, train

LR = t.scale_by_learning_rate(0.1)


def by_rank(name: str, param: torch.Tensor) -> str:
    return "matrix" if param.ndim >= 2 else "vector"


@label_function
def partition_by_name(name: str, param: torch.Tensor) -> str:
    return name.rpartition(".")[2]


BRANCHES: dict[str, Any] = {
    "matrix": [t.first_moment(0.5), t.sign()],
    "vector": [t.second_moment(0.9), t.divide(1e-8)],
}
SPLIT = chain(t.clip_by_value(1.0), partition(BRANCHES, by_rank), t.decoupled_decay(0.1), LR)


def branch_alone(label: str) -> gradchain.Chain:
    return chain(t.clip_by_value(1.0), *BRANCHES[label], t.decoupled_decay(0.1), LR)


def test_each_parameter_goes_through_its_branch() -> None:
    params, alone = make_params(), make_params()
    optimizer = gradchain.Optimizer(params, SPLIT)
    others = [gradchain.Optimizer([p], branch_alone(by_rank("", p))) for p in alone]
    for step in range(4):
        train(optimizer, params, [step])
        set_grads(alone, step)
        for other in others:
            other.step()
    assert_same(params, alone)
    slots = {p.ndim: set(optimizer.state[p]) - {"step"} for p in params}
    assert slots[2] == {"matrix/first_moment.exp_avg"}
    assert slots[1] == {"vector/second_moment.exp_avg_sq"}


@pytest.mark.parametrize(
    "branch",
    [t.sign(), t.sign, [t.sign()], (t.sign(), None, False), chain(t.sign()), [chain(t.sign())]],
    ids=["stage", "class", "list", "with gaps", "chain", "nested"],
)
def test_a_branch_may_be_a_stage_a_list_or_a_chain(branch: Any) -> None:
    assert chain(partition({"a": branch}, by_rank)) == chain(partition({"a": chain(t.sign())}, by_rank))


def test_a_role_that_names_a_branch_wins() -> None:
    params, alone = make_params(), make_params()
    groups = [{"params": params[:2], "role": "vector"}, {"params": params[2:], "role": "elsewhere"}]
    optimizer = gradchain.Optimizer(groups, SPLIT)
    labels = ["vector", "vector", "vector", "matrix"]
    others = [gradchain.Optimizer([p], branch_alone(label)) for p, label in zip(alone, labels)]
    for step in range(3):
        train(optimizer, params, [step])
        set_grads(alone, step)
        for other in others:
            other.step()
    assert_same(params, alone)


def test_the_label_function_sees_the_names_of_the_parameters() -> None:
    built = chain(LR, partition({"weight": t.decoupled_decay(0.5), "bias": []}, partition_by_name))
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for params in (net, net.named_parameters(), [{"params": list(net.named_parameters())}]):
        optimizer = gradchain.Optimizer(params, built)
        before = copy.deepcopy(net.state_dict())
        for param in net.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
        after = net.state_dict()
        assert_same(after["0.bias"], before["0.bias"])
        torch.testing.assert_close(after["0.weight"], 0.95 * before["0.weight"])
    updates, _ = built.update(after, built.init(after), after)
    torch.testing.assert_close(updates["1.bias"], -0.1 * after["1.bias"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_route_by_name_survives_a_copy(copied: Callable[[Any], Any]) -> None:
    built = chain(LR, partition({"weight": t.decoupled_decay(0.5), "bias": []}, partition_by_name))
    net = nn.Linear(2, 2)
    twin_net, twin = copied((net, gradchain.Optimizer(net, built)))
    train(twin, list(twin_net.parameters()), [0])
    assert twin.chain == built


def test_a_label_without_a_branch_is_explained_before_anything_happens() -> None:
    built = chain(partition({"matrix": t.sign(), "other": t.centralize()}, by_rank), LR)
    params = make_params()
    with pytest.raises(gradchain.ChainError, match=r"by_rank.*'vector'.*b .*\(5,\).*matrix, other"):
        gradchain.Optimizer([("w", params[0]), ("b", params[1])], built)
    optimizer = gradchain.Optimizer(params[:1], built)
    train(optimizer, params[:1], [0])
    before = frozen_copy(optimizer)
    with pytest.raises(gradchain.ChainError, match="'vector'"):
        optimizer.add_param_group({"params": params[1]})
    assert len(optimizer.param_groups) == 1
    assert params[1] not in optimizer.state
    assert_same(frozen_copy(optimizer), before)
    optimizer.add_param_group({"params": params[1], "role": "other"})
    train(optimizer, params[:2], [1])


@pytest.mark.parametrize("label", [None, 3, ["matrix"]])
def test_a_label_that_is_no_name_is_explained(label: Any) -> None:
    with pytest.raises(gradchain.ChainError, match="matrix"):
        gradchain.Optimizer(make_params(), chain(partition({"matrix": t.sign()}, lambda name, p: label)))


@pytest.mark.parametrize(
    ("branches", "label", "words"),
    [
        ({}, by_rank, ["branches"]),
        ({"a": 3}, by_rank, ["3", "stage"]),
        ({"a": t.sign()}, "by_rank", ["by_rank"]),
        ({"a": t.sign()}, None, ["None"]),
        ({1: t.sign()}, by_rank, ["1"]),
        ({"a/b": t.sign()}, by_rank, ["a/b"]),
        ([t.sign()], by_rank, ["branches"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_wrong_partition_is_explained(branches: Any, label: Any, words: list[str]) -> None:
    with pytest.raises(gradchain.GradchainError) as info:
        chain(partition(branches, label))
    assert [word for word in words if word not in str(info.value)] == []


UNSOUND: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "orphan in a branch": (
        lambda: chain(partition({"a": t.sign(), "b": t.divide()}, by_rank), LR),
        ["b/divide", "pending scale"],
    ),
    "unresolved in one branch": (
        lambda: chain(t.range_normalize(), partition({"a": t.divide(), "b": t.cv_trust_gate()}, by_rank), LR),
        ["scale_by_learning_rate", "range_normalize"],
    ),
    "slot owned before": (
        lambda: chain(t.first_moment(), partition({"a": t.sign(), "b": t.lion_interpolate()}, by_rank), LR),
        ["first_moment", "b/lion_interpolate", "'exp_avg'"],
    ),
    "rounding inside, not last": (
        lambda: chain(t.promote("fp32"), partition({"a": t.stochastic_round()}, by_rank), LR),
        ["a/stochastic_round", "last"],
    ),
}


@pytest.mark.parametrize(("build", "words"), UNSOUND.values(), ids=UNSOUND)
def test_every_branch_is_checked(build: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(gradchain.ChainError) as info:
        build()
    assert [word for word in words if word not in str(info.value)] == []


def test_stages_of_branches_are_addressed_edited_and_disabled() -> None:
    assert SPLIT.names[1:3] == ("matrix/first_moment", "matrix/sign")
    assert "first_moment" not in SPLIT.without("first_moment")
    assert SPLIT.replace("matrix/sign", t.centralize()).names[2] == "matrix/centralize"
    assert SPLIT.with_options(**{"matrix/first_moment.beta": 0.25})["first_moment"].beta == 0.25
    twice = chain(partition({"a": t.clip_by_value(1.0), "b": t.clip_by_value(2.0)}, by_rank))
    assert twice.hyperparameters == {"a/clip_by_value.max_value": 1.0, "b/clip_by_value.max_value": 2.0}
    with pytest.raises(gradchain.UnknownOptionError, match=r"ambiguous.*a/clip_by_value, b/clip_by_value"):
        twice.without("clip_by_value")
    params = make_params()
    optimizer = recipe_optimizer("adams", [{"params": params, "disable": ["spectral_decay", "vector/decoupled_decay"]}])
    plain, other = make_params(), recipe("adams").without("spectral_decay", "decoupled_decay")
    train(optimizer, params, range(3))
    train(gradchain.Optimizer(plain, other), plain, range(3))
    assert_same(params, plain)


def test_nested_partitions() -> None:
    inner = partition({"weight": t.sign(), "bias": t.centralize()}, partition_by_name)
    built = chain(partition({"matrix": inner, "vector": [inner, t.sign(name="more")]}, by_rank), LR)
    assert built.names == (
        "matrix/weight/sign",
        "matrix/bias/centralize",
        "vector/weight/sign",
        "vector/bias/centralize",
        "vector/more",
        "scale_by_learning_rate",
    )
    net = nn.Linear(2, 2)
    train(gradchain.Optimizer(net, built), list(net.parameters()), [0])
    assert copy.deepcopy(built) == built


def test_a_chain_around_a_partition_is_a_value() -> None:
    same = chain(t.clip_by_value(1.0), partition(BRANCHES, by_rank), t.decoupled_decay(0.1), LR)
    assert same == SPLIT
    assert hash(same) == hash(SPLIT)
    assert pickle.loads(pickle.dumps(SPLIT)) == SPLIT
    assert "by_rank" in repr(SPLIT)
    assert "matrix/first_moment" in str(SPLIT)
    elsewhere = chain(t.clip_by_value(1.0), partition(BRANCHES, partition_by_name), t.decoupled_decay(0.1), LR)
    assert elsewhere != SPLIT


def test_a_parameter_may_opt_out_of_the_matrices_of_adams() -> None:
    param = nn.Parameter(torch.ones(3, 3))
    param.use_spectral_decay = False
    assert "matrix/spectral_decay.u" not in recipe_optimizer("adams", [param]).state[param]
