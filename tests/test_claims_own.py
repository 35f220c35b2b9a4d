"""What is found out about gradchain's own stages, for every rank and dtype."""

from __future__ import annotations

import warnings

import pytest
import torch

from gradchain._chain.tracing import traits, traits_of
from tests.declared import ELEMENTWISE, EXACT, JOINT, PROJECTION, RANDOM
from tests.laws.cases import CASES, selected


@pytest.mark.parametrize("name", CASES)
def test_what_was_declared_is_found_out(name: str) -> None:
    """What our stages said of themselves before it was found out."""
    for dtype in (torch.float32, torch.float64):
        param = torch.zeros((8, 16), dtype=dtype)
        found = traits_of(CASES[name].chain.route("", param), param)
        assert (not (found.mixed or found.placed)) == (name in ELEMENTWISE), (found.mixed, found.placed)
        assert found.exact == (name in EXACT), found.packed
        assert found.draws == (name in RANDOM)
        assert list(found.joint) == JOINT.get(name, [])
        assert found.records == (PROJECTION if "momentum_project" in CASES[name].chain.names else ())


RANKS = {torch.bfloat16: [(), (4,), (4, 4), (4, 3, 3, 3), (0, 3)], torch.float16: [(), (4, 4)]}


@pytest.mark.parametrize("name", selected(CASES))  # a stage can be tried or cannot, whatever stands beside it
def test_all_ranks_and_dtypes_can_be_tried(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype, shapes in RANKS.items():
            for shape in shapes:
                param = torch.zeros(shape, dtype=dtype)
                found = traits_of(CASES[name].chain.route("", param), param)
                assert not any("could not be traced" in why for why in found.mixed.values()), found.mixed
                assert not found.exact or dtype == torch.float16 or "promote" in " ".join(CASES[name].chain.names)


@pytest.mark.parametrize("name", selected(CASES))
def test_what_looks_at_no_shape_is_the_same_for_all_ranks(name: str) -> None:
    """So our own programs that look at none are tried for one rank."""
    program = CASES[name].chain.route("", torch.zeros(3, 3))
    found = [traits._examined(program, torch.float32, torch.Size(shape)) for shape in ((4,), (4, 4), (4, 3, 3, 3))]
    assert any(each.own for each in found) or found.count(found[0]) == len(found)
