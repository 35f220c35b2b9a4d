"""The picture of a trace: a bar and a point for each stage, from the gradient down to the parameter."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradchain.errors import OptionError

BAR, POINT = "#0072B2", "#D55E00"
"""Blue and vermilion, which the colour-blind tell apart; and a bar is no point."""

Drawn = tuple[str, float, float, float]
"""A stage, its RMS, its cosine to the gradient, and the fraction of signs that it turned."""


def draw(path: str | os.PathLike[str], title: str, rows: Sequence[Drawn]) -> None:
    """Write the picture.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OptionError: the ending of the path is no format of pictures.
    """
    figure = _figure(7.5, 1.5 + 0.32 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(rows))
    sizes = [rms if math.isfinite(rms) and rms > 0 else math.nan for _, rms, _, _ in rows]
    low = min((size for size in sizes if not math.isnan(size)), default=1.0) / 10
    left.barh(places, [max(size, low) for size in sizes], left=0, color=BAR, height=0.6)
    left.set_xscale("log")
    left.set_xlim(left=low)
    left.set_yticks(places, [stage for stage, *_ in rows])
    left.invert_yaxis()
    left.set_xlabel("RMS of the change")
    for place, size in zip(places, sizes):
        if not math.isnan(size):
            left.annotate(f"{size:.2g}", (size, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    left.set_xlim(right=4 * max((size for size in sizes if not math.isnan(size)), default=1.0))
    right.plot([cosine for _, _, cosine, _ in rows], places, "o-", color=POINT)
    right.set_xlim(-1.08, 1.08)
    right.axvline(0, color="0.7", linewidth=0.8)
    right.set_xlabel("cosine to steepest descent")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise OptionError(f"{path} is no picture: {error}. End its name in .png, .svg or .pdf.") from None


def _figure(width: float, height: float) -> Any:
    """A figure of its own, which leaves the global state of pyplot alone."""
    try:
        made = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed. Pictures need matplotlib: pip install matplotlib", name=error.name
        ) from None
    return made.Figure(figsize=(width, height), layout="constrained")
