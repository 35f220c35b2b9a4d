"""Hosts put entries of their own into groups, call hooks by names of their own, and hand over lists for tuples."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import MutableSequence
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from tests.laws.running import tensors
from tests.test_optim_classes import SHAPES, same, train


def params() -> list[nn.Parameter]:
    return [nn.Parameter(x) for x in tensors(1, SHAPES)]


class ListConfig(MutableSequence[Any]):
    """As configuration libraries have it: a sequence that is no list."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __getitem__(self, place: Any) -> Any:
        return self.values[place]

    def __setitem__(self, place: Any, value: Any) -> None:
        self.values[place] = value

    def __delitem__(self, place: Any) -> None:
        del self.values[place]

    def __len__(self) -> int:
        return len(self.values)

    def insert(self, index: int, value: Any) -> None:
        self.values.insert(index, value)


HOSTS = {"lr_scale": 0.5, "fused": True, "foreach": False, "layer": "encoder.3", "anything": {"a": [1, 2]}}


def test_entries_of_the_host_are_kept_saved_and_warned_of_once() -> None:
    groups = [{"params": [param], **HOSTS} for param in params()]
    with pytest.warns(UserWarning, match="does not use lr_scale, fused, foreach, layer, anything") as caught:
        optimizer = gradchain.optimizer("rose", groups)
    assert len(caught) == 1
    for group in optimizer.param_groups:
        assert {key: group[key] for key in HOSTS} == HOSTS
    plain = gradchain.optimizer("rose", [{"params": [param]} for param in params()])
    assert same(train(optimizer), train(plain))
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["lr_scale"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(saved)
        pickle.loads(pickle.dumps(optimizer))
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "lr_scale": 0.25})
    assert [group["lr_scale"] for group in optimizer.param_groups] == [0.5, 0.5, 0.25]


def test_a_slip_of_the_pen_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match="Did you mean 'weight_decay'"):
        gradchain.optimizer("adamw", [{"params": params(), "weigth_decay": 0.1}])


@pytest.mark.parametrize(
    ("recipe", "entries"),
    [
        (gradchain.chain(gradchain.sign(), gradchain.scale_by_learning_rate(0.1)), {"weight_decay": 0.1}),
        (gradchain.recipe("adamw"), {"amsgrad": True}),
        (gradchain.recipe("adamw"), {"momentum": 0.9}),
        (gradchain.recipe("sgd", momentum=0.9), {"betas": (0.9, 0.99)}),
        (gradchain.chain(gradchain.sign()), {"lr": 0.1}),
        (gradchain.recipe("adamw"), {"theta_base": 0.5}),
    ],
    ids=str,
)
def test_what_should_change_the_step_and_cannot_is_an_error(recipe: gradchain.Chain, entries: Any) -> None:
    with pytest.raises(gradchain.OptionError, match=f"{next(iter(entries))} = .* would change nothing"):
        gradchain.Optimizer([{"params": params(), **entries}], recipe)
    optimizer = gradchain.Optimizer(params(), recipe)
    with pytest.raises(gradchain.OptionError, match="would change nothing"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], **entries})
    assert len(optimizer.param_groups) == 1


def test_what_is_off_is_kept() -> None:
    """Trainers always make a group with decay and one without."""
    chain = gradchain.chain(gradchain.sign(), gradchain.scale_by_learning_rate(0.1))
    with pytest.warns(UserWarning, match="weight_decay"):
        optimizer = gradchain.Optimizer([{"params": params(), "weight_decay": 0.0, "amsgrad": False}], chain)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0


def test_maximize_in_a_group_ascends() -> None:
    down, up = (
        gradchain.optimizer("adamw", [{"params": params(), "maximize": m}], weight_decay=0.0) for m in (False, True)
    )
    start = [param.detach() for param in params()]
    moved = [a - b for a, b in zip(train(down, 1), start)]
    torch.testing.assert_close([b - a for a, b in zip(train(up, 1), start)], moved)


def test_unknown_constructor_options_stay_errors() -> None:
    with pytest.raises(gradchain.UnknownOptionError, match="lr_scale"):
        gradchain.optimizer("adamw", params(), lr_scale=0.5)


@pytest.mark.parametrize("sequence", [list, ListConfig])
def test_lists_pass_where_tuples_are_wanted(sequence: Any) -> None:
    betas = sequence([0.8, 0.9])
    wanted = train(gradchain.optimizer("adamw", params(), betas=(0.8, 0.9)))
    chain = gradchain.recipe("adamw")
    for optimizer in (
        gradchain.optimizer("adamw", params(), betas=betas),
        gradchain.optim.AdamW(params(), betas=betas),
        gradchain.Optimizer(params(), chain, betas=betas),
        gradchain.Optimizer(params(), chain.with_options(betas=betas)),
        gradchain.Optimizer([{"params": params(), "betas": betas}], chain),
    ):
        assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.9)
        assert same(train(optimizer), wanted)
    with pytest.raises(gradchain.OptionError, match="tuple of 2"):
        gradchain.optimizer("adamw", params(), betas=sequence([0.8]))


@pytest.mark.parametrize("hook", ["step_parameter", "step_param"])
def test_fused_backward_hooks_of_trainers(hook: str) -> None:
    """OneTrainer calls `step_parameter(p, group, i)`, kohya's scripts `step_param(p, group)`."""
    wanted = train(gradchain.optimizer("adamw", params()), 2)
    optimizer = gradchain.optimizer("adamw", params())
    held = optimizer.param_groups[0]["params"]
    extra = (0,) if hook == "step_parameter" else ()

    def fused(param: torch.Tensor, group: Any = optimizer.param_groups[0]) -> None:
        getattr(optimizer, hook)(param, group, *extra)
        param.grad = None

    for param in held:
        param.register_post_accumulate_grad_hook(fused)
    from tests.laws.running import gradients

    for step in gradients(2, SHAPES):
        sum((p * g).sum() for p, g in zip(held, step)).backward()
    assert same([p.detach() for p in held], wanted)


def test_unnamed_groups_are_added_to_an_optimizer_of_a_module() -> None:
    model = nn.Linear(3, 2)
    optimizer = gradchain.optimizer("adamw", model)
    late = nn.Parameter(torch.ones(4))
    optimizer.add_param_group({"params": [late, nn.Parameter(torch.ones(2))]})
    late.grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(late.detach(), torch.ones(4))
    other = gradchain.optimizer("adamw", nn.Linear(3, 2))
    other.add_param_group({"params": [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2))]})
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(
        other.state[other.param_groups[1]["params"][0]]["first_moment.exp_avg"],
        optimizer.state[late]["first_moment.exp_avg"],
    )
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


def test_an_optimizer_has_a_name() -> None:
    assert gradchain.Optimizer(params(), gradchain.recipe("rose")).name == "Optimizer"
    made = gradchain.optimizer("rose", params())
    assert made.name == pickle.loads(pickle.dumps(made)).name == copy.deepcopy(made).name == "rose"
    assert gradchain.optim.Prodigy_adv(params()).name == "Prodigy_adv"


@pytest.mark.parametrize("name", ["Prodigy_adv", "Lion_Prodigy_adv"])
@pytest.mark.parametrize("hook", ["step_parameter", "step_param"])
def test_what_needs_all_parameters_is_not_stepped_one_by_one(name: str, hook: str) -> None:
    optimizer = pickle.loads(pickle.dumps(getattr(gradchain.optim, name)(params())))
    param = optimizer.param_groups[0]["params"][0]
    before, param.grad = param.detach().clone(), torch.ones_like(param)
    with pytest.raises(gradchain.ChainError, match="needs the gradients of all parameters"):
        getattr(optimizer, hook)(param, optimizer.param_groups[0])
    assert torch.equal(param, before)


def test_state_of_a_wrapper_is_kept_through_a_load() -> None:
    """As that of timm's lookahead, which keeps its slow weights in the state of the optimizer that it wraps."""
    optimizer = gradchain.optim.AdamW(params())
    train(optimizer)
    param = optimizer.param_groups[0]["params"][0]
    optimizer.state[param]["slow_buffer"] = param.detach().clone()
    other = gradchain.optim.AdamW(params())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(other.state[other.param_groups[0]["params"][0]]["slow_buffer"], param)
