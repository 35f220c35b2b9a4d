"""The study as rows of numbers, and as text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import StringIO
from statistics import fmean, median

import torch
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gradchain import __version__
from gradchain.ablation.results import Result, Results
from gradchain.ablation.statistics import Difference, Judgement, judged, paired_difference

WIDTH = 132  # where there is no terminal to ask
IDENTICAL = "identical to full"


@dataclass(frozen=True)
class Row:
    """One arm in numbers. Differences are to the full chain, seed by seed; a mean loss is `None` if a run diverged."""

    label: str
    lr: float | None
    accuracy: float
    accuracy_difference: Difference | None
    judgement: Judgement | None
    """What may be said of the accuracy, among all arms; `None` for the full chain, and for what is identical to it."""
    loss: float | None
    loss_difference: Difference | None
    step_seconds: float
    step_ratio: float
    state_bytes: int
    identical: bool
    diverged: int


def rows(study: Results) -> list[Row]:
    """Put the study into numbers. Returns: one row for each arm, the full chain first."""
    found = [_row(result, study) for result in study.results]
    family = {
        place: row.accuracy_difference
        for place, row in enumerate(found)
        if row.accuracy_difference is not None and not row.identical
    }
    judgements = dict(zip(family, judged([*family.values()])))
    return [replace(row, judgement=judgements.get(place)) for place, row in enumerate(found)]


def _row(result: Result, study: Results) -> Row:
    full, comparisons = study.full, len(study.results) - 1
    runs, reference = result.runs, full.runs
    losses = [run.test_loss for run in runs if run.test_loss is not None]
    full_losses = [run.test_loss for run in reference if run.test_loss is not None]
    whole = len(losses) == len(runs)
    itself = result is full
    comparable = not itself and whole and len(full_losses) == len(reference)
    accuracies = [run.test_accuracy for run in runs]
    step = median(run.step_seconds for run in runs)
    full_step = median(run.step_seconds for run in reference)
    return Row(
        label=result.arm.label + (" (baseline)" if result.arm.kind == "baseline" else ""),
        lr=result.lr,
        accuracy=fmean(accuracies),
        accuracy_difference=None
        if itself
        else paired_difference(
            accuracies,
            [run.test_accuracy for run in reference],
            margin=None if study.margin is None else study.margin / 100,
            comparisons=comparisons,
        ),
        judgement=None,
        loss=fmean(losses) if whole else None,
        loss_difference=paired_difference(losses, full_losses) if comparable else None,
        step_seconds=step,
        step_ratio=step / full_step if full_step else 0.0,
        state_bytes=runs[0].state_bytes,
        identical=not itself and [run.weights for run in runs] == [run.weights for run in reference],
        diverged=sum(run.diverged for run in runs),
    )


# Text.


def report(study: Results) -> Group:
    """Lay the study out for a rich console. Returns: what was run, the notes and the table."""
    found = rows(study)
    notes = [*study.notes, *_findings(study, found)]
    listed = Table.grid(padding=(0, 1))
    for note in notes:
        listed.add_row("-", Text(note))
    return Group(
        *(Text(_said(study, found), style="bold"), "", _heading(study), "", listed, "", _table(found), ""),
        _legend(study, found),
    )


def report_text(study: Results) -> str:
    text = StringIO()
    Console(file=text, width=WIDTH).print(report(study))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _heading(study: Results) -> Text:
    settings = study.settings
    per_arm = f"{study.seeds} seed" + ("s" if study.seeds > 1 else "")
    if study.lr_factors:
        factors = ", ".join(f"{factor:g}" for factor in study.lr_factors)
        rates = (
            f"Learning rates: every arm had the same budget of {len(study.lr_factors)} runs with seed 0, at {factors} times "
            "its own; the best by validation loss was kept."
        )
    else:
        rates = (
            "Learning rates: each arm's own, untuned. An arm that changes the size of the step may only need another one: "
            "compare with --lr-sweep."
        )
    return Text.assemble(
        (f"Ablation of {study.name} on {settings.task.name}", "bold"),
        f": {settings.task.summary}.\n",
        f"{len(study.results)} arms with {per_arm} each, {settings.epochs} epochs in batches of {settings.batch_size}, "
        f"constant learning rate, {settings.dtype}, {'compiled' if settings.compile else 'eager'}, "
        f"one thread, gradchain {__version__}, torch {torch.__version__}.\n"
        "Runs with the same seed share data split, initial weights and order of batches.\n",
        rates,
    )


def _findings(study: Results, table: list[Row]) -> list[str]:
    """Notes that follow from the results."""
    found: list[str] = []
    at_edge: list[str] = []
    for result, row in zip(study.results, table):
        if row.identical:
            found.append(
                f"{row.label}: the weights are bit for bit those of the full chain. In this setting the stage does "
                "nothing (wrong dtype, a strength of 0, a warmup not yet over), so this says nothing about its worth."
            )
        if row.diverged:
            found.append(f"{row.label}: diverged in {row.diverged} of {study.seeds} seeds.")
        tried = [run.lr for run in result.sweep if run.lr is not None]
        if row.lr is not None and len(tried) > 1 and row.lr in (min(tried), max(tried)):
            at_edge.append(row.label)
    if at_edge:
        found.append(
            f"the chosen learning rate lies at the edge of the grid, so a better one may lie outside: {'; '.join(at_edge)}."
        )
    advice = dict.fromkeys(text for result in study.results for run in result.runs for text in run.advice)
    return [*found, *(f"warning: {text}" for text in advice)]


def _table(found: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("arm", overflow="fold", min_width=20)
    columns = _columns(found)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for place, row in enumerate(found):
        cells = [Text(cells[place]) for cells in columns.values()]
        table.add_row(Text(row.label), *cells, style="bold" if row.accuracy_difference is None else "")
    return table


def _columns(found: list[Row]) -> dict[str, list[str]]:
    """The cells of each column under its title."""
    return {
        "lr": ["-" if row.lr is None else f"{row.lr:g}" for row in found],
        "accuracy %": [f"{100 * row.accuracy:.2f}" for row in found],
        "vs full (points)": [interval(row, row.accuracy_difference, 100, 2) for row in found],
        "verdict": ["-" if row.judgement is None else row.judgement.verdict for row in found],
        "p": ["-" if row.judgement is None or row.judgement.p is None else f"{row.judgement.p:.2g}" for row in found],
        "loss": ["diverged" if row.loss is None else f"{row.loss:.4f}" for row in found],
        "vs full": [_change(row) for row in found],
        "step ms": [f"{1000 * row.step_seconds:.2f}" for row in found],
        "ratio": [f"{row.step_ratio:.2f}" for row in found],
        "state bytes": [f"{row.state_bytes:,}" for row in found],
    }


def _change(row: Row) -> str:
    """The mean difference in loss."""
    return "-" if row.loss_difference is None or row.identical else _signed(row.loss_difference.mean, 4)


def interval(row: Row, difference: Difference | None, factor: float, digits: int) -> str:
    if row.identical:
        return IDENTICAL
    if difference is None:
        return "-"
    mean = _signed(factor * difference.mean, digits)
    if difference.low is None or difference.high is None:
        return f"{mean} (1 seed)"
    return f"{mean} [{_signed(factor * difference.low, digits)}, {_signed(factor * difference.high, digits)}]"


def headline(study: Results) -> str:
    """The study in one sentence. Returns: which arms differ from the full chain."""
    return _said(study, rows(study))


def _said(study: Results, found: list[Row]) -> str:
    named: dict[str, list[str]] = {}
    for row in found:
        if row.judgement is not None:
            named.setdefault(row.judgement.verdict, []).append(row.label)
    said = [
        f"{verdict} than the full chain: {'; '.join(named[verdict])}"
        for verdict in ("worse", "better")
        if verdict in named
    ]
    if "equivalent" in named:
        said.append(f"equivalent to it within {study.margin:g} points: {'; '.join(named['equivalent'])}")
    if [*named] == ["not resolved"]:
        return f"With {study.seeds} seed{'s' if study.seeds > 1 else ''}, no arm can be told from the full chain."
    if "not resolved" in named:
        said.append(f"not resolved: {'; '.join(named['not resolved'])}")
    return (
        ". ".join(text[0].upper() + text[1:] for text in said) + "." if said else "No arm differs from the full chain."
    )


def _signed(value: float, digits: int) -> str:
    """Fixed digits; scientific notation for what would round to 0 without being 0."""
    return f"{value:+.0e}" if 0 < abs(value) < 0.5 * 10**-digits else f"{value:+.{digits}f}"


def _legend(study: Results, found: list[Row]) -> Text:
    if study.seeds == 1:
        return Text("One seed gives no interval; pass --seeds 3 or more.", style="dim")
    tests = {row.accuracy_difference.test for row in found if row.accuracy_difference is not None} - {""}
    equal = "" if study.margin is None else f" Equivalent: by less than {study.margin:g} points, two one-sided t tests."
    return Text(
        "Differences to the full chain of the same seed: mean and 95 % interval, each arm by itself. Verdicts and p are on "
        f"accuracy, at 5 % for all arms together (Holm; {' and '.join(sorted(tests)) or 'no test'}).{equal}",
        style="dim",
    )
