"""Stages there and not, in many combinations at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, TypeAlias

from gradchain._chain.chain import Chain
from gradchain.ablation.arms import Design
from gradchain.ablation.designs.collected import Collected
from gradchain.ablation.designs.factors import Factor, StageNames, factors_of, without
from gradchain.ablation.errors import StudyError, extra

Signs: TypeAlias = "list[tuple[int, ...]]"
"""For each arm, 1 where a factor is there, and -1 where it is not."""

MOST = 128
"""Arms of a factorial."""


def factorial(chain: Chain, stages: Sequence[StageNames], resolution: int | None = None) -> Design:
    """Two levels for each of some stages, there and not: all combinations, or a fraction of resolution IV.

    The contrast of a stage is the mean of the arms that have it less the mean of those that do not. The full design also has
    the contrasts of pairs: `a x b` is what `a` contributes where `b` is, less what it does where `b` is not. In a
    fraction, pairs cannot be told apart; the notes list which. Stages that need each other are passed as one, in a tuple.

    Returns: the design, the full chain first.
    Raises: StudyError: too few stages, too many arms, or stages that depend on others; ModuleNotFoundError: no pyDOE3.

    >>> from gradchain.ablation.designs import factorial
    >>> design = factorial(gradchain.recipe("adamw"), ["first_moment", ("second_moment", "divide")])
    >>> [contrast.label for contrast in design.contrasts]
    ['first_moment', 'second_moment + divide', 'first_moment x second_moment + divide']
    """
    if resolution not in (None, 4):
        raise StudyError(f"resolution = {resolution!r}: pass None for all combinations, or 4 for a fraction of them.")
    factors = factors_of(chain, stages)
    signs = _signs(len(factors), resolution)
    found = Collected(chain)
    labels: list[str] = []
    for row in signs:
        gone = [factor for factor, sign in zip(factors, row) if sign < 0]
        labels.append(found.add(*without(chain, gone), "without") if gone else found.reference.label)
    for place, factor in enumerate(factors):
        share = 2 / len(signs)
        found.contrast(factor.label, *((label, share * row[place]) for label, row in zip(labels, signs)))
    if resolution is None:
        _pairs(found, factors, signs, labels)
    else:
        found.notes += _aliases(factors, signs)
    return found.design("")


def _signs(count: int, resolution: int | None) -> Signs:
    """The rows of the design, the one with everything first."""
    if count < 2:
        raise StudyError("a factorial needs at least two stages; for one, leave_one_out compares with and without.")
    if resolution is None and 2**count > MOST:
        raise StudyError(f"all combinations of {count} stages are {2**count} arms. Pass resolution=4 for a fraction.")
    doe: Any = extra("pyDOE3")
    if resolution is None:
        matrix = doe.ff2n(count)
    elif count < 4:
        raise StudyError(f"resolution = 4 needs at least 4 stages; for {count}, run all {2**count} combinations.")
    else:
        matrix = doe.fracfact("a b c abc") if count == 4 else doe.fracfact_by_res(count, 4)
    rows = [tuple(int(sign) for sign in row) for row in matrix]
    rows = [tuple(sign * first for sign, first in zip(row, rows[-1])) for row in rows]  # the last has everything
    if len(rows) > MOST:
        raise StudyError(f"a fraction for {count} stages has {len(rows)} arms. Choose fewer stages.")
    return sorted(rows, reverse=True)


def _pairs(found: Collected, factors: Sequence[Factor], signs: Signs, labels: Sequence[str]) -> None:
    share = 4 / len(signs)
    for (i, one), (j, other) in combinations(enumerate(factors), 2):
        weights = ((label, share * row[i] * row[j]) for label, row in zip(labels, signs))
        found.contrast(f"{one.label} x {other.label}", *weights)


def _aliases(factors: Sequence[Factor], signs: Signs) -> list[str]:
    """Which pairs have the same signs in all arms, and so the same effect."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for (i, one), (j, other) in combinations(enumerate(factors), 2):
        alike.setdefault(tuple(row[i] * row[j] for row in signs), []).append(f"{one.label} x {other.label}")
    notes = [
        f"{len(signs)} of {2 ** len(factors)} combinations, resolution IV: the effect of a stage is free of those of pairs, "
        "not of those of three stages together."
    ]
    notes += [f"cannot be told apart: {', '.join(pairs)}." for pairs in alike.values() if len(pairs) > 1]
    return notes
