"""The kernels' graphs make the eager step for tensors that do not lie in memory as usual, and for odd ranks and sizes.

Graphs run as they were traced; `test_compiled` puts them through the compiler.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from tests.laws.cases import RECIPES, selected

pytestmark = pytest.mark.usefixtures("traced")

STORAGES = ("param", "fp32", "fp16", "int8", "factored", "factored_vectors")


def layouts(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Parameters by how they lie in memory."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "scalar": normal(),
        "vector": normal(6),
        "empty": normal(0, 3),
        "contiguous": normal(6, 4),
        "transposed": normal(5, 7).t(),
        "every second": normal(6, 8)[:, ::2],
        "channels last": normal(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "rank 3": normal(3, 2, 4).transpose(0, 2),
    }


def gradient_like(param: torch.Tensor, generator: torch.Generator, step: int) -> torch.Tensor:
    """Laid out like the parameter, or not."""
    grad = torch.randn(param.shape, generator=generator)
    return torch.empty_like(param).copy_(grad) if step % 2 else grad


def run(chain: gradchain.Chain, compile: bool) -> Any:
    generator = torch.Generator().manual_seed(0)
    params = {name: nn.Parameter(x.detach()) for name, x in layouts(generator).items()}
    optimizer = gradchain.Optimizer(params.items(), chain, compile=compile)
    for step in range(3):
        for param in params.values():
            param.grad = gradient_like(param, generator, step)
        optimizer.step()
    state = {name: {slot: x.clone() for slot, x in optimizer.state[param].items()} for name, param in params.items()}
    return {name: param.detach().clone() for name, param in params.items()}, state


def assert_agree(chain: gradchain.Chain) -> None:
    (eager, eager_state), (traced, traced_state) = run(chain, False), run(chain, True)
    torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-5)
    for name, slots in eager_state.items():
        for slot, value in slots.items():
            if value.is_floating_point():  # a code may be the next one where its number is
                torch.testing.assert_close(traced_state[name][slot], value, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*does not decay")
@pytest.mark.parametrize("name", selected(RECIPES))
def test_recipes(name: str) -> None:
    assert_agree(RECIPES[name].chain)


@pytest.mark.parametrize("storage", STORAGES)
def test_storages(storage: str) -> None:
    slots = {"first_moment.storage": storage, "second_moment.storage": storage}
    assert_agree(gradchain.recipe("adamw", lr=0.05).with_options(**slots))
