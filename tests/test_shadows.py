"""Shadows: other chains see the gradients of a run, and what they would have done is compared; the run stays as it is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from tests.test_optimizer import assert_same, frozen_copy, make_params, set_grads, train

MODES = [pytest.param(False, id="eager"), pytest.param(True, id="compiled")]


def gyro(**options: Any) -> gc.Chain:
    return gc.recipe("gyro-adam", warmup_steps=2, lr=1e-2, **options)


def arms() -> dict[str, gc.Chain]:
    return {"no_gyro": gyro().without("momentum_project"), "lion": gc.recipe("lion", lr=1e-3)}


def numbers(optimizer: gc.Optimizer, name: str) -> tuple[float, float, float]:
    told = optimizer.telemetry()
    return tuple(told[f"shadow/{name}/{what}"] for what in ("cosine", "norm_ratio", "divergence"))  # type: ignore[return-value]


@pytest.mark.parametrize("compile", MODES)
def test_the_run_is_the_same_bit_for_bit(compile: bool) -> None:
    plain, watched = make_params(), make_params()
    alone = gc.Optimizer(plain, gyro(), compile=compile)
    beside = gc.Optimizer(watched, gyro(), compile=compile, shadows=arms())
    train(alone, plain, range(30))
    train(beside, watched, range(30))
    assert_same(frozen_copy(beside), frozen_copy(alone))


def test_a_shadow_of_the_same_chain_does_the_same() -> None:
    params = make_params()
    optimizer = gc.Optimizer(params, gyro(), compile=False, shadows={"twin": gyro()})
    assert numbers(optimizer, "twin") == (0.0, 0.0, 0.0)
    train(optimizer, params, range(5))
    assert numbers(optimizer, "twin") == (pytest.approx(1), pytest.approx(1), 0.0)


def test_the_numbers_by_hand() -> None:
    """Descent with momentum beside plain descent, over three steps."""
    grads = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])]
    param = nn.Parameter(torch.zeros(2))
    optimizer = gc.Optimizer(
        [param], gc.recipe("sgd", lr=0.1), compile=False, shadows={"heavy": gc.recipe("sgd", lr=0.1, momentum=0.5)}
    )
    momentum, apart, moved = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    for grad in grads:
        param.grad = grad
        optimizer.step()
        momentum = 0.5 * momentum + grad
        apart, moved = apart - 0.1 * (momentum - grad), moved - 0.1 * grad
        cosine = torch.dot(momentum, grad) / (momentum.norm() * grad.norm())
        told = numbers(optimizer, "heavy")
        assert told == pytest.approx([float(cosine), float(momentum.norm()), float(apart.norm() / moved.norm())])
    assert_same(param.detach(), torch.tensor([0.0, -0.1]))


def test_schedules_and_groups_reach_the_shadows() -> None:
    """What both chains set alike follows the groups; a learning rate of its own is scaled as theirs is."""
    params = make_params()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
    shadows = {"twin": gc.recipe("sgd", lr=0.1), "double": gc.recipe("sgd", lr=0.2)}
    optimizer = gc.Optimizer(groups, gc.recipe("sgd", lr=0.1), compile=False, shadows=shadows)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for step in range(3):
        train(optimizer, params, [step])
        schedule.step()
        assert numbers(optimizer, "twin") == (pytest.approx(1), pytest.approx(1), 0.0)
        assert numbers(optimizer, "double") == pytest.approx((1, 2, 1), rel=1e-5)


def test_stages_that_a_group_switches_off_are_off_in_the_shadows() -> None:
    params = make_params()
    groups = [{"params": params[:2], "disable": ["momentum_project"]}, {"params": params[2:]}]
    optimizer = gc.Optimizer(groups, gyro(), compile=False, shadows={"twin": gyro(), "none": arms()["no_gyro"]})
    train(optimizer, params, range(4))
    assert numbers(optimizer, "twin")[2] == 0.0


def test_a_parameter_without_a_gradient_is_left_out() -> None:
    params = make_params()
    optimizer = gc.Optimizer(params, gyro(), compile=False, shadows={"twin": gyro()})
    for step in range(4):
        set_grads(params, step)
        params[step % 2].grad = None
        optimizer.step()
    assert numbers(optimizer, "twin")[2] == 0.0


def test_parameters_may_be_added() -> None:
    params = make_params()
    optimizer = gc.Optimizer(params[:2], gyro(), compile=False, shadows={"twin": gyro()})
    train(optimizer, params[:2], range(2))
    optimizer.add_param_group({"params": params[2:], "lr": 0.5})
    train(optimizer, params, range(2, 4))
    assert numbers(optimizer, "twin") == (pytest.approx(1), pytest.approx(1), 0.0)


@pytest.mark.parametrize("how", ["state dict", "pickle", "deepcopy"])
def test_a_resumed_run_goes_on_exactly(how: str) -> None:
    params = make_params()
    optimizer = gc.Optimizer(params, gyro(), compile=False, shadows=arms())
    train(optimizer, params, range(4))
    if how == "state dict":
        others = [nn.Parameter(param.detach().clone()) for param in params]
        resumed = gc.Optimizer(others, gyro(), compile=False, shadows=arms())
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        resumed = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
        others = resumed.param_groups[0]["params"]
    train(optimizer, params, range(4, 8))
    train(resumed, others, range(4, 8))
    assert_same(frozen_copy(resumed), frozen_copy(optimizer))
    for name in arms():
        assert numbers(resumed, name) == numbers(optimizer, name)


def test_shadows_that_a_state_dict_does_not_have_start_afresh() -> None:
    params = make_params()
    optimizer = gc.Optimizer(params, gyro(), compile=False, shadows=arms())
    train(optimizer, params, range(4))
    saved = gc.Optimizer(make_params(), gyro(), compile=False).state_dict()
    optimizer.load_state_dict(saved)
    assert numbers(optimizer, "lion") == (0.0, 0.0, 0.0)
    gc.Optimizer(make_params(), gyro(), compile=False).load_state_dict(optimizer.state_dict())


def test_a_state_dict_with_bad_shadows_changes_nothing() -> None:
    params = make_params()
    optimizer = gc.Optimizer(params, gyro(), compile=False, shadows=arms())
    train(optimizer, params, range(2))
    before = frozen_copy(optimizer), numbers(optimizer, "lion")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["shadows"]["lion"]["optimizer"]["chain"]["stages"].pop()
    with pytest.raises(gc.StateError, match="shadow 'lion'"):
        optimizer.load_state_dict(saved)
    saved["shadows"]["lion"] = {"optimizer": saved["shadows"]["no_gyro"]["optimizer"]}
    with pytest.raises(gc.StateError, match="shadow 'lion'"):
        optimizer.load_state_dict(saved)
    assert_same((frozen_copy(optimizer), numbers(optimizer, "lion")), before)


@pytest.mark.parametrize(
    ("shadows", "says"),
    [
        ({"lion": "lion"}, r"shadows\['lion'\] = 'lion'"),
        ([gc.recipe("lion")], "pass a dict"),
        ({1: gc.recipe("lion")}, "names"),
        ({"a/b": gc.recipe("lion")}, "names"),
    ],
)
def test_what_is_no_shadow_is_refused(shadows: Any, says: str) -> None:
    with pytest.raises(gc.OptionError, match=says):
        gc.Optimizer(make_params(), gyro(), shadows=shadows)


def test_shadows_are_refused_where_they_cannot_be_compared() -> None:
    params = make_params()
    with pytest.raises(gc.OptionError, match="partition_of"):
        gc.Optimizer(params, gc.recipe("sgd"), shadows=arms(), partition_of=params)
    optimizer = gc.optimizer("sgd", params, shadows=arms(), compile=False)
    with pytest.raises(gc.OptionError, match="shadows"), gc.step_in_backward(optimizer):
        pass


def test_recipe_classes_take_shadows() -> None:
    params = make_params()
    optimizer = gc.optim.AdamW(params, shadows={"lion": gc.recipe("lion")}, compile=False)
    train(optimizer, params, range(2))
    assert 0 < numbers(optimizer, "lion")[0] < 1
