from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import SHAPES, Array, close, directions, optimizer_of, run, sequence, slot, step


def mean(x: Array, axis: int) -> Array:
    return x.sum(axis, keepdims=True) / x.shape[axis]


def rms(x: Array) -> float:
    return math.sqrt(float((x * x).sum()) / max(x.size, 1))


def factored(grads: list[Array], betas: list[float], eps: float, floor: bool) -> list[Array]:
    """The roots of the second moments at each step, element by element."""
    row = column = full = np.zeros(())
    found = []
    for g, beta in zip(grads, betas):
        x = g * g + (0.0 if floor else eps)
        if g.ndim < 2:
            full = beta * full + (1 - beta) * x
            v = full
        else:
            row = beta * row + (1 - beta) * mean(x, -1)
            column = beta * column + (1 - beta) * mean(x, -2)
            v = row * column / (np.maximum(mean(row, -2), eps) if floor else mean(row, -2))
        found.append(np.maximum(np.sqrt(v), eps) if floor else np.sqrt(v))
    return found


def adafactor(
    grads: list[Array], w: Array, lr: float, decay: float, eps: tuple[float, float], d: float, wd: float
) -> list[Array]:
    """The parameters after each step, as the documentation of torch.optim.Adafactor has them."""
    scales, found = factored(grads, [1 - t**decay for t in range(1, len(grads) + 1)], eps[0], floor=True), []
    for t, (g, scale) in enumerate(zip(grads, scales), 1):
        u = g / scale
        u = u / max(1.0, rms(u) / d)
        w = w - lr * wd * w - max(eps[1], rms(w)) * min(lr, 1 / math.sqrt(t)) * u
        found.append(w)
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": {"lr": 0.7, "beta2_decay": -0.5, "eps": (0.3, 2.0), "d": 0.4, "weight_decay": 0.1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adafactor_in_numpy(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    grads, start = sequence(shape), np.asarray(np.random.default_rng(1).normal(size=shape))
    optimizer = optimizer_of(gc.recipe("adafactor", **options), torch.tensor(start))
    found = [step(optimizer, torch.tensor(g))[0].numpy() for g in grads]
    asked = {"lr": 1e-2, "beta2_decay": -0.8, "eps": (np.finfo(np.float64).eps, 1e-3), "d": 1.0, "weight_decay": 0.0}
    lr, decay, eps, d, wd = {**asked, **options}.values()
    np.testing.assert_allclose(found, adafactor(grads, start, lr, decay, eps, d, wd), rtol=1e-11, atol=1e-13)


LIVE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "decay": {"lr": 0.5, "weight_decay": 0.1, "beta2_decay": -0.6},
    "eps": {"eps": (1e-2, 0.5), "d": 1.5, "lr": 2.0},
    "maximize": {"maximize": True, "lr": 0.1},
}


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("options", LIVE.values(), ids=LIVE)
@pytest.mark.usefixtures("traced")
def test_adafactor_is_that_of_torch(options: dict[str, Any], compile: bool) -> None:
    torch.manual_seed(0)
    shapes = [(), (1,), (7,), (1, 1), (8, 16), (5, 1), (1, 6), (2, 3, 4), (4, 3, 3, 3)]
    start = [torch.randn(shape) for shape in shapes]
    start[2] = torch.zeros(7)
    twins = [torch.nn.Parameter(p.clone()) for p in start]
    held = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = torch.optim.Adafactor(twins, **options)
    ours = gc.optimizer("adafactor", held, compile=compile, **options)
    for t in range(20):
        grads = [(0.0 if t == 5 else 10.0 ** (t % 5 - 2)) * torch.randn(shape) for shape in shapes]
        wanted = step(theirs, *grads)
        for found, expected in zip(step(ours, *grads), wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("floor", "eps"), [(True, 0.5), (False, 0.3)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_constant_rate_and_both_kinds_of_eps(shape: tuple[int, ...], floor: bool, eps: float) -> None:
    moment = gc.row_column_moment(eps=eps, constant=True, beta=0.9, floor=floor)
    grads = sequence(shape)
    found = directions(moment, gc.divide(), grads=[g.tolist() for g in grads])
    scales = factored(grads, [0.9] * len(grads), eps, floor)
    np.testing.assert_allclose(found, [g / scale for g, scale in zip(grads, scales)], rtol=1e-12)


def came(
    grads: list[Array], w: Array, lr: float, betas: tuple[float, ...], eps: tuple[float, float], d: float
) -> list[Array]:
    """The parameters after each step, by algorithm 2 of arXiv:2307.02047; vectors step by the momentum."""
    scales, m = factored(grads, [betas[1]] * len(grads), eps[0], floor=False), np.zeros_like(w)
    updates, moments, found = [], [], []
    for g, scale in zip(grads, scales):
        u = g / scale
        u = u / max(1.0, rms(u) / d)
        m = betas[0] * m + (1 - betas[0]) * u
        updates.append(u)
        moments.append(m)
    row = column = np.zeros(())
    for u, m in zip(updates, moments):
        if u.ndim > 1:
            U = (u - m) ** 2 + eps[1]
            row, column = (
                betas[2] * row + (1 - betas[2]) * mean(U, -1),
                betas[2] * column + (1 - betas[2]) * mean(U, -2),
            )
            m = m / np.sqrt(row * column / mean(row, -2))
        w = w - lr * m
        found.append(w)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_came_follows_the_paper(shape: tuple[int, ...]) -> None:
    grads, start = sequence(shape), np.asarray(np.random.default_rng(1).normal(size=shape))
    betas, eps = (0.8, 0.95, 0.9), (1e-3, 1e-2)
    chain = gc.recipe("came", lr=0.1, betas=betas, eps=eps, clip_threshold=0.7)
    optimizer = optimizer_of(chain, torch.tensor(start))
    found = [step(optimizer, torch.tensor(g))[0].numpy() for g in grads]
    np.testing.assert_allclose(found, came(grads, start, 0.1, betas, eps, 0.7), rtol=1e-10, atol=1e-13)


def test_steps_grow_where_updates_agree_with_their_average() -> None:
    still = [[[1.0, 1.0], [1.0, 1.0]]] * 8
    turning = [[[(-1.0) ** t, 1.0], [1.0, 1.0]] for t in range(8)]
    stages = (gc.first_moment(0.5, bias_correction=False), gc.confidence(0.5), gc.divide())
    calm, nervous = (directions(*stages, grads=grads)[-1] for grads in (still, turning))
    assert calm[0, 0] > 10 * nervous[0, 0].abs()


def test_a_product_of_rows_and_columns_is_kept_whole() -> None:
    g = torch.outer(torch.tensor([1.0, -3.0]), torch.tensor([2.0, 0.5, -1.0]))
    (u,), state = run(gc.row_column_moment(), gc.divide(), grads=[g.tolist()])
    close(u, g.sign().tolist())
    close(slot(state, "row_column_moment.exp_avg_sq_row"), [[5.25 / 3], [9 * 5.25 / 3]])
    close(slot(state, "row_column_moment.exp_avg_sq_col"), [[20.0, 1.25, 5.0]])


def test_small_gradients_survive_the_product_of_their_means() -> None:
    g = torch.full((4, 6), 1e-15)  # the product of two means is 1e-60, which is 0 in float32
    chain = gc.chain(gc.row_column_moment(eps=1e-36, floor=False), gc.divide())
    update, _ = chain.update(g, chain.init(g), g)
    torch.testing.assert_close(-update, torch.ones(4, 6))


def test_rows_and_columns_of_bfloat16_are_kept_in_float32() -> None:
    w = torch.zeros(8, 16, dtype=torch.bfloat16)
    kept = gc.chain(gc.row_column_moment(constant=True), gc.divide()).init(w)["slots"][""]
    assert {name.partition(".")[2]: (tuple(x.shape), x.dtype) for name, x in kept.items()} == {
        "exp_avg_sq_row": ((8, 1), torch.float32),
        "exp_avg_sq_col": ((1, 16), torch.float32),
    }


def test_relative_steps_fall_below_the_learning_rate() -> None:
    found = directions(gc.relative_step(0.6), grads=[[1.0]] * 4)
    assert [float(u) for u in found] == pytest.approx([0.6, 0.6, 3**-0.5, 0.5])


def test_decay_keeps_to_the_learning_rate() -> None:
    (_, second) = directions(
        gc.sign(), gc.decoupled_decay(0.5), gc.relative_step(4.0), grads=[[0.0], [0.0]], param=[1.0]
    )
    close(second, [2.0])


def test_param_rms() -> None:
    (u,) = directions(gc.scale_by_param_rms(0.1), grads=[[1.0, -2.0]], param=[3.0, 4.0])
    close(u, [12.5**0.5, -2 * 12.5**0.5])
    (u,) = directions(gc.scale_by_param_rms(0.1), grads=[[1.0, -2.0]], param=[0.0, 0.0])
    close(u, [0.1, -0.2])
