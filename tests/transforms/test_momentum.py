from __future__ import annotations

import itertools

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, run, slot
from tests.transforms.test_moments import compare_with_torch


def test_heavy_ball() -> None:
    u, state = run(gc.heavy_ball(0.5, dampening=0.25), grads=[[4.0], [4.0], [-2.0]])
    close(torch.stack(u), [[4.0], [2 + 3.0], [2.5 - 1.5]])  # no dampening at the first step
    close(slot(state, "heavy_ball.momentum_buffer"), [1.0])


def test_nesterov() -> None:
    u = directions(gc.heavy_ball(0.5, nesterov=True), grads=[[4.0], [4.0]])
    close(torch.stack(u), [[4 + 2.0], [4 + 3.0]])  # b = 4, 6


def test_lion() -> None:
    u, state = run(gc.lion_interpolate(0.5, 0.75), grads=[[4.0], [-1.0]])
    close(torch.stack(u), [[2.0], [0.0]])  # m = 1 when the second gradient comes
    close(slot(state, "lion_interpolate.exp_avg"), [0.75 - 0.25])


def test_lion_recipe_steps_by_signs() -> None:
    u = directions(gc.recipe("lion", lr=0.1, betas=(0.5, 0.75)), grads=[[4.0, -1e-9, 0.0]])
    close(u[0], [0.1, -0.1, 0.0])


COMBINATIONS = [
    {"lr": 0.01, "momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov}
    for momentum, dampening, decay, nesterov in itertools.product((0.0, 0.9), (0.0, 0.3), (0.0, 0.1), (False, True))
    if (momentum or not dampening)
    and (not nesterov or (momentum and not dampening))  # torch refuses or ignores the rest
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: ",".join(f"{v}" for v in o.values()))
def test_sgd_is_torch_sgd(dtype: torch.dtype, options: dict[str, float]) -> None:
    compare_with_torch(torch.optim.SGD, "sgd", dtype, options)
