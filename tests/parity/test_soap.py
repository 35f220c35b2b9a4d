"""SOAP of pytorch_optimizer next to ours: the same steps as long as eigenvectors keep their order; theirs are sorted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradchain
from tests.transforms.steps import Array, sequence
from tests.transforms.test_soap import soap_of

pytorch_optimizer = pytest.importorskip("pytorch_optimizer", reason="pip install gradchain[parity]")

EVERY, STEPS, N = 4, 12, 6


def alike(steps: int) -> list[Array]:
    """Gradients with singular values far apart, whose order stays."""
    rng = np.random.default_rng(3)
    U, V = (np.linalg.qr(rng.normal(size=(N, N)))[0] for _ in range(2))
    S = np.logspace(0, -1.5, N)
    return [
        (U * S * (1 + 0.3 * rng.normal(size=N))) @ V.T + 0.3 * S[-1] * rng.normal(size=(N, N)) for _ in range(steps)
    ]


def theirs(grads: list[Array]) -> list[Array]:
    """What their steps subtract, in float64, but for the refresh of bases, which they compute in float32."""
    w = torch.nn.Parameter(torch.zeros(N, N, dtype=torch.float64))
    return stepped(pytorch_optimizer.SOAP([w], lr=1.0, weight_decay=0.0, precondition_frequency=EVERY), w, grads)


def ours(grads: list[Array]) -> list[Array]:
    w = torch.nn.Parameter(torch.zeros(N, N, dtype=torch.float64))
    options: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.0, "precondition_frequency": EVERY}
    chain = gradchain.recipe("soap", **options)
    return stepped(gradchain.Optimizer([("hidden.weight", w)], chain, compile=False), w, grads)


def stepped(optimizer: torch.optim.Optimizer, w: torch.nn.Parameter, grads: list[Array]) -> list[Array]:
    found = []
    for g in grads:
        before = w.detach().clone()
        w.grad = torch.tensor(g)
        optimizer.step()
        found.append((before - w.detach()).numpy())
    return found


@pytest.mark.filterwarnings("ignore")
def test_the_first_period_is_theirs() -> None:
    """The exact eigenvectors of the first step, whatever the gradients are; nothing else is done in that step."""
    grads = sequence((N, N), EVERY + 1)
    for a, b in zip(ours(grads), theirs(grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore")
def test_so_are_later_ones_where_the_order_stays() -> None:
    for a, b in zip(ours(alike(STEPS)), theirs(alike(STEPS)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_order_is_all_that_differs() -> None:
    """On gradients of pure noise ours part from theirs, which are those of the equations with a sorted basis."""
    grads = sequence((N, N), STEPS)
    options: dict[str, Any] = {"beta1": 0.95, "beta2": 0.95, "shampoo_beta": 0.95, "eps": 1e-8, "every": EVERY}
    for a, b in zip(theirs(grads), soap_of(grads, **options, sort=True), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(ours(grads), theirs(grads), strict=True)) > 0.1
