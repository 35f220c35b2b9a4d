"""What was published and what we find, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradchain._chain.registry import find


@dataclass(frozen=True)
class Claim:
    """One published figure or statement, and ours.

    Args:
        what: what it is about.
        published: as it was printed.
        ours: as ours would be printed.
        agrees: whether ours says the same.
        explanation: why not, or what the agreement is worth.
    """

    what: str
    published: str
    ours: str
    agrees: bool
    explanation: str = ""

    @property
    def verdict(self) -> str:
        return "agrees" if self.agrees else "differs"


@dataclass(frozen=True)
class Reproduction:
    """Published claims beside ours. `print(reproduction)` shows them.

    Args:
        name, summary, source: what was reproduced, and where it was published.
        setting: how ours were found, and what is smaller than in the publication.
        rows: the claims.
        seconds: what it took.
    """

    name: str
    summary: str
    source: str
    setting: str
    rows: tuple[Claim, ...]
    seconds: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether all do."""
        return all(row.agrees for row in self.rows)

    def __str__(self) -> str:
        header = ("what", "published", "ours", "")
        cells = [header, *((row.what, row.published, row.ours, row.verdict) for row in self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(4)]
        table = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip() for line in cells]
        table.insert(1, "  ".join("-" * width for width in widths))
        notes = [f"{row.what}: {row.explanation}" for row in self.rows if row.explanation]
        count = sum(row.agrees for row in self.rows)
        return "\n".join(
            [
                f"{self.name}: {self.summary}",
                f"Published: {self.source}",
                f"Ours: {self.setting}",
                "",
                *table,
                *(["", *notes] if notes else []),
                "",
                f"{count} of {len(self.rows)} agree.",
            ]
        )


Attempt = Callable[[int, "Callable[[str], None]"], Reproduction]
"""Of the number of seeds, and of what is told of the progress."""


@dataclass(frozen=True)
class Registered:
    name: str
    summary: str
    seeds: int
    attempt: Attempt


_registered: dict[str, Registered] = {}


def register(name: str, summary: str, seeds: int) -> Callable[[Attempt], Attempt]:
    """Register what reproduces a claim, with how many seeds it takes by itself. Returns: the decorator."""

    def decorate(attempt: Attempt) -> Attempt:
        _registered[name] = Registered(name, summary, seeds, attempt)
        return attempt

    return decorate


def find_registered(name: str) -> Registered:
    """Look one up. Returns: it.

    Raises: StudyError: there is no such reproduction.
    """
    return find("reproduction", name, _registered)


def reproductions() -> dict[str, str]:
    """List what can be reproduced. Returns: summaries by name, sorted.

    >>> "gyro-synthetic" in reproductions()
    True
    """
    return {name: _registered[name].summary for name in sorted(_registered)}
