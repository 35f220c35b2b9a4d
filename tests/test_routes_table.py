"""The routing table says what the optimizer then does."""

from __future__ import annotations

import torch
from torch import nn

import gradchain as gc


def by_rank(name: str, param: torch.Tensor) -> str:
    return "matrix" if param.ndim == 2 else "vector"


ROUTED = gc.chain(
    gc.first_moment(storage="factored"),
    gc.partition({"matrix": gc.orthograd(), "vector": gc.sign()}, by_rank),
    gc.scale_by_learning_rate(0.1),
)


def model(device: str = "cpu") -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32, device=device), nn.Linear(32, 8, device=device))


def cells(optimizer: gc.Optimizer) -> dict[str, list[str]]:
    """The cells of each parameter but its name."""
    rows = optimizer.routing_table().split("\n\n")[0].splitlines()[2:]
    return {row.split()[0]: row.replace(" x ", "x").split()[1:] for row in rows}


def test_each_parameter_with_its_route_and_bytes() -> None:
    net = model()
    optimizer = gc.Optimizer(net, ROUTED, role={"1.weight": "vector", "0.bias": "norm"})
    held = {
        name: sum(x.numel() * x.element_size() for slot, x in optimizer.state[param].items() if slot != "step")
        for name, param in net.named_parameters()
    }
    assert cells(optimizer) == {
        "0.weight": ["32x64", "1", str(held["0.weight"])],
        "0.bias": ["32", "norm", "2", str(held["0.bias"])],
        "1.weight": ["8x32", "vector", "2", str(held["1.weight"])],
        "1.bias": ["8", "2", str(held["1.bias"])],
        "total": [str(sum(held.values()))],
    }
    assert optimizer.routing_table().splitlines()[-2:] == [
        "route 1: first_moment, matrix/orthograd, scale_by_learning_rate",
        "route 2: first_moment, vector/sign, scale_by_learning_rate",
    ]


def test_stages_that_a_group_switches_off() -> None:
    net = model()
    groups = [{"params": net[0].parameters()}, {"params": net[1].parameters(), "disable": ["first_moment"]}]
    table = gc.Optimizer(groups, gc.chain(gc.first_moment(), gc.scale_by_learning_rate(0.1))).routing_table()
    assert table.count("(unnamed)") == 4
    assert table.splitlines()[-2:] == [
        "route 1: first_moment, scale_by_learning_rate",
        "route 2: scale_by_learning_rate",
    ]


def test_frozen_parameters_are_counted_but_have_no_state() -> None:
    net = model()
    net[0].requires_grad_(False)
    optimizer = gc.Optimizer(net, ROUTED)
    assert set(cells(optimizer)) == {"1.weight", "1.bias", "total"}
    assert optimizer.routing_table().splitlines()[-1] == "frozen and not stepped: 2"
    assert cells(optimizer)["total"] == [str(ROUTED.state_bytes(net))]


def test_nothing_is_allocated_for_a_model_on_meta() -> None:
    assert cells(gc.Optimizer(model("meta"), ROUTED)) == cells(gc.Optimizer(model(), ROUTED))


def test_an_optimizer_without_trainable_parameters() -> None:
    table = gc.Optimizer([nn.Parameter(torch.zeros(()), requires_grad=False)], ROUTED).routing_table()
    assert table.splitlines()[2].split() == ["total", "0"]
