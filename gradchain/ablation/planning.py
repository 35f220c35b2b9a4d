"""Before a study: how many seeds an effect needs, from the spread of a pilot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import stdev

from gradchain._core.text import aligned
from gradchain.ablation.analysis import values_of
from gradchain.ablation.errors import StudyError, extra
from gradchain.ablation.results import Results
from gradchain.ablation.statistics import POWER, seeds_needed

SAFE = 0.8
"""How sure it is that the spread is not larger than what the safe number is found from."""

HEADER = ("arm", "spread", "seeds", "seeds, to be safe")


@dataclass(frozen=True)
class PlannedArm:
    """An arm of a pilot: how its differences to the reference spread, and how many seeds find the effect."""

    label: str
    spread: float
    seeds: int
    safe: int
    """The same with the upper end of what the spread may be: that of a few runs is often too small."""


@dataclass(frozen=True)
class Plan:
    """How many seeds a study needs."""

    arms: tuple[PlannedArm, ...]
    effect: str
    pilot: int
    power: float
    comparisons: int

    @property
    def seeds(self) -> int:
        """What the arm needs that needs most, to be safe."""
        return max(arm.safe for arm in self.arms)

    def __str__(self) -> str:
        rows = [(arm.label, f"{arm.spread:.3g}", f"{arm.seeds:,}", f"{arm.safe:,}") for arm in self.arms]
        least = max(arm.seeds for arm in self.arms)
        return (
            f"{aligned(HEADER, rows)}\n\n"
            f"A difference of {self.effect} is found in {self.power:.0%} of studies with --seeds {self.seeds} (perhaps "
            f"{least} will do). From a pilot of {self.pilot} seeds, for t tests at 5 % over {self.comparisons} comparisons. "
            f"The safe number allows for a spread that the pilot saw too small, {SAFE:.0%} sure."
        )


def plan(pilot: Results, effect: float, *, power: float = POWER) -> Plan:
    r"""Find how many seeds show an effect, from a study of a few seeds.

    Args:
        pilot: the study.
        effect: the difference of its first metric that is to be found (in points, if that is a fraction).
        power: how often it is to be found if it is there.

    Of the standard deviation $s$ of $n$ paired differences, the safe number uses the upper confidence limit
    $s \sqrt{(n-1) / \chi^2_{0.2,\,n-1}}$ (Browne, 1995).

    Returns: the plan, to be printed.
    Raises: StudyError: one seed, no arm that can be compared, or an effect that is out of reach.
    """
    first = pilot.metric
    if pilot.seeds < 2:
        raise StudyError("a pilot of one seed has no spread; pass at least 2 seeds, better 4.")
    reference = values_of(pilot.full.runs, first)
    comparisons = max(1, len(pilot.results) - 1)
    arms: list[PlannedArm] = []
    for result in pilot.results[1:]:
        values = values_of(result.runs, first)
        if values is None or reference is None:
            continue
        spread = stdev(value - other for value, other in zip(values, reference)) * first.factor
        degrees = len(values) - 1
        largest = spread * math.sqrt(degrees / float(extra("scipy.stats").chi2.ppf(1 - SAFE, degrees)))
        seeds, safe = (seeds_needed(each, effect, comparisons=comparisons, power=power) for each in (spread, largest))
        arms.append(PlannedArm(result.arm.label, spread, seeds, safe))
    if not arms:
        raise StudyError("no arm of the pilot can be compared: they failed or diverged, or there is only one.")
    unit = f" {first.unit}" if first.unit else ""
    return Plan(tuple(arms), f"{effect:g}{unit} of {first.name}", pilot.seeds, power, comparisons)
