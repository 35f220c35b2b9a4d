"""Optimizers of several kinds, state dicts of theirs, and ways to spoil these."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

import gradchain as gc
from tests.test_optimizer import assert_same, frozen_copy, train

SHAPES = {"weight": (4, 3), "bias": (3,), "head": (3, 2), "scale": ()}


class drift(gc.SharedNumbers):
    """A stage as users write them: a slot, a rate, and a number that all parameters share."""

    shared_ranges: ClassVar[Any] = {"travelled": gc.Interval(0)}
    rate: float = gc.hyper(default=0.5, ge=0, lt=1)

    def slots(self, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        return {"mean": gc.Slot()}

    def init_shared(self) -> dict[str, float]:
        return {"travelled": 0.0}

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        mean = self.rate * ctx.read("mean") + (1 - self.rate) * update.value
        ctx.contribute(travelled=mean.abs().sum())
        return update.replace(value=mean), {"mean": mean}

    def share(self, totals: Any) -> dict[str, torch.Tensor]:
        return {"travelled": self.travelled + totals["travelled"]}


LR = gc.scale_by_learning_rate(0.05)
CHAINS: dict[str, gc.Chain] = {
    "adamw": gc.recipe("adamw", lr=0.05),
    "prodigy": gc.recipe("adv-prodigy", lr=1.0),
    "int8": gc.chain(gc.first_moment(0.9, storage="int8"), gc.second_moment(0.99), gc.divide(1e-8), LR),
    "user": gc.chain(drift(), LR),
    "routed": gc.recipe("adams", lr=0.05),
}


def made(kind: str, order: tuple[str, ...] = tuple(SHAPES), named: bool = True) -> tuple[list[Any], gc.Optimizer]:
    """Parameters by name in two groups of two, and their optimizer."""
    generator = torch.Generator().manual_seed(0)
    values = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    held: list[Any] = [(name, values[name]) if named else values[name] for name in order]
    groups = [{"params": held[:2]}, {"params": held[2:], "disable": ["decoupled_decay"] if kind == "adamw" else []}]
    return list(values.values()), gc.Optimizer(groups, CHAINS[kind], compile=False)


def trained(kind: str = "adamw", **options: Any) -> tuple[list[Any], gc.Optimizer]:
    params, optimizer = made(kind, **options)
    train(optimizer, params, range(3))
    return params, optimizer


def everything(optimizer: gc.Optimizer) -> Any:
    """Values, and the objects that hold them."""
    groups = optimizer.param_groups
    state = {param: dict(slots) for param, slots in optimizer.state.items()}
    return (
        frozen_copy(optimizer),
        groups,
        [dict(group) for group in groups],
        copy.deepcopy(groups),
        optimizer.state,
        state,
    )


def assert_untouched(optimizer: gc.Optimizer, before: Any) -> None:
    values, groups, shallow, deep, state, slots = before
    assert_same(frozen_copy(optimizer), values)
    assert optimizer.param_groups is groups
    assert optimizer.state is state
    for group, was, value in zip(groups, shallow, deep, strict=True):
        assert group.keys() == was.keys()
        assert all(group[key] is was[key] for key in was)
        assert all(bool(group[key] == value[key]) for key in value if key not in ("params", "param_names"))
    assert state.keys() == slots.keys()
    for param, held in slots.items():
        assert state[param].keys() == held.keys()
        assert all(state[param][slot] is held[slot] for slot in held)


@functools.cache
def continued(kind: str) -> Any:
    """What a trained optimizer comes to with three more steps."""
    params, optimizer = trained(kind)
    train(optimizer, params, range(10, 13))
    return frozen_copy(optimizer)


def assert_goes_on(kind: str, params: list[Any], optimizer: gc.Optimizer) -> None:
    """As if nothing had been loaded."""
    train(optimizer, params, range(10, 13))
    assert_same(frozen_copy(optimizer), continued(kind))


def assert_steps_alike(left: tuple[list[Any], gc.Optimizer], right: tuple[list[Any], gc.Optimizer]) -> None:
    for params, optimizer in (left, right):
        train(optimizer, params, range(10, 13))
    assert_same([p.detach() for p in left[0]], [p.detach() for p in right[0]])
    assert_same(frozen_copy(left[1]), frozen_copy(right[1]))


Spoil = Callable[[dict[str, Any]], Any]


def at(*path: Any, to: Any) -> Spoil:
    """Set an entry."""

    def spoil(saved: dict[str, Any]) -> dict[str, Any]:
        inner: Any = saved
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to(inner[path[-1]]) if callable(to) else to
        return saved

    return spoil


def without(*path: Any) -> Spoil:
    def spoil(saved: dict[str, Any]) -> dict[str, Any]:
        inner: Any = saved
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return saved

    return spoil


def keyed(convert: Callable[[Any], Any]) -> Spoil:
    return lambda saved: {**saved, "state": {convert(key): value for key, value in saved["state"].items()}}


def also(**entries: Any) -> Spoil:
    return lambda saved: {**saved, **entries}


AVG = "first_moment.exp_avg"
STEP, SLOT = ("state", 0, "step"), ("state", 0, AVG)
GROUP = ("param_groups", 0)


@functools.cache
def saved_once(kind: str) -> Any:
    return trained(kind)[1].state_dict()


def spoilt(kind: str, spoil: Spoil) -> Any:
    saved = saved_once(kind)
    plain = {
        "state": {key: {k: v.clone() for k, v in state.items()} for key, state in saved["state"].items()},
        "param_groups": copy.deepcopy(saved["param_groups"]),
        "chain": copy.deepcopy(saved["chain"]),
        "with_state": list(saved["with_state"]),
    }
    return spoil(plain)
