"""The functions of a chain refuse what is not alike, or no state of theirs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradchain
from tests.bad_values import refused

CHAIN, PRODIGY = gradchain.recipe("adamw"), gradchain.recipe("adv-prodigy")
PARAMS = {"w": torch.ones(3), "b": torch.ones(2)}
GRADS = {"b": torch.ones(2), "w": torch.ones(3)}
STATE, SHARED = CHAIN.init(PARAMS), PRODIGY.init(PARAMS)

NO_TREES: dict[str, Any] = {
    "none": None, "number": 3, "text": "x", "object": object(), "generator": (x for x in [1]),
    "numbers": {"w": 0.1, "b": 0.2},
    "arrays": {"w": np.ones(3), "b": np.ones(2)}, "module": nn.Linear(100, 100), "a none": {"w": torch.ones(3), "b": None},
    "integers": {"w": torch.ones(3, dtype=torch.long), "b": torch.ones(2)},
    "complex": {"w": torch.ones(3, dtype=torch.cfloat), "b": torch.ones(2)},
    "sparse": {"w": torch.ones(3).to_sparse(), "b": torch.ones(2)},
    "float8": {"w": torch.ones(3).to(torch.float8_e4m3fn), "b": torch.ones(2)},
    "one name": {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}},
}  # fmt: skip
UNLIKE: dict[str, Any] = {
    "nothing": {}, "one missing": {"w": torch.ones(3)}, "one more": {**GRADS, "x": torch.ones(1)},
    "a shape": {"w": torch.ones(4), "b": torch.ones(2)}, "a list": [torch.ones(3), torch.ones(2)], "bare": torch.ones(3),
    "another device": {"w": torch.ones(3, device="meta"), "b": torch.ones(2)},
}  # fmt: skip


@pytest.mark.parametrize("tree", [*NO_TREES.values(), *UNLIKE.values()], ids=[*NO_TREES, *UNLIKE])
def test_trees_are_tensors_and_alike(tree: Any) -> None:
    refused(lambda: CHAIN.update(tree, STATE, PARAMS), gradchain.GradchainError)
    refused(lambda: CHAIN.update(GRADS, STATE, tree), gradchain.GradchainError)
    refused(lambda: gradchain.apply_updates(PARAMS, tree), gradchain.GradchainError)
    refused(lambda: gradchain.apply_updates(tree, GRADS), gradchain.GradchainError)


@pytest.mark.parametrize("tree", NO_TREES.values(), ids=NO_TREES)
def test_a_state_is_made_of_tensors(tree: Any) -> None:
    refused(lambda: CHAIN.init(tree), gradchain.GradchainError)


@pytest.mark.parametrize("state", [*NO_TREES.values(), *UNLIKE.values()], ids=[*NO_TREES, *UNLIKE])
def test_a_state_is_what_init_makes(state: Any) -> None:
    refused(lambda: CHAIN.update(GRADS, state, PARAMS), gradchain.StateError, ["chain.init"])
    for part in ("step", "slots"):
        refused(lambda part=part: CHAIN.update(GRADS, {**STATE, part: state}, PARAMS), gradchain.GradchainError)


def with_slot(**slots: Any) -> Any:
    state = copy.deepcopy(STATE)
    state["slots"]["w"] |= {key.replace("__", "."): value for key, value in slots.items()}
    return CHAIN.update(GRADS, state, PARAMS)


def without_slot() -> Any:
    state = copy.deepcopy(STATE)
    del state["slots"]["w"]["first_moment.exp_avg"]
    return CHAIN.update(GRADS, state, PARAMS)


def counted(step: Any) -> Any:
    return CHAIN.update(GRADS, {**STATE, "step": {"w": step, "b": torch.tensor(0)}}, PARAMS)


def shared(**numbers: Any) -> Any:
    return PRODIGY.update(GRADS, {**SHARED, "shared": {**SHARED["shared"], **numbers}}, PARAMS)


CASES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "slot none": (lambda: with_slot(first_moment__exp_avg=None), ["w", "first_moment.exp_avg", "None"]),
    "slot text": (lambda: with_slot(first_moment__exp_avg="x"), ["w", "first_moment.exp_avg", "a str"]),
    "slot shape": (lambda: with_slot(first_moment__exp_avg=torch.ones(4)), ["first_moment.exp_avg", "(4,)", "(3,)"]),
    "slot one number": (
        lambda: with_slot(first_moment__exp_avg=torch.ones(())),
        ["first_moment.exp_avg", "()", "(3,)"],
    ),
    "slot more": (lambda: with_slot(nope__exp_avg=torch.ones(3)), ["nope.exp_avg"]),
    "slot less": (without_slot, ["first_moment.exp_avg"]),
    "other chain": (lambda: CHAIN.update(GRADS, gradchain.recipe("lion").init(PARAMS), PARAMS), ["another chain"]),
    "optimizer's": (
        lambda: CHAIN.update(GRADS, gradchain.optimizer("adamw", [nn.Parameter(torch.ones(2))]).state_dict(), PARAMS),
        ["chain.init"],
    ),
    "swapped": (lambda: CHAIN.update(STATE, GRADS, PARAMS), ["update(grads, state, params)"]),
    "step negative": (lambda: counted(torch.tensor(-5)), ["step count of w", "-5"]),
    "step a half": (lambda: counted(torch.tensor(0.5)), ["step count of w", "0.5"]),
    "step nan": (lambda: counted(torch.tensor(float("nan"))), ["step count of w", "nan"]),
    "steps two": (lambda: counted(torch.zeros(2)), ["step count of w", "(2,)"]),
    "step text": (lambda: counted("x"), ["step count of w", "'x'"]),
    "step int": (lambda: counted(3), ["step count of w", "3"]),
    "d none": (lambda: shared(d=None), ["d is None"]),
    "d text": (lambda: shared(d="x"), ["d is 'x'"]),
    "d negative": (lambda: shared(d=torch.tensor(-1.0)), ["d", "(0, inf)"]),
    "d nan": (lambda: shared(d=torch.tensor(float("nan"))), ["d", "nan"]),
    "d two": (lambda: shared(d=torch.ones(2)), ["d", "(2,)"]),
    "d more": (lambda: shared(e=torch.ones(())), ["e"]),
    "unknown": (lambda: CHAIN.update(GRADS, STATE, PARAMS, learning_rate=3), ["'learning_rate'", "lr"]),
}


@pytest.mark.parametrize(("build", "words"), CASES.values(), ids=CASES)
def test_a_wrong_state_or_number_is_explained(build: Callable[[], Any], words: list[str]) -> None:
    refused(build, gradchain.GradchainError, words)


def test_good_neighbours() -> None:
    updates, state = CHAIN.update(GRADS, STATE, PARAMS, lr=torch.tensor([0.1]))
    gradchain.apply_updates(PARAMS, updates)
    CHAIN.update(GRADS, state, PARAMS, lr=torch.tensor(0.1, requires_grad=True))
    CHAIN.update({"w": torch.ones(3, dtype=torch.float64), "b": torch.ones(2)}, state, PARAMS)
    torch.func.grad(lambda lr: CHAIN.update(GRADS, STATE, PARAMS, lr=lr)[0]["w"].sum())(torch.tensor(0.1))
    torch.func.vmap(lambda lr: CHAIN.update(GRADS, STATE, PARAMS, lr=lr)[0]["w"])(torch.tensor([0.1, 0.2]))
    shared(d=torch.tensor(1e-3))
