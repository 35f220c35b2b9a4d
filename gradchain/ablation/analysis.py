"""The study in numbers: a row for each arm, an effect for each contrast, and what may be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from gradchain.ablation.errors import StudyError
from gradchain.ablation.results import Result, Results
from gradchain.ablation.run import Run
from gradchain.ablation.statistics import Difference, Judgement, judged, paired_difference
from gradchain.ablation.trial import Metric


@dataclass(frozen=True)
class Cell:
    """One metric of one arm. `None` where a run failed or diverged; the reference has no difference to itself."""

    mean: float | None
    difference: Difference | None
    missed: int = 0
    """Runs that never reached a target."""


@dataclass(frozen=True)
class Row:
    """One arm in numbers. Differences are to the reference, seed by seed."""

    label: str
    edits: str
    lr: float | None
    cells: dict[str, Cell]
    """By the name of the metric."""
    judgement: Judgement | None
    """What may be said of the first metric, among all arms; `None` for the reference, and for what is identical to it."""
    step_seconds: float
    step_ratio: float
    state_bytes: int
    identical: bool
    diverged: int
    failed: int
    change_ratio: float | None
    """How far a step goes, as a multiple of the reference's."""


@dataclass(frozen=True)
class Effect:
    """A contrast of arms on the first metric. `None` where a run failed or diverged."""

    label: str
    difference: Difference | None
    judgement: Judgement | None


def value_of(run: Run, metric: Metric) -> float | None:
    """A metric of a run. Returns: the number; `None` if the run failed or diverged."""
    if run.failed is not None or run.pruned:
        return None
    if metric.target is None:
        return run.metrics.get(metric.name)
    if run.diverged:
        return None
    found = reached(run, metric)
    return float(run.steps) if found is None else found


def reached(run: Run, metric: Metric) -> float | None:
    """The step at which a run reached the target of a metric. Returns: `None` if it never did.

    Raises: StudyError: the training reports no such curve.
    """
    points = run.curves.get(metric.of or "")
    if points is None or metric.target is None:
        known = ", ".join(sorted(run.curves)) or "none"
        raise StudyError(f"{metric.name}: the training reports no curve {metric.of!r}; it reports {known}.")
    sign = 1 if metric.goal == "max" else -1
    return next((step for step, value in points if sign * value >= sign * metric.target), None)


def values_of(runs: Sequence[Run], metric: Metric) -> list[float] | None:
    """A metric of all runs of an arm. Returns: `None` if one of them failed or diverged."""
    values = [value_of(run, metric) for run in runs]
    return None if None in values else [value for value in values if value is not None]


def rows(study: Results) -> list[Row]:
    """Put the study into numbers. Returns: one row for each arm, the reference first."""
    found = [_row(result, study) for result in study.results]
    first, higher = study.metric, study.metric.higher_is_better
    places = [
        place for place, row in enumerate(found) if row.cells[first.name].difference is not None and not row.identical
    ]
    judgements: dict[int, Judgement] = {}
    for look in study.looks:  # an arm is judged at the look at which its runs end, among those that were still open
        still = [place for place in places if len(study.results[place].runs) >= look]
        ended = [len(study.results[place].runs) == look for place in still]
        cells = [
            found[place].cells[first.name] if done else _cell(study.results[place], study, first, look)
            for place, done in zip(still, ended)
        ]
        differences = [cell.difference for cell in cells]
        known = [difference for difference in differences if difference is not None]
        for place, judgement in zip(still, judged(known, higher_is_better=higher, looks=study.planned_looks)):
            if len(study.results[place].runs) == look:
                judgements[place] = judgement
    return [replace(row, judgement=judgements.get(place)) for place, row in enumerate(found)]


def _row(result: Result, study: Results) -> Row:
    full, runs = study.full, result.runs
    itself = result is full
    step, full_step = (median(run.step_seconds for run in each.runs) for each in (result, full))
    change, full_change = _change(result), _change(full)
    return Row(
        label=result.arm.label + (" (baseline)" if result.arm.kind == "baseline" else ""),
        edits=result.arm.edits,
        lr=result.lr,
        cells={metric.name: _cell(result, study, metric) for metric in study.metrics},
        judgement=None,
        step_seconds=step,
        step_ratio=step / full_step if full_step else 0.0,
        state_bytes=runs[0].state_bytes,
        identical=not itself and all(run.weights == other.weights for run, other in zip(runs, full.runs)),
        diverged=sum(run.diverged for run in runs),
        failed=sum(run.failed is not None for run in runs),
        change_ratio=change / full_change if change and full_change else None,
    )


def _change(result: Result) -> float | None:
    changes = [run.change for run in result.runs if run.change is not None]
    return median(changes) if changes else None


def _cell(result: Result, study: Results, metric: Metric, seeds: int | None = None) -> Cell:
    """The metric of an arm, of as many seeds as it has, or of the first `seeds`."""
    runs, others = result.runs[:seeds], study.full.runs[: len(result.runs[:seeds])]
    values, reference = values_of(runs, metric), values_of(others, metric)
    missed = _missed(runs, metric)
    if values is None or reference is None or result is study.full:
        return Cell(None if values is None else fmean(values), None, missed)
    margin = None
    # Runs that miss a target make differences smaller than they are: enough to call a difference, not an equivalence.
    if metric == study.metric and study.margin is not None and not missed + _missed(others, metric):
        margin = study.margin / metric.factor
    comparisons = max(1, len(study.results) - 1) * study.planned_looks
    return Cell(fmean(values), paired_difference(values, reference, margin=margin, comparisons=comparisons), missed)


def _missed(runs: Sequence[Run], metric: Metric) -> int:
    return 0 if metric.target is None else sum(run.failed is None and reached(run, metric) is None for run in runs)


def effects(study: Results) -> list[Effect]:
    """Estimate the contrasts of the study's design, on its first metric. Returns: an effect for each."""
    values = {result.arm.label: values_of(result.runs, study.metric) for result in study.results}
    found: list[Difference | None] = []
    contrasts = study.design.contrasts
    for contrast in contrasts:
        arms = [(values[label], weight) for label, weight in contrast.weights]
        if any(numbers is None for numbers, _ in arms):
            found.append(None)
            continue
        sums = [sum(w * (v or [])[seed] for v, w in arms) for seed in range(study.seeds)]
        margin = None if study.margin is None else study.margin / study.metric.factor
        found.append(paired_difference(sums, [0.0] * len(sums), margin=margin, comparisons=len(contrasts)))
    known = [difference for difference in found if difference is not None]
    judgements = iter(judged(known, higher_is_better=study.metric.higher_is_better))
    return [
        Effect(contrast.label, difference, None if difference is None else next(judgements))
        for contrast, difference in zip(contrasts, found)
    ]
