"""What the state of other optimizers is called, and what it is called here: one entry for each, and nothing else.

A key of theirs is paired with `stage.slot`, by the name under which the stage is registered; where in the chain it stands
is looked up. The pairs stand in the order in which these stages have to run for the slots to mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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
    """What its count is before the first step."""
    convert: Mapping[str, Conversion] = field(default_factory=dict[str, Conversion])
    left: frozenset[str] = frozenset()
    """Entries of states and groups that follow from others, or change how fast a step is, not what it does."""
    optional: frozenset[str] = frozenset()
    """Slots that not every chain keeps: they are left where it does not."""
    lenient: frozenset[str] = frozenset({"eps"})
    """Numbers that a chain need not have: its division is another one."""
    unmapped: Mapping[str, str] = field(default_factory=dict[str, str])
    """Entries of states that no slot here can hold, and why."""
    algorithm: frozenset[str] | None = None
    """All stages that a chain may have so that this optimizer can go on from it; `None`: nothing is exported to it."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What fields of these stages have to be for that."""
    constants: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Entries that each of its states has."""
    also: tuple[str, ...] = ()
    """Other classes with the same state."""

    @property
    def classes(self) -> tuple[str, ...]:
        return (self.name, *self.also)

    @property
    def state(self) -> frozenset[str]:
        """All entries that its states may have."""
        return frozenset({*self.slots, *self.left, *self.unmapped, *self.constants, "step"})


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


ADAM = {"exp_avg": "first_moment.exp_avg", "exp_avg_sq": "second_moment.exp_avg_sq"}
AFTER = dict(reversed(ADAM.items()))
"""The same, averaged after the division."""
ADAM_STAGES = frozenset({"first_moment", "second_moment", "divide", "scale_by_learning_rate"})
CORRECTED = {"first_moment.bias_correction": True, "second_moment.bias_correction": True}
MACHINE = frozenset({"foreach", "fused", "capturable", "differentiable"})
DECAYS = frozenset({"decoupled_decay", "add_decayed_weights"})
DECOUPLED = Flag(has("decoupled_decay"), exact=True, when="weight_decay", fixed=True)

TORCH = (
    Source(
        "torch.optim.AdamW",
        group=frozenset({"betas", "amsgrad", "capturable"}),
        absent=frozenset({"momentum_decay"}),
        slots=ADAM,
        numbers=_same("lr", "betas", "eps", "weight_decay", "maximize"),
        flags={"amsgrad": Flag(never), "decoupled_weight_decay": DECOUPLED},
        left=MACHINE | {"max_exp_avg_sq"},
        algorithm=ADAM_STAGES | DECAYS,
        options=CORRECTED,
        also=("torch.optim.Adam",),
    ),
    Source(
        "torch.optim.SGD",
        group=frozenset({"momentum", "dampening", "nesterov", "weight_decay"}),
        slots={"momentum_buffer": "heavy_ball.momentum_buffer"},
        numbers=_same("lr", "momentum", "dampening", "weight_decay", "maximize"),
        flags={"nesterov": Flag(option("heavy_ball", "nesterov"))},
        count="",
        left=MACHINE,
        algorithm=frozenset({"heavy_ball", "add_decayed_weights", "scale_by_learning_rate"}),
    ),
)

SOURCES: tuple[Source, ...] = TORCH
