"""The study as a picture in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gradchain.ablation.errors import StudyError
from gradchain.ablation.reports.curves import curve_names
from gradchain.ablation.reports.drawing import PLAIN, arm_marks, difference_axis, draw_curves, draw_differences
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
    """The picture: differences on the left; curves on the right, if there are any."""
    study, curves = numbers.study, curve_names(numbers.study)
    marks = arm_marks(numbers)
    figure = Figure(figsize=(13 if curves else 8, max(3.6, 1.6 + 0.46 * len(marks))), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2 if curves else 1, width_ratios=(1.1, 1) if curves else None, squeeze=False)[0]
    draw_differences(axes[0], numbers, marks, says=difference_axis(numbers))
    if curves:
        draw_curves(axes[1], numbers, curves[0])
    title = f"Ablation of {study.name} on {study.settings.training.name}, {counted(study.seeds, 'seed')}"
    figure.suptitle(title, fontsize=13)
    return figure
