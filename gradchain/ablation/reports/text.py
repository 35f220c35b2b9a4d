"""The study as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradchain.ablation.reports.columns import (
    Column,
    cost_columns,
    edits_of,
    effect_columns,
    judged_columns,
    metric_columns,
)
from gradchain.ablation.reports.findings import chosen, described, findings, legend, looked
from gradchain.ablation.reports.numbers import Numbers, numbers_of
from gradchain.ablation.reports.verdict import verdict
from gradchain.ablation.results import Results

WIDTH = 132  # where there is no terminal to ask
TITLE = 20
"""Longer titles of columns are wrapped."""


def report(study: Results) -> Group:
    """Lay the study out for a rich console. Returns: the verdict, what was run, notes, and tables."""
    numbers = numbers_of(study)
    parts: list[RenderableType] = [Text(verdict(numbers), style="bold"), "", _heading(study), ""]
    notes = findings(numbers)
    if notes:
        parts += [_grid([("-", note) for note in notes]), ""]
    for table in (_effects(numbers), _main_table(numbers), *_other_metrics(numbers), _edits(numbers)):
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
    return _table(
        "arm", [row.label for row in numbers.rows], [*judged_columns(numbers), *cost_columns(numbers)], bold=0
    )


def _other_metrics(numbers: Numbers) -> list[Table]:
    labels = [row.label for row in numbers.rows]
    return [_table("arm", labels, metric_columns(numbers, metric), bold=0) for metric in numbers.study.metrics[1:]]


def _effects(numbers: Numbers) -> Table | None:
    if not numbers.effects:
        return None
    return _table("effect", [effect.label for effect in numbers.effects], effect_columns(numbers))


def _edits(numbers: Numbers) -> Table | None:
    lines = edits_of(numbers)
    return _grid([(f"{label} =", edits) for label, edits in lines]) if lines else None
