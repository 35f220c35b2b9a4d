"""Hazards that a review found: each of these once gave wrong numbers, or let a wrong stage pass in silence."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import transforms as t
from gradchain._engine import call, compiled
from tests.compilers import compile_by

MODES = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def stepped(
    recipe: str, grads: list[list[torch.Tensor | None]], *, compile: bool, **options: object
) -> list[torch.Tensor]:
    """Parameters of zeros after some steps; `grads[step][parameter]`."""
    params = [nn.Parameter(torch.zeros(3)) for _ in grads[0]]
    optimizer = gradchain.optimizer(recipe, params, compile=compile, **options)
    for step in grads:
        for param, grad in zip(params, step):
            param.grad = grad
        optimizer.step()
    return [param.detach() for param in params]


def test_parameters_that_once_shared_a_step_keep_scalars_of_their_own() -> None:
    """Tracing takes inputs that are one object for one input; the numbers of two parameters at one step are."""
    generator = torch.Generator().manual_seed(0)
    present = [(1, 1), (1, 0), (1, 0), (1, 0), (1, 1)]
    grads = [[torch.randn(3, generator=generator) if here else None for here in step] for step in present]
    eager = stepped("adamw", grads, compile=False, lr=0.1)
    torch.testing.assert_close(stepped("adamw", grads, compile=True, lr=0.1), eager)


def test_a_gradient_that_is_its_parameter_once_does_no_harm_later() -> None:
    for _ in range(2):
        param = nn.Parameter(torch.ones(6))
        optimizer = gradchain.optimizer("sgd", [param], lr=0.1, compile=True)
        param.grad = param.data
        optimizer.step()
        param.grad = torch.full((6,), 2.0)
        optimizer.step()
        torch.testing.assert_close(param.detach(), torch.full((6,), 0.7))


@MODES
def test_an_average_without_memory_forgets_all(compile: bool) -> None:
    grads = [[torch.full((3,), g)] for g in (1e4, 1e-3)]
    (param,) = stepped("adamw", grads, compile=compile, lr=1.0, betas=(0.0, 0.0), weight_decay=0.0)
    torch.testing.assert_close(param, torch.full((3,), -2.0))


@MODES
def test_an_overflow_stops_an_element_and_makes_no_nan(compile: bool) -> None:
    (param,) = stepped("adamw", [[torch.tensor([1e20, 1.0, 1.0])]] * 2, compile=compile, lr=0.1, weight_decay=0.0)
    torch.testing.assert_close(param, torch.tensor([0.0, -0.2, -0.2]))


@pytest.mark.parametrize("clip", [t.clip_by_global_norm, t.clip_by_norm])
@pytest.mark.parametrize(("grad", "bound"), [([300.0, 1.0], 1.0), ([1e-4, 0.0], 1e-5)])
def test_norms_of_half_precision_gradients(clip: type[gradchain.Stage], grad: list[float], bound: float) -> None:
    g = torch.tensor(grad, dtype=torch.float16)
    chain = gradchain.chain(clip(bound))
    updates, _ = chain.update(g, chain.init(g), torch.zeros_like(g))
    expected = -g.double() * bound / g.double().norm()
    torch.testing.assert_close(updates.double(), expected, rtol=1e-2, atol=1e-7)


class hazard_by_rank(gradchain.Stage):
    """Keeps row sums of matrices, and all else as it is."""

    def slots(self, p):
        return {"row": gradchain.Slot(shape=p.shape[:1], per_row=True)} if p.ndim == 2 else {"whole": gradchain.Slot()}

    def update(self, update, ctx):
        if ctx.param.ndim == 2:
            return update, {"row": ctx.read("row") + update.value.sum(1)}
        return update, {"whole": ctx.read("whole") + update.value}


def test_slots_may_depend_on_the_rank() -> None:
    params = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))]
    optimizer = gradchain.Optimizer(params, gradchain.chain(hazard_by_rank()), compile=False)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert [sorted(optimizer.state[param]) for param in params] == [
        ["hazard_by_rank.row", "step"],
        ["hazard_by_rank.whole", "step"],
    ]
    assert optimizer.state[params[0]]["hazard_by_rank.row"].tolist() == [3.0, 3.0]


class hazard_impure(gradchain.Stage):
    what: str = "gradient"

    pure = False

    def slots(self, p):
        return {"kept": gradchain.Slot()}

    def update(self, update, ctx):
        if self.pure:
            return update
        {"gradient": update.value, "slot": ctx.read("kept"), "parameter": ctx.param}[self.what].add_(1)
        return update


@MODES
@pytest.mark.parametrize("what", ["gradient", "slot", "parameter"])
def test_a_stage_that_writes_into_what_it_is_given_is_refused(
    what: str, compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is tried on a small tensor; or in the step, if it did not do so then."""
    param = nn.Parameter(torch.zeros(3))
    chain = gradchain.chain(hazard_impure(what, name=f"hazard_impure_{compile}"))  # nobody has tried it yet
    with pytest.raises(gradchain.ChainError, match=r"hazard_impure_\w+: its update wrote .*aten.add_.*new tensors"):
        gradchain.Optimizer([param], chain, compile=compile)
    monkeypatch.setattr(hazard_impure, "pure", True)
    optimizer = gradchain.Optimizer([param], chain, compile=compile)
    monkeypatch.undo()
    param.grad = torch.ones(3)
    with pytest.raises(gradchain.ChainError, match=r"hazard_impure.*new tensors"):
        optimizer.step()
    assert int(optimizer.state[param]["step"]) == 0


class hazard_typed(gradchain.Stage):
    mark: object = None

    def update(self, update, ctx):
        return update.replace(value=update.value * (2 if self.mark is True else 1))


@MODES
def test_true_is_not_one(compile: bool) -> None:
    moved = []
    for mark in (1, True):
        param = nn.Parameter(torch.zeros(3))
        optimizer = gradchain.Optimizer([param], gradchain.chain(hazard_typed(mark)), compile=compile)
        param.grad = torch.ones(3)
        optimizer.step()
        moved.append(param.detach()[0].item())
    assert moved == [-1.0, -2.0]
    assert hash(hazard_typed([1, 2])) == hash(hazard_typed((1, 2)))


def test_gradients_that_come_and_go_do_not_compile_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = call.Recent[Any, Any](call.KERNELS)
    monkeypatch.setattr(call, "_kernels", cache)
    compile_by(monkeypatch, lambda graph, inputs, **_: lambda: graph)
    chooser = random.Random(0)
    params = [nn.Parameter(torch.zeros(k % 3 + 1)) for k in range(12)]
    optimizer = gradchain.optimizer("lion", params, compile=True)
    for _ in range(40):
        for param in params:
            param.grad = torch.ones_like(param) if chooser.random() < 0.5 else None
        optimizer.step()
    assert len(cache) <= compiled.BUCKETS_PER_CALL + 3  # companies, and one by one for three shapes
