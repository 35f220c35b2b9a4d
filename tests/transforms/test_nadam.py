from __future__ import annotations

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, run, slot
from tests.transforms.test_moments import compare_with_torch


def test_nadam_momentum() -> None:
    # 0.96^t with decay 1: the rates are 0.5 (1 - 0.48) = 0.26, 0.5 (1 - 0.4608) = 0.2696, and 0.278816 next.
    u, state = run(gc.nadam_momentum(0.5, 1.0), grads=[[2.0], [-1.0]])
    first = 2.0 + 0.2696 * 1.0 / (1 - 0.26 * 0.2696)
    product = 0.26 * 0.2696
    second = -(1 - 0.2696) / (1 - product)  # the average is 0.5 * 1 - 0.5 * 1 = 0
    close(torch.cat(u), [first, second], rtol=1e-7)  # the product is kept in float32
    close(slot(state, "nadam_momentum.exp_avg"), [0.0])
    close(slot(state, "nadam_momentum.mu_product"), product, rtol=1e-7)


def test_the_product_is_one_number_whatever_the_parameter_is() -> None:
    state = gc.chain(gc.nadam_momentum()).init(torch.zeros(3, 4, dtype=torch.bfloat16))
    kept = slot(state, "nadam_momentum.mu_product")
    assert (kept.shape, kept.dtype, kept.item()) == ((), torch.float32, 1.0)


def test_without_decay_it_is_nesterov_at_half_the_rate() -> None:
    # mu is beta / 2 at all steps.
    grads = [[2.0], [-1.0], [4.0]]
    u = directions(gc.nadam_momentum(0.5, 0.0), grads=grads)
    m, wanted = 0.0, []
    for t, [g] in enumerate(grads, start=1):
        m = 0.5 * m + 0.5 * g
        wanted.append(0.75 * g / (1 - 0.25**t) + 0.25 * m / (1 - 0.25 ** (t + 1)))
    close(torch.cat(u), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.5, 0.8), "momentum_decay": 0.5},
        {"eps": 1e-2, "weight_decay": 0.3},
        {"weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    ids=str,
)
def test_nadam_is_torch_nadam(dtype: torch.dtype, options: dict[str, float]) -> None:
    compare_with_torch(torch.optim.NAdam, "nadam", dtype, options)
