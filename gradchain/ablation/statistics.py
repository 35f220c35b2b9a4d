"""The paired comparison of arms, and what a family of comparisons allows one to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, Literal

from gradchain.ablation.errors import StudyError, extra
from gradchain.errors import shown

ALPHA = 0.05
"""The rate at which a whole family of comparisons may find a difference where there is none."""

POWER = 0.8
MOST_SEEDS = 10_000
EXACT_PAIRS = 12
"""Up to so many pairs all sign flips are tried; beyond, a random ten thousand of them."""

BOOTSTRAP_PAIRS = 10
"""From so many pairs on, intervals are bootstrapped; with fewer, the bootstrap has too little to draw from."""

Verdict = Literal["better", "worse", "equivalent", "not resolved"]


@dataclass(frozen=True)
class Difference:
    """What the paired differences of two arms show, taken by themselves."""

    mean: float
    low: float | None
    """The 95 % interval of the mean; `None` for a single pair."""
    high: float | None
    pairs: int
    p: float | None
    """How often so large a mean would come about with no difference; `None` for a single pair."""
    test: str = ""
    """What `p` is from: `"t"` or `"sign flips"`; nothing where all pairs tie."""
    p_equivalent: float | None = None
    """The same for a difference of the margin or more; `None` without a margin."""


def paired_difference(
    values: Sequence[float], reference: Sequence[float], *, margin: float | None = None, comparisons: int = 1
) -> Difference:
    r"""Compare values with those of the same seeds.

    Args:
        values, reference: one number for each seed.
        margin: a difference that does not matter; tested against with two one-sided t tests.
        comparisons: the size of the family. Where its correction leaves sign flips a chance, they give `p`, exactly and
            without assuming a distribution: $n$ pairs allow none below $2^{1-n}$. With fewer pairs a t test does.

    The interval is $\bar d \pm t_{n-1}\, s_d / \sqrt n$, from ten pairs on BCa (Efron, 1987).

    Returns: the difference.
    Raises: ValueError: there are no pairs.
    """
    if len(values) != len(reference) or not values:
        raise ValueError(f"need pairs, got {len(values)} values and {len(reference)} references.")
    differences = [value - other for value, other in zip(values, reference)]
    mean, pairs = fmean(differences), len(differences)
    if pairs == 1:
        return Difference(mean, None, None, 1, None)
    low, high = _interval(differences, mean)
    p, test = _p_value(differences, comparisons)
    alike = None if margin is None else _p_equivalent(differences, margin, _step([*values, *reference]))
    return Difference(mean, low, high, pairs, p, test, alike)


def _interval(differences: Sequence[float], mean: float) -> tuple[float, float]:
    spread = stdev(differences)
    if len(differences) >= BOOTSTRAP_PAIRS and spread > 0:
        drawn = extra("scipy.stats").bootstrap(
            (differences,), fmean_of_rows, method="BCa", confidence_level=1 - ALPHA, rng=0, vectorized=True
        )
        low, high = drawn.confidence_interval
        if math.isfinite(low) and math.isfinite(high):
            return float(low), float(high)
    quantile = float(extra("scipy.special").stdtrit(len(differences) - 1, 1 - ALPHA / 2))
    half = quantile * spread / math.sqrt(len(differences))
    return mean - half, mean + half


def fmean_of_rows(rows: Any, axis: int) -> Any:
    return rows.mean(axis=axis)


def _p_value(differences: Sequence[float], comparisons: int) -> tuple[float, str]:
    """Two-sided. Equal differences are coarse, not certain: they count as so many signs."""
    pairs = len(differences)
    if not any(differences):
        return 1.0, ""
    if 2.0 ** (1 - pairs) * comparisons > ALPHA / 2 and stdev(differences) > 0:
        return float(extra("scipy.stats").ttest_1samp(differences, 0.0).pvalue), "t"
    flips = extra("scipy.stats").permutation_test(
        (differences,),
        fmean_of_rows,
        permutation_type="samples",
        n_resamples=math.inf if pairs <= EXACT_PAIRS else 9_999,
        vectorized=True,
        rng=0,
    )
    return float(flips.pvalue), "sign flips"


def _step(values: Sequence[float]) -> float:
    """The smallest gap between results: what an accuracy of so many examples is rounded to. 0 if there is no gap."""
    ordered = sorted(set(values))
    return min((after - before for before, after in pairwise(ordered)), default=0.0)


def _p_equivalent(differences: Sequence[float], margin: float, step: float) -> float:
    r"""Two one-sided t tests (Schuirmann, 1987).

    Differences of rounded numbers cannot show a spread below that of their rounding, $\mathrm{step} / \sqrt 6$, so the
    spread counts as at least that. Where nothing is known of the rounding, equal differences count as so many signs.
    """
    pairs, mean = len(differences), fmean(differences)
    spread = max(stdev(differences), step / math.sqrt(6))
    if spread == 0:
        return 2.0 ** (1 - pairs) if abs(mean) < margin else 1.0
    nearest = (margin - abs(mean)) / (spread / math.sqrt(pairs))
    return float(extra("scipy.special").stdtr(pairs - 1, -nearest))


@dataclass(frozen=True)
class Judgement:
    """What may be said of one comparison among several."""

    verdict: Verdict
    p: float | None
    """Corrected for the family, by Holm's method."""


def judged(differences: Sequence[Difference], *, higher_is_better: bool = True, looks: int = 1) -> list[Judgement]:
    """Judge a family of comparisons: a difference is called one, and an equivalence too, at 5 % for all together.

    Holm's method corrects both kinds of claims, each over the family. What is equivalent within the margin is called so,
    even if it also differs. A study that may be judged at several `looks`, while it grows, has its p values multiplied by
    their number (Bonferroni), so that all looks together keep to the 5 %.

    Returns: a judgement for each.
    """
    different = _corrected([difference.p for difference in differences], looks)
    alike = _corrected([difference.p_equivalent for difference in differences], looks)
    found: list[Judgement] = []
    for difference, p, p_alike in zip(differences, different, alike):
        verdict: Verdict = "not resolved"
        if p_alike is not None and p_alike <= ALPHA:
            verdict = "equivalent"
        elif p is not None and p <= ALPHA:
            verdict = "better" if (difference.mean > 0) == higher_is_better else "worse"
        found.append(Judgement(verdict, p))
    return found


def _corrected(values: Sequence[float | None], looks: int) -> list[float | None]:
    known = [value for value in values if value is not None]
    if not known:
        return list(values)
    adjusted = iter(extra("statsmodels.stats.multitest").multipletests(known, ALPHA, method="holm")[1])
    return [None if value is None else min(1.0, looks * float(next(adjusted))) for value in values]


def seeds_needed(spread: float, effect: float, *, comparisons: int = 1, power: float = POWER) -> int:
    """How many seeds find an effect, given the standard deviation of paired differences in a pilot.

    For the t test, at the level that Holm's method gives the first of so many comparisons: 5 % / `comparisons`.

    Returns: the number of seeds.
    Raises: StudyError: no effect, or more than 10,000 seeds.

    >>> seeds_needed(spread=0.5, effect=0.5)
    10
    """
    if not effect > 0 or not math.isfinite(effect):
        raise StudyError(f"effect = {shown(effect)}: pass the size of a difference, a positive number.")
    if spread <= 0:
        return 2
    solver = extra("statsmodels.stats.power").TTestPower()

    def found(seeds: int) -> float:
        return float(solver.power(effect / spread, seeds, ALPHA / comparisons))

    low, high = 2, 2
    while found(high) < power:
        low, high = high + 1, high * 2
        if high > MOST_SEEDS:
            raise StudyError(
                f"an effect of {effect:g} needs more than {MOST_SEEDS:,} seeds where differences spread by {spread:g}. "
                "State a larger effect, or take a task with less noise."
            )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= power else (middle + 1, high)
    return low
