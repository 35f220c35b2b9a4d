"""Stages of one's own that need the whole matrix: what they are sent, in how many calls, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain import whole_matrix
from gradchain._core.matrices import SMALL
from tests.laws.running import differs, functional, gradients, optimize, tensors
from tests.test_rehearsal import rehearse

SHAPES = [(4, 6), (6, 4), (4, 6), (2, 3, 4), (1, 5), (5, 1)]
LR = gc.scale_by_learning_rate(0.1)


class centred(gc.Stage):
    """Takes the mean of the columns from a matrix that it is sent."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        M = yield whole_matrix(update.value.flatten(1))
        return update.replace(value=(M - M.mean(0)).view(ctx.shape))


def damped(G: torch.Tensor, P: torch.Tensor, damping: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """G (P + damping I)^-1 for matrices or stacks of them, with an average of G'G for P."""
    P = 0.9 * P + 0.1 * G.mT @ G
    eye = torch.eye(P.shape[-1], dtype=P.dtype)
    solved = torch.linalg.solve(P + damping.to(P.dtype)[..., None, None] * eye, G, left=False)
    return solved, P, damping


class solve(gc.Stage):
    """Divides by an average of G'G: a function of a matrix, of a slot that all processes have alike, and of a number."""

    damping: float = gc.hyper(default=0.5, gt=0)
    batched: bool = gc.static(default=False)

    def slots(self, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        columns = p.shape[1:].numel()
        return {"P": gc.Slot(shape=(columns, columns))}

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        request = whole_matrix(
            update.value.flatten(1), function=damped, same=(ctx.read("P"), self.damping), batched=self.batched
        )
        u, P, _ = yield request
        return update.replace(value=u.view(update.value.shape)), {"P": P}


class solve_by_hand(solve):
    """The same without a request."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        damping = torch.as_tensor(self.damping, dtype=torch.float64)
        u, P, _ = damped(update.value.flatten(1), ctx.read("P"), damping)
        return update.replace(value=u.view(update.value.shape)), {"P": P}


STAGES = [centred(), solve(), solve(batched=True)]


def stepped(stage: gc.Stage, dtype: torch.dtype = torch.float64, **options: Any) -> list[torch.Tensor]:
    params, grads = tensors(1, SHAPES, dtype), gradients(3, SHAPES, dtype)
    return optimize(gc.chain(stage, LR), params, grads, **options)[0]


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_eagerly_compiled_and_as_functions_it_is_one_step(stage: gc.Stage, traced: Any) -> None:
    chain = gc.chain(stage, LR)
    params, grads = tensors(1, SHAPES, torch.float64), gradients(3, SHAPES, torch.float64)
    eager = stepped(stage)
    assert differs(eager, params)
    for others in (stepped(stage, compile=True), functional(chain, params, grads)):
        for ours, theirs in zip(others, eager, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert traced


def test_the_matrix_is_the_direction() -> None:
    for param, moved, (g,) in zip(
        tensors(1, SHAPES, torch.float64),
        optimize(gc.chain(centred(), LR), tensors(1, SHAPES, torch.float64), gradients(1, SHAPES, torch.float64))[0],
        zip(*gradients(1, SHAPES, torch.float64)),
    ):
        torch.testing.assert_close(moved, param - 0.1 * (g - g.mean(0)))


@pytest.mark.parametrize("batched", [False, True])
def test_a_function_gets_what_was_passed_and_its_results_come_back(batched: bool) -> None:
    ours, theirs = stepped(solve(batched=batched)), stepped(solve_by_hand())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_dtypes_stay_those_of_what_was_passed() -> None:
    double = whole_matrix(torch.ones(2, 3, dtype=torch.bfloat16), function=lambda x: 2 * x.double(), same=())
    (made,) = double.applied(list(double.partials.values()))
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, torch.full((2, 3), 2.0, dtype=torch.bfloat16))


CALLS: list[tuple[int, ...]] = []


@dataclass(frozen=True)
class noted:
    """Twice the matrix; it takes down the shapes that it is called with."""

    factor: float = 2.0

    def __call__(self, M: torch.Tensor) -> torch.Tensor:
        CALLS.append(tuple(M.shape))
        return self.factor * M


class doubled(gc.Stage):
    batched: bool = gc.static(default=True)
    factor: float = gc.static(default=2.0)

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        u = yield whole_matrix(update.value.flatten(1), function=noted(self.factor), batched=self.batched)
        return update.replace(value=u.view(update.value.shape))


@pytest.fixture
def calls() -> Iterator[list[tuple[int, ...]]]:
    CALLS.clear()
    yield CALLS
    CALLS.clear()


def once(shapes: list[tuple[int, ...]], stage: Any) -> list[tuple[int, ...]]:
    """The shapes that the function is called with in a step, sorted; the step is right."""
    params, (grads,) = tensors(1, shapes, torch.float64), gradients(1, shapes, torch.float64)
    held = [nn.Parameter(p.clone()) for p in params]
    optimizer = gc.Optimizer(held, gc.chain(stage, LR), compile=False)
    for param, grad in zip(held, grads, strict=True):
        param.grad = grad
    CALLS.clear()  # it has been tried out on small matrices
    optimizer.step()
    for a, p, g in zip(held, params, grads, strict=True):
        torch.testing.assert_close(a.detach(), p - 0.2 * g)
    return sorted(CALLS)


def test_equal_matrices_go_through_one_call(calls: Any) -> None:
    assert once([(4, 6), (6, 4), (4, 6), (4, 2, 3), (4, 6)], doubled()) == [(1, 6, 4), (4, 4, 6)]


def test_one_by_one_unless_the_function_takes_stacks(calls: Any) -> None:
    assert once([(4, 6), (6, 4), (4, 6)], doubled(batched=False)) == [(4, 6), (4, 6), (6, 4)]


def test_large_matrices_are_not_copied_into_a_stack_on_a_cpu(calls: Any) -> None:
    large = (2, SMALL // 2 + 1)
    assert once([large, large, (4, 6), (4, 6)], doubled()) == [(2, 4, 6), large, large]


def test_other_functions_and_dtypes_are_other_calls(calls: Any) -> None:
    params = [nn.Parameter(torch.ones(4, 6, dtype=dtype)) for dtype in (torch.float32, torch.float64) * 2]
    chain = gc.chain(
        gc.partition(
            {"one": [doubled(factor=2.0)], "two": [doubled(factor=3.0)]},
            lambda name, p: "two" if name == "b" else "one",
        ),
        LR,
    )
    optimizer = gc.Optimizer(list(zip("abcd", params)), chain, compile=False)
    for param in params:
        param.grad = torch.ones_like(param)
    calls.clear()
    optimizer.step()
    assert sorted(calls) == [(1, 4, 6), (1, 4, 6), (2, 4, 6)]
    assert [round(param[0, 0].item(), 6) for param in params] == [0.8, 0.7, 0.8, 0.8]


def broken(made: Callable[[torch.Tensor], Any]) -> gc.Chain:
    """A chain whose stage asks for a function that returns the wrong thing."""

    class asking(gc.Stage, register=False):
        def update(self, update: gc.Update, ctx: gc.Context) -> Any:
            u = yield whole_matrix(update.value, function=made)
            return update.replace(value=u)

    return gc.chain(asking(), LR)


@pytest.mark.parametrize(
    ("made", "returned"),
    [
        (lambda M: M.mT, r"\[\(6, 4\)\]"),
        (lambda M: M @ M.mT, r"\[\(4, 4\)\]"),
        (lambda M: (M, M), r"\[\(4, 6\), \(4, 6\)\]"),
        (lambda M: (), r"\[\]"),
        (lambda M: None, r"\['NoneType'\]"),
    ],
    ids=["transposed", "square", "two", "none", "None"],
)
def test_a_function_that_returns_other_shapes_is_told_what_to_return(made: Any, returned: str) -> None:
    param = nn.Parameter(torch.ones(4, 6))
    optimizer = gc.Optimizer([param], broken(made), compile=False)
    param.grad = torch.ones(4, 6)
    with pytest.raises(gc.ChainError, match=rf"\[\(4, 6\)\] and returned {returned}. Return one tensor for each"):
        optimizer.step()
    assert torch.equal(param, torch.ones(4, 6))


@pytest.mark.parametrize("shape", [(), (5,)], ids=str)
def test_a_vector_is_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(gc.OptionError, match=r"two axes or more.*partition\(.*x.flatten\(1\)"):
        whole_matrix(torch.ones(shape))
    with pytest.raises(gc.OptionError, match="got: none"):
        whole_matrix()


def test_a_stage_that_asks_for_a_vector_writes_nothing() -> None:
    class asking(gc.Stage, register=False):
        def update(self, update: gc.Update, ctx: gc.Context) -> Any:
            M = yield whole_matrix(update.value)
            return update.replace(value=M)

    params = [nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(5))]
    optimizer = gc.Optimizer(params, gc.chain(asking(), LR), compile=False)
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(gc.OptionError, match="Route vectors elsewhere"):
        optimizer.step()
    assert all(torch.equal(param, torch.ones_like(param)) for param in params)


# The rehearsal before a parameter is sharded.


class by_local_rows(gc.Stage):
    """Takes the rows that are here for the matrix."""

    def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
        x = update.value
        return update.replace(value=x - x.mean(0) if len(x) else x)


class forgotten_rows(gc.Stage):
    """Asks for the matrix, and goes on with its own rows."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        yield whole_matrix(update.value.flatten(1))
        x = update.value
        return update.replace(value=x / (1 + x.norm()))


class rows_as_same(gc.Stage):
    """Passes what each process has of its own as if all had it alike."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        x = update.value.flatten(1)
        u, _ = yield whole_matrix(x, function=lambda M, size: (M / (1 + size), size), same=(x.norm(),))
        return update.replace(value=u.view(update.value.shape))


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("shape", [(40, 3), (8, 2, 2), (4, 1)], ids=str)
def test_the_rehearsal_takes_a_stage_that_asks(stage: gc.Stage, shape: tuple[int, ...]) -> None:
    rehearse(gc.chain(stage, LR), shape)


@pytest.mark.parametrize("stage", [by_local_rows(), forgotten_rows(), rows_as_same()], ids=str)
def test_the_rehearsal_finds_out_a_stage_that_takes_its_rows_for_the_matrix(stage: gc.Stage) -> None:
    with pytest.raises(gc.ChainError, match=f"whole one: {stage.address} "):
        rehearse(gc.chain(stage, LR), (40, 3))
