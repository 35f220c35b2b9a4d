from __future__ import annotations

import math

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, step
from tests.transforms.test_moments import compare_with_torch

RAW = gc.second_moment(0.8, bias_correction=False)


def test_the_first_steps_take_the_direction_as_it_is() -> None:
    # beta = 0.8: rho_inf = 9, and rho = 1, 1.89, 2.70, 3.45, 4.13, 4.74, 5.29: the seventh step is the first that divides.
    u = directions(RAW, gc.rectify(0.8), grads=[[3.0]] * 7)
    close(torch.cat(u[:6]), [3.0] * 6)
    rho = 9 - 2 * 7 * 0.8**7 / (1 - 0.8**7)
    assert 5 < rho < 6
    # v = 9 (1 - 0.8^7), so that the quotient is 1
    close(u[6], [math.sqrt((rho - 4) * (rho - 2) * 9 / ((9 - 4) * (9 - 2) * rho))], rtol=1e-7)


def test_eps_is_added_before_the_bias_is_corrected() -> None:
    plain, damped = (directions(RAW, gc.rectify(0.8, eps), grads=[[3.0]] * 7)[-1] for eps in (0.0, 1.0))
    v = 9 * (1 - 0.8**7)
    close(damped / plain, [math.sqrt(v) / (math.sqrt(v) + 1)])


def test_a_short_memory_never_divides() -> None:
    u = directions(gc.second_moment(0.5, bias_correction=False), gc.rectify(0.5), grads=[[3.0]] * 50)
    close(torch.cat(u), [3.0] * 50)


def test_in_the_end_it_is_a_plain_division() -> None:
    u = directions(RAW, gc.rectify(0.8, 0.0), grads=[[3.0], [-1.0]] * 100)
    plain = directions(RAW, gc.divide(), grads=[[3.0], [-1.0]] * 100)
    close(u[-1], plain[-1].tolist(), rtol=1e-9)


def test_elements_without_a_gradient_stay() -> None:
    u = directions(RAW, gc.rectify(0.8, 0.0), grads=[[0.0, 1.0]] * 8)
    assert [x[0].item() for x in u] == [0.0] * 8


def test_a_bias_that_is_corrected_already_is_an_error() -> None:
    with pytest.raises(gc.ChainError, match=r"rectify corrects .* second_moment has done so.*bias_correction=False"):
        gc.chain(gc.second_moment(), gc.rectify())


def test_compiled_it_divides_from_the_same_step_on() -> None:
    start = [torch.randn(4, 3), torch.randn(())]
    runs = [
        gc.optimizer("radam", [torch.nn.Parameter(p.clone()) for p in start], betas=(0.9, 0.8), compile=compiled)
        for compiled in (False, True)
    ]
    for _ in range(8):
        grads = [torch.randn(p.shape) for p in start]
        for a, b in zip(*(step(optimizer, *grads) for optimizer in runs)):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.5, 0.8)},
        {"eps": 1e-2, "weight_decay": 0.3},
        {"weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    ids=str,
)
def test_radam_is_torch_radam(dtype: torch.dtype, options: dict[str, float]) -> None:
    compare_with_torch(torch.optim.RAdam, "radam", dtype, options)
