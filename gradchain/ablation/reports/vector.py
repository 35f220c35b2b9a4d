"""Drawings as SVG that is part of a page: it takes the page's font, and its colours by day and by night."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gradchain.ablation.reports.drawing import COLOURS, FAINT, GRID, INK, VERDICTS

WIDE, NARROW = 10.0, 4.2
"""Widths in inches: for screens and paper, and for phones."""

_VARIABLES = {
    **{"#000000": "ink", INK: "ink", FAINT: "faint", GRID: "grid"},
    **{colour: f"verdict-{verdict.replace(' ', '-')}" for verdict, (_, colour) in VERDICTS.items()},
    **{colour: f"arm-{place}" for place, colour in enumerate(COLOURS)},
}
_COLOUR = re.compile("|".join(map(re.escape, _VARIABLES)), re.IGNORECASE)


def night_and_day() -> dict[str, str]:
    """The colours of drawings by the name of their variable, by day."""
    return {name: colour for colour, name in _VARIABLES.items() if colour != "#000000"}


def vector(draw: Callable[..., None], height: float, narrow_height: float, says: str) -> str:
    """A drawing in two widths, of which the page shows one. `draw` gets axes, and `narrow=True` for the second.

    Returns: HTML.
    """
    return _svg(draw, WIDE, height, says, narrow=False) + _svg(draw, NARROW, narrow_height, says, narrow=True)


def _svg(draw: Callable[..., None], width: float, height: float, says: str, *, narrow: bool) -> str:
    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure.subplots(), narrow=narrow)
    text = StringIO()
    settings: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": f"{says} {narrow}", "text.parse_math": False}
    with matplotlib.rc_context(settings):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(text.getvalue(), "narrow" if narrow else "wide", says)


def _embedded(svg: str, kind: str, says: str) -> str:
    """The drawing without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r"font: (?:(\w+) )?([\d.]+px)[^;\"]*", r"font-size: \2", svg)
    svg = _COLOUR.sub(lambda found: f"var(--{_VARIABLES[found[0].lower()]})", svg)
    viewed = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    return f'<svg class="{kind}" {viewed[0] if viewed else ""} role="img" aria-label="{says}">{body}'
