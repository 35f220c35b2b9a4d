"""The paired comparison of two arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from gradchain.ablation.errors import extra

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and half the width of its confidence interval (unknown for a single pair)."""

    mean: float
    half_width: float | None
    pairs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0; not if its width is 0, as coarse accuracies often make it."""
        return self.half_width is not None and 0 < self.half_width < abs(self.mean)


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    r"""Compare values with those of the same seeds: $\bar d \pm t_{n-1}\, s_d / \sqrt n$.

    Returns: the mean difference, half the width of its 95 % interval, and the number of pairs.
    Raises: ValueError: there are no pairs.
    """
    if len(values) != len(reference) or not values:
        raise ValueError(f"need pairs, got {len(values)} values and {len(reference)} references.")
    differences = [value - other for value, other in zip(values, reference)]
    n = len(differences)
    if n == 1:
        return Difference(differences[0], None, 1)
    return Difference(fmean(differences), _student(n - 1) * stdev(differences) / math.sqrt(n), n)


def _student(freedom: int) -> float:
    """The two-sided quantile of Student's t distribution."""
    return float(extra("scipy.special").stdtrit(freedom, (1 + CONFIDENCE) / 2))
