"""Chains as pure functions: gradients flow through steps, and torch.func transforms them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import grad, jacrev, vmap

import gradchain
from gradchain import Chain
from tests.laws.cases import CASES, Case
from tests.laws.running import assert_all_close, gradients, over_all_cases, tensors, tolerance

META = {
    "adamw": gradchain.recipe("adamw"),
    "rose": gradchain.recipe("rose"),
    "rose-1.0.2": gradchain.recipe("rose-1.0.2"),
    "gyro-adam": gradchain.recipe("gyro-adam", warmup_steps=0, weight_decay=0.1),
    "adams": gradchain.recipe("adams", master_dtype="fp64"),
    "sgd": gradchain.recipe("sgd", momentum=0.9, nesterov=True, weight_decay=0.1),
}
CURVATURE = torch.linspace(0.5, 3.0, 24, dtype=torch.float64).view(4, 6)
START = torch.linspace(-1.0, 1.5, 24, dtype=torch.float64).view(4, 6).flip(1)
BIG_LR = 2.5  # overshoots, so that the second gradient opposes the momentum


def loss_gradient(theta: torch.Tensor) -> torch.Tensor:
    """The gradient of a bumpy bowl, written out so that it can be differentiated."""
    return CURVATURE * theta + 0.3 * torch.sin(3 * theta)


def two_steps(chain: Chain, lr: Any, **hyper: Any) -> torch.Tensor:
    """A smooth function of the parameter after two steps on the bowl."""
    theta = START
    state = chain.init(theta)
    for _ in range(2):
        updates, state = chain.update(loss_gradient(theta), state, theta, lr=lr, **hyper)
        theta = gradchain.apply_updates(theta, updates)
    return (CURVATURE * theta.square()).sum() + theta.sum()


def slope(function: Callable[[float], torch.Tensor], at: float) -> float:
    """Central differences of fourth order."""
    h = 1e-4
    values = [float(function(at + k * h)) for k in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)


@pytest.mark.parametrize("chain", META.values(), ids=META.keys())
def test_gradients_reach_the_learning_rate(chain: Chain) -> None:
    lr = torch.tensor(BIG_LR, dtype=torch.float64, requires_grad=True)
    two_steps(chain, lr).backward()
    assert float(lr.grad) == pytest.approx(slope(lambda x: two_steps(chain, x), BIG_LR), rel=1e-6)


def test_the_projection_was_active() -> None:
    active, inactive = (two_steps(META["gyro-adam"], BIG_LR, warmup_steps=w) for w in (0, 5))
    assert float(active) != pytest.approx(float(inactive), rel=1e-3)


OTHERS = [
    ("adamw", "eps", 0.1),
    ("adamw", "weight_decay", 0.1),
    ("gyro-adam", "proj_factor", 0.8),
    ("sgd", "momentum", 0.7),
    ("adams", "weight_decay", 0.1),
    ("rose", "eps", 0.1),
]


@pytest.mark.parametrize(("name", "key", "value"), OTHERS)
def test_gradients_reach_other_hyperparameters(name: str, key: str, value: float) -> None:
    tensor = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    two_steps(META[name], BIG_LR, **{key: tensor}).backward()
    expected = slope(lambda x: two_steps(META[name], BIG_LR, **{key: x}), value)
    assert expected != pytest.approx(0)
    assert float(tensor.grad) == pytest.approx(expected, rel=1e-6)


def test_gradients_reach_a_decay_rate() -> None:
    beta = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    two_steps(META["adamw"], 0.3, betas=(beta, 0.99)).backward()
    expected = slope(lambda x: two_steps(META["adamw"], 0.3, betas=(x, 0.99)), 0.8)
    assert float(beta.grad) == pytest.approx(expected, rel=1e-6)


def test_gradients_reach_both_decay_rates_of_gyro() -> None:
    # betas[1] also sets the default warmup, by rounding: a step function, whose slope is 0.
    beta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    chain = gradchain.recipe("gyro-adam")
    two_steps(chain, 0.3, betas=(0.8, beta)).backward()
    expected = slope(lambda x: two_steps(chain, 0.3, betas=(0.8, x)), 0.6)
    assert float(beta.grad) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chain", META.values(), ids=META.keys())
def test_an_element_without_gradient_poisons_nothing(chain: Chain) -> None:
    # A dead unit has gradients of exactly 0, where roots and arctangents have no slope.
    mask = torch.ones(4, 6, dtype=torch.float64)
    mask[0, 0] = 0
    mask[2] = 0
    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    theta, state = START, chain.init(START)
    for _ in range(2):
        updates, state = chain.update(mask * loss_gradient(theta), state, theta, lr=lr)
        theta = gradchain.apply_updates(theta, updates)
    theta.sum().backward()
    assert lr.grad.isfinite()


def trained(case: Case, params: list[torch.Tensor], grads: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    state = case.chain.init(params)
    for step in grads:
        updates, state = case.chain.update(step, state, params)
        params = gradchain.apply_updates(params, updates)
    return params


@over_all_cases
def test_vmap_over_an_ensemble_is_a_loop(case: Case) -> None:
    shapes = [(), (7,), (5, 1), (4, 6), (2, 3, 4)]
    members = 3
    start = [torch.stack([p * (k + 1) for k in range(members)]) for p in tensors(1, shapes, torch.float64)]
    grads = [
        [torch.stack([g / (k + 1) for k in range(members)]) for g in step]
        for step in gradients(3, shapes, torch.float64)
    ]
    together = vmap(lambda p, g: trained(case, p, g))(start, grads)
    for k in range(members):
        alone = trained(case, [p[k] for p in start], [[g[k] for g in step] for step in grads])
        rtol = tolerance(case.chain)
        assert_all_close([p[k] for p in together], alone, rtol=rtol, atol=rtol)


@over_all_cases
def test_func_grad_through_an_update(case: Case) -> None:
    shapes = [(7,), (4, 6)]
    params, (first, second) = tensors(1, shapes, torch.float64), gradients(2, shapes, torch.float64)

    def after(lr: torch.Tensor) -> torch.Tensor:
        state = case.chain.init(params)
        updates, state = case.chain.update(first, state, params, lr=lr)
        moved = gradchain.apply_updates(params, updates)
        updates, _ = case.chain.update([g + 0.1 * p for g, p in zip(second, moved)], state, moved, lr=lr)
        return sum(p.sum() for p in gradchain.apply_updates(moved, updates))

    lr = torch.tensor(0.05, dtype=torch.float64)
    functional = grad(after)(lr)
    taped = lr.clone().requires_grad_()
    after(taped).backward()
    assert functional.isfinite()
    assert functional != 0
    torch.testing.assert_close(functional, taped.grad)


@pytest.mark.parametrize("name", ["adamw", "rose", "adams:fp64", "gyro-adam:now"])
def test_the_jacobian_of_a_step_in_the_gradient(name: str) -> None:
    chain = CASES[name].chain
    theta, g = tensors(1, [(3, 4)], torch.float64)[0], tensors(2, [(3, 4)], torch.float64)[0]

    def step(gradient: torch.Tensor) -> torch.Tensor:
        return chain.update(gradient, chain.init(theta), theta)[0]

    jacobian = jacrev(step)(g).reshape(12, 12)
    # Where the step is blind to the gradient's scale, the gradient is in the kernel. Float64 differences check the rest.
    numeric = torch.stack(
        [(step(g + d) - step(g - d)).flatten() / 2e-6 for d in 1e-6 * torch.eye(12).double().view(12, 3, 4)]
    )
    torch.testing.assert_close(jacobian, numeric.T, rtol=1e-3, atol=2e-7)
