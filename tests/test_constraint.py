"""Constraints of one's own on the value that a step writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain import transforms as t
from tests.laws.running import functional, gradients, optimize, tensors

SHAPES = [(8, 16), (5,), (), (2, 3, 4)]
LR = gc.scale_by_learning_rate(0.3)


class box(gc.Constraint):
    """Keeps every number within +-`side`."""

    side: float = gc.hyper(default=0.5, gt=0)

    def constrain(self, new_param: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
        return new_param.clamp(-self.side, self.side)


class ball(gc.Constraint):
    """Keeps the norm of a parameter at `radius`."""

    radius: float = gc.hyper(default=2.0, gt=0)

    def constrain(self, new_param: torch.Tensor, ctx: gc.Context) -> Any:
        total = yield gc.whole_tensor(square=new_param.square())
        norm = total.square.sqrt().clamp(min=1e-12).to(new_param.dtype)
        return new_param * (self.radius / norm)


def chains() -> dict[str, gc.Chain]:
    return {
        "box": gc.chain(t.first_moment(0.8), t.decoupled_decay(0.1), LR, box()),
        "ball": gc.chain(t.first_moment(0.8), LR, t.decoupled_decay(0.1), ball()),
        "both": gc.chain(t.sign(), LR, ball(), box(0.3)),
    }


def oracle(name: str, w: torch.Tensor, grads: list[torch.Tensor]) -> torch.Tensor:
    """The parameter after all gradients, in float64."""
    m = torch.zeros_like(w)
    for step, g in enumerate(grads, 1):
        m = 0.8 * m + 0.2 * g
        u, decay = (g.sign(), 0.0) if name == "both" else (m / (1 - 0.8**step), 0.1)
        w = w - 0.3 * decay * w - 0.3 * u
        if name != "box":
            w = 2 * w / w.norm().clamp(min=1e-12)
        if name != "ball":
            side = 0.5 if name == "box" else 0.3
            w = w.clamp(-side, side)
    return w


@pytest.mark.parametrize("name", chains())
def test_eagerly_compiled_and_as_functions_it_is_the_formula(name: str, traced: Any) -> None:
    chain = chains()[name]
    params, grads = tensors(1, SHAPES, torch.float64), gradients(4, SHAPES, torch.float64)
    expected = [oracle(name, p, [step[at] for step in grads]) for at, p in enumerate(params)]
    ways = [optimize(chain, params, grads, compile=compile)[0] for compile in (False, True)]
    for found in (*ways, functional(chain, params, grads)):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert traced


def test_it_gets_the_new_value_and_knows_the_old_one() -> None:
    seen: list[torch.dtype] = []

    class noting(gc.Constraint, register=False):
        def constrain(self, new_param: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
            seen.append(new_param.dtype)
            return ctx.param + 0.5 * (new_param - ctx.param)

    param = nn.Parameter(torch.tensor([8.0], dtype=torch.bfloat16))
    optimizer = gc.Optimizer(
        [param], gc.chain(t.promote("fp32"), gc.scale_by_learning_rate(1.0), noting()), compile=False
    )
    param.grad = torch.tensor([4.0], dtype=torch.bfloat16)
    optimizer.step()
    assert {*seen} == {torch.float32}  # that of the chain
    assert param.item() == 6.0


@pytest.mark.parametrize(
    ("stages", "late"),
    [
        ((box(), t.sign(), LR), "sign"),
        ((box(), LR), "scale_by_learning_rate"),
        ((LR, box(), t.decoupled_decay(0.1)), "decoupled_decay"),
        ((LR, ball(), box(), t.clip_by_value()), "clip_by_value"),
    ],
    ids=["before all", "before the rate", "before the decay", "between"],
)
def test_what_changes_the_step_stands_before_it(stages: tuple[gc.Stage, ...], late: str) -> None:
    with pytest.raises(gc.ChainError, match=rf"would write, but {late} follows it.*Move (box|ball) behind it"):
        gc.chain(*stages)


def test_what_decides_how_it_is_stored_stands_behind_it() -> None:
    assert gc.chain(t.promote("fp32"), LR, ball(), box(), t.stochastic_round()).names[-1] == "stochastic_round"
    with pytest.raises(gc.ChainError, match="stochastic_round must come last"):
        gc.chain(t.promote("fp32"), LR, t.stochastic_round(), box())


def test_the_number_is_one_of_the_group() -> None:
    param = nn.Parameter(torch.tensor([4.0, -4.0]))
    optimizer = gc.Optimizer([param], gc.chain(LR, box(3.0)), compile=False)
    for side in (3.0, 1.0):
        optimizer.param_groups[0]["side"] = side
        param.grad = torch.zeros(2)
        optimizer.step()
        assert param.tolist() == [side, -side]


def test_with_no_gradient_or_in_a_skipped_step_nothing_moves() -> None:
    """ADOPT does not move a parameter in its first step: one off the sphere stays off until the second."""
    chain = gc.chain(t.adopt(0.9), t.divide(1e-6), LR, ball(1.0))
    for compile in (False, True):
        moved, still = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([3.0, 4.0]))
        optimizer = gc.Optimizer([moved, still], chain, compile=compile)
        moved.grad = torch.tensor([1.0, 2.0])
        optimizer.step()
        assert moved.tolist() == [3.0, 4.0]
        optimizer.step()
        assert moved.norm().item() == pytest.approx(1.0, rel=1e-6)
        assert still.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("compile", [False, True])
def test_bfloat16_is_rounded_after_the_constraint(compile: bool, traced: Any) -> None:
    """At random, to a neighbour of the constrained value: right on average, and of two values each."""
    chain = gc.chain(t.promote("fp32"), LR, box(0.301), t.stochastic_round())
    param = nn.Parameter(torch.full((4096,), 8.0, dtype=torch.bfloat16))
    optimizer = gc.Optimizer([param], chain, compile=compile)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    lower, upper = 0.30078125, 0.302734375  # the bfloat16 numbers beside 0.301
    assert param.unique().tolist() == [lower, upper]
    share = (param == upper).float().mean().item()
    assert share == pytest.approx((0.301 - lower) / (upper - lower), abs=0.025)  # five standard deviations


@pytest.mark.parametrize("name", chains())
def test_the_last_row_of_a_trace_is_the_step(name: str) -> None:
    chain = chains()[name]
    (value,), state = tensors(1, SHAPES[:1]), None
    state = chain.init(value)
    for (g,) in gradients(3, SHAPES[:1]):
        trace = chain.trace(g, value, state)
        update, state = chain.update(g, state, value)
        assert torch.equal(trace.change, update)
        assert trace.rows[-1].stage == "parameter"
        assert [row.stage for row in trace.rows][1:-1] == list(chain.names)
        value = gc.apply_updates(value, update)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda x: x.mT, r"constrained a parameter of shape \(2, 3\) to a tensor of shape \(3, 2\); keep the shape"),
        (lambda x: x > 0, "return a floating tensor"),
        (lambda x: 0.0, "return a floating tensor"),
        (lambda x: None, "return a floating tensor"),
    ],
    ids=["shape", "bool", "number", "None"],
)
def test_a_constraint_returns_a_tensor_like_the_parameter(made: Any, told: str) -> None:
    class broken(gc.Constraint, register=False):
        def constrain(self, new_param: torch.Tensor, ctx: gc.Context) -> Any:
            return made(new_param)

    param = nn.Parameter(torch.ones(2, 3))
    optimizer = gc.Optimizer([param], gc.chain(LR, broken()), compile=False)
    param.grad = torch.ones(2, 3)
    with pytest.raises(gc.ChainError, match=f"broken .*{told}"):
        optimizer.step()
    assert torch.equal(param, torch.ones(2, 3))
