"""The arms of a study, and what is compared: what every design returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradchain._chain.chain import Chain

Kind = Literal["full", "without", "with", "baseline", "edited"]

FULL = "full"


@dataclass(frozen=True)
class Arm:
    """One chain to train with, and its name. `edits` is what makes it of the reference, in one line."""

    label: str
    chain: Chain
    kind: Kind
    edits: str = ""


@dataclass(frozen=True)
class Contrast:
    """A comparison: for each seed, the sum of the metric of arms times their weights.

    It is the change in the metric that the presence of what its label names makes.
    """

    label: str
    weights: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Design:
    """The arms of a study, the reference first; what is compared beyond each arm with it; notes for the reader."""

    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return self.arms[0].label


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
