"""The rule of the modded-nanogpt optimization track: when runs have reached a target, and when one entry beats another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from gradchain.ablation.errors import StudyError
from gradchain.errors import shown

TARGET = 3.28
"""The validation loss to be reached."""

SIGMA = 0.0013
"""The standard deviation of a run's loss, as the track gives it."""

THRESHOLD = 0.004
"""What the statistic must reach: about three times `SIGMA`."""

PER_STEP = 0.000045
"""What a step less is worth in loss near the end of a run, in the track's comparison of two entries."""


@dataclass(frozen=True)
class TrackEntry:
    """Runs of one optimizer, all read at the same step.

    Args:
        mean: of their validation losses.
        runs: how many.
        steps: at which step; needed to compare entries.

    Raises: StudyError: no runs, or a mean that is not finite.
    """

    mean: float
    runs: int
    steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.runs, int) or isinstance(self.runs, bool) or self.runs < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StudyError(f"runs = {shown(self.runs)}: pass how many runs the mean is of, at least 1.")
        if not isinstance(self.mean, (int, float)) or not math.isfinite(self.mean):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StudyError(f"mean = {shown(self.mean)}: pass the mean of validation losses, a finite number.")

    @classmethod
    def of(cls, losses: Sequence[float], steps: int | None = None) -> TrackEntry:
        """Make an entry of the losses themselves. Returns: the entry.

        Raises: StudyError: there are none.
        """
        if not losses:
            raise StudyError("losses is empty; pass the validation loss of each run.")
        return cls(fmean(losses), len(losses), steps)


@dataclass(frozen=True)
class TrackVerdict:
    """What the track says.

    Args:
        statistic: what is compared.
        threshold: with what.
        margin: the difference of loss that the statistic is of.
        runs: how many runs it is of.
        more_runs: how many more it would take to pass if the means stayed what they are; 0 if it passes, `None` if no
            number would do. Of two entries, more runs of the new one.
        sigma: the standard deviation of a run's loss.
    """

    statistic: float
    threshold: float
    margin: float
    runs: int
    more_runs: int | None
    sigma: float

    @property
    def passes(self) -> bool:
        return _reaches(self.statistic, self.threshold)

    @property
    def verdict(self) -> str:
        return "passes" if self.passes else "fails"

    @property
    def p(self) -> float:
        """How often chance alone would give such a statistic, were the true margin 0 and losses normal."""
        return NormalDist().cdf(-self.statistic / self.sigma)

    def __str__(self) -> str:
        sign = ">=" if self.passes else "<"
        text = f"{self.verdict}: {self.statistic:.6f} {sign} {self.threshold:g}"
        if self.passes:
            return text
        if self.more_runs is None:
            return f"{text}; with these means, no number of further runs would do"
        return f"{text}; with these means it would take {self.more_runs} more run{'s' if self.more_runs > 1 else ''}"


def track_rule(
    entry: TrackEntry | Sequence[float], *, target: float = TARGET, threshold: float = THRESHOLD, sigma: float = SIGMA
) -> TrackVerdict:
    """Whether runs count as having reached the target: if `(target - mean) · √runs >= threshold`.

    With the standard deviation `sigma` = 0.0013 of the track, 0.004 is three standard errors: about one entry in a thousand
    that has not reached the target would pass.

    Args:
        entry: an `TrackEntry`, or the losses of all runs, without picking.
        target: the loss to be reached.
        threshold, sigma: of the rule; for another benchmark, take three standard deviations of its own.

    Returns: the verdict, to be printed.
    Raises: StudyError: no losses, or numbers that are not positive.

    >>> print(track_rule(TrackEntry(mean=3.278659, runs=10)))
    passes: 0.004241 >= 0.004
    """
    _check(threshold=threshold, sigma=sigma)
    found = entry if isinstance(entry, TrackEntry) else TrackEntry.of(entry)
    margin = target - found.mean
    needed = _runs_for(lambda runs: margin * math.sqrt(runs), threshold, found.runs, possible=margin > 0)
    return TrackVerdict(margin * math.sqrt(found.runs), threshold, margin, found.runs, needed, sigma)


def track_compare(
    new: TrackEntry, old: TrackEntry, *, threshold: float = THRESHOLD, sigma: float = SIGMA, per_step: float = PER_STEP
) -> TrackVerdict:
    """Whether an entry beats another: if `(old - new + per_step · steps saved) / √(1/n_new + 1/n_old) >= threshold`.

    The entries are read at different steps, so the difference of their means is adjusted by what those steps are worth.

    Args:
        new, old: the entries, with their steps.
        threshold, sigma: as for `track_rule`.
        per_step: the loss that a step is worth; 0 if both are read at the same step.

    Returns: the verdict on `new`, to be printed.
    Raises: StudyError: an entry without steps.

    >>> print(track_compare(TrackEntry(3.27778727, 11, steps=3150), TrackEntry(3.2786, 10, steps=3250)))
    passes: 0.012159 >= 0.004
    """
    _check(threshold=threshold, sigma=sigma)
    if new.steps is None or old.steps is None:
        raise StudyError(
            "an entry has no steps; pass TrackEntry(mean, runs, steps=...) for both, or equal steps for no adjustment."
        )
    margin = old.mean - new.mean + per_step * (old.steps - new.steps)

    def statistic(runs: int) -> float:
        return margin / math.sqrt(1 / runs + 1 / old.runs)

    possible = margin * math.sqrt(old.runs) > threshold  # what it tends to, the more runs of the new one there are
    needed = _runs_for(statistic, threshold, new.runs, possible=possible)
    return TrackVerdict(statistic(new.runs), threshold, margin, new.runs + old.runs, needed, sigma)


def _runs_for(statistic: Callable[[int], float], threshold: float, runs: int, *, possible: bool) -> int | None:
    """How many more runs; the statistic grows with them."""
    if _reaches(statistic(runs), threshold):
        return 0
    if not possible:
        return None
    low, high = runs, 2 * runs
    while not _reaches(statistic(high), threshold):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reaches(statistic(middle), threshold) else (middle, high)
    return high - runs


def _reaches(statistic: float, threshold: float) -> bool:
    """At least, up to the rounding of differences of losses."""
    return statistic >= threshold or math.isclose(statistic, threshold, rel_tol=1e-9)


def _check(**positive: float) -> None:
    for name, value in positive.items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StudyError(f"{name} = {shown(value)}: pass a positive number.")
