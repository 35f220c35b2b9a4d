"""What a study may say: against computations by hand, and by its rates of error in simulated studies."""

from __future__ import annotations

import gc
import math
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from gradchain.ablation import StudyError, statistics
from gradchain.ablation.statistics import ALPHA, Difference, judged, paired_difference, seeds_needed

ARMS = 6


def test_an_interval_by_hand() -> None:
    # d = 1, 2, 3: mean 2, s = 1, t(2, 0.975) = 4.302653, half width 4.302653 / sqrt(3) = 2.484138
    found = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.mean, found.pairs, found.test) == (2.0, 3, "t")
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(2 / (1 / math.sqrt(3)), 2))


def test_sign_flips_by_hand() -> None:
    # eight positive differences: of 2^8 signs only all plus and all minus reach the mean
    found = paired_difference([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0], [0.0] * 8)
    assert (found.test, found.p) == ("sign flips", 2 / 256)
    assert paired_difference([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0], [0.0] * 8, comparisons=ARMS).test == "t"


def test_one_pair_shows_nothing() -> None:
    found = paired_difference([2.0], [1.0], margin=5.0)
    assert found == Difference(1.0, None, None, 1, None)
    assert judged([found])[0].verdict == "not resolved"


def test_equal_differences_are_coarse_and_not_certain() -> None:
    found = paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert found.p == 0.25
    assert judged([found])[0].verdict == "not resolved"
    tied = paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (tied.mean, tied.p) == (0.0, 1.0)


@pytest.mark.parametrize(("values", "reference"), [([], []), ([1.0], [1.0, 2.0])])
def test_needs_pairs(values: list[float], reference: list[float]) -> None:
    with pytest.raises(ValueError, match="need pairs"):
        paired_difference(values, reference)


def test_a_bootstrapped_interval_follows_the_skew() -> None:
    values = [0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 0.6, 1.2, 3.0]
    found = paired_difference(values, [0.0] * 10)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.mean > 1.2 * (found.mean - found.low) > 0
    assert paired_difference(values, [0.0] * 10) == found  # no chance in it


def test_holm_by_hand() -> None:
    ps = (0.01, 0.04, 0.03)
    judgements = judged([Difference(1.0, 0.5, 1.5, 5, p, "t") for p in ps])
    assert [judgement.p for judgement in judgements] == pytest.approx([0.03, 0.06, 0.06])
    assert [judgement.verdict for judgement in judgements] == ["better", "not resolved", "not resolved"]


def test_the_direction_of_a_metric_counts() -> None:
    rise = Difference(1.0, 0.5, 1.5, 5, 0.001, "t")
    assert judged([rise])[0].verdict == "better"
    assert judged([rise], higher_is_better=False)[0].verdict == "worse"


def test_what_does_not_matter_is_equivalent_even_if_it_differs() -> None:
    rng = np.random.default_rng(0)
    values = list(0.1 + 0.01 * rng.standard_normal(12))
    assert judged([paired_difference(values, [0.0] * 12)])[0].verdict == "better"
    assert judged([paired_difference(values, [0.0] * 12, margin=0.5)])[0].verdict == "equivalent"
    assert judged([paired_difference(values, [0.0] * 12, margin=0.05)])[0].verdict == "better"


def test_two_one_sided_tests_by_the_library() -> None:
    differences = [0.1, -0.2, 0.05, 0.3, 0.0]
    above = stats.ttest_1samp(differences, -0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 0.5, alternative="less").pvalue
    found = paired_difference(differences, [0.0] * 5, margin=0.5)
    assert found.p_equivalent == pytest.approx(max(above, below))


def test_accuracies_that_tie_are_equivalent_as_far_as_their_rounding_tells() -> None:
    """Of 450 examples each: that six differences are 0 says that they are hardly more than one example."""
    accuracies = [0.96, 0.9622222222222222, 0.9577777777777777, 0.96, 0.9644444444444444, 0.96]
    tied = paired_difference(accuracies, accuracies, margin=0.005)
    assert tied.p_equivalent is not None
    assert 0 < tied.p_equivalent < 0.001
    within_an_example = paired_difference(accuracies, accuracies, margin=0.0005)
    assert within_an_example.p_equivalent is not None
    assert within_an_example.p_equivalent > 0.05
    unknown = paired_difference([0.96] * 6, [0.96] * 6, margin=0.005)  # nothing is known of the rounding
    assert unknown.p_equivalent == 2**-5


# Rates of error, in simulated studies of some arms that share their reference, as all arms share the full chain.


@pytest.fixture
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of corrections: statsmodels collects garbage in each, for a tenth of a second."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def compared(differences: list[float], margin: float | None, comparisons: int) -> Difference:
    """As `paired_difference`, without the interval, which no verdict depends on and which takes longest."""
    p, test = statistics._p_value(differences, comparisons)
    alike = None if margin is None else statistics._p_equivalent(differences, margin, 0.0)
    return Difference(fmean(differences), None, None, len(differences), p, test, alike)


def study(rng: np.random.Generator, seeds: int, effects: list[float], margin: float | None = None) -> list[str]:
    """The verdicts of a study whose arms differ from the full chain by these effects, in units of a run's noise."""
    full = rng.standard_normal(seeds)
    arms = [effect + rng.standard_normal(seeds) for effect in effects]
    found = [compared(list(arm - full), margin, len(arms)) for arm in arms]
    return [judgement.verdict for judgement in judged(found)]


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(("seeds", "studies"), [(3, 600), (6, 600), (9, 150)])
def test_where_nothing_differs_nothing_is_found(seeds: int, studies: int) -> None:
    """In at most 5 % of all studies, and three standard errors."""
    rng = np.random.default_rng(seeds)
    false = sum(set(study(rng, seeds, [0.0] * ARMS)) != {"not resolved"} for _ in range(studies))
    assert false / studies <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / studies)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("effect", [2.2, 3.0])
def test_what_differs_is_found_at_the_stated_power(effect: float) -> None:
    """One arm of six; differences of runs spread by the root of two."""
    studies, rng = 100, np.random.default_rng(7)
    seeds = seeds_needed(math.sqrt(2), effect, comparisons=ARMS)
    verdicts = [study(rng, seeds, [-effect] + [0.0] * (ARMS - 1)) for _ in range(studies)]
    power = sum(row[0] == "worse" for row in verdicts) / studies
    assert power >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / studies)
    assert power <= 0.95 or seeds <= 4  # not far more seeds than are needed
    assert sum("better" in row for row in verdicts) / studies <= 0.1


@pytest.mark.usefixtures("no_collection")
def test_what_is_as_large_as_the_margin_is_seldom_called_equivalent() -> None:
    studies, rng = 200, np.random.default_rng(3)
    wrong = sum("equivalent" in study(rng, 8, [1.0] * ARMS, margin=1.0) for _ in range(studies))
    assert wrong / studies <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / studies)


@pytest.mark.usefixtures("no_collection")
def test_what_is_equal_is_called_equivalent_with_enough_seeds() -> None:
    rng = np.random.default_rng(4)
    verdicts = [study(rng, 20, [0.0] * ARMS, margin=2.0) for _ in range(50)]
    assert sum(row.count("equivalent") for row in verdicts) / (50 * ARMS) >= 0.9


def test_seeds_needed_by_the_library() -> None:
    from statsmodels.stats.power import TTestPower

    exact = TTestPower().solve_power(effect_size=1.0, power=0.8, alpha=ALPHA)
    assert seeds_needed(0.5, 0.5) == math.ceil(exact)
    assert seeds_needed(0.5, 0.5, comparisons=8) > seeds_needed(0.5, 0.5)
    assert seeds_needed(0.0, 0.5) == 2


@pytest.mark.parametrize(
    ("spread", "effect", "text"), [(1.0, 0.0, "positive"), (1.0, math.nan, "positive"), (1.0, 1e-3, "more than")]
)
def test_an_effect_that_cannot_be_planned_for(spread: float, effect: float, text: str) -> None:
    with pytest.raises(StudyError, match=text):
        seeds_needed(spread, effect)
