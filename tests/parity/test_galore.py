"""GaLore and APOLLO next to ours: the same steps over three periods of the projection, in matrices and vectors."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

import gradchain
from tests.transforms.steps import sequence

SHAPES = [(6, 9), (9, 6), (6, 6)]
NARROW = (2, 12)
"""Of fewer rows than the rank: theirs fails there but for `"std"`."""
STEPS, EVERY, RANK = 9, 3, 3
SMALL: dict[str, Any] = {"rank": RANK, "update_proj_gap": EVERY}


def theirs(package: str, name: str, low: dict[str, Any], shape: tuple[int, ...], **options: Any) -> list[torch.Tensor]:
    """What their steps subtract."""
    module = pytest.importorskip(package, reason="pip install gradchain[parity]")
    w = torch.nn.Parameter(torch.zeros(shape))
    group = {"params": [w], **low} if len(shape) > 1 else {"params": [w]}
    return moves(getattr(module, name)([group], lr=1.0, **options), w)


def ours(recipe: str, shape: tuple[int, ...], **options: Any) -> list[torch.Tensor]:
    w = torch.nn.Parameter(torch.zeros(shape))
    chain = gradchain.recipe(recipe, lr=1.0, **options)
    return moves(gradchain.Optimizer([("hidden.weight", w)], chain, compile=False), w)


def moves(optimizer: torch.optim.Optimizer, w: torch.nn.Parameter) -> list[torch.Tensor]:
    found = []
    for step, g in enumerate(sequence(tuple(w.shape), STEPS)):
        before = w.detach().clone()
        w.grad = torch.tensor(g * (1 + step % 4), dtype=torch.float32)
        optimizer.step()
        found.append(before - w.detach())
    return found


def agree(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for u, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(u, wanted, rtol=1e-5, atol=2e-6 * wanted.abs().max().item())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("shape", "proj_type"),
    [(NARROW, "std"), *((s, p) for p in ("std", "reverse_std", "left", "right") for s in (*SHAPES, (7,)))],
    ids=str,
)
def test_galore(shape: tuple[int, ...], proj_type: str) -> None:
    low = {**SMALL, "scale": 0.25, "proj_type": proj_type}
    agree(ours("galore-adamw", shape, **low), theirs("galore_torch", "GaLoreAdamW", low, shape))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("disable_nl", [False, True])
@pytest.mark.parametrize(("scale_type", "scale"), [("channel", 1.0), ("tensor", 4.0)])
@pytest.mark.parametrize("shape", [*SHAPES, NARROW, (7,)], ids=str)
def test_apollo(shape: tuple[int, ...], scale_type: str, scale: float, disable_nl: bool) -> None:
    """With singular vectors: random numbers are others than theirs."""
    low = {**SMALL, "scale": scale, "proj": "svd", "proj_type": "std", "scale_type": scale_type}
    expected = theirs("apollo_torch", "APOLLOAdamW", low, shape, disable_nl=disable_nl)
    agree(ours("apollo", shape, **low, disable_nl=disable_nl), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", [(40, 4000), (4000, 40)], ids=str)
def test_random_projections_are_alike(shape: tuple[int, ...]) -> None:
    """The first step depends on their variance alone, but for chance: 2.7 % from seed to seed."""
    low = {
        "rank": 16,
        "update_proj_gap": 9,
        "scale": 1.0,
        "proj": "random",
        "proj_type": "std",
        "scale_type": "channel",
    }
    expected = float(theirs("apollo_torch", "APOLLOAdamW", low, shape, scale_front=False)[0].norm())
    sizes: list[float] = []
    for seed in range(16):
        w = torch.nn.Parameter(torch.zeros(shape))
        chain = gradchain.recipe("apollo", lr=1.0, **low).with_options(**{"low_rank.seed": seed})
        sizes.append(float(moves(gradchain.Optimizer([("hidden.weight", w)], chain, compile=False), w)[0].norm()))
    mean, deviation = statistics.mean(sizes), statistics.stdev(sizes)
    assert deviation < 0.04 * mean
    assert abs(mean - expected) < 3 * deviation  # theirs is one more seed


@pytest.mark.filterwarnings("ignore")
def test_decay_acts_on_the_parameter_before_the_step() -> None:
    """Theirs acts on the one after it: the steps differ by lr * weight_decay of the move."""
    package = pytest.importorskip("galore_torch", reason="pip install gradchain[parity]")
    g, lr, decay = torch.tensor(sequence((6, 9), 1)[0], dtype=torch.float32), 0.1, 0.5
    made = []
    for make in (package.GaLoreAdamW, gradchain.optim.GaLoreAdamW):
        w = torch.nn.Parameter(torch.ones(6, 9))
        low = {"rank": 3, "update_proj_gap": 3, "scale": 1.0, "proj_type": "std"}
        if make is package.GaLoreAdamW:
            optimizer = make([{"params": [w], **low}], lr=lr, weight_decay=decay)
        else:
            optimizer = make([("hidden.weight", w)], lr=lr, weight_decay=decay, compile=False, **low)
        w.grad = g.clone()
        optimizer.step()
        made.append(w.detach())
    published, here = made
    plain = here + lr * decay  # without any decay
    torch.testing.assert_close(published, plain * (1 - lr * decay), rtol=1e-5, atol=1e-5)
