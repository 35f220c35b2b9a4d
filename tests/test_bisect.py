"""Delta debugging: planted guilty edits are found, and nothing else is blamed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gradchain as gc
from gradchain.ablation import Bisection, StudyError, bisect

ROSE, ADAMW = gc.recipe("rose"), gc.recipe("adamw")
STACK = gc.chain(*(gc.clip_by_value(1.0, name=f"s{number}") for number in range(8)), gc.scale_by_learning_rate(0.1))
NAMES = STACK.names[:-1]
BARE = STACK.without(*NAMES)


def without(*names: str) -> tuple[str, ...]:
    return tuple(f"-{name}" for name in names)


@pytest.mark.parametrize("name", NAMES)
def test_one_guilty_edit(name: str) -> None:
    found = bisect(STACK, BARE, lambda chain: name not in chain)
    assert found.edits == without(name)
    assert found.chain == STACK.without(name)
    assert found.of == 8
    assert str(found) == f"guilty: -{name} (1 of 8 edits; {found.tests} tests)"


@pytest.mark.parametrize("pair", [*itertools.combinations(NAMES, 2)])
def test_a_guilty_pair(pair: tuple[str, str]) -> None:
    """Neither alone is bad, wherever they stand."""
    found = bisect(STACK, BARE, lambda chain: pair[0] not in chain and pair[1] not in chain)
    assert found.edits == without(*pair)


@pytest.mark.parametrize("count", [3, 5, 8])
def test_several(count: int) -> None:
    found = bisect(STACK, BARE, lambda chain: all(name not in chain for name in NAMES[:count]))
    assert found.edits == without(*NAMES[:count])


def test_each_chain_is_asked_about_once() -> None:
    asked: list[gc.Chain] = []

    def is_bad(chain: gc.Chain) -> bool:
        asked.append(chain)
        return "s2" not in chain and "s6" not in chain

    found = bisect(STACK, BARE, is_bad)
    assert len(asked) == len(set(asked)) == found.tests
    assert found.tests < 2**8 / 4


@pytest.mark.parametrize("edit", gc.diff("rose", "adamw").edits)
def test_with_unsound_chains_in_between(edit: str) -> None:
    """Rose to AdamW: many parts of the way are no chains. What is blamed holds the guilty edit and what it needs."""
    try:
        alone = ROSE.edit(edit)
    except gc.GradchainError:
        alone = None
    asked: list[gc.Chain] = []

    def is_bad(chain: gc.Chain) -> bool:
        asked.append(chain)
        return edit in gc.diff(ROSE, chain).edits

    found = bisect("rose", "adamw", is_bad)
    assert edit in found.edits
    assert alone is None or found.edits == (edit,)
    for left_out in found.edits:
        rest = [other for other in found.edits if other != left_out]
        try:
            assert not is_bad(ROSE.edit(*rest))
        except gc.GradchainError:
            continue


def test_what_cannot_be_said() -> None:
    """Every part of half the size is unresolved: only single edits, and all but one, can be judged."""

    def is_bad(chain: gc.Chain) -> bool | None:
        gone = [name for name in NAMES if name not in chain]
        return None if 1 < len(gone) < 7 else "s3" in gone

    found = bisect(STACK, BARE, is_bad)
    assert found.edits == without("s3")
    assert found.unresolved > 0
    assert f"{found.unresolved} unresolved" in str(found)


def test_numpy_answers() -> None:
    assert bisect(STACK, BARE, lambda chain: np.bool_("s1" not in chain)).edits == without("s1")


def test_what_is_refused() -> None:
    with pytest.raises(StudyError, match="are the same"):
        bisect("rose", ROSE, lambda chain: True)
    with pytest.raises(StudyError, match="calls the good chain bad"):
        bisect("rose", "adamw", lambda chain: True)
    with pytest.raises(StudyError, match="calls the bad chain not bad"):
        bisect("rose", "adamw", lambda chain: False)
    with pytest.raises(StudyError, match="calls the good chain None"):
        bisect("rose", "adamw", lambda chain: None)
    with pytest.raises(StudyError, match=r"is_bad returned 0\.5, a float"):
        bisect("rose", "adamw", lambda chain: 0.5)  # type: ignore[arg-type,return-value]


def test_it_is_a_value() -> None:
    assert bisect(STACK, BARE, lambda chain: "s1" not in chain) == bisect(STACK, BARE, lambda chain: "s1" not in chain)
    assert isinstance(hash(bisect(STACK, BARE, lambda chain: "s1" not in chain)), int)
    assert Bisection.__doc__
