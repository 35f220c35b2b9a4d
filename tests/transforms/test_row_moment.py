"""A second moment of rows against its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import SHAPES, Array, close, directions, optimizer_of, run, sequence, slot, step

EPS = 1e-8


def expected(grads: list[Array], beta: float, correct: bool) -> list[Array]:
    v, found = np.zeros(len(grads[0])), []
    for t, g in enumerate(grads, 1):
        v = beta * v + (1 - beta) * (g.reshape(len(g), -1) ** 2).mean(1)
        scale = np.sqrt(v / (1 - beta**t if correct else 1)) + EPS
        found.append(g / scale.reshape(-1, *[1] * (g.ndim - 1)))
    return found


@pytest.mark.parametrize("beta", [0.0, 0.95])
@pytest.mark.parametrize("correct", [False, True])
def test_the_formula(beta: float, correct: bool) -> None:
    stages = [gc.row_second_moment(beta, bias_correction=correct), gc.divide(EPS)]
    for shape in filter(len, SHAPES):
        grads = sequence(shape)
        found = directions(*stages, grads=[g.tolist() for g in grads])
        for u, wanted in zip(found, expected(grads, beta, correct), strict=True):
            np.testing.assert_allclose(u.numpy(), wanted, rtol=1e-12, atol=1e-14, err_msg=str(shape))


def test_without_correction_the_first_step_is_longer() -> None:
    """By 1/sqrt(1 - beta): 4.5 for 0.95, as in NorMuon."""
    raw, corrected = (
        directions(gc.row_second_moment(bias_correction=on), gc.divide(0.0), grads=[[[3.0, 3.0], [-1.0, 1.0]]])[0]
        for on in (False, True)
    )
    close(corrected, [[1.0, 1.0], [-1.0, 1.0]])
    close(raw, (corrected / 0.05**0.5).tolist())


def test_rows_do_not_see_each_other_and_zeros_stay() -> None:
    one = directions(gc.row_second_moment(), gc.divide(EPS), grads=[[[1.0, 2.0], [0.0, 0.0]]])[0]
    two = directions(gc.row_second_moment(), gc.divide(EPS), grads=[[[1.0, 2.0], [50.0, 0.1]]])[0]
    assert torch.equal(one[0], two[0])
    assert not one[1].any()


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_the_slot_is_one_number_a_row(dtype: torch.dtype, kept: torch.dtype) -> None:
    chain = gc.chain(gc.row_second_moment(0.9), gc.divide(EPS), gc.scale_by_learning_rate(0.1))
    optimizer = optimizer_of(chain, torch.zeros(4, 3, 2, dtype=dtype))
    step(optimizer, torch.full((4, 3, 2), 2.0, dtype=dtype))
    (param,) = optimizer.param_groups[0]["params"]
    held = optimizer.state[param]["row_second_moment.exp_avg_sq_row"]
    assert held.shape == (4,)
    assert held.dtype == kept
    close(held, [0.4] * 4, rtol=1e-6)


def test_beta_goes_by_beta2() -> None:
    assert gc.chain(gc.row_second_moment(0.7), gc.divide(EPS)).hyperparameters == {"beta2": 0.7, "eps": EPS}
    _, state = run(gc.row_second_moment(0.7), gc.divide(EPS), grads=[[[2.0], [4.0]]], beta2=0.5)
    close(slot(state, "row_second_moment.exp_avg_sq_row"), [2.0, 8.0])


def test_a_scalar_has_no_rows() -> None:
    with pytest.raises(gc.OptionError, match="averages rows, and a scalar has none"):
        directions(gc.row_second_moment(), gc.divide(EPS), grads=[1.0])


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_beta_is_below_one(beta: float) -> None:
    with pytest.raises(gc.OptionError, match=r"row_second_moment\.beta"):
        gc.row_second_moment(beta)
