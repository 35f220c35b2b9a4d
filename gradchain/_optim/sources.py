"""How another optimizer is described, so that its state can be moved in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from gradchain._chain.stage import Stage
from gradchain._optim.conversions import Conversion

Stages: TypeAlias = "Mapping[str, Stage]"
"""The stages of a chain, by the names under which they are registered."""


@dataclass(frozen=True)
class Flag:
    """A setting of theirs that is no number: `of` says what it is for a chain.

    One that is off is not asked about, unless `exact`; nor is any while the number named `when` is off. A `fixed` one
    belongs to the class, and cannot be set for an export.
    """

    of: Callable[[Stages], Any]
    exact: bool = False
    when: str = ""
    fixed: bool = False


def never(stages: Stages) -> bool:
    return False


def has(kind: str) -> Callable[[Stages], bool]:
    return lambda stages: kind in stages


def option(kind: str, name: str, otherwise: Any = False) -> Callable[[Stages], Any]:
    return lambda stages: getattr(stages[kind], name) if kind in stages else otherwise


def averages_after(*others: str) -> Callable[[Stages], bool]:
    """Whether the first moment comes after one of these stages."""

    def of(stages: Stages) -> bool:
        order = list(stages)
        found = [order.index(kind) for kind in others if kind in stages]
        return "first_moment" in stages and any(place < order.index("first_moment") for place in found)

    return of


@dataclass(frozen=True)
class Source:
    """One kind of optimizer."""

    name: str
    group: frozenset[str]
    """Entries of its groups that tell it from others."""
    slots: Mapping[str, str]
    numbers: Mapping[str, str]
    """Hyperparameters and shared numbers."""
    where: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What entries of its groups have to be for this entry to hold."""
    absent: frozenset[str] = frozenset()
    """Entries of groups that only others have."""
    flags: Mapping[str, Flag] = field(default_factory=dict[str, Flag])
    count: str = "tensor"
    """Where steps are counted: in each state, as a `"tensor"` or an `"int"`, or in the group under this name."""
    first: int = 0
    """What its count would be where ours is 0."""
    convert: Mapping[str, Conversion] = field(default_factory=dict[str, Conversion])
    left: frozenset[str] = frozenset()
    """Entries of states and groups that follow from others, or change how fast a step is, not what it does."""
    optional: frozenset[str] = frozenset()
    """Slots that not every chain keeps: they are left where it does not."""
    lenient: frozenset[str] = frozenset({"eps"})
    """Numbers that a chain need not have: its division is another one."""
    unmapped: Mapping[str, str] = field(default_factory=dict[str, str])
    """Entries of states that no slot here can hold, and why."""
    recipe: str = ""
    """Our recipe of it. A chain can go on there if it is what this recipe builds with its settings."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the recipe that it has no settings for."""
    called: Mapping[str, str] = field(default_factory=dict[str, str])
    """Options of the recipe that have another name there, in its groups or as attributes."""
    algorithm: frozenset[str] = frozenset()
    """Where it has no recipe: all stages that a chain may have so that it can go on there."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What fields of these stages have to be for that."""
    state_of: Callable[[dict[str, Any], torch.Tensor, int], dict[Any, Any]] = lambda slots, param, step: slots
    """Its state of a parameter with what it keeps there besides slots."""
    group_of: Callable[[dict[str, Any]], dict[str, Any]] = lambda group: group
    """Its group in the form in which it is loaded."""
    closed: bool = False
    """Whether groups with entries of other names are of another optimizer."""
    running: bool = False
    """Whether others have all the same keys, so that a state dict is not enough."""
    also: tuple[str, ...] = ()
    """Other classes with the same state."""

    @property
    def classes(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    @property
    def exportable(self) -> bool:
        return bool(self.recipe or self.algorithm)

    @property
    def known(self) -> frozenset[str]:
        """All entries of its groups that mean something to it."""
        return frozenset({*self.numbers, *self.flags, *self.left, *self.where, *self.group, self.count})

    @property
    def state(self) -> frozenset[str]:
        """All entries that its states may have."""
        return frozenset({*self.slots, *self.left, *self.unmapped, "step"})
