"""The study as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradchain.ablation.reports.findings import chosen, described, findings, looked
from gradchain.ablation.reports.numbers import (
    IDENTICAL,
    Numbers,
    difference_title,
    margin_text,
    numbers_of,
    p_text,
    title,
)
from gradchain.ablation.reports.verdict import verdict
from gradchain.ablation.results import Results
from gradchain.ablation.statistics import Judgement
from gradchain.ablation.trial import Metric

WIDTH = 132  # where there is no terminal to ask
TITLE = 20
"""Longer titles of columns are wrapped."""

Column = tuple[str, list[str]]
"""A title and its cells."""


def report(study: Results) -> Group:
    """Lay the study out for a rich console. Returns: the verdict, what was run, notes, and tables."""
    numbers = numbers_of(study)
    parts: list[RenderableType] = [Text(verdict(numbers), style="bold"), "", _heading(study), ""]
    notes = findings(numbers)
    if notes:
        parts += [_grid([("-", note) for note in notes]), ""]
    parts += [_main_table(numbers), ""]
    for table in (*_other_metrics(numbers), _effects(numbers), _edits(numbers)):
        if table is not None:
            parts += [table, ""]
    return Group(*parts, Text(legend(numbers), style="dim"))


def report_text(study: Results) -> str:
    """The report as it is printed where there is no terminal. Returns: lines."""
    text = StringIO()
    Console(file=text, width=WIDTH).print(report(study))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _heading(study: Results) -> Text:
    said = (": " + described(study), looked(study), chosen(study))
    return Text.assemble(
        (f"Ablation of {study.name} on {study.settings.training.name}", "bold"), "\n".join(filter(None, said))
    )


def _grid(lines: Sequence[tuple[str, ...]]) -> Table:
    listed = Table.grid(padding=(0, 1))
    for line in lines:
        listed.add_row(*map(Text, line))
    return listed


def _table(first: str, labels: Sequence[str], columns: Sequence[Column], bold: int | None = None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(Text(first), overflow="fold", min_width=20)
    for name, _ in columns:
        table.add_column(Text(textwrap.fill(name, TITLE)), justify="right", no_wrap=True)
    for place, label in enumerate(labels):
        cells = [Text(cells[place]) for _, cells in columns]
        table.add_row(Text(label), *cells, style="bold" if place == bold else "")
    return table


def _main_table(numbers: Numbers) -> Table:
    return _table("arm", [row.label for row in numbers.rows], main_columns(numbers), bold=0)


def main_columns(numbers: Numbers) -> list[Column]:
    """The columns of the table of arms."""
    found = numbers.rows
    seeds = [str(len(result.runs)) for result in numbers.study.results]
    rates = ["-" if row.lr is None else f"{row.lr:.4g}" for row in found]
    columns = [
        ("seeds", seeds if len(set(seeds)) > 1 else []),
        ("lr", rates if {*rates} != {"-"} else []),
        *metric_columns(numbers, numbers.metric),
        ("verdict", [verdict_text(row.judgement) for row in found]),
        ("p", ["-" if row.judgement is None else p_text(row.judgement.p) for row in found]),
        ("step ms", [f"{1000 * row.step_seconds:.2f}" for row in found]),
        ("ratio", [f"{row.step_ratio:.2f}" for row in found]),
        ("state bytes", [f"{row.state_bytes:,}" for row in found]),
    ]
    return [column for column in columns if column[1]]


def metric_columns(numbers: Numbers, metric: Metric) -> list[Column]:
    """The values of a metric, and their differences to the reference."""
    differences = [row.cells[metric.name].difference for row in numbers.rows]
    form, same = numbers.forms[metric.name], f"{IDENTICAL} to {numbers.study.full.arm.label}"
    return [
        (title(metric), [_mean(numbers, place, metric) for place in range(len(numbers.rows))]),
        (
            difference_title(numbers, metric),
            [same if row.identical else form.interval(found) for row, found in zip(numbers.rows, differences)],
        ),
    ]


def _mean(numbers: Numbers, place: int, metric: Metric) -> str:
    """The mean of an arm, or why there is none. Where runs missed a target, it is more than the mean."""
    row = numbers.rows[place]
    cell = row.cells[metric.name]
    if cell.mean is None:
        return "failed" if row.failed else "diverged" if row.diverged else "-"
    if cell.missed == len(numbers.study.results[place].runs):
        return "never"
    return f"{'> ' if cell.missed else ''}{numbers.forms[metric.name].value(cell.mean)}"


def verdict_text(judgement: Judgement | None) -> str:
    return "-" if judgement is None else judgement.verdict


def _other_metrics(numbers: Numbers) -> list[Table]:
    labels = [row.label for row in numbers.rows]
    return [_table("arm", labels, metric_columns(numbers, metric), bold=0) for metric in numbers.study.metrics[1:]]


def effect_columns(numbers: Numbers) -> list[Column]:
    """The columns of the table of effects."""
    found, unit = numbers.effects, numbers.metric.unit
    estimates = [numbers.form.interval(effect.difference) for effect in found]
    return [
        (f"on {numbers.metric.name} ({unit})" if unit else f"on {numbers.metric.name}", estimates),
        ("verdict", [verdict_text(effect.judgement) for effect in found]),
        ("p", ["-" if effect.judgement is None else p_text(effect.judgement.p) for effect in found]),
    ]


def _effects(numbers: Numbers) -> Table | None:
    if not numbers.effects:
        return None
    return _table("effect", [effect.label for effect in numbers.effects], effect_columns(numbers))


def edits_of(numbers: Numbers) -> list[tuple[str, str]]:
    """What makes each arm of the reference, where its label does not say it."""
    return [(row.label, row.edits) for row in numbers.rows if row.edits and row.edits != row.label]


def _edits(numbers: Numbers) -> Table | None:
    lines = edits_of(numbers)
    return _grid([(f"{label} =", edits) for label, edits in lines]) if lines else None


def legend(numbers: Numbers) -> str:
    """How the tables are read."""
    study, metric = numbers.study, numbers.metric
    better = ", ".join(f"{each.name} {'higher' if each.higher_is_better else 'lower'}" for each in study.metrics)
    if study.seeds == 1:
        return f"Better is: {better}. One seed gives no interval; pass --seeds 3 or more."
    differences = [*map(numbers.of_first, numbers.rows), *(effect.difference for effect in numbers.effects)]
    tests = {difference.test for difference in differences if difference is not None} - {""}
    said = [
        f"Better is: {better}.",
        f"Differences to {numbers.reference} of the same seed: mean and 95 % interval, each arm by itself.",
        f"Verdicts and p are on {metric.name}, at 5 % for all arms together "
        f"(Holm; {' and '.join(sorted(tests)) or 'no test'}).",
    ]
    if any(row.judgement is not None and row.judgement.verdict == "not resolved" for row in numbers.rows):
        said.append("Not resolved: if there is a difference, it takes more seeds to see it.")
    if study.margin is not None:
        said.append(f"Equivalent: by less than {margin_text(numbers)}, two one-sided t tests.")
    if numbers.effects:
        said.append("Effects are a family of their own.")
    return " ".join(said)
