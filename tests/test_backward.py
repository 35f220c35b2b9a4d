"""The optimizer in the backward pass of one process: what may change while its hooks are there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from tests.test_optimizer import assert_same, frozen_copy

pytestmark = pytest.mark.usefixtures("traced")


def backward(params: list[nn.Parameter]) -> None:
    torch.stack([(param * param).sum() for param in params]).sum().backward()


def make() -> tuple[list[nn.Parameter], gradchain.Optimizer]:
    params = [nn.Parameter(torch.linspace(0.5, 1, size)) for size in (4, 3, 2)]
    return params, gradchain.optimizer("adamw", [{"params": params[:2]}, {"params": params[2:], "lr": 0.1}])


def thaw(params: list[nn.Parameter], optimizer: gradchain.Optimizer) -> None:
    params[0].requires_grad_()


def add(params: list[nn.Parameter], optimizer: gradchain.Optimizer) -> None:
    params.append(nn.Parameter(torch.ones(3)))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.3})


def move(params: list[nn.Parameter], optimizer: gradchain.Optimizer) -> None:
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())


@pytest.mark.parametrize("change", [thaw, add, move])
def test_a_change_of_parameters_is_noticed(change: Any) -> None:
    results: list[Any] = []
    for in_backward in (False, True):
        params, optimizer = make()
        params[0].requires_grad_(change is not thaw)
        hooks = gradchain.step_in_backward(optimizer) if in_backward else None
        for step in range(6):
            if step == 3:
                change(params, optimizer)
            backward(params)
            if hooks is None:
                optimizer.step()
                optimizer.zero_grad()
            assert all(param.grad is None for param in params)
        results.append(frozen_copy(optimizer))
    assert_same(results[1], results[0])
