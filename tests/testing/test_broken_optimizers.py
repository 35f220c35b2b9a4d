"""Each law of optimizers is broken by someone, and tells."""

from __future__ import annotations

from typing import Any

import pytest

from gradchain.testing import ConformanceError, check_optimizer
from gradchain.testing.law import OF_OPTIMIZERS
from tests.testing.broken_optimizers import BROKEN, GlobalNorm, OwnOptimizer, RemembersTheLargest, Sound

LONG = ("compiled", "compiled_outside")
"""Laws that take seconds."""

ALSO: dict[str, set[str]] = {
    "DecayIntoGradient": {"maximize"},
    "AllHaveGradients": {"skipped_steps"},
    "GlobalNorm": {"own_rate", "none_gradients", "late_groups", "nonfinite_gradients"},
    "CastByTorch": {"resume", "resume_from_file"},
    "AnotherTensor": {"strided"},
    "RateOfTheStart": {"rate_zero", "numbers_act"},
    "DropsElements": {"independence", "late_groups", "strided", "own_rate"},
    "PythonsDice": {"independence", "none_gradients", "late_groups", "own_rate"},
    "OneCountForAll": {"failed_steps", "late_groups"},
    "TelemetryCosts": {"step_hooks"},  # torch calls hooks for each `step` of a class and its bases
    "CompiledIsAnother": {"step_hooks"},
}
"""Other laws of which the same fault is a breach."""


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemembersTheLargest, "largest", 1)


@pytest.mark.parametrize(
    ("law", "cls"), [pytest.param(*row, marks=pytest.mark.slow if row[0] in LONG else ()) for row in BROKEN]
)
def test_it_is_caught_by_the_law_that_it_breaks(law: str, cls: Any) -> None:
    report = check_optimizer(cls, only=[law], strict=False)
    assert report.failed == (law,), str(report)


@pytest.mark.slow
@pytest.mark.parametrize("cls", dict.fromkeys(cls for law, cls in BROKEN if law not in LONG))
def test_it_is_caught_by_no_other(cls: Any) -> None:
    report = check_optimizer(cls, skip=LONG, strict=False)
    assert {*report.failed} == {law for law, other in BROKEN if other is cls} | ALSO.get(cls.__name__, set()), str(
        report
    )


@pytest.mark.parametrize("cls", [Sound, OwnOptimizer])
def test_what_they_are_made_of_is_sound(cls: Any) -> None:
    assert check_optimizer(cls, skip=LONG).ok


def test_what_depends_on_all_parameters_by_design_may_say_so() -> None:
    report = check_optimizer(GlobalNorm, skip=LONG, cross_parameter=True)
    assert report["independence"].status == "not applicable"
    assert "cross_parameter=True" in report["independence"].why


def test_every_law_is_broken_by_someone() -> None:
    elsewhere = {"sharded", "nonfinite_policy"}
    """The first is broken by transforms, the second by none that has gradchain's step."""
    assert {law for law, _ in BROKEN} == {*OF_OPTIMIZERS} - elsewhere


def test_the_error_says_what_was_seen_what_is_lost_and_how_to_mend_it() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_optimizer(GlobalNorm, only=["independence", "resume"])
    text = str(caught.value)
    assert text.startswith("GlobalNorm breaks 1 law.\nindependence: alone, where it was one of 3: parameter 0")
    assert "Lost: Freezing, adding or sharding one layer" in text
    assert "Mend: Base nothing on the other parameters" in text
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report.failed == ("independence",)
