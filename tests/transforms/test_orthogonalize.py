"""orthogonalize against NumPy, written from its docstring and from the papers' formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gradchain as gc
from gradchain.transforms.polar import METHODS, POLAR_EXPRESS, QUINTIC, Polar, cans, polar_express
from tests.transforms.steps import Array, directions, optimizer_of, step

MATRICES = [(8, 24), (24, 8), (16, 16), (1, 6), (6, 1), (1, 1)]
METHOD = list(METHODS)
EXACT = {"precision": "fp64"}


def matrix(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def made(g: Array, *args: Any, role: str | None = None, **options: Any) -> Array:
    """What the stage makes of a gradient in float64."""
    chain = gc.chain(gc.orthogonalize(*args, **{**EXACT, **options}), gc.scale_by_learning_rate(1.0))
    start = torch.zeros(g.shape, dtype=torch.float64)
    return -step(optimizer_of(chain, start, role=role), torch.tensor(g))[0].numpy()


# The methods, each written out.


def start(M: Array, eps: float | None) -> Array:
    floor = 1 / np.sqrt(M.size) if eps is None else eps
    x = M.T if M.shape[0] > M.shape[1] else M
    return x / max(np.linalg.norm(x), floor)


def quintic(M: Array, steps: int = 5, coefficients: Any = QUINTIC, eps: float | None = 1e-7) -> Array:
    x = start(M, eps)
    for _ in range(steps):
        a, b, c = coefficients
        A = x @ x.T
        x = a * x + (b * A + c * A @ A) @ x
    return x.T if M.shape[0] > M.shape[1] else x


def express(M: Array, steps: int = 5, eps: float | None = 1e-7) -> Array:
    """Polar Express with the published safety factor of 1.01 on all polynomials but the last."""
    x = start(M, eps) / 1.01
    for number in range(steps):
        a, b, c = POLAR_EXPRESS[min(number, len(POLAR_EXPRESS) - 1)]
        if number < len(POLAR_EXPRESS) - 1:
            a, b, c = a / 1.01, b / 1.01**3, c / 1.01**5
        A = x @ x.T
        x = a * x + b * A @ x + c * A @ A @ x
    return x.T if M.shape[0] > M.shape[1] else x


def cubic(M: Array, steps: int = 5, eps: float | None = 1e-7, bound: float | None = None) -> Array:
    """Specification 2.5."""
    m, n = M.shape
    low = max(1 / np.sqrt(m * n), abs(1 / np.sqrt(n) - 1 / np.sqrt(m))) if bound is None else bound
    high, x = 1.0, start(M, eps)
    for _ in range(steps):
        e = (low**2 + low * high + high**2) / 3
        P, L = 2 * e**1.5, low * high * (low + high)
        alpha = 6 / (P + L)
        x = alpha * e * x - alpha / 3 * x @ x.T @ x
        low, high = 1 - (P - L) / (P + L), 1 + (P - L) / (P + L)
    return x.T if m > n else x


def exact(M: Array, steps: int = 5, eps: float | None = 1e-7) -> Array:
    U, S, V = np.linalg.svd(M, full_matrices=False)
    return (U * (1e-10 * S.max(initial=0) < S)) @ V


ORACLES: dict[str, Callable[..., Array]] = {
    "quintic": quintic,
    "polar_express": express,
    "gram": quintic,
    "cans": cubic,
    "svd": exact,
}


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize("method", METHOD)
def test_a_method_is_its_formula(method: str, shape: tuple[int, int]) -> None:
    for options in ({}, {"steps": 3}, {"steps": 9}, {"eps": None}):
        g = matrix(*shape) * (1e-2 if "eps" in options else 1.0)  # whose norm is below 1/sqrt(mn) for some
        found = made(g, method, **options)
        np.testing.assert_allclose(found, ORACLES[method](g, **options), rtol=1e-8, atol=1e-10, err_msg=str(options))


def test_coefficients_and_bound_are_those_given() -> None:
    g, own = matrix(8, 24), (1.875, -1.25, 0.375)
    for method in ("quintic", "gram"):
        np.testing.assert_allclose(made(g, method, coefficients=own), quintic(g, coefficients=own), rtol=1e-9)
    np.testing.assert_allclose(made(g, "cans", bound=0.01), cubic(g, bound=0.01), rtol=1e-9)


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize(
    ("method", "steps", "low", "high"),
    [
        ("quintic", 5, 0.68, 1.14),
        ("gram", 5, 0.68, 1.14),
        ("polar_express", 8, 1 - 1e-12, 1 + 1e-12),
        ("svd", 1, 1 - 1e-12, 1 + 1e-12),
    ],
)
def test_singular_values_come_near_one(
    method: str, steps: int, low: float, high: float, shape: tuple[int, int]
) -> None:
    for seed in range(5):
        values = np.linalg.svd(made(matrix(*shape, seed=seed), method, steps=steps), compute_uv=False)
        assert low < values.min() <= values.max() < high


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)], ids=str)
def test_cubics_do_as_well_where_the_guess_of_the_bound_holds(shape: tuple[int, int]) -> None:
    for seed in range(5):
        values = np.linalg.svd(made(matrix(*shape, seed=seed), "cans"), compute_uv=False)
        assert 0.999 < values.min() <= values.max() < 1.001


@pytest.mark.parametrize(("steps", "off"), [(5, 0.17), (6, 0.007), (7, 2e-5), (8, 1e-13)])
def test_polar_express_brings_all_from_a_thousandth_to_one(steps: int, off: float) -> None:
    x = np.geomspace(1e-3, 1, 20_001) / 1.01  # as the singular values of a matrix of norm 1 come in
    for a, b, c in polar_express(steps):
        x = x * (a + b * x**2 + c * x**4)
    assert abs(x - 1).max() < off


def test_cubics_bring_the_whole_interval_where_they_say() -> None:
    low, high = 0.01, 1.0
    x = np.geomspace(low, high, 20_001)
    for first, third in cans(7, low):
        before = abs(x - 1).max()
        x = first * x + third * x**3
        assert abs(x - 1).max() < before
        np.testing.assert_allclose(x.max() - 1, 1 - x.min(), rtol=1e-4)  # the best polynomial errs alike on both sides
    assert abs(x - 1).max() < 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp64", None])
def test_less_precision_is_the_same_up_to_rounding(precision: str | None) -> None:
    g = matrix(8, 24)
    found = made(g, precision=precision)
    off = abs(found - quintic(g)).max()
    assert off < {"bf16": 0.05, "fp32": 1e-5, "fp64": 1e-12, None: 1e-12}[precision]
    assert precision in ("fp64", None) or off > 1e-12


# What stands for several matrices, or for one.


@pytest.mark.parametrize("options", [{}, {"method": "svd"}, {"local": True}], ids=str)
def test_of_qkv_each_third_is_a_matrix(options: dict[str, Any]) -> None:
    g = matrix(12, 7) * np.repeat([1.0, 10.0, 0.1], 4)[:, None]
    expected = np.concatenate([made(part, **options) for part in np.split(g, 3)])
    np.testing.assert_allclose(made(g, role="qkv", **options), expected, rtol=1e-9, atol=1e-12)
    assert abs(made(g, **options) - expected).max() > 0.1


def test_blocks_say_which_roles_are_divided() -> None:
    g = matrix(12, 7)
    expected = np.concatenate([made(part) for part in np.split(g, 2)])
    np.testing.assert_allclose(made(g, role="pair", blocks=(("pair", 2),)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 7, 5), (2, 4, 3, 2)], ids=str)
def test_of_experts_each_is_a_matrix(shape: tuple[int, ...]) -> None:
    g = matrix(*shape)
    expected = np.stack([made(expert) for expert in g])
    np.testing.assert_allclose(made(g, role="experts"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 3, 2, 2), (40, 3, 3, 3), (5, 4, 3)], ids=str)
def test_a_convolution_is_its_channels_against_the_rest(shape: tuple[int, ...]) -> None:
    g = matrix(*shape)
    expected = made(g.reshape(len(g), -1)).reshape(shape)
    np.testing.assert_allclose(made(g), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)], ids=str)
def test_a_rank_gives_so_many_directions(shape: tuple[int, int]) -> None:
    g = matrix(*shape)
    found = made(g, "svd", rank=3)
    values = np.linalg.svd(found, compute_uv=False)
    np.testing.assert_allclose(values, [1.0] * 3 + [0.0] * 5, atol=1e-5)  # the basis is found in float32
    np.testing.assert_allclose(made(g, "svd", rank=100), exact(g), atol=1e-5)  # all of it
    assert abs(made(g, "svd", rank=3, seed=1) - found).max() > 1e-3


# Special matrices.


@pytest.mark.parametrize(
    ("method", "precision"),
    [(m, p) for m in METHOD for p in ("bf16", "fp64") if (m, p) != ("gram", "bf16")],  # which wants "fp32" at least
)
def test_what_is_not_of_full_rank_stays_finite(method: str, precision: str) -> None:
    column, row = matrix(8, 1), matrix(1, 12)
    for g in (np.zeros((8, 12)), column @ row, np.ones((5, 5)), np.eye(6, 9) * 1e-30, np.eye(6, 9) * 1e30):
        found = made(g, method, precision=precision)
        assert np.isfinite(found).all()
        assert abs(found).max() < 1.3
        assert g.any() or not found.any()
    for rank in (1, 3):
        assert np.isfinite(made(np.zeros((8, 12)), method, precision=precision, rank=rank)).all()


@pytest.mark.parametrize("method", METHOD)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (2, 0, 3)], ids=str)
def test_empty_ones_stay_empty(method: str, shape: tuple[int, ...]) -> None:
    assert made(np.zeros(shape), method).shape == shape


def test_of_rank_one_it_is_the_unit_matrix_of_that_direction() -> None:
    u, v = matrix(8, 1), matrix(1, 12)
    expected = u / np.linalg.norm(u) @ v / np.linalg.norm(v)
    np.testing.assert_allclose(made(u @ v, "svd"), expected, atol=1e-12)
    np.testing.assert_allclose(made(u @ v, "polar_express", steps=9), expected, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_size_of_the_direction_does_not_matter(scale: float) -> None:
    g = matrix(8, 12)
    for method in METHOD:
        np.testing.assert_allclose(made(scale * g, method), made(g, method), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)], ids=str)
@pytest.mark.parametrize("method", [method for method in METHOD if method != "svd"])
@pytest.mark.parametrize("steps", [1, 5, 10])
def test_flops_are_those_of_the_products(method: str, steps: int, shape: tuple[int, int]) -> None:
    polar = Polar(method, steps)
    for lead in ((), (3,)):
        with FlopCounterMode(display=False) as counter:
            polar(torch.randn(*lead, *shape))
        assert counter.get_total_flops() == (lead or (1,))[0] * polar.flops(*shape)


@pytest.mark.parametrize("method", [method for method in METHOD if method != "svd"])
@pytest.mark.parametrize("shape", [(40, 24), (17, 33), (16, 16)], ids=str)
def test_half_of_a_symmetric_product_is_enough(
    method: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    M, polar = torch.randn(shape, generator=torch.Generator().manual_seed(0)), Polar(method, precision=torch.float64)
    M = M.double()
    whole, flops = polar(M), polar.flops(*shape)
    monkeypatch.setattr("gradchain.transforms.polar.BLOCK", 7)
    with FlopCounterMode(display=False) as counter:
        in_blocks = polar(M)
    assert counter.get_total_flops() == polar.flops(*shape) < flops
    torch.testing.assert_close(in_blocks, whole, rtol=0, atol=1e-9)


# What is refused.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"coefficients": (1.0, 2.0)}, "pass three numbers"),
        ({"eps": -1.0}, "a finite number of 0 or more, or None"),
        ({"bound": 2.0, "method": "cans"}, r"a number in \(0, 1\], or None"),
        ({"bound": 0.1}, "bound = 0.1 has no effect with method = 'quintic'"),
        ({"method": "svd", "coefficients": (1.0, 2.0, 3.0)}, "coefficients has no effect with method = 'svd'"),
        ({"rank": 0}, "an integer of 1 or more, or None"),
        ({"blocks": (("qkv", 0),)}, "pairs of a role and a number"),
        ({"steps": 0}, "orthogonalize.steps = 0"),
        ({"method": "newton"}, "orthogonalize.method = 'newton'"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_options_out_of_range(options: dict[str, Any], told: str) -> None:
    with pytest.raises(gc.OptionError, match=told):
        gc.orthogonalize(**options)


@pytest.mark.parametrize(
    ("shape", "role", "told"),
    [
        ((5,), None, r"takes matrices.*shape \(5,\).*partition\("),
        ((), None, "takes matrices"),
        ((4, 5), "experts", "takes matrices"),
        ((8, 5), "qkv", r"3 matrices of one size.*\(8, 5\) has 8 rows"),
    ],
    ids=str,
)
def test_parameters_that_are_no_matrices(shape: tuple[int, ...], role: str | None, told: str) -> None:
    chain = gc.chain(gc.orthogonalize(), gc.scale_by_learning_rate(1.0))
    with pytest.raises(gc.OptionError, match=told):
        step(optimizer_of(chain, torch.zeros(shape), role=role), torch.ones(shape))


def test_the_direction_is_not_touched_and_the_state_is_empty() -> None:
    assert len(directions(gc.orthogonalize(**EXACT), grads=[matrix(4, 6).tolist()] * 2)) == 2
    assert gc.chain(gc.orthogonalize(), gc.scale_by_learning_rate(1.0)).state_bytes(torch.empty(4, 6)) == 0
