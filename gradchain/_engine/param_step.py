"""What a step has to do for one parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.program import Numbers, Outcome, Program, Running, Witness
from gradchain._chain.tracing import traits_of
from gradchain._core.ages import Ages, ages_of
from gradchain._core.counters import counter_of
from gradchain._core.noise import parameter_key
from gradchain._core.shard import Shard, is_distributed, local_of
from gradchain._engine.writing import overwrite
from gradchain.errors import ChainError, GradientError, StateError


@dataclass(frozen=True, eq=False)
class StepInputs:
    """The tensors and numbers of one step of one parameter; when it is traced they are stand-ins."""

    param: torch.Tensor
    gradient: torch.Tensor
    state: Mapping[str, torch.Tensor]
    program: Program
    numbers: Numbers
    noise_key: torch.Tensor | None
    shard: Shard | None = None
    keep: torch.Tensor | None = None
    """Whether the step is to be taken at all, where only the device knows: a 0-d bool tensor."""

    def start(self, witness: Witness | None = None, observe: bool = False) -> Running:
        """The step in progress; nothing is written before `commit`."""
        return self.program.run(
            self.param,
            self.gradient,
            self.state,
            self.numbers,
            noise_key=self.noise_key,
            shard=self.shard,
            keep=self.keep,
            witness=witness,
            observe=observe,
        )

    def writes(self, outcome: Outcome) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What an outcome overwrites, and with what."""
        targets = [self.param, *(self.state[slot] for slot in outcome.state)]
        values = [outcome.param, *outcome.state.values()]
        if self.keep is not None:
            values = [torch.where(self.keep, value, target) for target, value in zip(targets, values)]
        return targets, values


def commit(tasks: Sequence[StepInputs], outcomes: Sequence[Outcome]) -> None:
    """Write the outcomes of some tasks, eagerly or into a trace."""
    written = [task.writes(outcome) for task, outcome in zip(tasks, outcomes, strict=True)]
    overwrite([x for targets, _ in written for x in targets], [x for _, values in written for x in values])


def versions_of(tensors: Iterable[torch.Tensor]) -> list[int]:
    """How often each tensor has been written to."""
    return [0 if x.is_inference() else x._version for x in tensors]  # pyright: ignore[reportPrivateUsage]


def check_purity(program: Program, before: list[int], after: list[int]) -> None:
    """Raise if a stage wrote into what it was given."""
    if before != after:
        raise ChainError(
            f"a stage among {', '.join(address for address, _ in program.stages)} wrote into a gradient, a parameter or a "
            "slot that it was given; return new tensors (value * 2, not value.mul_(2))."
        )


class ParamRecord:
    """What an optimizer knows of a parameter from step to step, so that it need not look again."""

    __slots__ = (
        "_ages", "_counter", "_plain", "_seen", "_steps", "_version", "entries", "here", "layout", "name", "param",
        "program", "salt", "settings", "shard", "state", "turn", "turn_there",
    )  # fmt: skip

    def __init__(
        self, settings: object, program: Program, state: dict[str, Any], param: torch.Tensor, name: str
    ) -> None:
        self.settings, self.program, self.state, self.param, self.name = settings, program, state, param, name
        self.shard = Shard.of(param)
        self.here = state
        """The state with the parts that are here in the place of DTensors."""
        self.entries = list(state.values())
        """What the state holds, as long as nobody else puts something else there."""
        self._seen: list[Any] = []
        self._plain = not is_distributed(param)
        self.layout: Any = None  # the compiled path's
        self.salt: torch.Tensor | None = None  # of the noise, where it is made on the device
        self.turn = 0  # its place among all, where stages go by that
        self.turn_there: torch.Tensor | None = None  # the same on its device
        self._counter, self._version, self._steps = None, 0, 0
        self._ages: Ages | None = None

    def takes_turn(self, place: int) -> None:
        """Note the place of the parameter among all."""
        if place != self.turn:
            self.turn, self.turn_there = place, None

    @property
    def steps(self) -> int:
        """The steps taken so far. The counter in the state is only read if someone else has written to it."""
        counter = counter_of(self.state)
        if counter is not self._counter or counter._version != self._version:
            if (steps := int(counter)) < 0:
                what = f"the 'step' in the state of parameter {self.name or '(unnamed)'}"
                raise StateError(f"{what} is {steps}; a count is 0 or more. Nothing was written.")
            self._counter, self._version, self._steps = counter, counter._version, steps
        return self._steps

    @property
    def ages(self) -> Ages:
        """The stages that have missed steps, and how many, where the host may read it."""
        if self._ages is None:
            self._ages = tuple((address, int(missed)) for address, missed in ages_of(self.state))
        return self._ages

    def local(self, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The parts of the parameter and of its gradient that are here; `here` is brought up to date."""
        if self._plain and not is_distributed(grad):
            return self.param, grad
        like: Any = self.param
        theirs = getattr(grad, "placements", None)
        if theirs is None or theirs != getattr(like, "placements", None):
            how = "as a plain tensor" if theirs is None else f"with placements {theirs}"
            is_a = "a plain tensor" if self._plain else f"a DTensor with placements {like.placements}"
            raise GradientError(
                f"parameter {self.name or '(unnamed)'} of shape {tuple(like.shape)} is {is_a}, and its gradient comes "
                f"{how}; give it the parameter's mesh and placements (grad.redistribute(...))."
            )
        if len(self._seen) != len(self.state) or any(a is not b for a, b in zip(self._seen, self.state.values())):
            self._seen = list(self.state.values())
            self.here = {key: local_of(value) for key, value in self.state.items()}
        return local_of(self.param), local_of(grad)

    def stepped(self) -> None:
        """The counter has been raised by one."""
        self._version, self._steps = self._counter._version, self._steps + 1  # type: ignore[union-attr]


def tells(telemetry: bool | int, step: int | None) -> bool:
    """Whether a step is one that telemetry looks at: every one, or every so many; each where only the device counts."""
    return bool(telemetry) and (step is None or step % telemetry == 0)


class ParamStep:
    """A parameter that is due for a step."""

    __slots__ = (
        "_task", "beside", "common", "grad", "group", "index", "keep", "maximize", "noise_key", "numbers", "owner", "pack",
        "place", "record", "step", "telemetry",
    )  # fmt: skip

    def __init__(
        self,
        owner: torch.Tensor,
        grad: torch.Tensor,
        record: ParamRecord,
        group: Mapping[str, Any],
        step: int | None = None,
        numbers: Numbers = (),
    ) -> None:
        self.owner, self.grad, self.record, self.numbers = owner, grad, record, numbers
        self.step = step  # `None` where only the device knows
        self.common: tuple[str, ...] = ()  # slots that the other pieces of the tensor have too
        self.pack: torch.Tensor | None = None  # the numbers as one tensor, if they come as one
        self.noise_key: torch.Tensor | None = None
        self.maximize: bool = group["maximize"]
        self.telemetry = tells(group["telemetry"], step)
        self.group = group
        self.index: int | None = None  # of the parameter, if its program draws noise
        self.place = 0  # of the parameter, among all of the optimizer
        self.beside = False  # whether it is small, and yet stepped like the large ones
        self.keep: torch.Tensor | None = None  # whether to step at all, where only the device knows
        self._task: StepInputs | None = None

    @property
    def program(self) -> Program:
        return self.record.program

    @property
    def state(self) -> dict[str, Any]:
        return self.record.here

    def by_element(self) -> bool:
        """Whether each element goes by itself, and all tensors have theirs in one order: they may be cut and joined."""
        return self.index is None and traits_of(self.program, self.owner).exact and self.in_order()

    def in_order(self) -> bool:
        """Whether each element goes by itself but for the noise of its place, and all tensors have theirs in one order."""
        owner, state = self.owner, self.state
        if not traits_of(self.program, owner).in_order:
            return False
        tensors = (owner, self.grad, *(state[key] for key in self.program.keys(state)))
        return all(x.shape == owner.shape and x.is_contiguous() for x in tensors)

    @property
    def kept(self) -> list[torch.Tensor]:
        """What a kernel keeps from step to step: the parameter and the tensors of its slots."""
        return [self.owner, *self.record.layout.tensors]

    @property
    def counted(self) -> int | torch.Tensor:
        """The number of this step; or the counter that will have it, where only the device knows."""
        return self.state["step"] if self.step is None else self.step

    @property
    def noise(self) -> int | None:
        """The noise key of this step, if the program draws noise."""
        return None if self.index is None or self.step is None else parameter_key(self.step, self.index)

    def inputs(self) -> list[torch.Tensor]:
        """The tensors that a step reads."""
        return [self.owner, self.grad, *(x for x in self.state.values() if isinstance(x, torch.Tensor))]

    @property
    def task(self) -> StepInputs:
        if self._task is None:
            gradient = -self.grad.detach() if self.maximize else self.grad.detach()
            if (noise := self.noise) is not None:
                self.noise_key = torch.tensor(noise, dtype=torch.int32).to(self.owner.device, non_blocking=True)
            self._task = StepInputs(
                self.owner.detach(), gradient, self.state, self.program, self.numbers, self.noise_key, self.record.shard,
                self.keep,
            )  # fmt: skip
        return self._task
