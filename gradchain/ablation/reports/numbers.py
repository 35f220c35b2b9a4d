"""A study's numbers, computed once, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from gradchain.ablation.analysis import Effect, Row, effects, rows
from gradchain.ablation.results import Results
from gradchain.ablation.statistics import Difference
from gradchain.ablation.trial import Metric

IDENTICAL = "identical"


@dataclass(frozen=True)
class Form:
    """How the values of one metric are written; `digits` after the point, or `None` for scientific notation."""

    factor: float = 1.0
    digits: int | None = 4

    def value(self, number: float) -> str:
        number *= self.factor
        return f"{number:.3e}" if self.digits is None else f"{number:.{self.digits}f}"

    def signed(self, number: float) -> str:
        """A difference. What would round to 0 without being 0 is written with its power of ten."""
        number *= self.factor
        if self.digits is None:
            return f"{number:+.2e}"
        tiny = 0 < abs(number) < 0.5 * 10**-self.digits
        return f"{number:+.0e}" if tiny else f"{number:+.{self.digits}f}"

    def interval(self, difference: Difference | None) -> str:
        """The mean of a difference and its interval."""
        if difference is None:
            return "-"
        if difference.low is None or difference.high is None:
            return f"{self.signed(difference.mean)} (1 seed)"
        return f"{self.signed(difference.mean)} [{self.signed(difference.low)}, {self.signed(difference.high)}]"


def form_of(metric: Metric, means: Iterable[float | None]) -> Form:
    """As many digits as tell most arms apart: four or five in all."""
    if metric.percent:
        return Form(metric.factor, 2)
    if metric.target is not None:
        return Form(1.0, 1)
    size = median([abs(mean) for mean in means if mean] or [0.0])
    if size == 0:
        return Form()
    power = math.floor(math.log10(size))
    return Form(1.0, 4 - max(power, 0) if -2 <= power <= 4 else None)


@dataclass(frozen=True)
class Numbers:
    """A study with its rows and effects, and the form of each metric by its name."""

    study: Results
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    forms: dict[str, Form]

    @property
    def metric(self) -> Metric:
        return self.study.metric

    @property
    def form(self) -> Form:
        """Of the first metric."""
        return self.forms[self.metric.name]

    @property
    def reference(self) -> str:
        """The arm that all others are compared with, in a sentence."""
        arm = self.study.full.arm
        return "the full chain" if arm.kind == "full" else arm.label

    @property
    def versus(self) -> str:
        """The same over a column."""
        label = self.study.full.arm.label
        return f"vs {label if len(label) <= 12 else 'reference'}"

    def of_first(self, row: Row) -> Difference | None:
        """The difference of the first metric."""
        return row.cells[self.metric.name].difference

    def size(self, number: float, *, named: bool = True) -> str:
        """A difference of the first metric, in its unit: `-1.20 points of accuracy`, `+0.0312 in loss`."""
        metric = self.metric
        name = {"points": "points of ", "steps": ""}.get(metric.unit, "in ") + metric.name if named else metric.unit
        return f"{self.form.signed(number)} {name}".rstrip()


def numbers_of(study: Results) -> Numbers:
    """Compute what reports show. Returns: the numbers."""
    found = tuple(rows(study))
    forms = {metric.name: form_of(metric, [row.cells[metric.name].mean for row in found]) for metric in study.metrics}
    return Numbers(study, found, tuple(effects(study)) if study.design.contrasts else (), forms)


def title(metric: Metric) -> str:
    """A metric over a column of its values."""
    return f"{metric.name} %" if metric.percent else metric.name


def difference_title(numbers: Numbers, metric: Metric) -> str:
    """The title of a column of differences."""
    return f"{numbers.versus} ({metric.unit})" if metric.unit else numbers.versus


def margin_text(numbers: Numbers) -> str:
    """The margin in its unit: `0.5 points`, `0.01 of loss`."""
    return f"{numbers.study.margin or 0:g} {numbers.metric.unit or f'of {numbers.metric.name}'}"


def counted(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def p_text(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}" if p >= 1e-4 else "<0.0001"
