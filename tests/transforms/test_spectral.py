from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, optimizer_of, step, tensor

LR = gc.scale_by_learning_rate(0.1)
W = [[3.0, 0.0], [0.0, 1.0]]


def decayed(param: Any, steps: int = 1, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[torch.Tensor, ...]:
    """Parameter, `u` and `sigma` after steps with zero gradients at lr 0.1."""
    theta = tensor(param, dtype)
    optimizer = optimizer_of(gc.chain(gc.spectral_decay(**options), LR), theta)
    for _ in range(steps):
        (after,) = step(optimizer, torch.zeros_like(theta))
    (state,) = optimizer.state.values()
    return after, state["spectral_decay.u"], state["spectral_decay.sigma"]


def test_one_step_by_hand() -> None:
    # W'1 = (3, 1), v = (3, 1) / sqrt(10), Wv = (9, 1) / sqrt(10), sigma = sqrt(8.2), u = (9, 1) / sqrt(82).
    after, u, sigma = decayed(W, weight_decay=0.5)
    close(u, [9 / math.sqrt(82), 1 / math.sqrt(82)])
    close(sigma, math.sqrt(8.2))
    strength = math.sqrt(2) * 0.1 * 0.5
    # sigma u v' = (9, 1)' (3, 1) / 10
    close(after, [[3 - strength * 2.7, -strength * 0.9], [-strength * 0.3, 1 - strength * 0.1]])


def test_sigma_is_a_lower_estimate_that_grows() -> None:
    # Quirk A4.
    estimates = [float(decayed(W, steps, weight_decay=1e-12)[2]) for steps in (1, 2, 3, 20)]
    assert estimates == sorted(estimates)
    assert estimates[0] < 2.9
    assert estimates[-1] == pytest.approx(3)


def test_the_root_is_of_the_rows() -> None:
    # Quirk A5: M is the size of the last axis but one, so a transposed layout decays differently.
    for shape in ((2, 8), (8, 2)):
        theta = torch.ones(shape)
        after = decayed(theta.tolist(), weight_decay=0.5)[0]  # rank 1: the whole of it shrinks
        close(after, torch.full(shape, 1 - math.sqrt(shape[0]) * 0.1 * 0.5).tolist(), rtol=1e-6)


def test_leading_axes_are_a_batch() -> None:
    torch.manual_seed(0)
    theta = torch.randn(2, 3, 4, 5, dtype=torch.float64)  # quirk A6: kernels are out * in matrices
    after, u, sigma = decayed(theta.tolist(), steps=3)
    assert u.shape == (2, 3, 4)
    assert sigma.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = decayed(theta[i, j].tolist(), steps=3)
            for ours, theirs in zip((after[i, j], u[i, j], sigma[i, j]), alone, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (4,), (4, 1), (1, 4), (2, 4, 1), (2, 1, 4), (1, 1)], ids=str)
def test_vectors_are_not_decayed(shape: tuple[int, ...]) -> None:
    # Quirk A7.
    chain = gc.chain(gc.spectral_decay(0.5), LR)
    theta = torch.ones(shape)
    with pytest.warns(UserWarning, match="does not decay a parameter of shape"):
        optimizer = optimizer_of(chain, theta)
    (after,) = step(optimizer, torch.zeros_like(theta))
    assert torch.equal(after, theta)
    assert chain.init(theta)["slots"] == {"": {}}


@pytest.mark.parametrize("shape", [(), (4,), (4, 1), (1, 4), (2, 4, 1)], ids=str)
def test_adams_decays_vectors_plainly(shape: tuple[int, ...]) -> None:
    theta = torch.ones(shape)
    optimizer = optimizer_of(gc.recipe("adams", lr=0.1, scalar_vector_weight_decay=0.5), theta)
    (after,) = step(optimizer, torch.zeros_like(theta))
    torch.testing.assert_close(after, theta * 0.95)


def test_use_spectral_decay_opts_out_at_construction() -> None:
    # Quirk A14.
    params = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    params[0].use_spectral_decay = False
    optimizer = gc.Optimizer(params, gc.recipe("adams", lr=0.1, weight_decay=0.5), compile=False)
    params[0].use_spectral_decay, params[1].use_spectral_decay = True, False
    plain, spectral = step(optimizer, torch.zeros(2, 2), torch.zeros(2, 2))
    torch.testing.assert_close(plain, torch.full((2, 2), 1 - 0.1 * 0.1))
    torch.testing.assert_close(spectral, torch.full((2, 2), 1 - math.sqrt(2) * 0.1 * 0.5))


# Collapse (quirk A2).

COLLAPSING = [[[0.0, 0.0], [0.0, 0.0]], [[1.0, -2.0], [-1.0, 2.0]]]  # zero, and zero column sums


@pytest.mark.parametrize("theta", COLLAPSING, ids=["zero", "zero column sums"])
@pytest.mark.parametrize("restart", [False, True])
def test_collapse_and_restart(theta: Any, restart: bool) -> None:
    optimizer = optimizer_of(gc.chain(gc.spectral_decay(0.5, restart=restart), LR), tensor(theta))
    zero = tensor([[0.0, 0.0], [0.0, 0.0]])
    (after,) = step(optimizer, zero)
    assert torch.equal(after, tensor(theta))
    (state,) = optimizer.state.values()
    assert not state["spectral_decay.u"].any()
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].copy_(tensor(W))  # it has grown
    (later,) = step(optimizer, zero)
    if restart:
        close(later, decayed(W, weight_decay=0.5)[0].tolist())
    else:
        assert torch.equal(later, tensor(W))
        assert not state["spectral_decay.u"].any()


def test_restart_revives_only_collapsed_matrices() -> None:
    torch.manual_seed(0)
    healthy = torch.randn(2, 2, dtype=torch.float64).tolist()
    together, u, _ = decayed([healthy, COLLAPSING[0]], steps=3, restart=True)
    alone, alone_u, _ = decayed(healthy, steps=3)
    close(together[0], alone.tolist())
    close(u[0], alone_u.tolist())
    assert not u[1].any()


# Options.


def test_clamp_bounds_the_amplitude() -> None:
    # Rank 1, so the whole matrix is multiplied by 1 - amplitude (quirk A5: above 2 it diverges).
    theta = torch.ones(4, 4).tolist()
    for decay, clamp, factor in ((12.0, None, 1 - 2.4), (12.0, 1.0, 0.0), (12.0, 0.5, 0.5), (1.0, 0.5, 0.8)):
        after = decayed(theta, weight_decay=decay, clamp=clamp)[0]
        close(after, torch.full((4, 4), factor).tolist(), rtol=1e-6, atol=1e-12)


def test_decay_zero_keeps_the_state() -> None:
    theta = tensor(W)
    optimizer = optimizer_of(gc.chain(gc.spectral_decay(0.5), LR), theta)
    step(optimizer, torch.zeros_like(theta))
    (state,) = optimizer.state.values()
    u, sigma = state["spectral_decay.u"].clone(), state["spectral_decay.sigma"].clone()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    before = optimizer.param_groups[0]["params"][0].detach().clone()
    (after,) = step(optimizer, torch.zeros_like(theta))
    assert torch.equal(after, before)
    assert torch.equal(state["spectral_decay.u"], u)
    assert torch.equal(state["spectral_decay.sigma"], sigma)


def test_decay_sees_the_weights_before_the_step() -> None:
    # Quirk A18.
    theta = tensor(W)
    still = optimizer_of(gc.chain(gc.spectral_decay(0.5), LR), theta)
    moving = optimizer_of(gc.chain(LR, gc.spectral_decay(0.5)), theta)
    grad = torch.ones_like(theta)
    (at_rest,), (moved,) = step(still, torch.zeros_like(theta)), step(moving, grad)
    close(moved, (at_rest - 0.1).tolist())


@pytest.mark.parametrize(("precision", "sees"), [("param", False), ("compute", True)])
def test_precision_chooses_stored_or_master_weights(precision: str, sees: bool) -> None:
    # Quirk A17. The master has moved by less than the spacing of bfloat16; only "compute" sees it.
    chain = gc.chain(gc.master_weights(), gc.spectral_decay(0.0, precision=precision), LR)
    optimizer = optimizer_of(chain, torch.ones(2, 2, dtype=torch.bfloat16))
    grad = torch.full((2, 2), -(2.0**-5), dtype=torch.bfloat16)  # moves the master by 0.3 %
    (after,) = step(optimizer, grad)
    assert torch.equal(after, torch.ones(2, 2, dtype=torch.bfloat16))
    optimizer.param_groups[0].update(weight_decay=0.5, lr=1.0)
    (state,) = optimizer.state.values()
    before = state["master_weights.master_param"].clone()
    step(optimizer, torch.zeros_like(grad))
    shrunk = before - state["master_weights.master_param"]
    amplitude = math.sqrt(2) * 0.5
    expected = amplitude * (before if sees else torch.ones(2, 2))
    torch.testing.assert_close(shrunk, expected, rtol=1e-3, atol=0)  # bfloat16 arithmetic, in parts
    assert state["spectral_decay.u"].dtype == torch.bfloat16


def test_hat_inside_is_the_papers_adams() -> None:
    # Quirk A1: at the first step atan(1) = 0.785 against atan(0.1) / 0.1 = 0.9967, in units of lr.
    for hat_inside, expected in ((True, math.pi / 4), (False, math.atan(0.1) / 0.1)):
        chain = gc.recipe("adams", lr=0.1, weight_decay=0.0, hat_inside=hat_inside, master_dtype="fp64")
        (after,) = step(optimizer_of(chain, tensor([0.0])), tensor([7.0]))
        close(after, [-0.1 * expected])


def test_adams_corrects_its_bias_in_double() -> None:
    # Quirk A13: the published code does so in float32, with relative errors of 1e-7.
    chain = gc.recipe("adams", lr=0.1, weight_decay=0.0, betas=(0.9, 0.0), master_dtype="fp64")
    optimizer = optimizer_of(chain, tensor([0.0]))
    (first,) = step(optimizer, tensor([7.0]))
    (second,) = step(optimizer, tensor([7.0]))
    close(second - first, [-0.1 * math.atan(0.19) / (1 - 0.9**2)], rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(300, 70), (70, 300), (2, 3, 40, 50), (5, 6, 3, 3), (0, 4, 3, 3)], ids=str)
def test_compiled_products_are_those_of_a_library(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    start, results = torch.randn(shape, dtype=torch.float64), []
    for compile in (False, True):
        theta = torch.nn.Parameter(start.to(dtype, copy=True))
        optimizer = gc.Optimizer([theta], gc.chain(gc.spectral_decay(0.5), LR), compile=compile)
        for _ in range(3):
            step(optimizer, torch.zeros_like(theta))
        (state,) = optimizer.state.values()
        results.append((theta.detach(), state["spectral_decay.u"], state["spectral_decay.sigma"]))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for eager, compiled in zip(*results):
        torch.testing.assert_close(compiled, eager, rtol=tolerance, atol=tolerance)
