"""A chain as one parameter runs through it: plain stages in a row, and the interpreter that runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, TypeAlias, cast

import torch

from gradchain._chain.bindings import Bindings
from gradchain._chain.context import Context, Lazy, Reduction
from gradchain._chain.declare import Slot
from gradchain._chain.mixins import Constraint, Precision
from gradchain._chain.new_state import NewState
from gradchain._chain.numbers import NumberReader, Numbers, takes_turns
from gradchain._chain.returned import ask, checked, constrained, without_addresses
from gradchain._chain.returned import cast as cast_update
from gradchain._chain.slots import (
    first_stored,
    halves,
    loaded,
    made,
    parts_of,
    storage_for,
)
from gradchain._chain.stage import Slots, Stage
from gradchain._chain.subspace import EnterSubspace, LeaveSubspace, Views
from gradchain._core.ages import Ages
from gradchain._core.reduce import Request, Totals, run_locally
from gradchain._core.shard import Shard
from gradchain._core.update import Update
from gradchain.ops import where
from gradchain.storage import Storage

State: TypeAlias = "dict[str, torch.Tensor]"
"""The slots of one parameter, by `stage.slot`."""


@dataclass(frozen=True)
class Outcome:
    """What one step makes of one parameter; nothing has been written yet."""

    param: torch.Tensor
    state: State
    recorded: dict[tuple[str, Reduction], torch.Tensor]


Starting: TypeAlias = "Generator[tuple[str, Request], Totals, State]"
"""A state in the making; it yields like a step."""

Witness: TypeAlias = "Callable[[str, Update, Slots], None]"
"""What is called with the address of each stage, the update after it, and the slots that it returned."""

Entered: TypeAlias = "tuple[str, Stage, Mapping[str, Any], tuple[str, ...]]"
"""A stage with its address, its numbers, and the slots that it may read."""

Running: TypeAlias = "Generator[tuple[str, Request], Totals, Outcome]"
"""A step in progress: it yields requests with the address of the asking stage."""


@dataclass(frozen=True)
class Program:
    """The stages of one route with their addresses. Equal routes share one program: make it with `Program.of`."""

    stages: tuple[tuple[str, Stage], ...]
    role: str | None = None

    @staticmethod
    def of(stages: tuple[tuple[str, Stage], ...], role: str | None = None) -> Program:
        return _interned(stages, role, tuple(stage.kinds for _, stage in stages))

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.stages, self.role))

    @functools.cached_property
    def structure(self) -> tuple[Any, ...]:
        """All that compiled code depends on: the stages with their static options, but not their numbers."""
        stages = (
            (address, type(stage), stage.kinds, tuple(getattr(stage, name) for name in stage.static_fields()))
            for address, stage in self.stages
        )
        return (self.role, *stages)

    @functools.cached_property
    def owners(self) -> dict[str, tuple[str, Slot]]:
        """Each slot that may be there, and the address of the stage that owns it."""
        return {name: (address, slot) for address, stage in self.stages for name, slot in stage.known_slots.items()}

    @functools.cached_property
    def storages(self) -> tuple[Storage, ...]:
        """The storages of its slots."""
        return tuple(storage for _, slot in self.owners.values() if (storage := slot.kept_as) is not None)

    @functools.cached_property
    def _halves(self) -> dict[str, int]:
        return halves({name: slot for name, (_, slot) in self.owners.items()})

    @functools.cached_property
    def narrows(self) -> bool:
        """Whether directions are smaller than the parameter between some of its stages."""
        return any(isinstance(stage, EnterSubspace) for _, stage in self.stages)

    @functools.cached_property
    def traced(self) -> dict[Any, Any]:
        """What `gradchain._chain.tracing` has found out about it."""
        return {}

    @functools.cached_property
    def third_party(self) -> tuple[str, ...]:
        """The stages that are not gradchain's own: these may do what ours are tested not to do."""
        return tuple(at for at, stage in self.stages if not type(stage).__module__.startswith("gradchain."))

    @functools.cached_property
    def pattern(self) -> tuple[tuple[str, ...], ...]:
        """The optional numbers that are `None`, of each stage."""
        return tuple(
            tuple(name for name in stage.dynamic_fields() if getattr(stage, name) is None) for _, stage in self.stages
        )

    def as_built(self, numbers: Numbers) -> bool:
        """Whether what was `None` when the chain was built still is, and nothing else: a stage may go by that."""
        for at, name, absent in self._optional:
            if name in numbers[at] and (numbers[at][name] is None) != absent:
                return False
        return True

    @functools.cached_property
    def _optional(self) -> list[tuple[int, str, bool]]:
        """The optional numbers: the place of their stage, their names, and whether they were `None` when it was built."""
        return [
            (at, name, getattr(stage, name) is None)
            for at, (_, stage) in enumerate(self.stages)
            for name, spec in stage.dynamic_fields().items()
            if spec.optional and not spec.follows
        ]

    def after(self, address: str) -> tuple[str, ...]:
        """The addresses of the stages that come after one, or after one that is having a slot stored (`stage.slot`)."""
        addresses = [known for known, _ in self.stages]
        return tuple(addresses[addresses.index(address.partition(".")[0]) + 1 :])

    def key(self, slot: str) -> str:
        """The name of a slot in the state: `stage.slot`."""
        return f"{self.owners[slot][0]}.{slot}"

    def keys(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of those tensors in a state that belong to the slots of this program."""
        found: list[str] = []
        for _, key, _ in self._keyed:
            found += [key] if key in state else parts_of(key, state).values()
        return tuple(found)

    @functools.cached_property
    def _keyed(self) -> tuple[tuple[str, str, Slot], ...]:
        """The slots with their names in the state."""
        return tuple((name, f"{address}.{name}", slot) for name, (address, slot) in self.owners.items())

    @functools.cached_property
    def _rows(self) -> tuple[tuple[str, Stage, tuple[str, ...]], ...]:
        """The stages with the slots that they may read."""
        return tuple((at, s, (*s.known_slots, *(read.slot for read in s.reads))) for at, s in self.stages)

    def entered(self, ctx: Context, numbers: Numbers) -> Iterator[tuple[str, Stage]]:
        """Go through the stages as `run` does, without their updates: each bound to its numbers, the context open to it.

        The context's parameter is what the stages so far have read.
        """
        for (address, stage, readable), values in zip(self._rows, numbers):
            stage = stage.bind(values)
            ctx.enter(address, values, readable)
            if isinstance(stage, Precision):
                ctx.param = stage.read(ctx.param, ctx)
                ctx.dtype = ctx.param.dtype
            yield address, stage

    # State.

    def init(self, param: torch.Tensor, name: str = "") -> State:
        """The slots of a whole parameter before its first step."""
        return run_locally(without_addresses(self.start(param, Shard.whole(param.shape), name)))

    def start(self, param: torch.Tensor, shard: Shard, name: str = "") -> Starting:
        """The slots of a parameter before its first step; of a sharded one, those rows of them that are here."""
        state: State = {}
        views = Views(self.stages, param, shard, self.role)
        for address, stage in self.stages:
            like, part = views.of(address)
            for slot, (declared, dense) in made(address, stage, views.info(address), like, part, name).items():
                key = f"{address}.{slot}"
                parts = first_stored(key, declared, dense, like, part)
                if isinstance(parts, GeneratorType):
                    parts = cast("State", (yield from ask(key, parts, part)))
                state |= parts
        return state

    def warnings(self, param: torch.Tensor) -> list[str]:
        """What stages have to say about a parameter."""
        found: list[str] = []
        views = Views(self.stages, param, Shard.whole(param.shape), self.role)
        for address, stage in self.stages:
            stage.slots_of(views.info(address, warn=found.append))
        return found

    def plan(self, shape: torch.Size, dtype: torch.dtype) -> Mapping[str, tuple[torch.Size, bool]]:
        """The whole shape of each tensor of the state, and whether it has a row for each row of the parameter."""
        return planned(self, shape, dtype)

    def loaders(self, param: torch.Tensor, state: Mapping[str, torch.Tensor], shard: Shard) -> dict[str, Lazy]:
        """The slots of a parameter, to be loaded from their storages when they are read."""
        visible: dict[str, Lazy] = {}
        views = Views(self.stages, param, shard) if self.narrows else None
        for name, key, slot in self._keyed:
            if key in state:
                visible[name] = state[key]
            elif parts := {part: state[at] for part, at in parts_of(key, state).items()}:
                like, here = (param, shard) if views is None else views.of(self.owners[name][0])
                visible[name] = functools.partial(loaded, slot, parts, like, here)
        return visible

    # Hyperparameters.

    def numbers(
        self, bindings: Bindings, group: Mapping[str, Any], step: Any, ages: Ages = (), turn: Any = 0
    ) -> Numbers:
        """The numbers in force at a step: fields from the group, scalars computed from them in double precision.

        `ages` are the stages that have missed some of the steps so far: they go by counts of their own. `turn` is the place
        of the parameter among all, for stages that take turns.
        """
        return self.reader(bindings).read(group, step, ages, turn)

    @functools.cached_property
    def takes_turns(self) -> bool:
        """Whether numbers depend on the place of a parameter among all."""
        return any(takes_turns(stage) for _, stage in self.stages)

    def reader(self, bindings: Bindings) -> NumberReader:
        """What reads the numbers from groups with these bindings."""
        reader: NumberReader | None = bindings.readers.get(id(self))
        if reader is None or reader.program is not self:  # a copy's
            reader = bindings.readers[id(self)] = NumberReader(self, self.clocks, bindings)
        return reader

    @functools.cached_property
    def clocks(self) -> dict[str, set[str]]:
        """The stages by whose age each stage goes: itself, or those whose slots it reads if it has none."""
        read = {
            address: tuple(stage.known_slots) or tuple(read.slot for read in stage.reads)
            for address, stage in self.stages
        }
        return {at: {self.owners[slot][0] for slot in slots if slot in self.owners} for at, slots in read.items()}

    @functools.cached_property
    def addresses(self) -> frozenset[str]:
        return frozenset(address for address, _ in self.stages)

    # The step.

    def run(
        self,
        param: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        numbers: Numbers,
        *,
        noise_key: torch.Tensor | None = None,
        shard: Shard | None = None,
        keep: torch.Tensor | None = None,
        witness: Witness | None = None,
        observe: bool = False,
    ) -> Running:
        """One step of one parameter, or of those rows of it that are here. Pure: it returns new tensors.

        Where `keep`, a 0-d bool tensor, is false, it adds nothing to totals over several parameters. `witness` is called
        with what each stage makes; with `observe`, stages report what they look at for telemetry alone. Stages see `view`:
        the context, or another one where directions are smaller than the parameter.
        """
        shard = Shard.whole(param.shape) if shard is None else shard
        ctx = view = Context(param, gradient, self.loaders(param, state, shard), self.role, shard)
        ctx.noise_key, ctx.observed = noise_key, observe
        update = Update(gradient.to(ctx.dtype))
        last: list[tuple[str, Precision, Mapping[str, Any]]] = []
        constraints: list[Entered] = []
        new = NewState(self.owners, self._halves, state)
        for (address, stage, readable), values in zip(self._rows, numbers):
            stage = stage.bind(values)
            view = ctx if self.narrows and isinstance(stage, LeaveSubspace) else view
            view.enter(address, values, readable)
            if isinstance(stage, Precision):
                last.append((address, stage, values))
                ctx.param = stage.read(ctx.param, ctx)
                ctx.dtype = ctx.param.dtype
                update = cast_update(update, ctx.dtype)
            elif isinstance(stage, Constraint):
                constraints.append((address, stage, values, readable))
            result = stage.update(update, view)
            if isinstance(result, GeneratorType):
                result = yield from ask(address, result, view.shard, keep)
            seen = view.within(stage.inside(shard.shape)) if isinstance(stage, EnterSubspace) else view
            update, slots = checked(address, result, seen.stored_param, seen.shard, ctx.dtype)
            if witness is not None:
                witness(address, update if update.outside is None else update.outside.lift(update), slots)
            if slots:
                yield from new.take(address, stage, slots, view)
            view = seen.facing(update) if self.narrows else ctx
        new_param = update.decayed(ctx.param) - update.value
        if constraints:
            new_param = yield from self._constrained(constraints, new_param, ctx, keep)
        if update.skip_mask is not False:
            new_param = where(update.skip_mask, ctx.param, new_param)
        for address, stage, values in last:
            ctx.enter(address, values, tuple(stage.known_slots))
            new_param, slots = stage.write(new_param, ctx)
            yield from new.take(address, stage, slots, ctx)
        if keep is not None:
            ctx.recorded = {name: torch.where(keep, x, torch.zeros_like(x)) for name, x in ctx.recorded.items()}
        return Outcome(new_param.to(param.dtype), (yield from new.finished()), ctx.recorded)

    def _constrained(
        self, constraints: Sequence[Entered], new_param: torch.Tensor, ctx: Context, keep: torch.Tensor | None
    ) -> Generator[tuple[str, Request], Totals, torch.Tensor]:
        """The new value, mapped by each constraint in turn."""
        for address, stage, values, readable in constraints:
            ctx.enter(address, values, readable)
            made = cast("Constraint", stage).constrain(new_param, ctx)
            if isinstance(made, GeneratorType):
                made = yield from ask(address, made, ctx.shard, keep)
            new_param = constrained(address, made, new_param, ctx.shard)
        return new_param


@functools.lru_cache(maxsize=4096)
def _interned(stages: tuple[tuple[str, Stage], ...], role: str | None, kinds: tuple[object, ...]) -> Program:
    """One program for equal stages. `kinds` tells `True` from 1, which Python takes for equal."""
    return Program(stages, role)


@functools.lru_cache(maxsize=4096)
def planned(program: Program, shape: torch.Size, dtype: torch.dtype) -> Mapping[str, tuple[torch.Size, bool]]:
    plan: dict[str, tuple[torch.Size, bool]] = {}
    views = Views(program.stages, torch.empty(shape, dtype=dtype, device="meta"), Shard.whole(shape), program.role)
    for address, stage in program.stages:
        param, shard = views.of(address)
        for name, slot in stage.slots_of(views.info(address)).items():
            key, dense = f"{address}.{name}", param.new_empty(slot.whole(param.shape), dtype=slot.dtype or dtype)
            storage = storage_for(slot, dense, param.shape)
            parts = run_locally(first_stored(key, slot, dense, param, shard))
            for part_key, part in parts.items():
                if storage is None:
                    split = slot.shape is None or slot.per_row
                else:
                    split = storage.splits(part_key[len(key) + 1 :], param.shape)
                plan[part_key] = (part.shape, views.by_rows(address) and split)
    return plan
