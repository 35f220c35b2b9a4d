"""Shampoo against its equations, with and without grafting, and what it does with roots that cannot be computed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import Array, assert_resumes, moves, sequence, state_of, step
from tests.transforms.test_soap import gradients

LR = gc.scale_by_learning_rate(1.0)
TYPICAL: dict[str, Any] = {"beta": 0.8, "eps": 1e-3, "every": 3}


def power(matrix: Array, exponent: float) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0) ** exponent) @ vectors.T


def shampoo_of(
    grads: list[Array], *, beta: float, eps: float, every: int, p: float = 0.25, beta1: float | None = None,
    graft: bool = False, right: bool = True,
) -> list[Array]:  # fmt: skip
    """The equations; with `beta1`, of the bias-corrected momentum, whose raw average is what is preconditioned."""
    rows, columns = grads[0].shape
    rows_moment, columns_moment, left, right_root = (
        np.zeros((rows, rows)),
        np.zeros((columns, columns)),
        np.eye(rows),
        np.eye(columns),
    )
    m, found = np.zeros((rows, columns)), []
    for t, g in enumerate(grads, 1):
        rows_moment, columns_moment = (
            beta * rows_moment + (1 - beta) * g @ g.T,
            beta * columns_moment + (1 - beta) * g.T @ g,
        )
        if (t - 1) % every == 0:
            left = power(rows_moment / (1 - beta**t) + eps * np.eye(rows), -p)
            right_root = power(columns_moment / (1 - beta**t) + eps * np.eye(columns), -p) if right else right_root
        m = g if beta1 is None else beta1 * m + (1 - beta1) * g
        u = left @ m @ right_root
        came = g if beta1 is None else m / (1 - beta1**t)
        found.append(u * np.linalg.norm(came) / np.linalg.norm(u) if graft else u)
    return found


def optimizer(
    *before: gc.Stage, shape: tuple[int, ...] = (4, 6), dtype: torch.dtype = torch.float64, compile: bool = False,
    capturable: bool = False, **options: Any,
) -> gc.Optimizer:  # fmt: skip
    chain = gc.chain(*before, gc.shampoo(**{**TYPICAL, **options}), LR)
    param = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    return gc.Optimizer([param], chain, compile=compile, capturable=capturable)


def agree(ours: gc.Optimizer, grads: list[Array], expected: list[Array]) -> None:
    for u, wanted in zip(moves(ours, [torch.tensor(g) for g in grads]), expected, strict=True):
        np.testing.assert_allclose(u.numpy(), wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("graft", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_the_equations(every: int, graft: bool, capturable: bool) -> None:
    grads = sequence((4, 6), 8)
    expected = shampoo_of(grads, **dict[str, Any](TYPICAL, every=every), graft=graft)
    agree(optimizer(every=every, graft=graft, capturable=capturable), grads, expected)


@pytest.mark.parametrize("graft", [False, True])
def test_the_momentum_of_an_earlier_stage_is_preconditioned(graft: bool) -> None:
    grads = sequence((4, 6), 8)
    expected = shampoo_of(grads, **TYPICAL, beta1=0.7, graft=graft)
    agree(optimizer(gc.first_moment(0.7), graft=graft), grads, expected)


@pytest.mark.parametrize("exponent", [0.25, 0.5])
def test_a_long_side_is_left_alone(exponent: float) -> None:
    grads = sequence((4, 6), 8)
    ours = optimizer(graft=False, largest=5, exponent=exponent)
    agree(ours, grads, shampoo_of(grads, **TYPICAL, p=exponent, right=False))
    assert {"moment_left", "root_left"} < state_of(ours).keys()
    assert not {"moment_right", "root_right"} & state_of(ours).keys()


def test_one_step_of_a_square_matrix_is_its_polar_factor() -> None:
    """(G G')^-1/4 G (G' G)^-1/4 = U V' for G = U S V'."""
    g = torch.tensor(sequence((5, 5), 1)[0])
    (u,) = moves(optimizer(shape=(5, 5), eps=1e-14, graft=False), [g])
    U, _, Vh = torch.linalg.svd(g)
    torch.testing.assert_close(u, U @ Vh, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_equations_compiled() -> None:
    """In two graphs: of a step with a refresh and of one without."""
    grads = sequence((4, 6), 8)
    ours = optimizer(graft=False, compile=True)
    agree(ours, grads, shampoo_of(grads, **TYPICAL))
    report = ours.compile_report()
    assert report.fallbacks == ()
    assert len(report.buckets) == 2
    moves(ours, gradients((4, 6), 25))
    assert ours.compile_report().kernels == report.kernels == 2 * len(report.buckets)  # before the matrix, and after
    assert ours.compile_report().seconds == report.seconds


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_root_that_cannot_be_computed_stays(bad: float, capturable: bool) -> None:
    ours = optimizer(capturable=capturable)
    grads = gradients((4, 6), 4)
    moves(ours, grads[:3])
    before = {key: value.clone() for key, value in state_of(ours).items() if key.startswith("root")}
    grads[3][1, 2] = bad
    moves(ours, grads[3:])  # the fourth step, in which roots are due
    after = state_of(ours)
    assert all(torch.equal(after[key], old) for key, old in before.items())
    assert after["failures"] == 2  # both sides


@pytest.mark.parametrize("capturable", [False, True])
def test_work_that_is_not_due_is_not_done(monkeypatch: pytest.MonkeyPatch, capturable: bool) -> None:
    called: list[int] = []
    real = torch.linalg.eigh

    def counted(x: torch.Tensor) -> Any:
        called.append(1)
        return real(x)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    ours, counts = optimizer(capturable=capturable), []
    moves(ours, gradients((4, 6), 1))
    for g in gradients((4, 6), 6):
        called.clear()
        moves(ours, [g])
        counts.append(len(called))
    assert counts == ([2] * 6 if capturable else [0, 0, 2] * 2)  # a captured step does not know, so it computes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_in_the_middle_of_a_period_is_bit_exact(dtype: torch.dtype) -> None:
    assert_resumes(lambda: optimizer(gc.first_moment(0.7), dtype=dtype), gradients((4, 6), 9))


def test_the_recipe_steps_as_long_as_adam() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
    twin = copy.deepcopy(model)
    ours = gc.optimizer("shampoo", model, weight_decay=0.0, compile=False)
    adam = gc.optimizer("adamw", twin, weight_decay=0.0, compile=False)
    start = copy.deepcopy(model)
    grads = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) for p in model.parameters()]
    step(ours, *grads)
    step(adam, *grads)
    for place, (a, b, c) in enumerate(zip(model.parameters(), twin.parameters(), start.parameters(), strict=True)):
        torch.testing.assert_close((a - c).norm(), (b - c).norm())
        assert torch.equal(a, b) is (place > 0)  # the hidden matrix turns


def test_vectors_and_options_out_of_range_are_errors() -> None:
    with pytest.raises(gc.OptionError, match=r"shampoo takes matrices.*\(5,\)"):
        optimizer(shape=(5,))
    with pytest.raises(gc.OptionError, match=r"shampoo\.every = 0 is outside \[1, inf\)"):
        gc.shampoo(every=0)
    with pytest.raises(gc.OptionError, match=r"eps = 0\.0 is outside"):
        gc.shampoo(eps=0.0)
