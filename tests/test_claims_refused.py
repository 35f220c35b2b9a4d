"""Stages that break a rule are refused where they are built into something; those that cannot be tried are not trusted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from tests.claims import LR, of, stage

GLOBAL = {
    "rand": lambda v, ctx: v + torch.rand(3, 3),
    "randn_like": lambda v, ctx: v + torch.randn_like(v),
    "dropout": lambda v, ctx: nn.functional.dropout(v),
    "bernoulli": lambda v, ctx: v.clone().bernoulli_(0.5),
    "uniform": lambda v, ctx: torch.empty_like(v).uniform_(),
}


@pytest.mark.parametrize("what", GLOBAL)
def test_the_global_generator_is_refused_and_not_advanced(what: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(gc.ChainError, match=r"claims_user: its update calls aten\.\w+.*ctx\.random_bits"):
        gc.Optimizer([nn.Parameter(torch.zeros(3, 3))], gc.chain(stage(GLOBAL[what]), LR))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_of_the_stage_itself_does_not_notice() -> None:
    generator = torch.Generator().manual_seed(1)
    act = lambda v, ctx: v + torch.rand((3, 3), generator=generator)  # noqa: E731
    before = generator.get_state()
    assert not of(stage(act)).elementwise
    assert torch.equal(generator.get_state(), before)


# Impurity.

LOOKS = {
    "item": lambda v, ctx: v * v.sum().item(),
    "float": lambda v, ctx: v * float(v.sum()),
    "bool": lambda v, ctx: v if v.sum() > 0 else -v,
    "tolist": lambda v, ctx: v * v.tolist()[0][0],
    "numpy": lambda v, ctx: v * torch.from_numpy(v.numpy().copy()),
    "equal": lambda v, ctx: v if torch.equal(v, v) else -v,
    "allclose": lambda v, ctx: v if torch.allclose(v, v) else -v,
}


@pytest.mark.parametrize("what", LOOKS)
def test_a_look_at_a_value_is_refused(what: str) -> None:
    with pytest.raises(gc.ChainError, match=r"claims_user: its update looks at a value .*torch\.where"):
        gc.Optimizer([nn.Parameter(torch.zeros(3, 3))], gc.chain(stage(LOOKS[what]), LR))
    with pytest.raises(gc.ChainError, match="claims_user"):
        gc.chain(stage(LOOKS[what]), LR).init(torch.zeros(3, 3))


WRITES = {
    "mul_": lambda v, ctx: v.mul_(2),
    "out": lambda v, ctx: torch.mul(v, 2, out=v),
    "data": lambda v, ctx: v.data.add_(1),
    "view": lambda v, ctx: v.view(-1)[0].fill_(1) + v,
    "gradient": lambda v, ctx: v + ctx.gradient.zero_(),
    "parameter": lambda v, ctx: v + ctx.stored_param.zero_(),
    "foreach": lambda v, ctx: torch._foreach_add_([v], 1) or v,
}


@pytest.mark.parametrize("what", WRITES)
def test_a_write_into_what_is_given_is_refused(what: str) -> None:
    param = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(gc.ChainError, match=r"claims_user: its update wrote into .*aten\."):
        gc.Optimizer([param], gc.chain(stage(WRITES[what]), LR))
    assert (param == 1).all()


# Stages that cannot be tried.


class claims_picky(gc.Stage):
    """Wants rows of 128."""

    def slots(self, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        return {"m": gc.Slot()}

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        value = update.value.view(-1, 128)
        ctx.record("picky", value.new_ones(()))
        return update.replace(value=(value * (ctx.random_bits() < 0)).view(update.value.shape))


@pytest.mark.parametrize("rows", [2, 200])
def test_a_stage_that_wants_certain_shapes_is_tried_on_those(rows: int) -> None:
    found = of(claims_picky(), shape=(rows, 128))
    assert (found.elementwise, found.draws, found.joint, found.records) == (False, True, (), ("picky",))


def test_a_stage_that_cannot_be_tried_at_all_is_not_trusted() -> None:
    found = of(stage(lambda v, ctx: 1 // 0))
    assert (found.elementwise, found.draws) == (False, True)


# `slots`.


def failing(error: Exception, when: Any) -> gc.Stage:
    def slots(self: Any, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        if when(p):
            raise error
        return {"m": gc.Slot()}

    return type("claims_slots", (gc.Stage,), {"slots": slots})()


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), ValueError("no"), IndexError("no"), TypeError("no"), KeyError("no")]
)
def test_slots_that_raise_are_reported(error: Exception) -> None:
    with pytest.raises(
        gc.ChainError, match=rf"claims_slots: its `slots` raised {type(error).__name__}: .*no"
    ) as caught:
        gc.chain(failing(error, lambda param: True), LR)
    assert caught.value.__cause__ is error
    chain = gc.chain(failing(error, lambda p: p.shape == (3, 5)), LR)
    with pytest.raises(gc.ChainError, match=r"claims_slots.*parameter w of shape \(3, 5\), torch.float32") as caught:
        gc.Optimizer([("v", nn.Parameter(torch.zeros(2, 2))), ("w", nn.Parameter(torch.zeros(3, 5)))], chain)
    assert caught.value.__cause__ is error
    assert caught.value.stage == "claims_slots"
    with pytest.raises(gc.ChainError, match=r"claims_slots.*parameter a of shape \(3, 5\)"):
        chain.init({"a": torch.zeros(3, 5)})


def declaring(slots: Any) -> gc.Chain:
    return gc.chain(type("claims_declaring", (gc.Stage,), {"slots": lambda self, p: slots(p)})(), LR)


@pytest.mark.parametrize(
    ("slots", "match"),
    [
        (lambda p: {"m": torch.zeros(p.shape)}, r"its `slots` returned .*gradchain\.Slot\(\)"),
        (lambda p: {"m": gc.Slot(shape=(4,), per_row=True)}, r"'m' of shape \(4,\) has not one row for each row"),
        (lambda p: {"m": gc.Slot(storage="fp8")}, r"Slot\.storage = 'fp8'"),
        (lambda p: {"m": gc.Slot("zeros")}, r"Slot\.fill = 'zeros'"),
        (lambda p: {"m": gc.Slot(lambda param, shard: param[0])}, "its fill returned shape"),
        (lambda p: {"m": gc.Slot()} if p.numel > 100 else {}, "and for no small one"),
        (lambda p: {"m": gc.Slot(storage="bf16" if p.numel > 100 else None)}, "kept in different ways"),
    ],
)
def test_slots_that_cannot_be_are_refused(slots: Any, match: str) -> None:
    with pytest.raises(gc.GradchainError, match=match):
        gc.Optimizer([nn.Parameter(torch.zeros(20, 20))], declaring(slots))


def test_a_fill_gets_the_rows_and_its_result_the_dtype() -> None:
    chain = declaring(
        lambda p: {"m": gc.Slot(lambda param, shard: param.sum(1), shape=p.shape[:1], dtype=torch.float64)}
    )
    made = chain.init(torch.ones(2, 3))["slots"][""]["claims_declaring.m"]
    assert (made.tolist(), made.dtype) == ([3.0, 3.0], torch.float64)
