"""Drawings as SVG that is part of a page: it takes the page's font, and its colours by day and by night."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gradchain.ablation.reports.drawing import COLOURS, FAINT, GRID, INK, PLAIN, VERDICTS

WIDE, NARROW = 10.0, 4.2
"""Widths in inches: for screens and paper, and for phones."""

_NAMES = {
    INK: "ink",
    FAINT: "faint",
    GRID: "grid",
    **{colour: f"verdict-{verdict.replace(' ', '-')}" for verdict, (_, colour) in VERDICTS.items()},
    **{colour: f"arm-{place}" for place, colour in enumerate(COLOURS)},
}
_COLOUR = re.compile("|".join(["#000000", *map(re.escape, _NAMES)]), re.IGNORECASE)

DAY = {name: colour for colour, name in _NAMES.items()}
"""The colours of drawings, by the names that the page gives them."""

NIGHT = {
    **dict(zip(("ink", "faint", "grid"), ("#e8e8ea", "#9b9da2", "#3a3e44"))),
    **dict(zip((name for name in DAY if name.startswith("verdict")), ("#6cb6ff", "#ff9a5c", "#c4c6ca", "#8f9297"))),
    **dict(
        zip(
            (name for name in DAY if name.startswith("arm")),
            ("#f093a0", "#a99cf0", "#e3bf5a", "#5fc77d", "#7cc7ec", "#d77bb0", "#6fd3c4", "#c9c95f", "#cf86c4"),
        )
    ),
}
"""The same on a dark page."""


def vector(draw: Callable[..., None], height: float, narrow_height: float, says: str) -> str:
    """A drawing in two widths, of which the page shows one. `draw` gets axes, and `narrow=True` for the second.

    Returns: HTML.
    """
    return _svg(draw, WIDE, height, says, narrow=False) + _svg(draw, NARROW, narrow_height, says, narrow=True)


def _svg(draw: Callable[..., None], width: float, height: float, says: str, *, narrow: bool) -> str:
    settings: Any = {**PLAIN, "svg.fonttype": "none", "svg.hashsalt": f"{says} {narrow}"}
    text = StringIO()
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(axes=figure.subplots(), narrow=narrow)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(text.getvalue(), "narrow" if narrow else "wide", says)


def _embedded(svg: str, kind: str, says: str) -> str:
    """The drawing without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r"font: (?:(\w+) )?([\d.]+px)[^;\"]*", r"font-size: \2", svg)
    svg = _COLOUR.sub(lambda found: f"var(--{_NAMES.get(found[0].lower(), 'ink')})", svg)
    viewed = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    return f'<svg class="{kind}" {viewed[0] if viewed else ""} role="img" aria-label="{escape(says)}">{body}'
