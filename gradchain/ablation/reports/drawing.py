"""Drawings of a study's parts, each on axes of its own."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter

from gradchain.ablation.reports.curves import Points, mean_curve, tried
from gradchain.ablation.reports.numbers import IDENTICAL, Numbers, title
from gradchain.ablation.statistics import Difference

PLAIN: Any = {"text.parse_math": False}
"""Settings under which labels are drawn: a dollar in a label is a dollar."""

INK, FAINT, GRID = "#1a1a1b", "#6e6e70", "#d9d9da"

# Verdicts, by marker and colour; colours stay apart for colour-blind readers (Okabe and Ito).
VERDICTS = {
    "better": ("^", "#0072b2"),
    "worse": ("v", "#c2410c"),
    "equivalent": ("s", "#4d4d4f"),
    "not resolved": ("o", "#8a8a8c"),
}

# Arms, by colour (Paul Tol's "muted"), line and marker; the reference is a wide line in the colour of the text.
COLOURS = ("#cc6677", "#332288", "#b8860b", "#117733", "#4fa8d0", "#882255", "#44aa99", "#8c8c28", "#aa4499")
LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LABEL = 38
"""Characters of a line of a label beside a plot."""

NAMED = 10
"""Of more arms, curves of those that differ most are named; the others are thin."""


@dataclass(frozen=True)
class Mark:
    """One line of a plot of differences."""

    label: str
    difference: Difference | None
    verdict: str
    caption: str


def arm_marks(numbers: Numbers) -> list[Mark]:
    """All arms but the reference."""
    found: list[Mark] = []
    for row in numbers.rows[1:]:
        difference = numbers.of_first(row)
        verdict = "" if row.judgement is None else row.judgement.verdict
        caption = numbers.form.interval(difference)
        if row.identical:
            caption = IDENTICAL
        elif difference is None:
            caption = "failed" if row.failed else "diverged" if row.diverged else "-"
        found.append(Mark(row.label, None if row.identical else difference, verdict, caption))
    return found


def effect_marks(numbers: Numbers) -> list[Mark]:
    """All contrasts."""
    return [
        Mark(
            effect.label,
            effect.difference,
            "" if effect.judgement is None else effect.judgement.verdict,
            numbers.form.interval(effect.difference),
        )
        for effect in numbers.effects
    ]


def height_of(marks: Sequence[Mark]) -> float:
    """How high a plot of differences must be for its labels, in inches."""
    lines = max((_wrapped(mark.label, LABEL).count("\n") + 1 for mark in marks), default=1)
    return 1.2 + max(0.4, 0.17 * lines) * len(marks)


def draw_differences(axes: Any, numbers: Numbers, marks: Sequence[Mark], *, says: str, narrow: bool = False) -> None:
    """Differences with their intervals, a line for each; verdicts are told by marker, colour and word."""
    factor, study = numbers.form.factor, numbers.study
    _scale(axes, [mark.difference for mark in marks], factor)
    axes.axvline(0, color=INK, linewidth=0.8)
    if study.margin is not None:
        axes.axvspan(-study.margin, study.margin, color=GRID, alpha=0.5, linewidth=0)
    for place, mark in enumerate(marks):
        marker, colour = VERDICTS.get(mark.verdict, ("o", FAINT))
        if mark.difference is not None:
            axes.errorbar(
                factor * mark.difference.mean, place, xerr=_bars(mark.difference, factor), fmt=marker, color=colour,
                markerfacecolor="none" if mark.verdict == "not resolved" else colour, capsize=3, markersize=6,
            )  # fmt: skip
        said = f"{mark.caption}  {mark.verdict}".rstrip()
        if narrow:
            said, at = f"{_wrapped(mark.label, 50)}\n{said}", {"xy": (0, place - 0.14), "ha": "left", "va": "bottom"}
        else:
            at = {"xy": (1.02, place), "ha": "left", "va": "center"}
        axes.annotate(said, xycoords=("axes fraction", "data"), fontsize=8.5, color=INK, **at)
    axes.set_yticks(range(len(marks)), [""] * len(marks) if narrow else [_wrapped(mark.label, LABEL) for mark in marks])
    axes.set_ylim(max(1, len(marks)) - 0.6, -0.9 if narrow else -0.6)
    axes.set_xlabel(_wrapped(f"{says}\n{_better_is(numbers)}", 52 if narrow else 90), fontsize=9)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)


def _better_is(numbers: Numbers) -> str:
    return "right of the line is better" if numbers.metric.higher_is_better else "left of the line is better"


def effect_axis(numbers: Numbers) -> str:
    """What the axis of effects shows."""
    unit = f", {numbers.metric.unit}" if numbers.metric.unit else ""
    return f"effect on {numbers.metric.name}{unit} (mean, 95 % interval)"


def difference_axis(numbers: Numbers) -> str:
    """What the axis of differences shows."""
    metric = numbers.metric
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.name} minus that of {numbers.reference}{unit} (mean, 95 % interval)"


def _scale(axes: Any, differences: Sequence[Difference | None], factor: float) -> None:
    """One arm that does not learn would squeeze all others into a line: linear where most are, logarithmic beyond."""
    known = [difference for difference in differences if difference is not None]
    sizes = [factor * max(abs(end) for end in (d.mean, d.low, d.high) if end is not None) for d in known]
    if sizes and max(sizes) > 25 * median(sizes) > 0:
        axes.set_xscale("symlog", linthresh=10.0 ** math.ceil(math.log10(1.5 * median(sizes))), linscale=1.2)
        axes.xaxis.set_major_formatter(_plain_number)


def _bars(difference: Difference, factor: float) -> list[list[float]] | None:
    if difference.low is None or difference.high is None:
        return None
    # The interval of a skewed bootstrap may leave its mean at an end.
    below, above = difference.mean - difference.low, difference.high - difference.mean
    return [[factor * max(0.0, below)], [factor * max(0.0, above)]]


def draw_curves(axes: Any, numbers: Numbers, name: str, *, narrow: bool = False) -> None:
    """A curve of every arm, over steps: the mean over its seeds."""
    curves: list[Points] = []
    for result, row in zip(numbers.study.results, numbers.rows):
        curves.append(([], []) if row.identical else mean_curve(result.runs, name))
    _draw_lines(axes, numbers, curves)
    _log_if_wide(axes, [value for _, values in curves for value in values])
    axes.set_xlabel("step")
    axes.set_ylabel(f"{name.replace('_', ' ')} (mean over seeds)")
    _finish(axes, narrow)


def draw_tried(axes: Any, numbers: Numbers, hyperparameter: str, *, narrow: bool = False) -> None:
    """What the trials of every arm gave, against a hyperparameter; the value that was chosen is ringed."""
    metric = numbers.study.settings.training.tune_on
    points = [tried(result, hyperparameter, metric) for result in numbers.study.results]
    scaled = [(places, [metric.factor * value for value in values]) for places, values in points]
    _draw_lines(axes, numbers, scaled, markers=True)
    for result, (places, values) in zip(numbers.study.results, scaled):
        best = result.chain.hyperparameters.get(hyperparameter)
        for place, value in zip(places, values):
            if place == best:
                axes.plot([place], [value], "o", markersize=11, markerfacecolor="none", color=INK, markeredgewidth=0.9)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain_number)
    axes.xaxis.set_minor_formatter(NullFormatter())
    _log_if_wide(axes, [value for _, values in scaled for value in values])
    axes.set_xlabel("learning rate" if hyperparameter == "lr" else hyperparameter)
    axes.set_ylabel(f"{title(metric)}, of trials")
    _finish(axes, narrow)


def _draw_lines(axes: Any, numbers: Numbers, lines: Sequence[Points], markers: bool = False) -> None:
    named = _named(numbers)
    for place, (xs, ys) in enumerate(lines):
        if not xs:
            continue
        if place == 0:  # wide and beneath, so that curves that coincide with it are seen
            style: dict[str, Any] = {"color": INK, "linewidth": 3.6, "alpha": 0.8, "zorder": 2}
        elif place in named:
            turn = named.index(place)
            style = {"color": COLOURS[turn % len(COLOURS)], "linestyle": LINES[turn % len(LINES)], "linewidth": 1.5}
        else:
            style = {"color": FAINT, "linewidth": 0.6, "alpha": 0.7, "zorder": 1}
        if markers:
            style |= {"marker": MARKERS[place % len(MARKERS)], "markersize": 4.5}
        label = numbers.rows[place].label if place in named or place == 0 else None
        axes.plot(xs, ys, label=label, **style)


def _named(numbers: Numbers) -> list[int]:
    """The arms whose curves are named, in order: all of few, or those that differ most."""
    others = [place for place, row in enumerate(numbers.rows) if place and not row.identical]
    if len(others) <= NAMED:
        return others

    def size(place: int) -> float:
        difference = numbers.of_first(numbers.rows[place])
        return abs(difference.mean) if difference is not None else 0.0

    return sorted(sorted(others, key=size)[-NAMED + 1 :])


def _log_if_wide(axes: Any, values: Sequence[float]) -> None:
    if not values or min(values) <= 0 or max(values) < 4 * min(values):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(_plain_number)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finish(axes: Any, narrow: bool) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    labels = [_wrapped(label, 40 if narrow else 28) for label in labels]
    place = (
        {"loc": "upper left", "bbox_to_anchor": (0.0, -0.2)}
        if narrow
        else {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    )
    if handles:
        axes.legend(handles, labels, fontsize=8, frameon=False, handlelength=3.2, **place)


def _wrapped(label: str, width: int) -> str:
    """The label in short lines; the stages that were removed too start a new one."""
    parts = label.replace(" (+", "\n(+").split("\n")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, width) or [""])


def _plain_number(value: float, _: object) -> str:
    return f"{value:g}"
