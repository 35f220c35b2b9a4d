from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import SHAPES, Array, compare, optimizer_of, sequence, step


def scaled(grads: list[Array], beta: float, eps: float, corrected: bool, blocks: Any = None) -> list[Array]:
    """Gradients over the roots of the averages of each block: of rows, of a whole vector, or as many as `blocks`."""
    v, found = 0.0 * grads[0], []
    for t, g in enumerate(grads, 1):
        count = blocks or (g.shape[0] if g.ndim > 1 else 1)
        means = np.square(g).reshape(count, -1).mean(1, keepdims=True)
        v = beta * v + (1 - beta) * np.broadcast_to(means, (count, g.size // count)).reshape(g.shape)
        found.append(g / (np.sqrt(v / (1 - beta**t if corrected else 1)) + eps))
    return found


@pytest.mark.parametrize("corrected", [True, False])
def test_rows_and_vectors(corrected: bool) -> None:
    moment = gc.block_second_moment(0.9, bias_correction=corrected)
    compare([moment, gc.divide(0.1)], lambda grads: scaled(grads, 0.9, 0.1, corrected))


def test_heads() -> None:
    grads = sequence((6, 4))
    chain = gc.chain(gc.block_second_moment(0.9, n_heads=3), gc.divide(), gc.scale_by_learning_rate(1.0))
    param = torch.nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    other = torch.nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = gc.Optimizer([param, other], chain, role={param: "key"}, compile=False)
    moved: list[list[Array]] = [[], []]
    before = [np.zeros((6, 4))] * 2
    for g in grads:
        after = [p.numpy() for p in step(optimizer, torch.tensor(g), torch.tensor(g))]
        for steps, old, new in zip(moved, before, after, strict=True):
            steps.append(old - new)
        before = after
    np.testing.assert_allclose(moved[0], scaled(grads, 0.9, 0.0, True, blocks=3), rtol=1e-9)
    np.testing.assert_allclose(moved[1], scaled(grads, 0.9, 0.0, True), rtol=1e-9)  # without the role: by rows
    assert optimizer.state[param]["block_second_moment.exp_avg_sq_block"].shape == (3,)
    assert optimizer.state[other]["block_second_moment.exp_avg_sq_block"].shape == (6,)


def test_rows_that_are_no_heads_are_refused() -> None:
    chain = gc.chain(gc.block_second_moment(n_heads=4), gc.divide(), gc.scale_by_learning_rate(1.0))
    with pytest.raises(gc.OptionError, match=r"the 6 rows of .* with role 'query' are not 4 heads"):
        gc.Optimizer([torch.nn.Parameter(torch.zeros(6, 4))], chain, role="query")
    with pytest.raises(gc.OptionError, match="heads = 0"):
        gc.block_second_moment(n_heads=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adam_mini_in_numpy(shape: tuple[int, ...]) -> None:
    grads, w = sequence(shape), np.asarray(np.random.default_rng(1).normal(size=shape))
    chain = gc.recipe("adam-mini", lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2)
    optimizer, m = optimizer_of(chain, torch.tensor(w)), np.zeros_like(w)
    for t, (g, plain) in enumerate(zip(grads, scaled(grads, 0.95, 1e-3, True)), 1):
        m = 0.8 * m + 0.2 * g
        divisor = np.divide(g, plain)
        w = w - 0.1 * 0.2 * w - 0.1 * m / (1 - 0.8**t) / divisor
        np.testing.assert_allclose(step(optimizer, torch.tensor(g))[0].numpy(), w, rtol=1e-9, atol=1e-12)
