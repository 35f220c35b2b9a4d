"""What is lost without a stage, and without two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from gradchain._chain.chain import Chain
from gradchain.ablation.arms import Design, listed
from gradchain.ablation.designs.collected import Collected
from gradchain.ablation.designs.factors import StageNames, factors_of, without
from gradchain.ablation.errors import StudyError
from gradchain.errors import ChainError
from gradchain.transforms import scale_by_learning_rate


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


def leave_one_out(chain: Chain, baseline: tuple[str, Chain] | None = None) -> Design:
    """The chain without each of its stages in turn, and a baseline by its name. Each arm is compared with the full chain.

    Stages that need each other go together, and no chain runs twice; the notes say so.

    Returns: the design, the full chain first.

    >>> from gradchain.ablation.designs import leave_one_out
    >>> [arm.label for arm in leave_one_out(gradchain.recipe("adam-atan2")).arms]
    ['full', 'without first_moment', 'without second_moment and atan2_scale', 'without decoupled_decay']
    """
    found = Collected(chain)
    removals, found.notes = _removals(chain)
    for removal in removals:
        found.add(removal.label, removal.chain, "without")
    if baseline is not None:
        name, other = baseline
        same = next((arm for arm in found.arms if arm.chain == other), None)
        if same is None:
            found.add(name, other, "baseline")
        else:
            found.notes.append(f"the baseline {name} is the same chain as the arm {same.label!r}: run once.")
    return Design(tuple(found.arms), (), tuple(found.notes))


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


def interactions(chain: Chain, stages: Sequence[StageNames]) -> Design:
    """Each pair of some stages, two by two: the chain, without the one, without the other, and without both.

    The contrast `a x b` is what `a` contributes where `b` is, less what it contributes where `b` is not: the full chain,
    less without `a`, less without `b`, and again without both. It is 0 if they add up. Stages that need each other are
    passed as one, in a tuple.

    Returns: the design, the full chain first.
    Raises: StudyError: fewer than two stages, or some that cannot be removed by themselves.

    >>> from gradchain.ablation.designs import interactions
    >>> interactions(gradchain.recipe("adamw"), ["first_moment", "decoupled_decay"]).contrasts[0].label
    'first_moment x decoupled_decay'
    """
    factors = factors_of(chain, stages)
    if len(factors) < 2:
        raise StudyError(f"stages = {stages!r}: interactions need at least two stages.")
    found = Collected(chain)
    for gone in [[factor] for factor in factors] + [list(pair) for pair in combinations(factors, 2)]:
        found.add(*without(chain, gone), "without")
    for one, other in combinations(factors, 2):
        weights = [
            (without(chain, gone)[0], sign) for gone, sign in (([one], -1.0), ([other], -1.0), ([one, other], 1.0))
        ]
        found.contrast(f"{one.label} x {other.label}", (found.reference.label, 1.0), *weights)
    return found.design("")
