"""Which of the edits between a good chain and a bad one are guilty, by delta debugging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from gradchain._chain.chain import Chain
from gradchain._chain.diff import diff
from gradchain._chain.recipes import load_chain
from gradchain.ablation.errors import StudyError
from gradchain.errors import GradchainError, kind_of, shown

IsBad: TypeAlias = Callable[[Chain], "bool | None"]
"""Whether a chain is bad; `None` where that cannot be said."""

Edits: TypeAlias = "tuple[str, ...]"


@dataclass(frozen=True)
class Bisection:
    """The guilty edits. `print(bisection)` shows them in one line.

    Attributes:
        edits: the edits of the good chain that make it bad. Leaving any one of them out, it is not bad, or not a chain.
        chain: the good chain with these edits.
        of: the number of edits between the good chain and the bad one.
        tests: how many chains were asked about.
        unresolved: how many sets of edits made no sound chain, or one of which nothing could be said.
    """

    edits: Edits
    chain: Chain
    of: int
    tests: int
    unresolved: int

    def __str__(self) -> str:
        unresolved = f", {self.unresolved} unresolved" if self.unresolved else ""
        return f"guilty: {'; '.join(self.edits)} ({len(self.edits)} of {self.of} edits; {self.tests} tests{unresolved})"


def bisect(good: str | Chain, bad: str | Chain, is_bad: IsBad) -> Bisection:
    """Find a smallest part of the edits from `good` to `bad` that makes the good chain bad.

    The edits are those of `gradchain.diff`. They are tried in halves, quarters and so on, and without each of these, as in
    Zeller's ddmin. `is_bad(chain)` says whether a chain is bad, for example that it trains to a higher loss than allowed;
    `None` where it cannot say. It is asked once about each chain, and never about a part of the edits that makes no sound
    chain.

    Returns: the guilty edits; none of them can be left out.
    Raises: StudyError: the good chain is bad, or the bad one is not.

    >>> from gradchain.ablation import bisect
    >>> print(bisect("rose", "adamw", lambda chain: "cv_trust_gate" not in chain))
    guilty: -cv_trust_gate (1 of 10 edits; 5 tests, 1 unresolved)
    """
    old, new = load_chain(good, {}), load_chain(bad, {})
    edits = diff(old, new).edits
    if not edits:
        raise StudyError("the good chain and the bad one are the same. Pass two that differ.")
    trials = _Trials(old, edits, is_bad)
    for part, wanted, chain in (((), False, "good"), (edits, True, "bad")):
        found = trials(part)
        if found is not wanted:
            said = "None" if found is None else "bad" if found else "not bad"
            raise StudyError(f"is_bad calls the {chain} chain {said}. Exchange the chains, or look at is_bad.")
    guilty = _smallest(edits, trials)
    return Bisection(guilty, old.edit(*guilty), len(edits), trials.tests, trials.unresolved)


class _Trials:
    """Asks about parts of the edits, once about each chain."""

    def __init__(self, good: Chain, edits: Edits, is_bad: IsBad) -> None:
        self.good, self.edits, self.is_bad = good, edits, is_bad
        self.known: dict[Edits, bool | None] = {}
        self.asked: dict[Chain, bool | None] = {}

    @property
    def tests(self) -> int:
        return len(self.asked)

    @property
    def unresolved(self) -> int:
        return sum(found is None for found in self.known.values())

    def __call__(self, part: Edits) -> bool | None:
        if part not in self.known:
            self.known[part] = self._found(part)
        return self.known[part]

    def _found(self, part: Edits) -> bool | None:
        try:
            chain = self.good.edit(*part)
        except GradchainError:  # the others have what these need
            return None
        if chain not in self.asked:
            self.asked[chain] = _answer(self.is_bad(chain))
        return self.asked[chain]


def _answer(found: object) -> bool | None:
    if found is None or isinstance(found, bool):
        return found
    if type(found).__name__ in ("bool", "bool_"):  # numpy's
        return bool(found)
    raise StudyError(f"is_bad returned {shown(found)}, {kind_of(found)}; return True, False, or None if it cannot say.")


def _smallest(edits: Edits, is_bad: Callable[[Edits], bool | None]) -> Edits:
    """A part of the edits that is bad, from which nothing can be left out."""
    pieces = 2
    while len(edits) > 1:
        bounds = [len(edits) * number // pieces for number in range(pieces + 1)]
        cuts = [(bounds[number], bounds[number + 1]) for number in range(pieces)]
        smaller = next((edits[start:end] for start, end in cuts if is_bad(edits[start:end])), None)
        if smaller is not None:
            edits, pieces = smaller, 2
            continue
        rests = (edits[:start] + edits[end:] for start, end in cuts)
        smaller = next((rest for rest in rests if is_bad(rest)), None)
        if smaller is not None:
            edits, pieces = smaller, max(pieces - 1, 2)
        elif pieces >= len(edits):
            break
        else:
            pieces = min(2 * pieces, len(edits))
    return edits
