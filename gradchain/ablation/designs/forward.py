"""From a base to a target, edit by edit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from gradchain._chain.chain import Chain
from gradchain._chain.diff import diff
from gradchain._chain.edit_strings import apply_edits
from gradchain._chain.recipes import load_chain
from gradchain.ablation.arms import Design
from gradchain.ablation.designs.collected import Collected
from gradchain.errors import GradchainError

BASE, TARGET = "base", "target"

MOST_TOGETHER = 3
"""Edits that are tried together, where one alone makes no sound chain."""


def add_one_in(base: str | Chain, target: str | Chain, *, path: bool = False) -> Design:
    """The base with each of the edits that turn it into the target, and the target. Each arm is compared with the base.

    The edits are those of `gradchain.diff`. Where one alone makes no sound chain, the fewest with which it does are made
    together, and the notes say so. With `path`, each arm has one edit more than the arm before, and the contrasts are the
    steps of this path: each is the change that its edit makes after those before it.

    Returns: the design, the base first.
    Raises: StudyError: base and target are the same chain; UnknownNameError: no such recipe.

    >>> from gradchain.ablation.designs import add_one_in
    >>> for arm in add_one_in("adamw", "adam-atan2").arms:
    ...     print(arm.label)
    base
    divide -> atan2_scale(a=1.27)
    """
    old, new = load_chain(base, {}), load_chain(target, {})
    edits = diff(old, new).edits
    found = Collected(old, BASE, "edited")
    if path:
        _path(found, new, edits)
    else:
        for edit in edits:
            _alone(found, edit, edits)
        if new not in {arm.chain for arm in found.arms}:
            found.add(TARGET, new, "with")
    return found.design("Base and target are the same chain: pass another target.")


def _alone(found: Collected, edit: str, edits: Sequence[str]) -> None:
    others = [other for other in edits if other != edit]
    reason = ""
    for count in range(MOST_TOGETHER):
        for more in combinations(others, count):
            made, error = _made(found.reference.chain, [e for e in edits if e == edit or e in more])
            reason = reason or error
            if made is None:
                continue
            label = _label(e for e in edits if e == edit or e in more)
            known = [arm.label for arm in found.arms]
            if label not in known:
                found.add(label, made, "with")
            if more:
                same = ", which is the arm of these already" if label in known else ""
                found.notes.append(f"{_label([edit])} cannot be made alone: made together as {label!r}{same}. {reason}")
            return
    few = MOST_TOGETHER - 1
    found.notes.append(f"not made: {_label([edit])}, no sound chain has it and up to {few} other edits. {reason}")


def _path(found: Collected, target: Chain, edits: Sequence[str]) -> None:
    made: list[str] = []
    before = found.reference.label
    while len(made) < len(edits):
        step, chain = next(_steps(found.reference.chain, target, made, edits))
        made = [edit for edit in edits if edit in made or edit in step]
        label = found.add(f"then {_label(step)}", chain, "with")
        if label != before:
            found.contrast(_label(step), (label, 1.0), (before, -1.0))
        before = label


def _steps(
    base: Chain, target: Chain, made: Sequence[str], edits: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], Chain]]:
    """The fewest further edits that make a sound chain, in order; in the end all that are left."""
    left = [edit for edit in edits if edit not in made]
    for count in range(1, MOST_TOGETHER + 1):
        for step in combinations(left, count):
            chain, _ = _made(base, [edit for edit in edits if edit in made or edit in step])
            if chain is not None:
                yield step, chain
    yield tuple(left), target


def _made(base: Chain, edits: Sequence[str]) -> tuple[Chain | None, str]:
    """The base with edits; or why there is none."""
    try:
        return Chain(apply_edits(base.elements, edits)), ""
    except GradchainError as error:
        return None, str(error)


def _label(edits: Iterable[str]) -> str:
    """Edits without the places of what they put in, which a chain has one of."""
    return "; ".join(re.sub(r"^(\+.*?)(\(\))?( before \S+| in \S+)?$", r"\1", edit) for edit in edits)
