"""State: kept by stage and slot, saved and loaded in its own dtype, copied and pickled; groups switch stages in mid-run."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import transforms as t
from tests.test_optimizer import (
    RECIPES,
    assert_same,
    frozen_copy,
    make_params,
    recipe_optimizer,
    set_grads,
    torch_twin,
    train,
)


def state_list(optimizer: torch.optim.Optimizer) -> list[dict[str, torch.Tensor]]:
    return [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]


def saved_and_loaded(state: Any) -> Any:
    """Through a file, with `weights_only=True`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# Copies.

COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_a_copy_goes_on_as_the_original(name: str, steps: int, copied: Callable[[Any], Any]) -> None:
    params = make_params(torch.bfloat16)
    groups = [{"params": params[:1], "lr": 0.1}, {"params": params[1:]}]
    optimizer = recipe_optimizer(name, groups, telemetry=True, maximize=True)
    train(optimizer, params, range(steps))
    twin_params, twin = copied((params, optimizer))
    assert type(twin) is gradchain.Optimizer
    assert twin.chain == optimizer.chain
    assert repr(twin) == repr(optimizer)
    assert all(p is q for p, q in zip(twin_params, [p for g in twin.param_groups for p in g["params"]]))
    before = frozen_copy(optimizer)
    train(twin, twin_params, range(steps, steps + 3))
    assert_same(frozen_copy(optimizer)[1], before[1])
    train(optimizer, params, range(steps, steps + 3))
    assert_same(frozen_copy(twin), frozen_copy(optimizer))
    assert twin.telemetry() == optimizer.telemetry()


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_before_the_first_step_still_follows_a_loaded_model(copied: Callable[[Any], Any]) -> None:
    params = make_params(torch.bfloat16, [(4, 4)])
    twin_params, twin = copied((params, recipe_optimizer("adams", params, lr=0.0, weight_decay=0.0)))
    twin_params[0].data.fill_(3.0)
    train(twin, twin_params, [0])
    assert_same(twin.state[twin_params[0]]["master_weights.master_param"], torch.full((4, 4), 3.0))


# Saving and loading.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_a_state_dict_survives_a_weights_only_file(name: str, dtype: torch.dtype) -> None:
    params = make_params(dtype)
    optimizer = recipe_optimizer(name, params, disable=())
    train(optimizer, params, range(3))
    other = recipe_optimizer(name, make_params(dtype))
    report = other.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    assert report.clean
    assert_same(state_list(other), state_list(optimizer))
    assert [list(s) for s in state_list(other)] != [[]] * len(params)
    keep = ("params", "param_names")
    groups = [[{k: v for k, v in g.items() if k not in keep} for g in o.param_groups] for o in (other, optimizer)]
    assert groups[0] == groups[1]


WIDE = gradchain.chain(
    t.promote("fp32"),
    t.first_moment(0.9, storage="fp32"),
    t.second_moment(0.99, storage="bf16"),
    t.divide(1e-8),
    t.scale_by_learning_rate(0.1),
)


def test_every_slot_keeps_its_own_dtype_through_a_load() -> None:
    params = make_params(torch.bfloat16)
    optimizer = gradchain.Optimizer(params, WIDE)
    train(optimizer, params, range(3))
    other = gradchain.Optimizer(make_params(torch.bfloat16), WIDE)
    other.load_state_dict(state_dict=optimizer.state_dict())
    dtypes = {slot: value.dtype for slot, value in state_list(other)[0].items()}
    assert dtypes == {
        "step": torch.int64,
        "first_moment.exp_avg": torch.float32,
        "second_moment.exp_avg_sq": torch.bfloat16,
    }
    assert_same(state_list(other), state_list(optimizer))


def test_a_loaded_state_shares_nothing_with_the_dict() -> None:
    params = make_params()
    optimizer = recipe_optimizer("adamw", params, lr=torch.tensor(0.1))
    train(optimizer, params, range(2))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    other_params = make_params()
    other = recipe_optimizer("adamw", other_params)
    other.load_state_dict(saved)
    train(other, other_params, range(3))
    other.param_groups[0]["lr"].fill_(7.0)
    assert_same(saved["state"], kept["state"])
    assert_same(saved["param_groups"][0]["lr"], torch.tensor(0.1))


def test_a_load_rolls_back_all_of_the_state() -> None:
    """A parameter that had no state when the dict was saved has none afterwards, as with torch."""

    def run(build: Callable[..., torch.optim.Optimizer]) -> list[torch.Tensor]:
        params = make_params()
        params[0].requires_grad_(False)
        optimizer = build("adamw", params, lr=0.1)
        train(optimizer, params[1:], range(3))
        saved = copy.deepcopy(optimizer.state_dict())
        weights = [p.detach().clone() for p in params]
        params[0].requires_grad_(True)
        train(optimizer, params, range(3, 6))
        optimizer.load_state_dict(saved)
        for param, weight in zip(params, weights):
            param.data.copy_(weight)
        train(optimizer, params, range(3, 6))
        return [p.detach() for p in params]

    torch.testing.assert_close(run(recipe_optimizer), run(torch_twin), rtol=1e-5, atol=1e-6)


def test_a_parameter_unfrozen_after_a_load_takes_part() -> None:
    params = make_params()
    params[0].requires_grad_(False)
    optimizer = recipe_optimizer("adamw", params)
    train(optimizer, params[1:], range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    params[0].requires_grad_(True)
    train(optimizer, params, range(2, 4))
    assert int(optimizer.state[params[0]]["step"]) == 2


def test_a_load_restores_hyperparameters_and_disable() -> None:
    params = make_params()
    optimizer = recipe_optimizer("rose", [{"params": params, "disable": ["cv_trust_gate"]}], lr=0.5, weight_decay=0.25)
    other = recipe_optimizer("rose", make_params())
    other.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    group = other.param_groups[0]
    assert (group["lr"], group["weight_decay"], tuple(group["disable"])) == (0.5, 0.25, ("cv_trust_gate",))


# strict=False.


def test_a_lenient_load_reports_what_it_kept_reset_and_dropped() -> None:
    params, other_params = make_params(shapes=[(4, 3)]), make_params(shapes=[(4, 3)])
    optimizer = recipe_optimizer("adamw", [("weight", params[0])])
    train(optimizer, params, range(3))
    edited = gradchain.recipe("adamw").replace("second_moment", t.range_normalize())
    other = gradchain.Optimizer([("weight", other_params[0])], edited.insert_before("first_moment", t.heavy_ball()))
    with pytest.raises(gradchain.StateError, match="second_moment") as info:
        other.load_state_dict(optimizer.state_dict())
    assert "strict=False" in str(info.value)
    report = other.load_state_dict(optimizer.state_dict(), strict=False)
    assert report.kept == ["weight: first_moment.exp_avg"]
    assert report.reset == ["weight: heavy_ball.momentum_buffer"]
    assert report.dropped == ["weight: second_moment.exp_avg_sq"]
    assert not report.clean
    assert all(line in str(report) for line in (*report.reset, *report.dropped))
    state = other.state[other_params[0]]
    assert_same(state["first_moment.exp_avg"], optimizer.state[params[0]]["first_moment.exp_avg"])
    assert int(state["step"]) == 3
    train(other, other_params, [3])


def test_a_lenient_load_reports_a_change_of_storage() -> None:
    params = make_params()
    optimizer = gradchain.Optimizer(params, WIDE)
    train(optimizer, params, range(2))
    narrow = gradchain.Optimizer(make_params(), WIDE.with_options(**{"first_moment.storage": "bf16"}))
    with pytest.raises(gradchain.StateError, match=r"first_moment.*storage.*'fp32'.*'bf16'"):
        narrow.load_state_dict(optimizer.state_dict())
    report = narrow.load_state_dict(optimizer.state_dict(), strict=False)
    assert any("first_moment" in line for line in report.differences)
    assert state_list(narrow)[0]["first_moment.exp_avg"].dtype == torch.bfloat16


@pytest.mark.parametrize("eps", [{"divide.eps": 1e-3}, {"momentum_project.eps": 1e-4}])
def test_hyperparameters_are_restored_though_their_keys_differ(eps: dict[str, float]) -> None:
    """`eps` is one key while both stages agree and two keys where they do not: what was saved wins, or it is refused."""
    saved = gradchain.Optimizer(make_params(), gradchain.recipe("gyro-adam", eps=1e-2)).state_dict()
    other = gradchain.Optimizer(make_params(), gradchain.recipe("gyro-adam").with_options(**eps))
    try:
        other.load_state_dict(saved)
    except gradchain.StateError:
        return
    group = other.param_groups[0]
    assert {binding.pick(group) for binding in other.chain.bindings.bindings if binding.field == "eps"} == {1e-2}


# Stages switched in mid-run.


def test_disable_in_mid_run_leaves_every_slot_bit_exact() -> None:
    params = make_params()
    optimizer = recipe_optimizer("gyro-adam", params, weight_decay=0.1)
    train(optimizer, params, range(3))
    before = copy.deepcopy(state_list(optimizer))
    optimizer.param_groups[0]["disable"] = ["second_moment", "divide"]
    train(optimizer, params, range(3, 5))
    assert_same(
        [s["second_moment.exp_avg_sq"] for s in state_list(optimizer)], [s["second_moment.exp_avg_sq"] for s in before]
    )
    optimizer.param_groups[0]["disable"].clear()
    train(optimizer, params, [5])
    assert not torch.equal(state_list(optimizer)[0]["second_moment.exp_avg_sq"], before[0]["second_moment.exp_avg_sq"])


def test_a_switched_off_stage_finds_its_slots_again_after_a_load() -> None:
    def run(reload: bool) -> gradchain.Optimizer:
        params = make_params()
        optimizer = recipe_optimizer("gyro-adam", params, weight_decay=0.1)
        train(optimizer, params, range(3))
        optimizer.param_groups[0]["disable"] = ["second_moment", "divide"]
        train(optimizer, params, range(3, 5))
        if reload:
            saved, old = saved_and_loaded(optimizer.state_dict()), optimizer
            params = [nn.Parameter(p.detach().clone()) for p in params]
            optimizer = recipe_optimizer("gyro-adam", params)
            assert optimizer.load_state_dict(saved).clean
            assert_same(state_list(optimizer), state_list(old))
        optimizer.param_groups[0]["disable"] = []
        train(optimizer, params, range(5, 7))
        return optimizer

    assert_same(frozen_copy(run(reload=True)), frozen_copy(run(reload=False)))


@pytest.mark.parametrize("disable", [["cv_trust_gate"], ("cv_trust_gate",), {"cv_trust_gate"}, {"cv_trust_gate": 1}])
def test_disable_per_group_is_the_edited_chain(disable: Any) -> None:
    params, expected = make_params(), make_params()
    optimizer = recipe_optimizer("rose", [{"params": params[:1], "disable": disable}, {"params": params[1:]}])
    whole = gradchain.recipe("rose")
    gateless = gradchain.Optimizer(expected[:1], whole.without("cv_trust_gate"))
    rest = gradchain.Optimizer(expected[1:], whole)
    for step in range(4):
        train(optimizer, params, [step])
        set_grads(expected, step)
        gateless.step()
        rest.step()
    assert_same(params, expected)


def test_disable_takes_any_iterable_and_groups_override_it() -> None:
    params = make_params(shapes=[(2,), (2,)])
    groups = [{"params": params[:1]}, {"params": params[1:], "disable": []}]
    optimizer = recipe_optimizer("adamw", groups, lr=1.0, disable=(name for name in ["decoupled_decay"]))
    before = [p.detach().clone() for p in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert_same([p.detach() for p in params], [before[0], before[1] - 0.01 * before[1]])


def test_a_role_set_in_mid_run_is_honoured() -> None:
    param = nn.Parameter(torch.ones(4, 3))
    optimizer = gradchain.Optimizer([param], gradchain.recipe("adams", lr=0.5, scalar_vector_weight_decay=0.5))
    param.grad = torch.zeros(4, 3)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    optimizer.param_groups[0] |= {"lr": 0.5, "role": "vector"}
    optimizer.step()
    assert_same(param.detach(), torch.full((4, 3), 0.75))
