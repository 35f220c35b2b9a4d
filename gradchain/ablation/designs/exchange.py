"""Other stages in a place, and other orders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gradchain._chain.chain import Chain
from gradchain._chain.reading import StageSpec, stage_from
from gradchain._chain.targets import resolve
from gradchain.ablation.arms import Design
from gradchain.ablation.designs.collected import Collected
from gradchain.ablation.errors import StudyError
from gradchain.errors import ChainError, shown


def swap(chain: Chain, place: str, alternatives: Sequence[StageSpec]) -> Design:
    """The chain with each of some other stages in the place of one. Each arm is compared with the chain as it is.

    An alternative is a stage, or its text, such as `"atan2_scale(a=1.27)"`.

    Returns: the design, the full chain first.
    Raises: StudyError: no alternatives; ChainError: one does not fit there; UnknownNameError: there is no such stage.

    >>> from gradchain.ablation.designs import swap
    >>> [arm.label for arm in swap(gradchain.recipe("lion"), "sign", ["lion_k", "centralize"]).arms]
    ['full', 'sign -> lion_k()', 'sign -> centralize()']
    """
    name = resolve(chain.names, place)
    if isinstance(alternatives, str) or not isinstance(alternatives, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(
            f"alternatives = {shown(alternatives)}: pass a list of stages, such as ['sign', 'atan2_scale()']."
        )
    found = Collected(chain)
    for spec in alternatives:
        stage = stage_from(spec)
        found.add(f"{name} -> {stage!r}", chain.replace(name, stage))
    return found.design("Pass at least one other stage.")


def orders(chain: Chain, stages: Sequence[str] | Sequence[tuple[str, str]] | None = None) -> Design:
    """The chain with two stages in each other's place: neighbours, neighbours among some stages, or given pairs.

    Orders that are not sound are left out, and the notes say why.

    Returns: the design, the full chain first.
    Raises: StudyError: no other order is sound; UnknownOptionError: the chain has no such stage.

    >>> from gradchain.ablation.designs import orders
    >>> [arm.label for arm in orders(gradchain.recipe("gyro-adam"), [("first_moment", "second_moment")]).arms]
    ['full', 'first_moment <-> second_moment']
    """
    found = Collected(chain)
    for one, other in _pairs(chain, stages):
        label = f"{one} <-> {other}"
        try:
            found.add(label, chain.edit(label))
        except ChainError as error:
            found.notes.append(f"not an arm: {error}")
    return found.design("Name other stages.")


def _pairs(chain: Chain, stages: Sequence[str] | Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    if stages is None:
        rows = [name.rpartition("/")[0] for name in chain.names]
        neighbours = pairwise(zip(rows, chain.names))
        return [(one, other) for (row, one), (same, other) in neighbours if row == same]
    if isinstance(stages, str) or not isinstance(stages, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"stages = {shown(stages)}: pass a list of names, or of pairs of names.")
    if all(isinstance(entry, str) for entry in stages):
        names = sorted((resolve(chain.names, str(name)) for name in stages), key=chain.names.index)
        return list(pairwise(names))
    pairs = [tuple(entry) for entry in stages]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise StudyError(f"stages has the entry {shown(wrong[0])}; pass a pair of names, such as ('a', 'b').")
    return [(resolve(chain.names, pair[0]), resolve(chain.names, pair[1])) for pair in pairs]
