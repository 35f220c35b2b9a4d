"""What `gradchain list` and `gradchain show` print, given what they know: no torch is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Page = Mapping[str, Any]
"""A recipe: `summary` and `source`, both empty for a chain of the user's, and `rows` for its stages."""

Names = Mapping[str, Mapping[str, Mapping[str, str]]]
"""`recipes` and `transforms`, by name, each with its `summary`, recipes with their `source`."""

STAGE = ("stage", "hyperparameters", "slots", "storage", "source")
WIDTH = 132  # where the output is no terminal


def table(*titles: str) -> Table:
    """A table without lines, for the given columns."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in titles:
        made.add_column(title, overflow="fold")
    return made


def add(to: Table, *cells: str) -> None:
    """A row of plain text."""
    to.add_row(*(Text(cell) for cell in cells))  # Text: brackets in cells are no markup


def console() -> Console:
    """Where pages are printed."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH)


def print_recipe(name: str, page: Page) -> None:
    """A recipe's chain, with the source of each stage."""
    stages = table(*STAGE)
    for row in page["rows"]:
        add(stages, *row)
    to = console()
    if page["summary"]:
        to.print(Text(f"{name}: {page['summary']}\nSource: {page['source']}\n"))
    to.print(stages)


def print_names(names: Names) -> None:
    """All recipes and transforms."""
    recipes, transforms = table("recipe", "what it is", "source"), table("transform", "what it does")
    for name, recipe in names["recipes"].items():
        add(recipes, name, recipe["summary"], recipe["source"])
    for name, transform in names["transforms"].items():
        add(transforms, name, transform["summary"])
    to = console()
    to.print(recipes)
    to.print()
    to.print(transforms)
