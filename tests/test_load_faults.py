"""Random faults, hooks that misbehave and pickles of rubbish: an error, and nothing has changed."""

from __future__ import annotations

import copy
import fractions
import itertools
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradchain as gc
from tests.loading import (
    CHAINS,
    GROUP,
    also,
    assert_steps_alike,
    assert_untouched,
    at,
    everything,
    spoilt,
    trained,
    without,
)
from tests.test_optimizer import train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and still in old checkpoints
    QUANTIZED = torch.quantize_per_tensor(torch.zeros(4, 3), 0.1, 0, torch.qint8)

RUBBISH = st.sampled_from([
    None, True, -1, 0, 3, 0.5, -0.5, float("nan"), float("inf"), 10**400, 1j, "", "0", "lr", b"x", [], [0], [[]], (), {},
    {0: 0}, {"step": 1}, {1, 2}, len, int, object(), range(3), slice(3), fractions.Fraction(1, 3),
    torch.ones(()), torch.ones(3), torch.tensor(float("nan")), torch.tensor(1j), torch.ones(2, 2).to_sparse(), QUANTIZED,
    torch.ones((), device="meta"), torch.tensor([True]), torch.zeros(0), torch.ones(3, dtype=torch.int8),
    np.ones(3), np.float32(1), np.array("x"),
])  # fmt: skip


@st.composite
def mutations(draw: Any) -> list[tuple[list[int], str, Any]]:
    one = st.tuples(
        st.lists(st.integers(0, 30), min_size=1, max_size=5), st.sampled_from(["set", "delete", "add", "swap"]), RUBBISH
    )
    return draw(st.lists(one, min_size=1, max_size=3))


def mutated(saved: Any, faults: list[tuple[list[int], str, Any]]) -> Any:
    for path, action, value in faults:
        holder, key, inner = None, None, saved
        for number in path:
            if not isinstance(inner, (dict, list)) or not inner:
                break
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            holder, key = inner, keys[number % len(keys)]
            inner = holder[key]
        if holder is None:
            return value
        hashable = value if isinstance(value, (int, float, str, bytes, type(None), tuple)) else "added"
        if action == "delete":
            del holder[key]
        elif action == "set":
            holder[key] = value
        elif isinstance(holder, list):
            holder.insert(0, holder[-1] if action == "swap" else value)
        elif action == "add":
            holder[hashable] = value
        else:  # under another key
            holder[hashable] = holder.pop(key)
    return saved


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(list(CHAINS)), faults=mutations(), strict=st.booleans())
def test_random_faults_raise_state_errors_or_nothing(kind: str, faults: Any, strict: bool) -> None:
    subject = trained(kind)
    before = everything(subject[1])
    saved = mutated(spoilt(kind, lambda saved: saved), faults)
    try:
        subject[1].load_state_dict(saved, strict=strict)
    except gc.StateError:
        assert_untouched(subject[1], before)
    train(subject[1], subject[0], range(10, 12))
    subject[1].load_state_dict(subject[1].state_dict())


# Hooks.


class Broken(Exception):
    pass


def breaks(*_: Any) -> Any:
    raise Broken


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_hook_that_raises_leaves_everything_as_it_was(when: str) -> None:
    subject, twin = trained(), trained()
    train(subject[1], subject[0], [5]), train(twin[1], twin[0], [5])
    saved = spoilt("adamw", at(*GROUP, "lr", to=0.25))
    getattr(subject[1], f"register_load_state_dict_{when}_hook")(breaks)
    before = everything(subject[1])
    with pytest.raises(Broken):
        subject[1].load_state_dict(saved)
    assert_untouched(subject[1], before)
    assert_steps_alike(subject, twin)


@pytest.mark.parametrize(
    "given", [[], {}, 0, False, "x", {"state": {}}, {"state": None, "param_groups": None}], ids=repr
)
def test_a_pre_hook_may_not_return_rubbish(given: Any) -> None:
    _, optimizer = trained()
    optimizer.register_load_state_dict_pre_hook(lambda *_: given)
    before = everything(optimizer)
    with pytest.raises(gc.StateError):
        optimizer.load_state_dict(optimizer.state_dict())
    assert_untouched(optimizer, before)


def test_a_pre_hook_may_make_a_state_dict_of_something_else() -> None:
    _, optimizer = trained()
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(lambda _, state: state["wrapped"])
    assert optimizer.load_state_dict({"wrapped": saved}).clean


# Pickles.

ATTRIBUTES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "None": lambda held: None,
    "a list": lambda held: [held],
    "empty": lambda held: {},
    **{
        f"no {key}": without(key)
        for key in ("chain", "defaults", "state", "param_groups", "fresh", "capturable", "nonfinite")
    },
    "chain None": also(chain=None),
    "state a list": also(state=[]),
    "state of None": lambda held: {**held, "state": dict.fromkeys(held["state"])},
    "groups None": also(param_groups=None),
    "groups of None": also(param_groups=[None]),
    "groups without params": also(param_groups=[{"lr": 1.0}]),
    "groups of indices": also(param_groups=[{"params": [0, 1]}]),
    "fresh out of range": also(fresh=[99]),
    "fresh of text": also(fresh=["0"]),
    "a key 3": lambda held: {**held, 3: 3},
}


@pytest.mark.parametrize("spoil", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_rubbish_for_a_pickle_is_refused(spoil: Callable[[dict[str, Any]], Any]) -> None:
    _, optimizer = trained()
    before = everything(optimizer)
    blank = object.__new__(gc.Optimizer)
    with pytest.raises(gc.StateError):
        blank.__setstate__(spoil(optimizer.__getstate__()))
    assert not blank.__dict__
    assert_untouched(optimizer, before)


def test_rubbish_set_on_an_optimizer_in_use_changes_nothing() -> None:
    subject, twin = trained(), trained()
    before = everything(subject[1])
    for rubbish in (None, [], {"param_groups": 1}, {"state": 1}, {"fresh": [0]}, {3: 3}, {"chain": "adamw"}):
        with pytest.raises(gc.StateError):
            subject[1].__setstate__(rubbish)  # type: ignore[arg-type]
        assert_untouched(subject[1], before)
    assert_steps_alike(subject, twin)


def test_setting_attributes_does_not_consume_them() -> None:
    _, optimizer = trained()
    held = optimizer.__getstate__()
    keys = set(held)
    object.__new__(gc.Optimizer).__setstate__(held)
    assert set(held) == keys


def test_a_counter_set_by_hand_survives_a_copy() -> None:
    for value, copied in itertools.product((3, torch.tensor(3), torch.tensor([3.0])), (copy.deepcopy, _pickled)):
        subject, twin = trained(), trained()
        subject[1].state[subject[0][0]]["step"] = value
        assert_steps_alike(copied(subject), twin)


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))
