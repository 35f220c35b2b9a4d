from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradchain as gc
from gradchain.errors import ChainError
from tests.transforms.steps import close, directions, run, slot, step


def test_first_moment() -> None:
    u, state = run(gc.first_moment(0.5), grads=[[2.0], [-1.0], [4.0]])
    # m = 1, 0, 2; corrections 1/2, 3/4, 7/8
    close(torch.stack(u), [[2.0], [0.0], [16 / 7]])
    close(slot(state, "first_moment.exp_avg"), [2.0])


def test_first_moment_without_correction() -> None:
    u = directions(gc.first_moment(0.5, bias_correction=False), grads=[[2.0], [-1.0], [4.0]])
    close(torch.stack(u), [[1.0], [0.0], [2.0]])


def test_first_moment_without_memory_is_the_gradient() -> None:
    u = directions(gc.first_moment(0.0), grads=[[2.0], [-1.0]])
    close(torch.stack(u), [[2.0], [-1.0]])


def test_track_first_moment_lets_the_direction_pass() -> None:
    u, state = run(gc.track_first_moment(0.5), grads=[[2.0], [-1.0], [4.0]])
    close(torch.stack(u), [[2.0], [-1.0], [4.0]])
    close(slot(state, "track_first_moment.exp_avg"), [2.0])


def test_second_moment() -> None:
    # v = 1/2 * 4 = 2, then 1 + 8 = 9; corrected 4 and 12
    u, state = run(gc.second_moment(0.5), gc.divide(), grads=[[2.0], [4.0]])
    close(torch.stack(u), [[1.0], [4 / math.sqrt(12)]])
    close(slot(state, "second_moment.exp_avg_sq"), [9.0])


def test_second_moment_without_correction() -> None:
    u = directions(gc.second_moment(0.5, bias_correction=False), gc.divide(), grads=[[2.0], [4.0]])
    close(torch.stack(u), [[2 / math.sqrt(2)], [4 / 3]])


def test_amsgrad_keeps_the_largest_second_moment() -> None:
    # v = 8, then 4 + 0.5 = 4.5 and 2.25 + 18 = 20.25; the largest are 8, 8, 20.25
    u, state = run(gc.second_moment(0.5, amsgrad=True), gc.divide(), grads=[[4.0], [1.0], [6.0]])
    corrections = [math.sqrt(1 - 0.5**t) for t in (1, 2, 3)]
    wanted = [g / math.sqrt(v) * c for g, v, c in zip((4, 1, 6), (8, 8, 20.25), corrections)]
    close(torch.cat(u), wanted)
    close(slot(state, "second_moment.exp_avg_sq"), [20.25])
    close(slot(state, "second_moment.max_exp_avg_sq"), [20.25])


def test_second_moment_squares_what_the_first_averaged() -> None:
    # Of the gradients 2 and 4, and not of their average.
    after = directions(gc.first_moment(0.5), gc.second_moment(0.5), gc.divide(), grads=[[2.0], [4.0]])[1]
    close(after, [(10 / 3) / math.sqrt(12)])
    clipped = directions(
        gc.clip_by_value(1.0), gc.first_moment(0.5), gc.second_moment(0.5), gc.divide(), grads=[[2.0], [4.0]]
    )[1]
    close(clipped, [1.0])  # of the clipped gradient, which is what was averaged


def test_debias_stands_where_it_is_put() -> None:
    # Outside the arctangent (quirk A1): the first step may be atan(1 - beta) / (1 - beta).
    stages = (gc.first_moment(0.9, bias_correction=False), gc.second_moment(0.0), gc.atan2_scale(), gc.debias(0.9))
    first, *_, last = directions(*stages, grads=[[3.0]] * 300)
    close(first, [math.atan(0.1) / 0.1])
    close(last, [math.pi / 4], rtol=1e-9)


def test_debias_undoes_what_the_moment_left() -> None:
    grads = [[2.0], [-1.0], [4.0]]
    corrected = directions(gc.first_moment(0.7), grads=grads)
    later = directions(gc.first_moment(0.7, bias_correction=False), gc.debias(0.7), grads=grads)
    close(torch.stack(later), torch.stack(corrected).tolist())


def test_squares_are_of_the_direction_once_it_is_the_gradient() -> None:
    squares = (gc.second_moment(0.5), gc.divide(0.0))
    grads = [[2.0], [4.0], [-8.0]]
    signs = (gc.first_moment(0.5), gc.sign())
    close(torch.stack(directions(*signs, gc.as_gradient(), *squares, grads=grads)), [[1.0], [1.0], [-1.0]])
    corrected = [math.sqrt(v) for v in (4, (0.25 * 4 + 0.5 * 16) / 0.75, (0.125 * 4 + 0.25 * 16 + 0.5 * 64) / 0.875)]
    close(torch.stack(directions(*signs, *squares, grads=grads)), [[s / v] for s, v in zip((1, 1, -1), corrected)])


def test_the_direction_is_the_gradient_where_nothing_averages() -> None:
    with pytest.raises(ChainError, match=r"as_gradient has no effect: no stage before it averages.* Put first_moment"):
        gc.chain(gc.sign(), gc.as_gradient(), gc.second_moment(), gc.divide())


def test_moments_share_their_betas_with_the_group() -> None:
    chain = gc.recipe("adamw")
    assert chain.hyperparameters["betas"] == (0.9, 0.999)
    u = directions(chain, grads=[[2.0], [4.0]], betas=(0.5, 0.5), lr=1.0, weight_decay=0.0, eps=0.0)
    close(u[1], [(10 / 3) / math.sqrt(12)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amsgrad": True},
        {"betas": (0.5, 0.9)},
        {"eps": 1e-3},
        {"weight_decay": 0.3},
        {"lr": 0.1, "weight_decay": 0.0},
    ],
    ids=str,
)
def test_adamw_is_torch_adamw(dtype: torch.dtype, options: dict[str, float]) -> None:
    compare_with_torch(torch.optim.AdamW, "adamw", dtype, options)


def compare_with_torch(cls: type, recipe: str, dtype: torch.dtype, options: dict[str, float]) -> None:
    """Twenty steps under a moving learning rate."""
    rng = np.random.default_rng(0)
    shapes = [(), (1,), (7,), (8, 16), (4, 3, 3, 3)]
    start = [torch.tensor(rng.normal(size=s), dtype=dtype) for s in shapes]
    ours = gc.optimizer(recipe, [torch.nn.Parameter(p.clone()) for p in start], compile=False, **options)
    theirs = cls([torch.nn.Parameter(p.clone()) for p in start], **options)
    rtol = 1e-12 if dtype == torch.float64 else 2e-6
    for number in range(20):
        grads = [torch.tensor(rng.normal(size=s), dtype=dtype) for s in shapes]
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + number)
        for a, b in zip(step(ours, *grads), step(theirs, *grads)):
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("bias_correction", [False, True])
def test_the_factored_pair_is_both_moments_factored(vectors: bool, bias_correction: bool) -> None:
    storage, rest = "factored_vectors" if vectors else "factored", [gc.divide(1e-6), gc.scale_by_learning_rate(0.1)]
    pair = gc.chain(gc.factored_moment(0.8, 0.9, bias_correction, vectors), *rest)
    options = {"bias_correction": bias_correction, "storage": storage}
    apart = gc.chain(gc.first_moment(0.8, **options), gc.second_moment(0.9, **options), *rest)
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(shape, generator=generator) for name, shape in {"a": (6, 8), "b": (12,)}.items()}
    ours, theirs = pair.init(params), apart.init(params)
    for _ in range(4):
        grads = {name: torch.randn(p.shape, generator=generator) for name, p in params.items()}
        (left, ours), (right, theirs) = pair.update(grads, ours, params), apart.update(grads, theirs, params)
        for name in params:
            torch.testing.assert_close(left[name], right[name], rtol=1e-6, atol=1e-7)
    assert pair.state_bytes(params) == apart.state_bytes(params)
