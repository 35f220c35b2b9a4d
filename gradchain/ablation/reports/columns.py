"""The columns of a study's tables, as text: the same in every kind of report."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain.ablation.reports.numbers import IDENTICAL, Numbers, difference_title, p_text, title
from gradchain.ablation.statistics import Judgement
from gradchain.ablation.trial import Metric

Column = tuple[str, list[str]]
"""A title and its cells, one for each arm."""


def judged_columns(numbers: Numbers) -> list[Column]:
    """The columns of the first metric, with what is said of it."""
    found = numbers.rows
    seeds = [str(len(result.runs)) for result in numbers.study.results]
    rates = ["-" if row.lr is None else f"{row.lr:.4g}" for row in found]
    columns = [
        ("seeds", seeds if len(set(seeds)) > 1 else []),
        ("lr", rates if {*rates} != {"-"} else []),
        *metric_columns(numbers, numbers.metric),
        *_said([row.judgement for row in found]),
    ]
    return [column for column in columns if column[1]]


def cost_columns(numbers: Numbers) -> list[Column]:
    """The columns of what an optimizer step costs."""
    return [
        ("step ms", [f"{1000 * row.step_seconds:.2f}" for row in numbers.rows]),
        ("ratio", [f"{row.step_ratio:.2f}" for row in numbers.rows]),
        ("state bytes", [f"{row.state_bytes:,}" for row in numbers.rows]),
    ]


def metric_columns(numbers: Numbers, metric: Metric) -> list[Column]:
    """The values of a metric, and their differences to the reference."""
    places = range(len(numbers.rows))
    return [
        (title(metric), [_mean(numbers, place, metric) for place in places]),
        (difference_title(numbers, metric), [_difference(numbers, place, metric) for place in places]),
    ]


def _mean(numbers: Numbers, place: int, metric: Metric) -> str:
    """The mean of an arm, or why there is none. Where runs missed a target, it is more than the mean."""
    row = numbers.rows[place]
    cell = row.cells[metric.name]
    if cell.mean is None:
        return "failed" if row.failed else "diverged" if row.diverged else "-"
    if _never(numbers, place, metric):
        return "never"
    return f"{'> ' if cell.missed else ''}{numbers.forms[metric.name].value(cell.mean)}"


def _difference(numbers: Numbers, place: int, metric: Metric) -> str:
    row = numbers.rows[place]
    if row.identical:
        return f"{IDENTICAL} to {numbers.study.full.arm.label}"
    if _never(numbers, place, metric) or _never(numbers, 0, metric):
        return "-"
    return numbers.forms[metric.name].interval(row.cells[metric.name].difference)


def _never(numbers: Numbers, place: int, metric: Metric) -> bool:
    """Whether no run of an arm reached the target of a metric."""
    return numbers.rows[place].cells[metric.name].missed == len(numbers.study.results[place].runs)


def _said(judgements: Sequence[Judgement | None]) -> list[Column]:
    return [
        ("verdict", ["-" if judgement is None else judgement.verdict for judgement in judgements]),
        ("p", ["-" if judgement is None else p_text(judgement.p) for judgement in judgements]),
    ]


def effect_columns(numbers: Numbers) -> list[Column]:
    """The columns of the table of effects."""
    unit = numbers.metric.unit
    return [
        (
            f"on {numbers.metric.name} ({unit})" if unit else f"on {numbers.metric.name}",
            [numbers.form.interval(effect.difference) for effect in numbers.effects],
        ),
        *_said([effect.judgement for effect in numbers.effects]),
    ]


def edits_of(numbers: Numbers) -> list[tuple[str, str]]:
    """What makes each arm of the reference, where its label does not say it."""
    arms = [(row, result.arm) for row, result in zip(numbers.rows, numbers.study.results)]
    return [(row.label, arm.edits) for row, arm in arms if arm.edits not in ("", arm.label) and arm.kind != "without"]
