"""Text for people: columns, and how far something has come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells in columns under a header."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def shape_text(shape: Sequence[int]) -> str:
    """A shape as `3 x 2`."""
    return " x ".join(map(str, shape)) or "scalar"


class Progress(NamedTuple):
    """What is about to be done, or (at the end) was done last; `done` of `total` are behind."""

    done: int
    total: int
    text: str
