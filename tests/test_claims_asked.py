"""Noise, totals over several parameters and recorded names are observed, not declared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain._chain.tracing import reaching_out, traits_of
from tests.claims import LR, noisy, of, stage

# Noise.


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_noise_is_made_for_whoever_draws_it(compile: bool) -> None:
    assert of(stage(noisy)).draws
    assert not of(stage(lambda v, ctx: v)).draws
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    optimizer = gc.Optimizer(params, gc.chain(stage(noisy), LR), compile=compile)
    for param in params:
        param.grad = torch.ones(3)
    optimizer.step()
    assert not torch.equal(params[0], params[1])


def test_noise_depends_on_dtype_role_and_options() -> None:
    rounded = gc.chain(gc.promote("fp32"), LR, gc.stochastic_round())
    for dtype, draws in ((torch.float32, False), (torch.bfloat16, True)):
        param = torch.zeros(2, dtype=dtype)
        assert traits_of(rounded.route("", param), param).draws == draws
    by_role = gc.chain(stage(lambda v, ctx: noisy(v, ctx) if ctx.role == "oft" else v), LR)
    param = torch.zeros(2)
    assert [traits_of(by_role.route("", param, role), param).draws for role in (None, "oft")] == [False, True]

    class claims_optional(gc.Stage):
        size: float | None = gc.hyper(default=None, ge=0, optional=True)

        def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
            return update if self.size is None else update.replace(value=noisy(update.value, ctx) * self.size)

    param = nn.Parameter(torch.zeros(2))
    optimizer = gc.Optimizer([param], gc.chain(claims_optional(), LR), compile=False)
    optimizer.param_groups[0]["size"] = 1.0
    param.grad = torch.ones(2)
    optimizer.step()


# Totals over several parameters.


class claims_joint(gc.Stage):
    """Divides matrices by what all of them add up to."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        if len(ctx.shape) < 2:
            return update
        t = yield gc.all_parameters(g=update.value.abs())
        return update.replace(value=update.value / t.g)


def test_a_stage_need_not_say_that_it_asks_about_others() -> None:
    chain = gc.chain(claims_joint(), LR)
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2, 2))]
    for param in params:
        param.grad = torch.ones(2, 2)
    optimizer = gc.Optimizer(params, chain, compile=False)
    optimizer.step()
    assert all((param == -1 / 8).all() for param in params)
    with pytest.raises(gc.ChainError, match="claims_joint needs the gradients of all"):
        gc.step_in_backward(optimizer)
    assert reaching_out(chain, params) == "claims_joint"
    assert reaching_out(chain, [torch.zeros(3)]) is None


def test_a_request_that_nobody_expected_is_refused_where_parameters_are_stepped_apart() -> None:
    class claims_late(gc.Stage):
        late = False

        def update(self, update: gc.Update, ctx: gc.Context) -> Any:
            if not type(self).late:
                return update
            t = yield gc.all_parameters(g=update.value)
            return update.replace(value=t.g * update.value)

    param = nn.Parameter(torch.ones(2))
    optimizer = gc.Optimizer([param], gc.chain(claims_late(), LR), compile=False)
    claims_late.late = True
    with gc.step_in_backward(optimizer), pytest.raises(gc.ChainError, match="claims_late asks for totals"):
        param.sum().backward()
    assert (param == 1).all()


# Telemetry.


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_a_name_that_is_recorded_is_reported(compile: bool) -> None:
    def act(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
        ctx.record("first", v.new_ones(()))
        return v

    param = nn.Parameter(torch.ones(2))
    optimizer = gc.Optimizer([param], gc.chain(stage(act), LR), compile=compile, telemetry=True)
    assert optimizer.telemetry() == {"step": 0, "first": 0.0}
    param.grad = torch.ones(2)
    optimizer.step()
    told = optimizer.telemetry()
    assert (told["step"], told["first"]) == (1, 1.0)


def test_a_name_that_only_comes_up_later_stays() -> None:
    names: list[str] = []

    def act(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
        for name in names:
            ctx.record(name, v.new_ones(()))
        return v

    param = nn.Parameter(torch.ones(2))
    optimizer = gc.Optimizer([param], gc.chain(stage(act), LR), compile=False, telemetry=True)
    seen: list[float | None] = []
    for names[:] in ([], ["late"], []):
        param.grad = torch.ones(2)
        optimizer.step()
        seen.append(optimizer.telemetry().get("late"))
    assert seen == [None, 1.0, 0.0]
