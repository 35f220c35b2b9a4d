from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from gradchain.errors import ChainError
from tests.transforms.steps import SHAPES, Array, close, directions, optimizer_of, sequence, step


def lamb(grads: list[Array], w: Array, lr: float, b1: float, b2: float, eps: float, wd: float) -> list[Array]:
    """The parameters after each step, by the equations of arXiv:1904.00962 with phi(z) = z."""
    m, v, found = np.zeros_like(w), np.zeros_like(w), []
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + wd * w
        w = w - lr * np.sqrt((w * w).sum() / (u * u).sum()) * u
        found.append(w)
    return found


def lars(grads: list[Array], w: Array, lr: float, eta: float, wd: float, momentum: float) -> list[Array]:
    """The parameters after each step: arXiv:1708.03888, with the learning rate outside of the momentum as in torch."""
    buffer, found = np.zeros_like(w), []
    for t, g in enumerate(grads):
        ratio = eta * np.sqrt((w * w).sum()) / (np.sqrt((g * g).sum()) + wd * np.sqrt((w * w).sum()))
        buffer = (momentum * buffer if t else 0 * buffer) + ratio * (g + wd * w)
        w = w - lr * buffer
        found.append(w)
    return found


def ours(name: str, shape: tuple[int, ...], **options: Any) -> tuple[list[Array], Array, list[Array]]:
    """The gradients, the start, and the parameters after each step of a recipe in float64."""
    grads, start = sequence(shape), np.asarray(np.random.default_rng(1).normal(size=shape))
    optimizer = optimizer_of(gc.recipe(name, **options), torch.tensor(start))
    return grads, start, [step(optimizer, torch.tensor(g))[0].numpy() for g in grads]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lamb_follows_the_paper(shape: tuple[int, ...]) -> None:
    options = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}
    grads, start, found = ours("lamb", shape, **options)
    np.testing.assert_allclose(found, lamb(grads, start, 0.1, 0.8, 0.95, 1e-3, 0.2), rtol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lars_follows_the_paper(shape: tuple[int, ...]) -> None:
    grads, start, found = ours("lars", shape, lr=2.0, momentum=0.9, weight_decay=0.3, trust_coeff=0.02, eps=0.0)
    np.testing.assert_allclose(found, lars(grads, start, 2.0, 0.02, 0.3, 0.9), rtol=1e-11)


def test_a_step_has_the_length_of_the_weights() -> None:
    (u,) = directions(gc.trust_ratio(0.5), grads=[[0.3, -0.4]], param=[6.0, 8.0])
    close(u, [3.0, -4.0])


@pytest.mark.parametrize(("grad", "param"), [([3.0, 4.0], [0.0, 0.0]), ([0.0, 0.0], [3.0, 4.0])])
def test_without_weights_or_direction_the_ratio_is_one(grad: list[float], param: list[float]) -> None:
    (u,) = directions(gc.trust_ratio(0.5), grads=[grad], param=param)
    close(u, grad)


def test_the_ratio_and_the_norm_of_the_weights_have_bounds() -> None:
    shrinking, growing = [[3.0, 4.0]], [[0.03, 0.04]]
    for grads, expected in ((shrinking, [0.6, 0.8]), (growing, [0.03, 0.04])):
        (u,) = directions(gc.trust_ratio(max_ratio=1.0), grads=grads, param=[1.0, 0.0])
        close(u, expected)
    (u,) = directions(gc.trust_ratio(max_weight_norm=2.0), grads=shrinking, param=[9.0, 0.0])
    close(u, [1.2, 1.6])
    (u,) = directions(gc.trust_ratio(min_weight_norm=10.0), grads=shrinking, param=[9.0, 0.0])
    close(u, [6.0, 8.0])


def test_larc_steps_no_further_than_plain_descent() -> None:
    lr = gc.scale_by_learning_rate(0.1)
    larc = gc.trust_ratio(1.0, max_ratio=1.0, over_lr=True)
    short, long = directions(larc, lr, grads=[[30.0, 40.0], [0.03, 0.04]], param=[1.0, 0.0])
    close(short, [0.6, 0.8])  # LARS: the length of the weights
    close(long, [0.003, 0.004])  # plain: the gradient times the learning rate


def test_only_decayed_groups_are_scaled_unless_always() -> None:
    for always, scaled in ((False, False), (True, True)):
        ratio = gc.trust_ratio(always=always).rename(decay="weight_decay")
        (u,) = directions(gc.add_decayed_weights(0.0), ratio, grads=[[3.0, 4.0]], param=[1.0, 0.0])
        close(u, [0.6, 0.8] if scaled else [3.0, 4.0])


@pytest.mark.parametrize("options", [{"norms": "separate"}, {"always": False}], ids=str)
def test_what_a_decay_decides_is_refused_without_one(options: dict[str, Any]) -> None:
    with pytest.raises(
        ChainError, match=r"trust_ratio: (norms|always) = .* has no effect.*rename\(decay='weight_decay'\)"
    ):
        gc.chain(gc.trust_ratio(**options))


def test_decay_alone_is_not_scaled_when_norms_are_separate() -> None:
    w = torch.full((1000,), 1 / 3)  # its decay rounds
    ratio = gc.trust_ratio(norms="separate").rename(decay="weight_decay")
    chain = gc.chain(gc.add_decayed_weights(0.1), ratio, gc.scale_by_learning_rate(1.0))
    for compile in (False, True):
        param = torch.nn.Parameter(w.clone())
        optimizer = gc.Optimizer([param], chain, compile=compile)
        param.grad = torch.zeros_like(param)
        optimizer.step()
        torch.testing.assert_close(param.detach(), 0.9 * w)
