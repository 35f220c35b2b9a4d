"""Each law of transforms is broken by someone, and tells."""

from __future__ import annotations

from typing import Any

import pytest

from gradchain.testing import check_transform
from gradchain.testing.law import OF_TRANSFORMS
from tests.testing.broken_transforms import BROKEN, kit_sound

LONG = ("compiled", "compiled_outside", "options_act")
"""Laws that take seconds."""

ALSO: dict[str, set[str]] = {
    **{f"kit_writes_to_{what}": {"accepted"} for what in ("gradient", "slot", "parameter")},
    "kit_throws_dice": {"accepted"},
    "kit_reads_a_value": {"accepted", "numbers_as_tensors"},
    "kit_branches": {"accepted", "numbers_as_tensors"},
    "kit_returns_a_row": {"every_rank", "repeatable_update", "empty"},
    "kit_undeclared": {"every_rank"},
    "kit_takes_a_function": {"printed", "pickled"},
    "kit_first_axis": {"sharded"},
    "kit_mean_of_all": {"sharded"},  # a process may hold none of the rows
}
"""Other laws of which the same fault is a breach."""

ALL_OVER = ("kit_counts_calls", "kit_random_start")
"""Whose steps are never twice the same."""


LATE = ("compiled",)


@pytest.mark.parametrize(
    ("law", "cls"), [pytest.param(*row, marks=pytest.mark.slow if row[0] in LATE else ()) for row in BROKEN]
)
def test_it_is_caught_by_the_law_that_it_breaks(law: str, cls: Any) -> None:
    report = check_transform(cls, only=[law], strict=False)
    assert report.failed == (law,), str(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cls", dict.fromkeys(cls for law, cls in BROKEN if law not in LONG and cls.__name__ not in ALL_OVER)
)
def test_it_is_caught_by_no_other(cls: Any) -> None:
    report = check_transform(cls, skip=LONG, strict=False)
    meant = {law for law, other in BROKEN if other is cls}
    assert {*report.failed} == meant | ALSO.get(cls.__name__, set()), str(report)


def test_what_they_are_made_of_is_sound() -> None:
    assert check_transform(kit_sound, skip=LONG[:2]).ok


def test_every_law_is_broken_by_someone() -> None:
    assert {*OF_TRANSFORMS} <= {law for law, _ in BROKEN}
