"""Bases of stages that also change precision, share numbers between parameters, or decay."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Number, Slots, Stage
from gradchain._core.fields import Interval
from gradchain._core.reduce import Request
from gradchain.errors import ChainError

Constrained: TypeAlias = "torch.Tensor | Generator[Request, Any, torch.Tensor]"


class Precision(Stage, register=False):
    """Base of stages that decide in which precision a parameter is read or stored.

    Those that define `read` stand first, so that all others see its result; those that define only `write` stand last.

    >>> class rounded(gradchain.Precision):
    ...     def write(self, new_param, ctx):
    ...         return new_param.round(), {}
    >>> gradchain.chain(gradchain.scale_by_learning_rate(0.1), rounded()).names
    ('scale_by_learning_rate', 'rounded')
    """

    def read(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        """Convert the parameter for this and the following stages. Returns: a tensor of the same shape, in any dtype."""
        return param

    def write(self, new_param: torch.Tensor, ctx: Context) -> tuple[torch.Tensor, Slots]:
        """Convert the new value for storing. Returns: the tensor to store, and the slots that change with it."""
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
    """Whether a stage decides how others read the parameter."""
    return isinstance(stage, Precision) and type(stage).read is not Precision.read


class Constraint(Stage, register=False):
    """Base of stages that keep the parameter on a set, such as a sphere or a box: they map its new value back onto it.

    They stand after all that changes the direction, and before what decides how the parameter is stored. `constrain` gets
    the value that the step would write, in compute precision; `ctx.param` is still the old one. It may be a generator that
    asks for totals, as `update` may. A parameter that is skipped in a step is not constrained in it.

    >>> class nonnegative(gradchain.Constraint):
    ...     def constrain(self, new_param, ctx):
    ...         return new_param.clamp(min=0)
    >>> gradchain.chain(gradchain.scale_by_learning_rate(0.1), nonnegative()).names
    ('scale_by_learning_rate', 'nonnegative')
    """

    scale = "any"

    def constrain(self, new_param: torch.Tensor, ctx: Context) -> Constrained:
        """Map the new value onto the set. Returns: a tensor like it; a generator may yield requests first."""
        return new_param

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        if late := [stage for stage in after if not isinstance(stage, Constraint) and not _only_writes(stage)]:
            raise ChainError(
                f"{self.address} maps the value that the step would write, but {late[0].address} follows it and still "
                f"changes the step. Move {self.address} behind it."
            )


def _only_writes(stage: Stage) -> bool:
    return isinstance(stage, Precision) and not comes_first(stage)


class SharedNumbers(Stage, register=False):
    """Base of stages that compute numbers for all parameters together, such as Prodigy's step size.

    `update` calls `ctx.contribute`; `share` gets the totals over all parameters. `shared_ranges` gives the range of each
    number as an `Interval`; all must be finite.

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
        """Set the numbers before the first step; `self.name` reads the current one. Returns: their values by name."""
        return {}

    def share(self, totals: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the next step's numbers from the totals that were contributed. Returns: 0-d tensors; others stay."""
        return {}

    def override(self, group: Mapping[str, Any]) -> dict[str, Number]:
        """Replace hyperparameters for the other stages. Returns: values by key, used instead of the group's."""
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
    """Raise unless a decay follows a stage that changes decays."""
    if not any(isinstance(other, Decay) for other in after):
        raise ChainError(
            f"{stage.address} steers the decay stages after it, and there is none. Put decoupled_decay(...) after "
            f"{stage.address}, or remove {stage.address}."
        )


def needs_reader(stage: Stage, after: Sequence[Stage], slot: str) -> None:
    """Raise unless a later stage reads a slot that this one provides."""
    if not any(read.slot == slot and read.of == "earlier" for other in after for read in other.reads):
        raise ChainError(
            f"{stage.address} provides {slot!r}, and no stage after it makes use of that. Put a stage that does, such as "
            f"second_moment(...), after {stage.address}, or remove it."
        )


def numbers_of(stage: Stage) -> dict[str, float]:
    """The shared numbers of a stage, with their initial values."""
    return stage.init_shared() if isinstance(stage, SharedNumbers) else {}
