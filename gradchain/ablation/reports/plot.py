"""The study as a picture in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gradchain.ablation.errors import StudyError
from gradchain.ablation.reports.curves import curve_names
from gradchain.ablation.reports.drawing import (
    PLAIN,
    arm_marks,
    difference_axis,
    draw_curves,
    draw_differences,
    effect_axis,
    effect_marks,
    height_of,
)
from gradchain.ablation.reports.numbers import Numbers, counted, numbers_of
from gradchain.ablation.results import Results
from gradchain.errors import shown

FORMATS = (".png", ".svg", ".pdf")
SETTINGS: Any = {**PLAIN, "svg.hashsalt": "gradchain"}
"""The salt makes the same file of the same study."""


def plot(study: Results, path: str | Path) -> Path:
    """Draw differences and curves into a file, a PNG, SVG or PDF by its suffix; matplotlib's global state stays.

    Args:
        study: as `ablate` returns it.
        path: the file; folders are made.

    Returns: the path.
    Raises: StudyError: another suffix, or the file cannot be written.

    >>> plot(ablate("rose", seeds=3, epochs=2), "rose.svg").name
    'rose.svg'
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise StudyError(f"{shown(str(path))}: a plot ends with {', '.join(FORMATS)}. Name it so.")
    numbers = numbers_of(study)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(SETTINGS):
            drawn(numbers).savefig(path, metadata=None if path.suffix.lower() == ".png" else _undated(path))
    except OSError as error:
        raise StudyError(f"{path}: the plot cannot be written: {error.strerror or error}.") from None
    return path


def _undated(path: Path) -> dict[str, None]:
    return {"Date" if path.suffix.lower() == ".svg" else "CreationDate": None}


def drawn(numbers: Numbers) -> Figure:
    """The picture: effects, if there are any, and differences on the left; a curve, if there is one, on the right."""
    study, curves = numbers.study, curve_names(numbers.study)
    parts = [(effect_marks(numbers), effect_axis(numbers))] if numbers.effects else []
    parts.append((arm_marks(numbers), difference_axis(numbers)))
    heights = [height_of(marks) for marks, _ in parts]
    size = (13 if curves else 8, max(3.6, 0.5 + 1.1 * sum(heights)))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.add_gridspec(
        len(parts), 2 if curves else 1, height_ratios=heights, width_ratios=(1.1, 1) if curves else (1,)
    )
    for place, (marks, says) in enumerate(parts):
        draw_differences(figure.add_subplot(grid[place, 0]), numbers, marks, says=says)
    if curves:
        draw_curves(figure.add_subplot(grid[:, 1]), numbers, curves[0])
    title = f"Ablation of {study.name} on {study.settings.training.name}, {counted(study.seeds, 'seed')}"
    figure.suptitle(title, fontsize=13)
    return figure
