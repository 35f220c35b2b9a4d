"""What a chain costs, counted before it runs: the state is what is allocated, the totals those that are asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain import distributed
from gradchain.storage import STORAGES
from tests.test_optimizer import RECIPES, SHAPES, make_params, set_grads


def allocated(optimizer: gc.Optimizer) -> dict[str, int]:
    """The bytes of state of each stage."""
    found: dict[str, int] = {}
    for state in optimizer.state.values():
        for key, slot in state.items():
            if key != "step":
                stage = key.partition(".")[0]
                found[stage] = found.get(stage, 0) + slot.numel() * slot.element_size()
    return found


def stepped(chain: gc.Chain, dtype: torch.dtype = torch.float32) -> gc.Optimizer:
    params = make_params(dtype)
    optimizer = gc.Optimizer(params, chain, compile=False)
    for step in range(2):
        set_grads(params, step)
        optimizer.step()
    return optimizer


def factored_slots(chain: gc.Chain, shape: tuple[int, ...]) -> int:
    param = nn.Parameter(torch.ones(shape))
    param.grad = torch.ones(shape)
    optimizer = gc.Optimizer([param], chain, compile=False)
    optimizer.step()
    return sum(key.endswith((".row", ".row_data")) for key in optimizer.state[param])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_state_is_what_is_allocated(name: str, dtype: torch.dtype) -> None:
    chain = gc.recipe(name)
    cost = chain.cost([param.detach() for param in make_params(dtype)])
    assert {row.stage: row.state_bytes for row in cost.stages if row.state_bytes} == allocated(stepped(chain, dtype))
    assert cost.state_bytes == chain.state_bytes(make_params(dtype))
    assert [row.stage for row in cost.stages] == [*chain.names]


@pytest.mark.parametrize("storage", STORAGES)
def test_state_in_every_storage(storage: str) -> None:
    moments = [gc.first_moment(storage=storage)]
    try:
        moments.append(gc.second_moment(storage=storage))
        chain = gc.chain(*moments, gc.divide(1e-8), gc.scale_by_learning_rate(0.1))
    except gc.OptionError:
        chain = gc.chain(*moments, gc.scale_by_learning_rate(0.1))
    cost = chain.cost(make_params())
    assert {row.stage: row.state_bytes for row in cost.stages if row.state_bytes} == allocated(stepped(chain))


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_as_many_totals_as_a_sharded_step_waits_for(name: str, shape: tuple[int, ...]) -> None:
    """Counted by another way, in which each request of the one parameter is a round."""
    chain = gc.recipe(name)
    rounds = distributed.cost(chain, [shape], 2).rounds
    if chain.bindings.shared:
        rounds -= 1  # of the shared numbers
    if "spectral_decay" in chain and len(shape) == 2:
        rounds -= 1  # of a product with the matrix, which is whole here
    rounds += max(factored_slots(chain, shape) - 1, 0)  # what they are stored by is added up at one time
    assert chain.cost([torch.zeros(shape)]).reductions == rounds


def test_bytes_moved() -> None:
    """AdamW reads parameter, gradient and two moments, and writes the parameter and both: seven numbers an element."""
    model = nn.Linear(16, 8, device="meta")
    cost = gc.recipe("adamw").cost(model)
    elements = 16 * 8 + 8
    assert cost.base_bytes == 3 * 4 * elements
    assert cost.moved_bytes == 7 * 4 * elements
    assert {row.stage: row.moved_bytes for row in cost.stages if row.moved_bytes} == {
        "first_moment": 2 * 4 * elements,
        "second_moment": 2 * 4 * elements,
    }


def test_totals_over_all_parameters_count_once() -> None:
    chain = gc.chain(gc.clip_by_global_norm(1.0), gc.clip_by_norm(1.0), gc.scale_by_learning_rate(0.1))
    cost = chain.cost(make_params())
    assert [row.reductions for row in cost.stages] == [1, len(SHAPES), 0]
    size = sum(4 * param.numel() for param in make_params())
    assert [row.moved_bytes for row in cost.stages] == [size, size, 0]


def test_partitions_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[1].requires_grad_(False)
    cost = gc.recipe("adams").cost(model)
    assert cost.parameters == 2
    acting = {row.stage: row.parameters for row in cost.stages}
    assert acting["matrix/spectral_decay"] == acting["vector/decoupled_decay"] == 1
    assert acting["first_moment"] == 2


def test_it_prints_a_table_and_is_a_value() -> None:
    model = nn.Linear(1024, 1024, device="meta")
    cost = gc.recipe("adamw").cost(model)
    assert "second_moment           2           4,198,400    8,396,800    0" in str(cost)
    assert str(cost).splitlines()[-1].split() == ["total", "2", "8,396,800", "29,388,800", "0"]
    assert cost == gc.recipe("adamw").cost(model)


def test_roles() -> None:
    params = [("w", torch.zeros(4, 3))]
    chain = gc.recipe("adams")
    rows = {row.stage: row.parameters for row in chain.cost(iter(params), role="vector").stages}
    assert (rows["matrix/spectral_decay"], rows["vector/decoupled_decay"]) == (0, 1)
