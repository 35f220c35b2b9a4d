from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradchain as gc

SHAPES = [(), (5,), (3, 4)]


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in SHAPES]


def drawn(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def train(optimizer: gc.Optimizer, first: int, last: int) -> list[torch.Tensor]:
    """Steps, with an estimate of the Hessian before the first and the fourth."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(first, last):
        if step in (0, 3):
            gc.give_hessian(optimizer, [3 * x for x in drawn(50 + step)])  # of either sign
        for param, grad in zip(params, drawn(step)):
            param.grad = grad.to(param.dtype)
        optimizer.step()
    return [param.detach().clone() for param in params]


def oracle(options: dict[str, Any], steps: int) -> list[np.ndarray]:
    """Algorithm 3 of the paper."""
    lr, (b1, b2), eps = options["lr"], options["betas"], options["eps"]
    result = []
    for at, param in enumerate(parameters()):
        theta, m, h = param.detach().numpy().copy(), 0.0, 0.0
        for step in range(steps):
            if step in (0, 3):
                h = b2 * h + (1 - b2) * 3 * drawn(50 + step)[at].numpy()
            m = b1 * m + (1 - b1) * drawn(step)[at].numpy()
            theta = theta - lr * options["weight_decay"] * theta
            theta = theta - lr * np.clip(m / np.maximum(options["gamma"] * h, eps), -1, 1)
        result.append(theta)
    return result


OPTIONS = {"lr": 0.1, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.3, "gamma": 0.7}


@pytest.mark.parametrize("compiled", [False, True])
def test_sophia_is_its_formula(compiled: bool) -> None:
    optimizer = gc.optimizer("sophia", parameters(), compile=compiled, **OPTIONS)
    for ours, wanted in zip(train(optimizer, 0, 6), oracle(OPTIONS, 6)):
        np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_the_estimates_are_averaged_in_float32_at_least() -> None:
    params = parameters(torch.bfloat16)
    optimizer = gc.optimizer("sophia", params)
    for _ in range(3):
        gc.give_hessian(optimizer, [torch.ones_like(p) for p in params])
    kept = optimizer.state[params[2]]["divide_by_hessian.hessian"]
    torch.testing.assert_close(kept, torch.full((3, 4), 1 - 0.99**3))


def test_it_goes_by_the_rate_in_the_group() -> None:
    params = parameters()
    optimizer = gc.optimizer("sophia", params)
    optimizer.param_groups[0]["hessian_beta"] = 0.25
    gc.give_hessian(optimizer, [torch.ones_like(p) for p in params])
    assert optimizer.state[params[0]]["divide_by_hessian.hessian"].item() == 0.75


def test_none_and_what_is_not_finite_leave_the_average_as_it_is() -> None:
    params = parameters()
    optimizer = gc.optimizer("sophia", params, betas=(0.9, 0.0))
    gc.give_hessian(optimizer, [torch.ones_like(p) for p in params])
    broken = torch.full((5,), 2.0, dtype=torch.float64)
    broken[1], broken[3] = torch.nan, torch.inf
    gc.give_hessian(optimizer, [None, broken, None])
    kept = [optimizer.state[p]["divide_by_hessian.hessian"] for p in params]
    assert kept[0].item() == 1.0
    assert kept[1].tolist() == [2.0, 1.0, 2.0, 1.0, 2.0]


def test_a_run_goes_on_where_it_was_saved() -> None:
    straight = train(gc.optimizer("sophia", parameters(), **OPTIONS), 0, 6)
    first = gc.optimizer("sophia", parameters(), **OPTIONS)
    train(first, 0, 2)
    second = gc.optimizer(
        "sophia", [nn.Parameter(p.detach().clone()) for p in first.param_groups[0]["params"]], **OPTIONS
    )
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for a, b in zip(train(second, 2, 6), straight):
        assert torch.equal(a, b)


def test_before_any_estimate_it_steps_by_signs() -> None:
    params = parameters()
    optimizer = gc.optimizer("sophia", params, lr=0.1, weight_decay=0.0)
    for param, start, grad in zip(params, parameters(), drawn(1)):
        param.grad = grad
        start.grad = grad
    optimizer.step()
    for param, start, grad in zip(params, parameters(), drawn(1)):
        torch.testing.assert_close(start - param, 0.1 * grad.sign())


ONES = [torch.ones(shape, dtype=torch.float64) for shape in SHAPES]
REFUSED: dict[str, tuple[Any, str]] = {
    "too few": (ONES[:2], "2 estimates for 3 parameters"),
    "a shape": (
        [ONES[0], ONES[1], ONES[1]],
        r"parameter 2 of group 0 is torch.float64 of shape \(5,\); pass .*\(3, 4\)",
    ),
    "integers": ([ONES[0], ONES[1].long(), None], r"torch.int64 .*floating tensor"),
    "a number": ([ONES[0], 1.0, None], "is 1.0; pass a floating tensor"),
    "one tensor": (torch.ones(3), "pass a list"),
    "a dict": ({}, "pass a list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_estimate_is_an_error_and_writes_nothing(case: str) -> None:
    estimates, text = REFUSED[case]
    params = parameters()
    optimizer = gc.optimizer("sophia", params)
    with pytest.raises(gc.OptionError, match=text):
        gc.give_hessian(optimizer, estimates)
    assert all(not optimizer.state[p]["divide_by_hessian.hessian"].any() for p in params)


def test_chains_without_a_use_for_it_are_refused() -> None:
    with pytest.raises(gc.OptionError, match=r"goes through no divide_by_hessian .*recipe\('sophia'\)"):
        gc.give_hessian(gc.optimizer("adamw", parameters()), ONES)
    with pytest.raises(gc.OptionError, match="pass gradchain's first"):
        gc.give_hessian(torch.optim.SGD(parameters()), ONES)  # type: ignore[arg-type]
