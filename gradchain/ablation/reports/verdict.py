"""The verdict: what a study found, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain.ablation.analysis import Row
from gradchain.ablation.reports.findings import edge_arms, other_steps
from gradchain.ablation.reports.numbers import Numbers, counted, margin_text, numbers_of
from gradchain.ablation.results import Results
from gradchain.ablation.statistics import Difference, Judgement

ORDER = ("worse", "better", "equivalent", "not resolved")
NAMED_ARMS = 8
"""Of a study with effects, arms are named up to so many, and counted beyond."""

NAMED_EFFECTS = 4
"""Of effects without a difference, likewise."""

Judged = tuple[str, Difference | None, Judgement | None]


def headline(study: Results) -> str:
    """Say what a study found, without statistics. Returns: which arms differ from the reference, and by how much."""
    return verdict(numbers_of(study))


def verdict(numbers: Numbers) -> str:
    """The headline, of numbers that are there already."""
    return " ".join(sentences(numbers))


def sentences(numbers: Numbers) -> list[str]:
    """The verdict, sentence by sentence."""
    unusable = _unusable(numbers)
    doubts = [*_untuned(numbers), *_at_edges(numbers)]
    return [unusable] if unusable else [*_effects(numbers), *_arms(numbers), *_lost(numbers), *doubts]


def _unusable(numbers: Numbers) -> str:
    """What is said where there is nothing to compare."""
    study, first = numbers.study, numbers.rows[0]
    if all(run.failed is not None for run in study.runs):
        return f"Every run ended in an error, so there is nothing to compare. The first: {study.runs[0].failed}"
    cells = [(row.cells[numbers.metric.name], result) for row, result in zip(numbers.rows, study.results)]
    if numbers.metric.target is not None and all(cell.missed == len(result.runs) for cell, result in cells):
        return f"No run reached {numbers.metric.of} = {numbers.metric.target:g}. Train longer, or set an easier target."
    if first.cells[numbers.metric.name].mean is not None:
        return ""
    lost = _how_lost(first, len(study.full.runs))
    return f"{_capital(numbers.reference)} {lost}, so no arm can be compared with it."


def _effects(numbers: Numbers) -> list[str]:
    if not numbers.effects:
        return []
    judged = [(effect.label, effect.difference, effect.judgement) for effect in numbers.effects]
    named = _named(numbers, judged, ("better", "worse", "equivalent", "not resolved"))
    if not named:
        return ["No effect can be estimated: a run that it needs diverged or ended in an error."]
    if [*named] == ["not resolved"]:
        seeds = counted(numbers.study.seeds, "seed")
        return [f"With {seeds}, no effect on {numbers.metric.name} can be told from chance."]
    said: list[str] = []
    for pair, kind, words in _EFFECTS:
        labels = [label for label in named.get(kind, []) if (PAIR in label) == pair]
        many = kind not in ("better", "worse") and len(labels) > NAMED_EFFECTS
        if labels:
            said.append(f"{words}: {f'{len(labels)} of them' if many else '; '.join(labels)}.")
    return said


PAIR = " x "
"""What the labels of interactions have."""

_EFFECTS = (
    (False, "better", "Helps"),
    (False, "worse", "Hurts"),
    (True, "better", "Worth more together than apart"),
    (True, "worse", "Worth less together than apart"),
    (False, "equivalent", "Makes no difference that matters"),
    (True, "equivalent", "Worth the same together as apart"),
    (False, "not resolved", "Effects not resolved"),
    (True, "not resolved", "Interactions not resolved"),
)


def _arms(numbers: Numbers) -> list[str]:
    judged = [(row.label, numbers.of_first(row), row.judgement) for row in numbers.rows]
    named = _named(numbers, judged)
    if numbers.effects and sum(map(len, named.values())) > NAMED_ARMS:
        counts = ", ".join(f"{len(labels)} {kind}" for kind, labels in named.items())
        return [f"Arms against {numbers.reference}: {counts}."]
    if [*named] == ["not resolved"]:
        return [f"With {counted(numbers.study.seeds, 'seed')}, no arm can be told from {numbers.reference}."]
    said = {
        "worse": f"Worse than {numbers.reference}",
        "better": f"Better than {numbers.reference}",
        "equivalent": _within(numbers, "Equivalent to it"),
        "not resolved": f"Not resolved with {counted(numbers.study.seeds, 'seed')}",
    }
    if not named and not _lost(numbers):
        return [f"No arm differs from {numbers.reference}."]
    return [f"{said[kind]}: {'; '.join(labels)}." for kind, labels in named.items()]


def _within(numbers: Numbers, words: str) -> str:
    return f"{words} within {margin_text(numbers)}" if numbers.study.margin is not None else words


def _named(numbers: Numbers, judged: Sequence[Judged], order: Sequence[str] = ORDER) -> dict[str, list[str]]:
    """The labels by verdict, differences with their sizes; the unit is written out once."""
    found: dict[str, list[str]] = {}
    written = False
    for kind in order:
        for label, difference, judgement in judged:
            if judgement is None or judgement.verdict != kind:
                continue
            if kind in ("worse", "better") and difference is not None:
                label, written = f"{label} ({numbers.size(difference.mean, named=not written)})", True
            found.setdefault(kind, []).append(label)
    return found


def _lost(numbers: Numbers) -> list[str]:
    """Arms that have no verdict, because they crashed or diverged."""
    lost = [
        f"{row.label} {_how_lost(row, len(result.runs))}"
        for row, result in zip(numbers.rows[1:], numbers.study.results[1:])
        if row.cells[numbers.metric.name].mean is None
    ]
    return [f"No verdict: {'; '.join(lost)}."] if lost else []


def _untuned(numbers: Numbers) -> list[str]:
    """Arms that were called better or worse, and may owe it to the size of their steps."""
    doubtful = [
        row.label
        for row in other_steps(numbers)
        if row.judgement is not None and row.judgement.verdict in ("better", "worse")
    ]
    return [f"Not tuned, and may only need another learning rate: {'; '.join(doubtful)}."] if doubtful else []


def _at_edges(numbers: Numbers) -> list[str]:
    """Arms that were called worse, and may owe it to a range of values in which their best was not."""
    tuned = numbers.study.tuned
    edges = {label for name in (tuned.over if tuned else ()) for label in edge_arms(numbers.study, name)}
    doubtful = [
        row.label
        for row in numbers.rows[1:]
        if row.label in edges and row.judgement is not None and row.judgement.verdict == "worse"
    ]
    return (
        [f"Tuned to the edge of the range, and may only need a wider one: {'; '.join(doubtful)}."] if doubtful else []
    )


def _how_lost(row: Row, runs: int) -> str:
    said = [(row.failed, "ended in an error"), (row.diverged, "diverged")]
    return " and ".join(f"{words} in {count} of {counted(runs, 'seed')}" for count, words in said if count)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
