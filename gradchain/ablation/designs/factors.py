"""Stages that a design takes out alone and in combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gradchain._chain.chain import Chain
from gradchain._chain.targets import resolve
from gradchain.ablation.arms import listed
from gradchain.ablation.errors import StudyError
from gradchain.errors import ChainError, kind_of, shown

StageNames: TypeAlias = "str | Sequence[str]"
"""A stage, or several that are there or not together."""


@dataclass(frozen=True)
class Factor:
    """Stages that are there, or not, together."""

    names: tuple[str, ...]

    @property
    def label(self) -> str:
        return " + ".join(self.names)


def factors_of(chain: Chain, stages: Sequence[StageNames]) -> list[Factor]:
    """The factors that are named, each of which can be removed by itself.

    Raises:
        StudyError: a stage is named twice, or others depend on one.
        UnknownOptionError: the chain has no such stage.
    """
    if isinstance(stages, str) or not isinstance(stages, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"stages = {shown(stages)} is {kind_of(stages)}; pass a list of names of stages.")
    factors = [Factor(tuple(resolve(chain.names, name) for name in _names(stage))) for stage in stages]
    names = [name for factor in factors for name in factor.names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StudyError(f"stages = {shown(stages)} names {twice[0]} twice. Leave one of them out.")
    for factor in factors:
        without(chain, [factor])
    return factors


def _names(stage: object) -> tuple[str, ...]:
    if isinstance(stage, str):
        return (stage,)
    if isinstance(stage, (list, tuple)) and stage:
        return tuple(stage)  # pyright: ignore[reportUnknownVariableType]
    raise StudyError(f"stages has the entry {shown(stage)}; pass the name of a stage, or a tuple of names.")


def without(chain: Chain, gone: Sequence[Factor]) -> tuple[str, Chain]:
    """The label and the chain without some factors.

    Raises:
        StudyError: what is left does not fit together.
    """
    names = [name for factor in gone for name in factor.names]
    label = f"without {listed([factor.label for factor in gone])}"
    try:
        return label, chain.without(*names)
    except ChainError as error:
        raise StudyError(f"{_dependent(chain, gone)} What is wrong {label}: {error}") from None


def _dependent(chain: Chain, gone: Sequence[Factor]) -> str:
    """Which stages cannot stay without a factor, and what to pass instead."""
    names = [name for factor in gone for name in factor.names]
    together = list(names)
    while True:
        try:
            chain.without(*together)
            break
        except ChainError as error:
            if error.stage is None or error.stage in together:
                return f"{listed(names)} cannot be removed: no sound chain is left."
            together.append(error.stage)
    others = together[len(names) :]
    need = "depends" if len(others) == 1 else "depend"
    return f"{listed(others)} {need} on {listed(names)}. Pass them as one: {tuple(together)!r}."
