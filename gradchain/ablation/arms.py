"""The arms of a study: the full chain, the chain without each stage, and a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradchain._chain.chain import Chain
from gradchain.errors import ChainError
from gradchain.transforms import scale_by_learning_rate

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
    """A comparison: for each seed, the sum of the metric of arms times their weights."""

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


@dataclass
class _Removal:
    """A reduced chain with the stages that were taken out of it; `roots` are those whose removal leads here."""

    chain: Chain
    roots: list[str]
    gone: tuple[str, ...]

    @property
    def label(self) -> str:
        also = [name for name in self.gone if name not in self.roots]
        return f"without {listed(self.roots)}" + (f" (+ {', '.join(also)})" if also else "")


def make_arms(chain: Chain, baseline: tuple[str, Chain] | None = None) -> Design:
    """Make the arms: stages that need each other go together, no chain runs twice. Returns: the full chain first."""
    removals, notes = _removals(chain)
    arms = [Arm(FULL, chain, "full"), *(Arm(removal.label, removal.chain, "without") for removal in removals)]
    if baseline is not None:
        name, other = baseline
        same = next((arm for arm in arms if arm.chain == other), None)
        if same is None:
            arms.append(Arm(name, other, "baseline"))
        else:
            notes.append(f"the baseline {name} is the same chain as the arm {same.label!r}: run once.")
    return Design(tuple(arms), (), tuple(notes))


def _removals(chain: Chain) -> tuple[list[_Removal], list[str]]:
    found: dict[Chain, _Removal] = {}
    notes: list[str] = []
    for name, stage in chain.addressed:
        if isinstance(stage, scale_by_learning_rate):
            notes.append(f"not ablated: {name}, it is the step size itself.")
            continue
        try:
            dependents = chain.dependents(name)
        except ChainError as error:
            notes.append(f"not ablated: {name}, no sound chain is left without it ({error})")
            continue
        gone = (name, *dependents)
        if len(gone) == len(chain):
            notes.append(f"not ablated: {name}, nothing is left of the chain without it.")
            continue
        reduced = chain.without(*gone)
        known = found.setdefault(reduced, _Removal(reduced, [], gone))
        if dependents:
            notes.append(_together(name, dependents, known.roots))
        known.roots.append(name)
    return list(found.values()), notes


def _together(name: str, dependents: Sequence[str], earlier: Sequence[str]) -> str:
    one = len(dependents) == 1
    text = (
        f"{name} cannot be removed alone: {listed(dependents)} {'depends' if one else 'depend'} on it and "
        f"{'is' if one else 'are'} removed together with it"
    )
    return f"{text}, which is the same arm as without {listed(earlier)}." if earlier else f"{text}."


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
