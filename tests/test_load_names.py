"""Whose state is whose: by name, in another order, of parameters that had none; and nothing is shared."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import gradchain as gc
from tests.loading import AVG, CHAINS, assert_untouched, everything, made, trained, without
from tests.test_optimizer import assert_same, train
from tests.test_state import saved_and_loaded

# Names.


def test_named_parameters_in_another_order_are_matched_by_name() -> None:
    params, original = trained()
    others, resumed = made("adamw", order=("bias", "weight", "scale", "head"))
    for mine, theirs in zip(others, params):
        mine.data.copy_(theirs)
    assert resumed.load_state_dict(original.state_dict()).clean
    assert resumed.param_groups[0]["param_names"] == ["bias", "weight"]
    train(original, params, range(3, 6))
    train(resumed, others, range(3, 6))
    assert_same([p.detach() for p in others], [p.detach() for p in params])
    assert_same([dict(resumed.state[p]) for p in others], [dict(original.state[p]) for p in params])


def test_roles_follow_the_names() -> None:
    _, optimizer = made("user")
    optimizer.param_groups[0]["role"] = ("first", None)
    _, other = made("user", order=("bias", "weight", "head", "scale"))
    assert other.load_state_dict(optimizer.state_dict()).clean
    assert other.param_groups[0]["role"] == (None, "first")


def test_equal_shapes_in_another_order_are_not_mixed_up() -> None:
    held = {name: nn.Parameter(torch.zeros(2)) for name in "ab"}
    first = gc.Optimizer(held.items(), CHAINS["adamw"], compile=False)
    held["a"].grad, held["b"].grad = torch.ones(2), -torch.ones(2)
    first.step()
    other = gc.Optimizer(reversed(held.items()), CHAINS["adamw"], compile=False)
    other.load_state_dict(first.state_dict())
    assert (other.state[held["a"]][AVG] > 0).all()
    assert (other.state[held["b"]][AVG] < 0).all()


# Parameters without a state.


def test_a_parameter_that_was_frozen_is_told_from_one_whose_state_is_lost() -> None:
    params, optimizer = made("adamw")
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer.add_param_group({"params": [("frozen", frozen)]})
    train(optimizer, params, range(2))
    saved = saved_and_loaded(optimizer.state_dict())
    assert saved["with_state"] == [0, 1, 2, 3]
    frozen.requires_grad_(True)
    train(optimizer, [*params, frozen], range(2, 4))
    optimizer.load_state_dict(saved)
    assert not optimizer.state[frozen]
    with pytest.raises(gc.StateError, match="state of head was saved"):
        optimizer.load_state_dict(without("state", 2)(saved))


# Nothing is shared.


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("kind", CHAINS)
def test_two_optimizers_do_not_share_what_was_loaded(kind: str, capturable: bool) -> None:
    (params, source), (others, target) = trained(kind), made(kind)
    source.capturable = target.capturable = capturable
    saved = source.state_dict()
    target.load_state_dict(saved)
    before = everything(source)
    train(target, others, range(3))
    assert_untouched(source, before)
    held = copy.deepcopy([target.state[p] for p in others])
    train(source, params, range(3))
    assert_same([dict(target.state[p]) for p in others], [dict(s) for s in held])


def test_a_load_in_inference_mode_leaves_a_state_that_can_be_stepped() -> None:
    saved = trained()[1].state_dict()
    params, optimizer = made("adamw")
    with torch.inference_mode():
        optimizer.load_state_dict(saved)
    train(optimizer, params, range(2))


def test_shared_numbers_are_the_optimizer_s_own() -> None:
    saved = trained("prodigy")[1].state_dict()
    _, optimizer = made("prodigy")
    optimizer.load_state_dict(saved)
    for held, theirs in itertools.product(optimizer.param_groups, saved["param_groups"]):
        assert held["d"].data_ptr() != theirs["d"].data_ptr()
