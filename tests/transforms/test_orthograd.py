from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, optimizer_of, step


def test_orthograd() -> None:
    (u,) = directions(gc.orthograd(), grads=[[3.0, 4.0]], param=[2.0, 0.0])
    close(u, [0.0, 5.0])


def test_orthograd_takes_tensors_as_flat() -> None:
    g, w = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]
    (u,) = directions(gc.orthograd(), grads=[g], param=w)
    factor = math.sqrt(30 / 5)  # the residual is (-1.5, -0.5, 0.5, 1.5)
    close(u, [[-1.5 * factor, -0.5 * factor], [0.5 * factor, 1.5 * factor]])


def test_orthograd_of_zero_weights_passes() -> None:
    (u,) = directions(gc.orthograd(), grads=[[3.0, 4.0]], param=[0.0, 0.0])
    close(u, [3.0, 4.0])


def test_orthograd_is_orthogonal_and_keeps_the_length() -> None:
    torch.manual_seed(0)
    w, g = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    (u,) = directions(gc.orthograd(), grads=[g.tolist()], param=w.tolist())
    assert abs(float((u * w).sum())) < 1e-12
    assert float(u.norm()) == pytest.approx(float(g.norm()))


# By rank or block.


def turned(g: torch.Tensor, w: torch.Tensor, role: str | None = None, **options: Any) -> torch.Tensor:
    """What orthograd makes of a gradient at these weights."""
    chain = gc.chain(gc.orthograd(**options), gc.scale_by_learning_rate(1.0))
    (new,) = step(optimizer_of(chain, w, role=role), g)
    return w - new


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def as_one(g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    o = g - w * (w * g).sum() / (w * w).sum()
    return o * g.norm() / o.norm()


@pytest.mark.parametrize(("role", "shape"), [("lora_A", (4, 6)), ("oft", (3, 10)), ("lora_A", (4, 3, 2, 2))], ids=str)
def test_rows_are_turned_one_by_one(role: str, shape: tuple[int, ...]) -> None:
    g, w = pair(*shape)
    expected = torch.stack([as_one(a, b) for a, b in zip(g, w)])
    torch.testing.assert_close(turned(g, w, role, mode="per_rank"), expected)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1)], ids=str)
def test_columns_are_turned_one_by_one(shape: tuple[int, ...]) -> None:
    g, w = pair(*shape)
    expected = torch.stack([as_one(g[:, k], w[:, k]) for k in range(4)], dim=1)
    torch.testing.assert_close(turned(g, w, "lora_B", mode="per_rank"), expected)


@pytest.mark.parametrize(
    ("role", "shape"), [("dora_scale", (6, 1)), (None, (4, 6)), ("lora_A", (6,)), ("lora_B", (6,))], ids=str
)
def test_others_are_turned_as_one(role: str | None, shape: tuple[int, ...]) -> None:
    g, w = pair(*shape)
    torch.testing.assert_close(turned(g, w, role, mode="per_rank"), as_one(g, w))


# Rows and columns in turn.


def iterated(g: np.ndarray, w: np.ndarray, sweeps: int = 3, relative: bool = False) -> np.ndarray:
    shape = g.shape
    g, w = g.reshape(len(g), -1), w.reshape(len(g), -1)
    floor = 1 / np.sqrt(g.shape) * (np.sqrt((g**2).mean()) if relative else 1.0)
    target = [np.maximum(np.linalg.norm(g, axis=axis, keepdims=True), floor[axis]) for axis in (0, 1)]
    for axis in ((0, 1) if g.shape[0] > g.shape[1] else (1, 0)) * sweeps:
        g = g - 1.01 * w * (w * g).sum(axis, keepdims=True) / ((w * w).sum(axis, keepdims=True) + 1e-30)
        g = g * target[axis] / np.maximum(np.linalg.norm(g, axis=axis, keepdims=True), floor[axis])
    return g.reshape(shape)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (4, 3, 2, 2), (7, 2)], ids=str)
@pytest.mark.parametrize("sweeps", [1, 3])
@pytest.mark.parametrize("size", [1.0, 0.3, 1e-3])
@pytest.mark.parametrize("relative", [False, True])
def test_iterative_written_out(shape: tuple[int, ...], sweeps: int, size: float, relative: bool) -> None:
    g, w = pair(*shape)
    found = turned(size * g, w, mode="iterative", sweeps=sweeps, relative_floor=relative)
    expected = iterated(size * g.numpy(), w.numpy(), sweeps, relative)
    close(found, expected, rtol=1e-9, atol=1e-12)


def test_iterative_leaves_little_along_the_weights() -> None:
    g, w = pair(12, 16)
    u = turned(g, w, mode="iterative")
    for axis in (0, 1):
        before, after = (((w * x).sum(axis) / (w.norm(dim=axis) * x.norm(dim=axis))).abs().max() for x in (g, u))
        assert after < 0.2 * before
        assert ((u.norm(dim=axis) / g.norm(dim=axis)).log().abs() < 0.2).all()


def test_small_gradients_are_shortened() -> None:
    # Quirk N9: below the floor 1/sqrt(size) lengths are not restored.
    g, w = pair(12, 16)
    loud, soft = (turned(size * g, w, mode="iterative").norm() / (size * g).norm() for size in (1.0, 1e-3))
    assert float(loud) == pytest.approx(1.0, rel=0.05)
    assert soft < 0.97
    relative = [turned(size * g, w, mode="iterative", relative_floor=True) / size for size in (1.0, 1e-3, 1e-9)]
    for u in relative[1:]:
        torch.testing.assert_close(u, relative[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("role", "shape"), [(None, (6,)), (None, ()), ("vector", (4, 6)), ("dora_scale", (6, 1))], ids=str
)
def test_vectors_are_taken_as_one(role: str | None, shape: tuple[int, ...]) -> None:
    g, w = pair(*shape)
    torch.testing.assert_close(turned(g, w, role, mode="iterative"), turned(g, w))


@pytest.mark.parametrize("relative", [False, True])
def test_zeros_stay_zeros(relative: bool) -> None:
    g, w = pair(4, 6)
    options = {"mode": "iterative", "relative_floor": relative}
    assert not turned(torch.zeros_like(g), w, **options).any()
    torch.testing.assert_close(turned(g, torch.zeros_like(w), **options), g)
    g[2], g[:, 1] = 0, 0
    assert turned(g, w, **options).isfinite().all()


def test_options_of_another_mode() -> None:
    for options in ({"sweeps": 2}, {"relative_floor": True}, {"mode": "per_rank", "sweeps": 4}):
        with pytest.raises(gc.OptionError, match="has no effect with mode ="):
            gc.orthograd(**options)  # type: ignore[arg-type]
    with pytest.raises(gc.OptionError, match="sweeps"):
        gc.orthograd("iterative", sweeps=0)
    with pytest.raises(gc.OptionError, match="mode"):
        gc.orthograd("rows")
