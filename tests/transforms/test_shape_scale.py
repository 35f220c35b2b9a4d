"""Factors by the shape of a matrix, and a direction of a given root mean square."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import SHAPES, close, compare, directions, optimizer_of, step

FACTORS = {
    "spectral": lambda m, n: np.sqrt(max(1, m / n)),
    "rms": lambda m, n: 0.2 * np.sqrt(max(m, n)),
    "unit": lambda m, n: np.sqrt(m / n),
}
SIDES = [
    ((8, 2), None, (8, 2)), ((2, 8), None, (2, 8)), ((6, 3, 2, 2), None, (6, 12)), ((4, 1), None, (4, 1)),
    ((12, 2), "qkv", (4, 2)), ((5, 8, 2), "experts", (8, 2)), ((5, 2, 3, 4), "experts", (2, 12)),
    ((7,), None, (7, 1)), ((), None, (1, 1)), ((3, 0), None, (3, 1)),
]  # fmt: skip
"""Shapes with a role, and the rows and columns of their matrix."""


def made(stage: gc.Stage, g: torch.Tensor, role: str | None = None) -> torch.Tensor:
    chain = gc.chain(stage, gc.scale_by_learning_rate(1.0))
    return -step(optimizer_of(chain, torch.zeros_like(g), role=role), g)[0]


@pytest.mark.parametrize("rule", FACTORS)
@pytest.mark.parametrize(("shape", "role", "sides"), SIDES, ids=str)
def test_the_factor_goes_by_rows_and_columns(
    rule: str, shape: tuple[int, ...], role: str | None, sides: tuple[int, int]
) -> None:
    g = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(made(gc.scale_by_shape(rule), g, role), FACTORS[rule](*sides) * g)


def test_muon_as_published_is_the_default() -> None:
    (u,) = directions(gc.scale_by_shape(), grads=[[[1.0], [2.0], [3.0], [4.0]]])
    close(u, [[2.0], [4.0], [6.0], [8.0]])


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)], ids=str)
def test_rms_makes_of_an_orthogonal_matrix_a_step_of_adam(shape: tuple[int, int]) -> None:
    """Such a matrix has the norm sqrt(min(m, n))."""
    chain = gc.chain(
        gc.orthogonalize("svd", precision="fp64"), gc.scale_by_shape("rms"), gc.scale_by_learning_rate(1.0)
    )
    w = torch.zeros(shape, dtype=torch.float64)
    update, _ = chain.update(torch.randn(shape, dtype=torch.float64), chain.init(w), w)
    assert update.square().mean().sqrt().item() == pytest.approx(0.2)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(gc.OptionError, match=r"scale_by_shape\.rule = 'adam'"):
        gc.scale_by_shape("adam")


@pytest.mark.parametrize("rms", [0.2, 3.0])
def test_the_root_mean_square_is_the_given_one(rms: float) -> None:
    compare([gc.normalize_rms(rms)], lambda grads: [rms * np.sqrt(g.size) / np.linalg.norm(g) * g for g in grads])


@pytest.mark.parametrize("shape", [*SHAPES, (0, 3)], ids=str)
def test_tiny_directions_are_divided_by_the_floor_and_zeros_stay(shape: tuple[int, ...]) -> None:
    g = torch.ones(shape, dtype=torch.float64)
    n = max(g.numel(), 1)
    tiny = 1e-10 / n**0.5 * g  # whose norm is 1e-10
    torch.testing.assert_close(made(gc.normalize_rms(), tiny), 0.2 * n**0.5 / 1e-8 * tiny)
    assert not made(gc.normalize_rms(), 0 * g).any()


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_the_root_mean_square_is_positive(value: Any) -> None:
    with pytest.raises(gc.OptionError, match=r"normalize_rms\.rms"):
        gc.normalize_rms(value)


def test_the_root_mean_square_may_change_from_step_to_step() -> None:
    chain = gc.chain(gc.normalize_rms(0.2), gc.scale_by_learning_rate(1.0))
    optimizer = optimizer_of(chain, torch.zeros(2))
    optimizer.param_groups[0]["rms"] = 2.0
    (new,) = step(optimizer, torch.tensor([3.0, 3.0]))
    close(new, [-2.0, -2.0], rtol=1e-6)
