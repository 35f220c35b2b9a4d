"""Kinds of stages that do more than turn an update into another: bases for those that need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Number, Slots, Stage
from gradchain._core.fields import Interval
from gradchain.errors import ChainError


class Precision(Stage, register=False):
    """Base of stages that decide in which precision a parameter is seen or stored.

    Those that write `read` stand before all others, which would not see what they do; those that only write `write` stand
    at the end.

    >>> class rounded(gradchain.Precision):
    ...     def write(self, new_param, ctx):
    ...         return new_param.round(), {}
    >>> gradchain.chain(gradchain.scale_by_learning_rate(0.1), rounded()).names
    ('scale_by_learning_rate', 'rounded')
    """

    def read(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        """How this and the following stages see the parameter, e.g. in another precision."""
        return param

    def write(self, new_param: torch.Tensor, ctx: Context) -> tuple[torch.Tensor, Slots]:
        """How the new value of the parameter is stored, and the slots that change with it."""
        return new_param, {}

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        if comes_first(self):
            if not all(map(comes_first, before)):
                raise ChainError(
                    f"{self.address} must come first: {before[-1].address} would not see what it does. Move {self.address} "
                    "to the front."
                )
        elif after:
            raise ChainError(
                f"{self.address} must come last: it decides how the parameter is stored, but {after[0].address} follows "
                f"it. Move {self.address} to the end."
            )


def comes_first(stage: Stage) -> bool:
    """Whether a stage decides how others see the parameter."""
    return isinstance(stage, Precision) and type(stage).read is not Precision.read


class SharedNumbers(Stage, register=False):
    """Base of stages that find numbers which all parameters share, such as Prodigy's step size.

    `update` calls `ctx.contribute`; `share` gets the totals over all parameters. `shared_ranges` says where the numbers
    lie, by name, as `Interval`; they are finite in any case.

    >>> class counter(gradchain.SharedNumbers):
    ...     def init_shared(self):
    ...         return {"elements": 0.0}
    ...     def update(self, update, ctx):
    ...         ctx.contribute(n=torch.ones_like(update.value).sum())
    ...         return update
    ...     def share(self, totals):
    ...         return {"elements": self.elements + totals["n"]}
    >>> gradchain.chain(counter(), gradchain.scale_by_learning_rate(0.1)).init(torch.ones(2))["shared"]["elements"].item()
    0.0
    """

    shared_ranges: ClassVar[Mapping[str, Interval]] = {}

    def init_shared(self) -> dict[str, float]:
        """The numbers before the first step, by name. `self.name` gives the one in force."""
        return {}

    def share(self, totals: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The numbers after a step, given the totals over all parameters of what `ctx.contribute` took."""
        return {}

    def override(self, group: Mapping[str, Any]) -> dict[str, Number]:
        """Values of hyperparameters, by key, that the other stages see instead of those in the group."""
        return {}


class Decay(Stage, register=False):
    """Base of stages that add to the decay term: `update.add_decay(...)`. Others may weigh or mask what these add.

    >>> class pull_to_one(gradchain.Decay):
    ...     def update(self, update, ctx):
    ...         return update.add_decay(0.1 * (ctx.param - 1))
    >>> gradchain.chain(gradchain.sign(), gradchain.cautious_decay(), pull_to_one()).names[1:]
    ('cautious_decay', 'pull_to_one')
    """


def needs_decay(stage: Stage, after: Sequence[Stage]) -> None:
    """Raise unless a decay follows a stage that steers it."""
    if not any(isinstance(other, Decay) for other in after):
        raise ChainError(
            f"{stage.address} steers the decay stages after it, and there is none. Put decoupled_decay(...) after "
            f"{stage.address}, or remove {stage.address}."
        )


def needs_reader(stage: Stage, after: Sequence[Stage], slot: str) -> None:
    """Raise unless a later stage reads a slot that is there for others."""
    if not any(read.slot == slot and read.of == "earlier" for other in after for read in other.reads):
        raise ChainError(
            f"{stage.address} provides {slot!r}, and no stage after it makes use of that. Put a stage that does, such as "
            f"second_moment(...), after {stage.address}, or remove it."
        )


def numbers_of(stage: Stage) -> dict[str, float]:
    """The shared numbers that a stage makes, with their first values."""
    return stage.init_shared() if isinstance(stage, SharedNumbers) else {}
