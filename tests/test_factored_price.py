"""What the factored first moment costs in noise is SMMF's price: ours is the published rule, and no worse than it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import gradchain as gc

Array = NDArray[np.float64]

SHAPE, BETA1, BETA2, STEPS, LR = (24, 24), 0.9, 0.999, 300, 1e-2


def rank_one(sizes: Array) -> Array:
    return np.outer(sizes.sum(1), sizes.sum(0)) / sizes.sum()


def average(gradients: Array, factored: bool) -> Array:
    """SMMF's first moment in float64, after each step: stored as signs and sums, read, averaged, stored."""
    stored, seen = np.zeros(SHAPE), []
    for gradient in gradients:
        dense = BETA1 * stored + (1 - BETA1) * gradient
        seen.append(dense)
        stored = np.where(dense > 0, 1.0, -1.0) * rank_one(np.abs(dense)) if factored else dense
    return np.stack(seen)


def distance(noise: Array, first: bool, second: bool) -> float:
    """Root mean square of the weights of AdamW on a quadratic whose optimum is 0, where they begin."""
    x, m, v, squares = np.zeros(SHAPE), np.zeros(SHAPE), np.zeros(SHAPE), []
    for t, error in enumerate(noise, 1):
        g = x + error
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        x = x - LR * m / (1 - BETA1**t) / (np.sqrt(v / (1 - BETA2**t)) + 1e-8)
        m = np.where(m > 0, 1.0, -1.0) * rank_one(np.abs(m)) if first else m
        v = rank_one(v) if second else v
        squares.append((x * x).mean())
    return math.sqrt(np.mean(squares[STEPS // 2 :]))


def our_distance(noise: Array, first: str, second: str) -> float:
    param = torch.nn.Parameter(torch.zeros(SHAPE))
    chain = gc.recipe("adamw").with_options(**{"first_moment.storage": first, "second_moment.storage": second})
    optimizer = gc.Optimizer([param], chain, lr=LR, weight_decay=0.0, compile=False)
    squares = []
    for error in torch.from_numpy(noise).float():
        param.grad = param.detach() + error
        optimizer.step()
        squares.append(param.detach().double().square().mean().item())
    return math.sqrt(np.mean(squares[STEPS // 2 :]))


@pytest.fixture(scope="module")
def noise() -> Array:
    """Of sizes between 0.01 and 1 placed at random: no rank-one matrix describes them."""
    generator = np.random.default_rng(0)
    return 10 ** -generator.uniform(0, 2, SHAPE) * generator.standard_normal((STEPS, *SHAPE))


@pytest.fixture(scope="module")
def ours(noise: Array) -> float:
    return our_distance(noise, "factored", "factored")


@pytest.mark.parametrize("mean", [0.05, 0.0], ids=["a mean in noise", "noise"])
def test_the_average_is_that_of_the_oracle(mean: float) -> None:
    gradients = mean + np.random.default_rng(1).standard_normal((60, *SHAPE))
    gradients = gradients.astype(np.float32).astype(np.float64)
    chain = gc.chain(gc.first_moment(BETA1, bias_correction=False, storage="factored"))
    param = torch.zeros(SHAPE)
    state = chain.init(param)
    for gradient, expected in zip(torch.from_numpy(gradients).float(), average(gradients, factored=True)):
        update, state = chain.update(gradient, state, param)
        torch.testing.assert_close(-update.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_three_tenths_of_a_mean_gradient_are_passed_on_in_noise() -> None:
    # A stored sign turns where a gradient exceeds beta1 / (1 - beta1) stored sizes against it, and a Gaussian of standard
    # deviation 1 keeps sizes at 0.13, by A = E|beta1 A + (1 - beta1) g|.
    gradients = 0.05 + np.random.default_rng(2).standard_normal((3000, *SHAPE))
    assert average(gradients, factored=False)[200:].mean() / 0.05 == pytest.approx(1, abs=0.05)
    assert average(gradients, factored=True)[200:].mean() / 0.05 == pytest.approx(0.3, abs=0.05)


def test_signs_of_elements_with_little_noise_do_not_turn() -> None:
    generator = np.random.default_rng(3)
    quiet = generator.random(SHAPE) < 0.5
    gradients = np.where(quiet, 0.1, 1.0) * generator.standard_normal((500, *SHAPE))
    for factored, rate in ((False, 0.14), (True, 0.0)):
        signs = average(gradients, factored)[50:] > 0
        assert (signs[1:] != signs[:-1])[:, quiet].mean() == pytest.approx(rate, abs=0.005)


def test_the_price_of_a_factored_first_moment(noise: Array, ours: float) -> None:
    assert ours == pytest.approx(distance(noise, True, True), rel=0.01)
    assert 2 < ours / distance(noise, False, False) < 3.5


def test_the_price_of_a_factored_second_moment(noise: Array) -> None:
    dense, ours = distance(noise, False, False), our_distance(noise, "int8", "factored")
    assert ours == pytest.approx(distance(noise, False, True), rel=0.03)
    assert 1 < ours / dense < 1.4


def test_adv_optm_pays_the_same(noise: Array, ours: float) -> None:
    adv_optm = pytest.importorskip("adv_optm", reason="pip install gradchain[parity]")
    param = torch.nn.Parameter(torch.zeros(SHAPE))
    optimizer = adv_optm.AdamW_adv([param], lr=LR, betas=(BETA1, BETA2), nnmf_factor=True, stochastic_rounding=False)
    squares = []
    for error in torch.from_numpy(noise).float():
        param.grad = param.detach() + error
        optimizer.step()
        squares.append(param.detach().double().square().mean().item())
    theirs = math.sqrt(np.mean(squares[STEPS // 2 :]))
    assert theirs == pytest.approx(ours, rel=0.01)
