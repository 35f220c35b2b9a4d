"""Chains that need the gradient at a second point: `optimizer.step(closure)`, and refusals elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain.errors import ChainError, GradchainError, OptionError
from gradchain.testing import check_transform

SGD = gc.recipe("sgd", lr=0.1, momentum=0.9, weight_decay=0.01)


def problem(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """A model, and its loss on fixed data."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    x, y = (torch.randn(16, n, generator=generator, dtype=torch.float64).to(dtype) for n in (4, 3))
    return model, lambda: (model(x) - y).square().mean()


def closure_of(
    optimizer: Any, loss: Callable[[], torch.Tensor], seen: list[Any] | None = None
) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        if seen is not None:
            seen.append([p.detach().clone() for group in optimizer.param_groups for p in group["params"]])
        return value

    return closure


def values(model: nn.Module) -> list[torch.Tensor]:
    return [param.detach().clone() for param in model.parameters()]


@pytest.mark.parametrize("adaptive", [False, True], ids=["sam", "asam"])
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_sam_is_the_published_algorithm(adaptive: bool, compile: bool) -> None:
    model, loss = problem()
    optimizer = gc.Optimizer(model, gc.chain(gc.sam(0.1, adaptive), SGD), compile=compile)
    plain, its_loss = problem()
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(8):
        told = optimizer.step(closure_of(optimizer, loss))
        expected = closure_of(theirs, its_loss)()
        params, before = [*plain.parameters()], values(plain)
        grads = [p.grad.clone() for p in params if p.grad is not None]
        sizes = [p.abs() if adaptive else torch.ones_like(p) for p in before]
        norm = torch.stack([(s * g).square().sum() for s, g in zip(sizes, grads)]).sum().sqrt()
        with torch.no_grad():
            for param, size, grad in zip(params, sizes, grads):
                param.add_(0.1 * size.square() * grad / (norm + 1e-12))
        closure_of(theirs, its_loss)()
        with torch.no_grad():
            for param, value in zip(params, before):
                param.copy_(value)
        theirs.step()
        torch.testing.assert_close(told, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(values(model), values(plain), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_second_point_is_at_rho_and_left_bit_for_bit(dtype: torch.dtype) -> None:
    model, loss = problem(dtype)
    optimizer = gc.Optimizer(model, gc.chain(gc.sam(0.3), gc.scale_by_learning_rate(0.0)))
    before, seen = values(model), list[Any]()
    optimizer.step(closure_of(optimizer, loss, seen))
    assert len(seen) == 2
    assert all(map(torch.equal, values(model), before))
    assert all(map(torch.equal, seen[0], before))
    way = torch.cat([(b.double() - a.double()).flatten() for a, b in zip(*seen)]).norm()
    assert way.item() == pytest.approx(0.3, rel=1e-6 if dtype == torch.float32 else 0.05)


def test_a_closure_that_fails_at_the_second_point_changes_nothing() -> None:
    model, loss = problem()
    optimizer = gc.Optimizer(model, gc.chain(gc.sam(), SGD))
    optimizer.step(closure_of(optimizer, loss))
    before, state = values(model), copy.deepcopy([optimizer.state[p] for p in model.parameters()])
    calls: list[int] = []

    def fails() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return closure_of(optimizer, loss)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fails)
    assert all(map(torch.equal, values(model), before))
    for param, held in zip(model.parameters(), state):
        assert all(torch.equal(optimizer.state[param][key], value) for key, value in held.items())


def test_it_resumes_bit_for_bit() -> None:
    model, loss = problem(torch.float32)
    optimizer = gc.Optimizer(model, gc.chain(gc.sam(), gc.recipe("adamw", lr=0.01)), compile=False)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, loss))
    other, its_loss = problem(torch.float32)
    other.load_state_dict(model.state_dict())
    resumed = gc.Optimizer(other, gc.chain(gc.sam(), gc.recipe("adamw")), compile=False)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        optimizer.step(closure_of(optimizer, loss))
        resumed.step(closure_of(resumed, its_loss))
    assert all(map(torch.equal, values(model), values(other)))


def test_parameters_without_a_gradient_and_maximize() -> None:
    used, unused = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    optimizer = gc.Optimizer([used, unused], gc.chain(gc.sam(0.5), gc.scale_by_learning_rate(1.0)), maximize=True)
    seen: list[Any] = []
    optimizer.step(closure_of(optimizer, lambda: -used.square() / 2, seen))
    assert [point[0].item() for point in seen] == [1.0, 1.5]  # where what is ascended is lowest
    assert used.item() == -0.5
    assert unused.item() == 1.0


REFUSED: dict[str, Callable[[gc.Chain, nn.Module], Any]] = {
    "backward": lambda chain, model: gc.step_in_backward(gc.Optimizer(model, chain)),
    "partition": lambda chain, model: gc.Optimizer(model, chain, partition_of=model),
    "shadow": lambda chain, model: gc.Optimizer(model, SGD, shadows={"sharp": chain}),
    "function": lambda chain, model: chain.update(torch.ones(2), chain.init(torch.ones(2)), torch.ones(2)),
    "trace": lambda chain, model: chain.trace(torch.ones(2), torch.ones(2)),
    "laws": lambda chain, model: check_transform(gc.sam()),
    "export": lambda chain, model: gc.export(chain),
}


@pytest.mark.parametrize("how", REFUSED)
def test_where_there_is_no_second_evaluation_it_is_refused(how: str) -> None:
    with pytest.raises(ChainError, match=r"sam needs the gradient.*optimizer\.step\("):
        REFUSED[how](gc.chain(gc.sam(), SGD), problem()[0])


def test_a_step_without_a_closure_writes_nothing() -> None:
    model, loss = problem()
    optimizer = gc.Optimizer(model, gc.chain(gc.sam(), SGD))
    loss().backward()
    before = values(model)
    with pytest.raises(OptionError, match=r"sam takes the gradient at a second point.*optimizer\.step\(closure\)"):
        optimizer.step()
    with pytest.raises(GradchainError):
        optimizer.step_parameter(next(model.parameters()))
    assert all(map(torch.equal, values(model), before))


def test_what_a_stage_may_return() -> None:
    class wrong(gc.ExtraEvaluation):
        def displacement(self, gradient: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
            return gradient.sum()

    model, loss = problem()
    optimizer = gc.Optimizer(model, gc.chain(wrong(), SGD))
    before = values(model)
    with pytest.raises(ChainError, match="wrong: its `displacement` returned shape"):
        optimizer.step(closure_of(optimizer, loss))
    assert all(map(torch.equal, values(model), before))
