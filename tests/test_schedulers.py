"""The tools around an optimizer work as with torch.optim: schedulers, closures, hooks, gradient scaling, averaging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradchain
from tests.test_optimizer import assert_same, make_params, recipe_optimizer, set_grads, torch_twin, train

STEPS = 12

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lrs.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, lambda step: 0.95),
    "StepLR": lambda o: lrs.StepLR(o, 3),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.1, total_iters=6),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 4),
    "SequentialLR": lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1), lrs.ExponentialLR(o, 0.9)], [5]),
    "ChainedScheduler": lambda o: lrs.ChainedScheduler([lrs.ConstantLR(o, 0.1, 3), lrs.ExponentialLR(o, 0.9)]),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, patience=1),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 0.1, total_steps=STEPS),
    "OneCycleLR per group": lambda o: lrs.OneCycleLR(o, [0.1, 0.2], total_steps=STEPS, three_phase=True),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 1e-3, 1e-1, 4),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
}


def scheduled(optimizer: Any, params: list[nn.Parameter], make: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Train under a scheduler; returns what it wrote to the groups at each step."""
    scheduler = make(optimizer)
    written: list[dict[str, Any]] = []
    for step in range(STEPS):
        set_grads(params, step)
        optimizer.step()
        if step + 1 < STEPS:
            scheduler.step(*([1.0] if isinstance(scheduler, lrs.ReduceLROnPlateau) else []))
        written += [{k: g[k] for k in ("lr", "betas", "momentum") if k in g} for g in optimizer.param_groups]
    return written


@pytest.mark.parametrize("recipe", ["adamw", "sgd"])
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_scheduler_of_torch(recipe: str, tensor_lr: bool, make: Callable[[Any], Any]) -> None:
    results: list[Any] = []
    for build in (recipe_optimizer, torch_twin):
        params = make_params()
        options: dict[str, Any] = {"momentum": 0.9} if recipe == "sgd" else {}
        lrs_ = [torch.tensor(2e-2), torch.tensor(1e-2)] if tensor_lr else [2e-2, 1e-2]
        groups = [{"params": params[:2], "lr": lrs_[0]}, {"params": params[2:]}]
        optimizer = build(recipe, groups, lr=lrs_[1], **options)
        results.append((scheduled(optimizer, params, make), params))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("make", [SCHEDULERS["OneCycleLR"], SCHEDULERS["CyclicLR"]], ids=["OneCycleLR", "CyclicLR"])
@pytest.mark.parametrize("name", ["lion", "adams", "adam-atan2", "gyro-adam", "gyro-sgd"])
def test_momentum_is_cycled_in_every_recipe_that_has_one(name: str, make: Callable[[Any], Any]) -> None:
    params = make_params()
    optimizer = recipe_optimizer(name, params)
    written = scheduled(optimizer, params, make)
    momenta = [w["betas"][0] if "betas" in w else w["momentum"] for w in written]
    assert max(momenta) - min(momenta) > 0.02
    assert all(len(w.get("betas", (0, 0))) == 2 for w in written)


def test_a_recipe_without_momentum_cycles_the_rate_alone() -> None:
    with pytest.raises(ValueError, match="momentum"):
        lrs.OneCycleLR(recipe_optimizer("rose", make_params()), 0.1, total_steps=3)
    params = make_params()
    written = scheduled(
        recipe_optimizer("rose", params),
        params,
        lambda o: lrs.OneCycleLR(o, 0.1, total_steps=STEPS, cycle_momentum=False),
    )
    assert len({w["lr"] for w in written}) > 5


def test_keys_of_schedulers_may_be_given_by_the_user() -> None:
    extra = {"initial_lr": 0.1, "max_lr": 0.2, "min_lr": 0.0, "max_momentum": 0.9, "base_momentum": 0.8, "swa_lr": 0.1}
    optimizer = recipe_optimizer("adamw", [{"params": make_params(), "name": "all", **extra}])
    assert optimizer.param_groups[0]["max_lr"] == 0.2
    lrs.ExponentialLR(optimizer, 0.9, last_epoch=3)


def test_a_late_group_needs_no_restart_of_the_scheduler() -> None:
    params = make_params()
    optimizer = recipe_optimizer("rose", params[:2], lr=0.1, wd_schedule=True)
    scheduler = lrs.ExponentialLR(optimizer, 0.5)
    train(optimizer, params[:2], range(2))
    scheduler.step()
    optimizer.add_param_group({"params": params[2:], "lr": 0.3})
    train(optimizer, params, range(2, 4))


def test_the_decay_schedule_keeps_its_reference_when_a_tensor_rate_is_filled() -> None:
    """`constructor_lr` is the rate at construction, not an alias of the tensor that somebody fills."""
    results: list[list[nn.Parameter]] = []
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        params = make_params()
        optimizer = recipe_optimizer("rose", params, lr=lr, wd_schedule=True, weight_decay=0.3)
        train(optimizer, params, range(2))
        if isinstance(lr, torch.Tensor):
            lr.fill_(0.05)
        else:
            optimizer.param_groups[0]["lr"] = 0.05
        train(optimizer, params, range(2, 4))
        results.append(params)
    torch.testing.assert_close(results[0], results[1])


# Closures and hooks.


def test_a_closure_runs_once_with_gradients_enabled() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = recipe_optimizer("sgd", [param], lr=0.5)
    calls: list[bool] = []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 3.0
    assert calls == [True]
    assert_same(param.detach(), torch.zeros(3))
    assert optimizer.step() is None


def test_a_closure_that_fails_changes_nothing() -> None:
    params = make_params()
    optimizer = recipe_optimizer("adamw", params)
    before = [p.detach().clone() for p in params]
    set_grads(params, 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert_same([p.detach() for p in params], before)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    params = make_params()
    optimizer = recipe_optimizer("adamw", params)
    set_grads(params, 0)
    optimizer.zero_grad(set_to_none=set_to_none)
    assert all((p.grad is None) if set_to_none else (p.grad.count_nonzero() == 0) for p in params)
    optimizer.step()


def test_step_hooks() -> None:
    params = make_params()
    optimizer = recipe_optimizer("adamw", params)
    seen: list[str] = []
    everywhere = register_optimizer_step_pre_hook(lambda o, a, k: seen.append("global"))
    handles = [
        optimizer.register_step_pre_hook(lambda o, a, k: seen.append(f"pre {int(o.state[params[0]]['step'])}")),
        optimizer.register_step_post_hook(lambda o, a, k: seen.append(f"post {int(o.state[params[0]]['step'])}")),
    ]
    try:
        train(optimizer, params, [0])
    finally:
        everywhere.remove()
    assert seen == ["global", "pre 0", "post 1"]
    for handle in handles:
        handle.remove()
    train(optimizer, params, [1])
    assert len(seen) == 3


def test_state_dict_hooks_run_once_each_and_may_replace_the_dict() -> None:
    optimizer = recipe_optimizer("adamw", make_params())
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda o, d: seen.append("save post") or {**d, "extra": 1})
    saved = optimizer.state_dict()
    assert seen == ["save pre", "save post"]
    assert saved["extra"] == 1
    assert "chain" in saved
    seen.clear()
    optimizer.register_load_state_dict_pre_hook(
        lambda o, d: seen.append("load pre") or {**d, "param_groups": [{**d["param_groups"][0], "lr": 0.25}]}
    )
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(f"load post {o.param_groups[0]['lr']}"))
    optimizer.load_state_dict(saved)
    assert seen == ["load pre", "load post 0.25"]
    assert saved["param_groups"][0]["lr"] == 1e-3


# Gradient scaling and averaging.


@pytest.mark.parametrize("name", ["adamw", "rose", "gyro-adam", "adams"])
def test_the_gradient_scaler_skips_an_infinite_step(name: str) -> None:
    params, plain = make_params(), make_params()
    optimizer, reference = recipe_optimizer(name, params), recipe_optimizer(name, plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    for step in range(4):
        set_grads(params, step)
        loss = sum((p * p.grad).sum() for p in params)
        for p in params:
            p.grad = None
        scaler.scale(loss).backward()
        if step == 1:
            params[1].grad[0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if step != 1:
            train(reference, plain, [step])
    assert_same(params, plain)
    assert scaler.get_scale() == 2.0
    assert int(optimizer.state[params[1]]["step"]) == 3


def test_averaged_model_and_a_swap_of_its_weights() -> None:
    """Weights swapped in between steps are taken as they are, also beside a master copy."""
    torch.manual_seed(0)
    net = nn.Linear(4, 3, dtype=torch.bfloat16)
    optimizer = recipe_optimizer("adams", net, lr=0.1, weight_decay=0.0)
    average = torch.optim.swa_utils.AveragedModel(net)
    for step in range(4):
        train(optimizer, list(net.parameters()), [step])
        average.update_parameters(net)
    net.load_state_dict(average.module.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    train(optimizer, list(net.parameters()), [4])
    assert_same(net.state_dict(), average.module.state_dict())


def test_it_is_a_torch_optimizer() -> None:
    optimizer = recipe_optimizer("rose", make_params())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert {"lr", "weight_decay"} <= optimizer.defaults.keys()
    assert "range_normalize" in repr(optimizer)
    assert "lr: 0.001" in repr(optimizer)
    assert isinstance(gradchain.optimizer("rose", make_params()).state_dict()["param_groups"], list)
