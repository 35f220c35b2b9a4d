"""The study as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from gradchain.ablation.errors import StudyError
from gradchain.ablation.report import Row, interval, rows
from gradchain.ablation.results import Result, Results
from gradchain.ablation.statistics import Difference

# Colours that stay apart for colour-blind readers (Paul Tol's "muted"); the full chain is black, the baseline grey.
COLOURS = ("#cc6677", "#332288", "#ddaa33", "#117733", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")


def plot(study: Results, path: str | Path) -> Path:
    """Draw accuracy differences and loss curves into a PNG, without matplotlib's global state. Returns: the path.

    Raises: StudyError: the file cannot be written.
    """
    path = Path(path)
    table = rows(study)
    figure = Figure(figsize=(13, max(4.2, 1.4 + 0.52 * len(table))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    differences, curves = figure.subplots(1, 2, width_ratios=(1.15, 1))
    colours = _colours(study)
    _draw_differences(differences, table, colours)
    _draw_curves(curves, study, table, colours)
    seeds = f"{study.seeds} seed" + ("s" if study.seeds > 1 else "")
    figure.suptitle(f"Ablation of {study.name} on {study.settings.task.name}, {seeds}", fontsize=13)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise StudyError(f"{path}: the plot cannot be written: {error.strerror or error}.") from None
    return path


def _colours(study: Results) -> list[str]:
    special = {"full": "black", "baseline": "#888888"}
    return [special.get(result.arm.kind, COLOURS[i % len(COLOURS)]) for i, result in enumerate(study.results)]


def _wrapped(label: str) -> str:
    """The label in short lines; the stages that were removed too start a new one."""
    parts = label.replace(" (+", "\n(+").split("\n")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, 34))


def _plain_number(value: float, _: object) -> str:
    return f"{value:g}"


def _draw_differences(axes: Any, table: Sequence[Row], colours: Sequence[str]) -> None:
    means = [0.0 if row.accuracy_difference is None else 100 * row.accuracy_difference.mean for row in table]
    # One arm that does not learn would squeeze all others into a line: linear within a point, logarithmic beyond.
    if max(map(abs, means)) > 8:
        axes.set_xscale("symlog", linthresh=1, linscale=0.6)
        axes.xaxis.set_major_formatter(_plain_number)
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (row, mean, colour) in enumerate(zip(table, means, colours)):
        difference = row.accuracy_difference
        error = _bars(difference)
        axes.errorbar(mean, place, xerr=error, fmt="o", color=colour, capsize=4, markersize=6)
        text = _caption(row)
        axes.annotate(
            text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color="#333333"
        )
    axes.set_yticks(range(len(table)), [_wrapped(row.label) for row in table], fontsize=9)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("test accuracy minus that of the full chain (points; mean, 95 % interval)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _bars(difference: Difference | None) -> list[list[float]] | None:
    if difference is None or difference.low is None or difference.high is None:
        return None
    return [[100 * (difference.mean - difference.low)], [100 * (difference.high - difference.mean)]]


def _caption(row: Row) -> str:
    difference = row.accuracy_difference
    return f"{100 * row.accuracy:.1f} %" if difference is None else interval(row, difference, 100, 2).rstrip()


def _draw_curves(axes: Any, study: Results, table: Sequence[Row], colours: Sequence[str]) -> None:
    for result, row, colour in zip(study.results, table, colours):
        if row.identical:
            continue
        steps, losses = _mean_curve(result)
        full = result is study.full
        style = "--" if result.arm.kind == "baseline" else "-"
        axes.plot(
            steps,
            losses,
            style,
            color=colour,
            linewidth=4 if full else 1.4,  # wide and beneath, so that curves that coincide with it are seen
            alpha=0.8 if full else 1,
            zorder=2 if full else 3,
            label=_wrapped(row.label),
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(_plain_number)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (mean over seeds)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _mean_curve(result: Result) -> tuple[list[float], list[float]]:
    """The mean loss curve over the seeds, as long as the shortest: a run that diverges ends early."""
    points = list(zip(*(run.curve for run in result.runs)))
    return [point[0][0] for point in points], [fmean(loss for _, loss in point) for point in points]
