"""Which parameters share a call: models repeat their blocks, and so should the calls of a step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shapes import LISTS
from gradchain._engine.buckets import ELEMENTS_PER_CALL, LAUNCHED_ELEMENTS, TENSORS_PER_CALL, filled, repeating

Shapes = list[tuple[int, ...]]


def works(shapes: Shapes) -> list[Any]:
    return [SimpleNamespace(owner=torch.empty(shape, device="meta")) for shape in shapes]


def kernels(calls: list[list[Any]]) -> int:
    return len({tuple(item.owner.shape for item in call) for call in calls})


@pytest.mark.parametrize(("name", "most"), [("gpt2-124m", 2), ("gpt2-1.5b", 3), ("small", 2)])
def test_a_transformer_takes_few_kernels(name: str, most: int) -> None:
    """Calls of sixteen in order start at another place of the block each: these took six, four and two."""
    items = [item for item in works(LISTS[name]) if item.owner.numel() <= LAUNCHED_ELEMENTS]
    calls = filled(items)
    assert kernels(calls) <= most
    assert len(calls) <= len(items) / 8


shapes_of_models = st.tuples(
    *(st.lists(st.sampled_from([(3,), (4, 4), (2, 8), (1 << 12, 1 << 10)]), max_size=size) for size in (5, 9, 5)),
    st.integers(0, 9),
).map(lambda parts: [*parts[0], *(parts[3] * parts[1]), *parts[2]])


@given(shapes_of_models)
def test_all_go_once_and_no_call_takes_too_much(shapes: Shapes) -> None:
    items = works(shapes)
    calls = filled(items)
    assert sorted(id(item) for call in calls for item in call) == sorted(map(id, items))
    for call in calls:
        assert len(call) <= TENSORS_PER_CALL * 3 // 2
        assert len(call) == 1 or sum(item.owner.numel() for item in call) <= ELEMENTS_PER_CALL


@given(shapes_of_models)
def test_what_repeats_does(shapes: Shapes) -> None:
    sizes = list(map(torch.Size, shapes))
    start, stop, period = repeating(sizes, 16)
    assert all(sizes[place] == sizes[place + period] for place in range(start, stop - period))
