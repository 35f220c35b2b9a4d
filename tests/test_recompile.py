"""What is compiled again, and what is not, as training goes on: kernels are counted, graphs run as they were traced."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs

import gradchain
from gradchain._engine import call, compiled, layouts
from tests.compilers import compile_by

LARGE = (300, 300)  # a bucket of its own
SMALL = (5, 4)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """The kernels that were made."""
    cache = call.Recent[Any, Any](call.KERNELS)
    monkeypatch.setattr(call, "_kernels", cache)
    compile_by(monkeypatch, lambda graph, inputs, **_: lambda: graph)
    return cache


def parameters(shapes: Sequence[tuple[int, ...]]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in shapes]


def step(optimizer: torch.optim.Optimizer, live: Sequence[nn.Parameter], every: Sequence[nn.Parameter]) -> None:
    for param in every:
        param.grad = None
    for param in live:
        param.grad = torch.ones_like(param)
    optimizer.step()


@pytest.mark.parametrize("recipe", ["adamw", "adams", "gyro-adam", "adv-prodigy", "adv-adamw"])
def test_schedules_compile_nothing(recipe: str, made: dict[Any, Any]) -> None:
    params = parameters([LARGE, SMALL, (7,)])
    optimizer = gradchain.optimizer(recipe, [{"params": params[:1]}, {"params": params[1:]}], lr=0.1, compile=True)
    schedule = lrs.OneCycleLR(optimizer, [0.1, 0.2], total_steps=12)  # writes lr and betas
    step(optimizer, params, params)
    first = len(made)
    for _ in range(9):
        schedule.step()
        step(optimizer, params, params)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
    step(optimizer, params, params)
    assert len(made) == first


def test_freezing_large_layers_compiles_nothing(made: dict[Any, Any]) -> None:
    params = parameters([LARGE] * 4)
    optimizer = gradchain.optimizer("adamw", params, compile=True)
    for live in (4, 4, 2, 1, 3, 4):
        step(optimizer, params[:live], params)
    assert len(made) == 1


def test_freezing_small_layers_compiles_their_companies_once(made: dict[Any, Any]) -> None:
    params = parameters([LARGE, *[SMALL] * 20])
    optimizer = gradchain.optimizer("adamw", params, compile=True)
    step(optimizer, params, params)
    assert len(made) == 2  # the large one, twenty small ones
    step(optimizer, params[:11], params)  # ten small ones
    assert len(made) == 3
    for live in (11, 21, 11, 21):
        step(optimizer, params[:live], params)
    assert len(made) == 3


def test_gradients_that_come_and_go_end_with_a_kernel_for_each_shape(made: dict[Any, Any]) -> None:
    chooser = random.Random(0)
    shapes = [SMALL, (7,), (3, 2)]
    params = parameters(shapes * 7)
    optimizer = gradchain.optimizer("adamw", params, compile=True)
    for _ in range(60):
        step(optimizer, [param for param in params if chooser.random() < 0.7], params)
    buckets = math.ceil(len(params) / compiled.TENSORS_PER_CALL)
    assert len(made) <= compiled.BUCKETS_PER_CALL * buckets + len(shapes)


@pytest.mark.parametrize(("recipe", "kernels"), [("adamw", 1), ("adams", 3)])
def test_a_new_group_compiles_only_its_own(recipe: str, kernels: int, made: dict[Any, Any]) -> None:
    params = parameters([(320, 300), (200, 400)])
    optimizer = gradchain.optimizer(recipe, params, compile=True)
    step(optimizer, params, params)
    more = parameters([(100, 704)])
    optimizer.add_param_group({"params": more})
    step(optimizer, params + more, params + more)
    assert len(made) == kernels


def test_two_hundred_shapes(made: dict[Any, Any]) -> None:
    params = parameters([(rows, columns) for rows in range(1, 11) for columns in range(1, 21)])
    optimizer = gradchain.optimizer("sgd", params, lr=0.1, compile=True)
    for _ in range(2):
        step(optimizer, params, params)
    assert len(made) == 200 // compiled.TENSORS_PER_CALL  # the last eight join others
    assert optimizer.compile_report().fallbacks == ()
    expected = parameters([(3, 3)])
    other = gradchain.optimizer("sgd", expected, lr=0.1, compile=False)
    for _ in range(2):
        step(other, expected, expected)
    for param in params:
        torch.testing.assert_close(param, expected[0][0, 0].expand_as(param))


@pytest.mark.slow
def test_five_hundred_shapes_through_the_compiler() -> None:
    params = parameters([(rows, columns) for rows in range(1, 21) for columns in range(1, 26)])
    optimizer = gradchain.optimizer("sgd", params, lr=0.1, compile=True)
    step(optimizer, params, params)
    report = optimizer.compile_report()
    assert report.fallbacks == ()
    assert sum(bucket.tensors for bucket in report.buckets) == 500


def test_kernels_that_nobody_uses_are_evicted(made: Any) -> None:
    made.limit = 4
    params = parameters([(rows, 300) for rows in range(300, 306)])  # a bucket of its own for each
    optimizer = gradchain.optimizer("adams", params, compile=True)
    step(optimizer, params, params)
    own = optimizer.compile_report().kernels
    assert (own, len(made)) == (6, 4)
    layouts_of_one = len(layouts._ids)
    seconds = optimizer.compile_report().seconds
    step(optimizer, params, params)
    assert optimizer.compile_report().seconds == seconds  # its own kernels are kept as long as it uses them
    del optimizer, params
    gc.collect()
    assert len(made) == 4
    assert len(layouts._ids) < layouts_of_one


def test_an_optimizer_forgets_the_kernels_of_shapes_it_had(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "KERNELS", 8)
    (param,) = parameters([LARGE])
    optimizer = gradchain.optimizer("rose", [param], compile=True)
    for rows in range(300, 270, -1):
        param.grad = None
        param.data = param.data[:rows].clone()
        step(optimizer, [param], [param])
    assert len(optimizer.compile_report().buckets) == 8
