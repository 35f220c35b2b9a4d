"""Square-root Sinkhorn against its equation, and the stages that measure rows and columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import Array, close, directions, optimizer_of, step

MATRICES = [(4, 6), (6, 4), (5, 5), (4, 3, 2, 2), (7, 2, 3)]
NARROW = [(5, 1), (1, 5), (3, 1, 1), (1, 2, 3)]


def balanced(
    g: Array, w: Array | None = None, iterations: int = 5, *, relative: bool = False, rows_first: bool = False
) -> Array:
    """The equation, written out; with weights, orthogonal to them."""
    shape = g.shape
    g = g.reshape(len(g), -1)
    if relative:
        g = g / np.sqrt((g**2).mean())
    if w is not None:
        w = w.reshape(g.shape)
    order = (0, 1) if g.shape[0] > g.shape[1] and not rows_first else (1, 0)

    def normalized(g: Array, axis: int) -> Array:
        k = g.shape[axis]
        return g * np.sqrt(k) / np.maximum(np.linalg.norm(g, axis=axis, keepdims=True), 1 / np.sqrt(k))

    for axis in order * iterations:
        if w is not None and g.shape[axis] == 1:
            continue
        g = normalized(g, axis)
        if w is not None:
            g = g - w * (w * g).sum(axis, keepdims=True) / ((w * w).sum(axis, keepdims=True) + 1e-30)
            g = normalized(g, axis)
    return g.reshape(shape)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def made(g: torch.Tensor, w: torch.Tensor, role: str | None = None, **options: Any) -> torch.Tensor:
    """What sinkhorn makes of a gradient at these weights."""
    chain = gc.chain(gc.sinkhorn(**options), gc.scale_by_learning_rate(1.0))
    (new,) = step(optimizer_of(chain, w, role=role), g)
    return w - new


def size(u: torch.Tensor, axis: int) -> torch.Tensor:
    """The root mean square of each line along an axis of the matrix."""
    return u.flatten(1).square().mean(axis).sqrt()


@pytest.mark.parametrize("shape", [*MATRICES, *NARROW], ids=str)
@pytest.mark.parametrize("options", [{}, {"iterations": 1}, {"relative_floor": True}, {"rows_first": True}], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_equation(shape: tuple[int, ...], options: dict[str, Any], scale: float) -> None:
    g, w = pair(*shape)
    named = {"relative": options.get("relative_floor", False), "rows_first": options.get("rows_first", False)}
    expected = balanced(scale * g.numpy(), None, options.get("iterations", 5), **named)
    close(made(scale * g, w, **options), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [*MATRICES, *NARROW], ids=str)
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_equation_orthogonal_to_the_weights(shape: tuple[int, ...], iterations: int) -> None:
    g, w = pair(*shape)
    close(made(g, w, iterations=iterations, orthogonal=True), balanced(g.numpy(), w.numpy(), iterations), 1e-9, 1e-12)


def test_the_paper_on_a_matrix_of_two_rows() -> None:
    # Rows first: (3, 4) has the norm 5, so sqrt(2) / 5; (0, 1) has 1. Then columns.
    (u,) = directions(gc.sinkhorn(1, rows_first=True), grads=[[[3.0, 4.0], [0.0, 1.0]]])
    rows = np.sqrt(2) * np.array([[0.6, 0.8], [0.0, 1.0]])
    close(u, rows * np.sqrt(2) / np.linalg.norm(rows, axis=0))


@pytest.mark.parametrize(("shape", "last"), [((6, 40), 0), ((40, 6), 1), ((8, 8), 0)], ids=str)
def test_rows_and_columns_get_one_size(shape: tuple[int, int], last: int) -> None:
    g, w = pair(*shape)
    g = g * torch.logspace(-1, 1, shape[0], dtype=torch.float64)[:, None]  # rows of quite different size
    u = made(g, w)
    torch.testing.assert_close(size(u, last), torch.ones(shape[1 - last], dtype=torch.float64))
    assert (size(u, 1 - last) - 1).abs().max() < 0.05
    assert (u.sign() == g.sign()).all()


def test_more_iterations_come_closer() -> None:
    g, w = pair(6, 8)
    off = [(size(made(g, w, iterations=k), 1) - 1).abs().max() for k in (1, 2, 5, 20)]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-3


def test_what_it_makes_stays_as_it_is() -> None:
    g, w = pair(6, 8)
    u = made(g, w, iterations=200)
    torch.testing.assert_close(made(u, w), u)


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(
    ("role", "shape"), [(None, (6,)), (None, ()), ("vector", (4, 6)), ("dora_scale", (6, 1))], ids=str
)
def test_vectors_become_signs(role: str | None, shape: tuple[int, ...], orthogonal: bool, relative: bool) -> None:
    g, w = pair(*shape)
    options = {"orthogonal": orthogonal, "relative_floor": relative}
    torch.testing.assert_close(made(1e-3 * g, w, role, **options), g.sign())
    for name in ("lora_A", "lora_B", "oft"):  # these are ordinary matrices
        torch.testing.assert_close(made(g, w, name, **options), made(g, w, **options))


def test_small_directions_come_out_small_unless_the_floor_is_relative() -> None:
    # Quirk M12: a half-step multiplies a line of k elements by k at most.
    g, w = pair(12, 16)
    for iterations, factor in ((1, 1e-3), (5, 1e-12)):
        expected = made(g, w, iterations=iterations)
        small = made(factor * g, w, iterations=iterations)
        assert small.square().mean().sqrt() < 0.5
        gain = ((small / (factor * g)).abs().max()).item()
        assert gain <= (12 * 16) ** iterations * (1 + 1e-9)
        relative = [made(x * g, w, iterations=iterations, relative_floor=True) for x in (1.0, factor)]
        torch.testing.assert_close(relative[1], relative[0])
        torch.testing.assert_close(relative[0], expected)


@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (5, 1), (1, 7)], ids=str)
def test_orthogonal_lines_are_orthogonal(shape: tuple[int, int]) -> None:
    g, w = pair(*shape)
    u = made(g, w, orthogonal=True)
    last = 1 if shape[0] > shape[1] > 1 or shape[0] == 1 else 0
    assert ((w * u).sum(last)).abs().max() < 1e-12
    torch.testing.assert_close(size(u, last), torch.ones_like(size(u, last)))


def test_a_single_row_or_column_moves_where_the_original_freezes_it() -> None:
    # Quirk M13: along lines of one element all is along the weight, and nothing would be left.
    for shape in ((5, 1), (1, 5)):
        g, w = pair(*shape)
        u = made(g, w, orthogonal=True)
        assert size(u.reshape(1, -1), 1) == pytest.approx(1.0)
    close(made(torch.tensor([[-0.2]]), torch.tensor([[3.0]]), orthogonal=True), [[-1.0]])


@pytest.mark.parametrize("options", [{}, {"orthogonal": True}, {"relative_floor": True}], ids=str)
def test_zeros_stay_zeros(options: dict[str, Any]) -> None:
    g, w = pair(4, 6)
    assert not made(torch.zeros_like(g), w, **options).any()
    assert made(g, torch.zeros_like(w), **options).isfinite().all()
    g[2], g[:, 1] = 0, 0
    u = made(g, w, **options)
    assert u.isfinite().all()
    if not options.get("orthogonal"):
        assert not u[2].any()
        assert not u[:, 1].any()


@pytest.mark.parametrize("value", [1e30, 1e-30])
def test_the_ends_of_float32(value: float) -> None:
    g, w = (x.float() for x in pair(4, 6))
    for options in ({}, {"orthogonal": True}, {"relative_floor": True}):
        assert made(value * g, w, **options).isfinite().all()


def test_options_out_of_range() -> None:
    with pytest.raises(gc.OptionError, match=r"sinkhorn\.iterations = 0 is outside \[1, inf\)"):
        gc.sinkhorn(0)
    with pytest.raises(gc.OptionError, match="orthogonal"):
        gc.sinkhorn(orthogonal=1)  # type: ignore[arg-type]


@pytest.mark.slow  # the last is tried three times
def test_it_is_compiled() -> None:
    # Fusing sums over columns and rows in turn fails in torch 2.13 (inductor raises KeyError): then they are not fused.
    g, w = (x.float() for x in pair(16, 8))
    for orthogonal in (False, True):
        chain = gc.chain(gc.sinkhorn(3, orthogonal=orthogonal), gc.scale_by_learning_rate(1.0))
        params = [torch.nn.Parameter(w.clone())]
        optimizer = gc.Optimizer(params, chain, compile=True)  # a CompileWarning is an error here
        params[0].grad = g
        optimizer.step()
        torch.testing.assert_close(w - params[0].detach(), made(g, w, iterations=3, orthogonal=orthogonal))


# Spreads of rows and columns.

AVERAGE = gc.first_moment(0.75, bias_correction=False)


def variances(m: Array) -> tuple[Array, Array]:
    squares = m.reshape(len(m), -1) ** 2
    return tuple(np.maximum(1 - squares.mean(axis, keepdims=True), 1e-30) for axis in (1, 0))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [*MATRICES, *NARROW], ids=str)
def test_the_snr_of_matrices(shape: tuple[int, ...]) -> None:
    grads = [pair(*shape)[i].numpy() / 4 for i in (0, 1, 0)]
    found = directions(AVERAGE, gc.snr_precondition(by="row_column"), grads=[g.tolist() for g in grads])
    m = np.zeros(shape)
    for u, g in zip(found, grads, strict=True):
        R, C = variances(m)
        m = 0.75 * m + 0.25 * g
        expected = 4 / math.pi * np.arctan(m.reshape(len(m), -1) / (np.sqrt(R) * np.sqrt(C)))
        close(u, expected.reshape(shape), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("stage", ["snr_precondition", "geometric_decay"])
@pytest.mark.parametrize(("role", "shape"), [(None, (6,)), (None, ()), ("vector", (4, 6)), ("dora_scale", (6, 1))])
def test_vectors_have_a_spread_for_each_element(stage: str, role: str | None, shape: tuple[int, ...]) -> None:
    g, w = pair(*shape)
    ends = []
    for by in ("element", "row_column"):
        more = gc.snr_precondition(by=by) if stage == "snr_precondition" else gc.geometric_decay(0.1, snr=True, by=by)
        chain = gc.chain(gc.sign(), AVERAGE, more, gc.scale_by_learning_rate(0.1))
        optimizer = optimizer_of(chain, w, role=role)
        step(optimizer, g)
        ends.append(step(optimizer, g)[0])
    assert torch.equal(*ends)


# Geometric decay of matrices.


def strengths(w: Array, m: Array | None) -> Array:
    shape, w = w.shape, w.reshape(len(w), -1)
    rho, chi = (
        np.sqrt(np.maximum(np.linalg.norm(w, axis=axis, keepdims=True), w.shape[axis] ** -0.5)) for axis in (1, 0)
    )
    if m is not None:
        R, C = variances(m)
        rho, chi = np.arctan2(rho, np.sqrt(R)), np.arctan2(chi, np.sqrt(C))
    return (rho * chi / (rho * chi).mean()).reshape(shape)


@pytest.mark.parametrize("shape", [*MATRICES, *NARROW], ids=str)
@pytest.mark.parametrize("snr", [False, True])
@pytest.mark.parametrize("centered", [False, True])
def test_the_geometric_decay_of_matrices(shape: tuple[int, ...], snr: bool, centered: bool) -> None:
    g, w = pair(*shape)
    decay: list[gc.Stage] = [gc.geometric_decay(0.3, snr=snr, by="row_column")]
    if centered:
        decay.append(gc.centered_decay(0.5, geometric=True, snr=snr, by="row_column"))
    optimizer = optimizer_of(gc.chain(gc.sign(), AVERAGE, gc.scale_by_learning_rate(0.1), *decay), w)
    theta, m, anchor = w.numpy(), np.zeros(shape), w.numpy()
    for gradient in (g, w, g):
        phi = strengths(theta, m if snr else None)
        m = 0.75 * m + 0.25 * np.sign(gradient.numpy())
        decayed = theta - 0.1 * 0.3 * phi * theta
        if centered:
            decayed = decayed - 0.1 * 0.5 * phi * (decayed - anchor)
        theta = decayed - 0.1 * m
        close(step(optimizer, gradient)[0], theta, rtol=1e-9, atol=1e-12)


def test_strengths_have_the_mean_one_and_larger_rows_decay_more() -> None:
    w = torch.ones(3, 4, dtype=torch.float64)
    w[0] *= 4
    stages = gc.scale_by_learning_rate(1.0), gc.geometric_decay(0.5, by="row_column")
    (u,) = directions(*stages, grads=[[[0.0] * 4] * 3], param=w.tolist())
    phi = u / (0.5 * w)
    assert float(phi.mean()) == pytest.approx(1.0)
    assert float(phi[0, 0] / phi[1, 0]) == pytest.approx(2.0)  # the root of the ratio of norms
