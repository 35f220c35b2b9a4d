"""A state that was spoilt by hand between two steps is refused before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradchain as gc
from tests.loading import AVG, trained
from tests.test_optimizer import assert_same, train


def edit(slot: Any, value: Any) -> Callable[[Any, torch.Tensor], None]:
    def change(optimizer: Any, param: torch.Tensor) -> None:
        optimizer.state[param][slot] = value(optimizer.state[param][slot]) if callable(value) else value

    return change


def drop(slot: str) -> Callable[[Any, torch.Tensor], None]:
    return lambda optimizer, param: optimizer.state[param].pop(slot)


def whole(value: Any) -> Callable[[Any, torch.Tensor], None]:
    return lambda optimizer, param: optimizer.state.__setitem__(param, value)


EDITS: dict[str, tuple[Callable[[Any, torch.Tensor], Any], list[str]]] = {
    "step text": (edit("step", "3"), ["head", "'step'"]),
    "step None": (edit("step", None), ["head", "'step'"]),
    "step nan": (edit("step", float("nan")), ["head", "nan"]),
    "step negative in place": (lambda o, p: o.state[p]["step"].fill_(-3), ["head", "-3"]),
    "step fractional": (edit("step", torch.tensor(2.5)), ["head", "2.5"]),
    "step of two": (edit("step", torch.ones(2)), ["head", "(2,)"]),
    "step true": (edit("step", True), ["head", "'step'"]),
    "step huge": (edit("step", 10**400), ["head", "'step'"]),
    "a slot of another shape": (edit(AVG, torch.zeros(5)), ["head", AVG, "(5,)", "(3, 2)"]),
    "a slot of integers": (edit(AVG, lambda x: x.int()), ["head", AVG, "int32", "float32"]),
    "a complex slot": (edit(AVG, lambda x: x + 0j), ["head", AVG, "complex"]),
    "a sparse slot": (edit(AVG, lambda x: x.to_sparse()), ["head", AVG, "sparse"]),
    "a slot on meta": (edit(AVG, lambda x: x.to("meta")), ["head", AVG, "meta"]),
    "a slot of None": (edit(AVG, None), ["head", AVG, "None"]),
    "a slot as a list": (edit(AVG, lambda x: x.tolist()), ["head", AVG, "list"]),
    "a slot as an array": (edit(AVG, lambda x: x.numpy()), ["head", AVG, "ndarray"]),
    "a state of None": (whole(None), ["head", "None"]),
    "a state that is a list": (whole([]), ["head", "list"]),
}  # fmt: skip


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("change", "words"), EDITS.values(), ids=EDITS)
def test_a_state_that_was_spoilt_by_hand_is_refused_before_anything_is_written(
    change: Any, words: list[str], compile: bool
) -> None:
    params, optimizer = trained()
    optimizer.compile = compile
    spoilt_one = params[2]
    change(optimizer, spoilt_one)
    values = [p.detach().clone() for p in params]
    others = copy.deepcopy([dict(optimizer.state[p]) for p in params if p is not spoilt_one])
    with pytest.raises(gc.StateError) as info:
        train(optimizer, params, [5])
    assert [word for word in words if word not in str(info.value)] == []
    assert_same([p.detach() for p in params], values)
    assert_same([dict(optimizer.state[p]) for p in params if p is not spoilt_one], others)
    optimizer.state[spoilt_one] = {}  # the advice: clear it
    train(optimizer, params, [6])


def test_a_plain_dict_for_the_state_will_do() -> None:
    params, optimizer = trained()
    optimizer.state = {}
    train(optimizer, params, [0])
    assert int(optimizer.state[params[0]]["step"]) == 1
