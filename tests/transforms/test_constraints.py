from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import SHAPES, Array, close, optimizer_of, sequence, step, tensor

LR = gc.scale_by_learning_rate(1.0)


def written(constraint: gc.Constraint, param: object, grad: object = None) -> torch.Tensor:
    """The parameter after one step."""
    start = tensor(param)
    optimizer = optimizer_of(gc.chain(LR, constraint), start)
    return step(optimizer, torch.zeros_like(start) if grad is None else tensor(grad))[0]


def test_a_box() -> None:
    close(written(gc.clip_weights(-0.5, 2.0), [0.0, 0.0, 1.0], [3.0, -3.0, 0.4]), [-0.5, 2.0, 0.6])


def test_a_box_lets_nan_show() -> None:
    found = written(gc.clip_weights(), [0.0, 0.0], [math.nan, math.inf])
    assert found[0].isnan()
    assert found[1] == -1


def test_a_cap_and_a_floor_of_the_norm() -> None:
    close(written(gc.clip_weight_norm(max_norm=2.5), [3.0, 4.0]), [1.5, 2.0])
    close(written(gc.clip_weight_norm(10.0), [3.0, 4.0]), [6.0, 8.0])
    close(written(gc.clip_weight_norm(10.0), [0.0, 0.0]), [0.0, 0.0])
    close(written(gc.clip_weight_norm(10.0, 1.0), [3.0, 4.0]), [0.6, 0.8])  # the cap wins


def test_what_is_within_the_bounds_is_written_as_it_is() -> None:
    w = torch.randn(50, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for per in ("tensor", "row"):
        assert torch.equal(written(gc.clip_weight_norm(1e-3, 1e3, per=per), w.tolist()), w)


def test_rows() -> None:
    w = [[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]]
    close(written(gc.clip_weight_norm(1.0, 2.5, per="row"), w), [[1.5, 2.0], [0.0, 1.0], [0.0, 0.0]])
    close(written(gc.project_to_sphere(False, 1.0, per="row"), w), [[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    close(written(gc.project_to_sphere(False, 1.0, per="row"), [3.0, 4.0]), [3.0, 4.0])  # a vector has none
    close(written(gc.project_to_sphere(per="row"), w[:2], [[-5.0, 4.0], [-0.5, 0.5]]), [[5.0, 0.0], [0.5, 0.0]])


def test_a_sphere_of_the_start() -> None:
    found = written(gc.project_to_sphere(), [[3.0, 0.0], [0.0, 4.0]], [[0.0, -3.0], [-4.0, 0.0]])
    half = 0.5**0.5
    close(found, [[3 * half, 3 * half], [4 * half, 4 * half]])


@pytest.mark.parametrize("per", ["tensor", "row"])
def test_weights_that_begin_at_zero_are_free_until_they_move(per: str) -> None:
    optimizer = optimizer_of(gc.chain(LR, gc.project_to_sphere(per=per)), torch.zeros(1, 2))
    assert step(optimizer, torch.zeros(1, 2))[0].tolist() == [[0.0, 0.0]]
    assert step(optimizer, torch.tensor([[-3.0, -4.0]]))[0].tolist() == [[3.0, 4.0]]
    torch.testing.assert_close(step(optimizer, torch.tensor([[-3.0, -4.0]]))[0], torch.tensor([[3.0, 4.0]]))


def test_the_norm_does_not_drift_in_bfloat16() -> None:
    torch.manual_seed(0)
    w = torch.randn(64, 64).to(torch.bfloat16)
    optimizer = optimizer_of(gc.chain(gc.trust_ratio(), gc.scale_by_learning_rate(0.01), gc.project_to_sphere()), w)
    for _ in range(200):
        (now,) = step(optimizer, torch.randn(64, 64).to(torch.bfloat16))
    torch.testing.assert_close(now.float().norm(), w.float().norm(), rtol=2**-8, atol=0)  # one unit in the last place


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "constraint",
    [gc.project_to_sphere(), gc.project_to_sphere(False, 0.7, per="row"), gc.clip_weight_norm(2.0, 0.5)],
    ids=lambda stage: type(stage).__name__,
)
def test_a_step_of_length_zero_changes_nothing(constraint: gc.Constraint, dtype: torch.dtype) -> None:
    for shape in [(), (1,), (1, 1), (5, 3), (33, 65)]:
        optimizer = optimizer_of(gc.chain(gc.scale_by_learning_rate(0.3), constraint), torch.ones(shape, dtype=dtype))
        generator = torch.Generator().manual_seed(0)
        (before,) = step(optimizer, torch.randn(shape, generator=generator).to(dtype))
        optimizer.param_groups[0]["lr"] = 0.0
        (after,) = step(optimizer, torch.randn(shape, generator=generator).to(dtype))
        assert torch.equal(before, after)


def test_a_skipped_parameter_is_not_constrained() -> None:
    chain = gc.chain(gc.adopt(0.9), gc.divide(), LR, gc.clip_weights(-1.0, 1.0))  # ADOPT skips its first step
    (w,) = step(optimizer_of(chain, torch.tensor([3.0])), torch.tensor([1.0]))
    assert w.item() == 3.0


def test_a_constraint_comes_after_what_changes_the_step() -> None:
    with pytest.raises(gc.ChainError, match="clip_weights maps the value"):
        gc.chain(gc.clip_weights(), LR)


def hyperball(grads: list[Array], w: Array, lr: float, b1: float, b2: float, eps: float) -> list[Array]:
    """The matrices after each step: Adam's direction on the sphere of the start, as in arXiv:2606.16899."""
    m, v, radius, found = np.zeros_like(w), np.zeros_like(w), np.sqrt((w * w).sum()), []
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - lr * radius * u / np.sqrt((u * u).sum())
        w = radius * w / np.sqrt((w * w).sum())
        found.append(w)
    return found


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1 and min(s[-2:]) > 1], ids=str)
def test_hyperball_follows_the_paper(shape: tuple[int, ...]) -> None:
    grads, start = sequence(shape), np.asarray(np.random.default_rng(1).normal(size=shape))
    optimizer = optimizer_of(gc.recipe("hyperball", lr=0.3, betas=(0.8, 0.9), eps=1e-3), torch.tensor(start))
    found = [step(optimizer, torch.tensor(g))[0].numpy() for g in grads]
    np.testing.assert_allclose(found, hyperball(grads, start, 0.3, 0.8, 0.9, 1e-3), rtol=1e-11, atol=1e-13)


def test_hyperball_steps_vectors_as_adam_does() -> None:
    ours = optimizer_of(gc.recipe("hyperball", lr=0.3, adam_lr_ratio=0.5), torch.ones(5))
    theirs = torch.optim.Adam([torch.nn.Parameter(torch.ones(5))], lr=0.15, betas=(0.9, 0.95))
    for t in range(5):
        grad = torch.randn(5, generator=torch.Generator().manual_seed(t))
        torch.testing.assert_close(step(ours, grad), step(theirs, grad))
