"""A chain as one parameter runs through it: plain stages in a row, and the interpreter that runs them."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, TypeAlias, cast

import torch

from gradchain.context import Context, Reduction
from gradchain.errors import ChainError
from gradchain.hyperparameters import Bindings
from gradchain.reduce import Request, Totals
from gradchain.stage import Result, Slots, Stage
from gradchain.storage import STORAGES, Storage
from gradchain.update import Update

Numbers: TypeAlias = "tuple[dict[str, Any], ...]"
"""For each stage of a program: its dynamic fields and per-step scalars, by name."""

State: TypeAlias = "dict[str, torch.Tensor]"
"""The slots of one parameter, by `stage.slot`."""


@dataclass(frozen=True)
class Outcome:
    """What one step makes of one parameter; nothing has been written yet."""

    param: torch.Tensor
    state: State
    recorded: dict[tuple[str, Reduction], torch.Tensor]


Running: TypeAlias = "Generator[tuple[str, Request], Totals, Outcome]"
"""A step in progress: it yields requests with the address of the asking stage."""


@dataclass(frozen=True)
class Program:
    """The stages of one route with their addresses. Equal routes share one program: make it with `Program.of`."""

    stages: tuple[tuple[str, Stage], ...]

    @staticmethod
    def of(stages: tuple[tuple[str, Stage], ...]) -> Program:
        return _interned(stages, tuple(stage.kinds for _, stage in stages))

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.stages)

    @functools.cached_property
    def structure(self) -> tuple[Any, ...]:
        """All that compiled code depends on: the stages with their static options, but not their numbers."""
        return tuple(
            (address, type(stage), stage.kinds, tuple(getattr(stage, name) for name in stage.static_fields()))
            for address, stage in self.stages
        )

    @functools.cached_property
    def owners(self) -> dict[str, tuple[str, Stage]]:
        """The address and stage that own each slot."""
        return {slot: (address, stage) for address, stage in self.stages for slot in stage.slots}

    @functools.cached_property
    def random(self) -> bool:
        """Whether any stage or storage draws random bits."""
        return any(stage.random or getattr(stage, "storage", None) in _RANDOM for _, stage in self.stages)

    @functools.cached_property
    def records(self) -> tuple[str, ...]:
        return tuple(name for _, stage in self.stages for name in stage.records)

    def after(self, address: str) -> tuple[str, ...]:
        """The addresses of the stages that come after one."""
        addresses = [known for known, _ in self.stages]
        return tuple(addresses[addresses.index(address) + 1 :])

    def key(self, slot: str) -> str:
        """The name of a slot in the state: `stage.slot`."""
        return f"{self.owners[slot][0]}.{slot}"

    # State.

    def init(self, param: torch.Tensor) -> State:
        """The slots of a parameter before its first step."""
        state: State = {}
        for address, stage in self.stages:
            for slot, dense in stage.init(param).items():
                storage = _storage_for(stage, dense, param)
                if storage is not None:
                    dense = storage.store(dense, param, lambda dense=dense: torch.zeros_like(dense, dtype=torch.int32))
                state[f"{address}.{slot}"] = dense
        return state

    # Hyperparameters.

    def numbers(self, bindings: Bindings, group: Mapping[str, Any], step: Any) -> Numbers:
        """The numbers in force at a step: fields from the group, scalars computed from them in double precision."""
        result: list[dict[str, Any]] = []
        for address, stage in self.stages:
            fields = {binding.field: binding.pick(group) for binding in bindings.of_stage(address)}
            fields = stage.resolve(fields, group)
            result.append({**fields, **stage.bind(fields).scalars(step)})
        return tuple(result)

    # The step.

    def run(
        self,
        param: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        numbers: Numbers,
        *,
        role: str | None = None,
        noise_key: torch.Tensor | None = None,
    ) -> Running:
        """One step of one parameter. Pure: it reads its arguments and returns new tensors."""
        visible = {slot: state[key] for slot in self.owners if (key := self.key(slot)) in state}
        ctx = Context(param, gradient, visible, role)
        ctx.noise_key = noise_key
        update = Update(gradient.to(param.dtype))
        bound: list[tuple[str, Stage, Mapping[str, Any]]] = []
        changed: State = {}
        for (address, stage), values in zip(self.stages, numbers):
            stage = stage.bind(values)
            bound.append((address, stage, values))
            ctx.enter(address, values, (*stage.slots, *stage.reads_previous, *stage.requires))
            ctx.param = stage.read(ctx.param, ctx)
            ctx.dtype = ctx.param.dtype
            update = _cast(update, ctx.dtype)
            result = stage.update(update, ctx)
            if isinstance(result, GeneratorType):
                result = yield from _ask(address, result)
            update, slots = _checked(address, result, gradient.shape)
            update = _cast(update, ctx.dtype)
            changed |= self._packed(address, stage, slots, ctx, state)
        new_param = ctx.param if update.decay is None else ctx.param - update.decay
        new_param = new_param - update.value
        for address, stage, values in bound:
            ctx.enter(address, values, stage.slots)
            new_param, slots = stage.write(new_param, ctx)
            changed |= self._packed(address, stage, slots, ctx, state)
        return Outcome(new_param.to(param.dtype), changed, ctx.recorded)

    def _packed(
        self, address: str, stage: Stage, slots: Slots, ctx: Context, state: Mapping[str, torch.Tensor]
    ) -> State:
        """Take in the slots that a stage returned: dense for the stages that follow, packed for the state."""
        packed: State = {}
        for slot, dense in slots.items():
            if slot not in stage.slots:
                owned = ", ".join(stage.slots) or "none"
                raise ChainError(
                    f"{address} returned slot {slot!r}, which its `init` does not make (it makes: {owned}).",
                    stage=address,
                )
            key = f"{address}.{slot}"
            if not isinstance(dense, torch.Tensor) or dense.shape != state[key].shape:
                what = f"shape {tuple(dense.shape)}" if isinstance(dense, torch.Tensor) else type(dense).__name__
                raise ChainError(
                    f"{address} returned {what} for slot {slot!r}, which has shape {tuple(state[key].shape)}.",
                    stage=address,
                )
            ctx.store(slot, dense)
            storage = _storage_for(stage, dense, ctx.stored_param)
            if storage is None:
                packed[key] = dense.to(state[key].dtype)
            else:
                packed[key] = storage.store(dense, ctx.stored_param, lambda slot=slot: ctx.random_bits(slot))
        return packed


@functools.lru_cache(maxsize=4096)
def _interned(stages: tuple[tuple[str, Stage], ...], kinds: tuple[object, ...]) -> Program:
    """One program for equal stages. `kinds` tells `True` from 1, which Python takes for equal."""
    return Program(stages)


def _checked(address: str, result: object, shape: torch.Size) -> tuple[Update, Slots]:
    """What a stage returned, in its long form."""
    update, slots = cast("tuple[Any, Any]", result) if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if not isinstance(update, Update) or not isinstance(slots, dict):
        raise ChainError(
            f"{address} returned {type(result).__name__}; return the new Update, or (update, {{slot: tensor}}).",
            stage=address,
        )
    if update.value.shape != shape:
        raise ChainError(
            f"{address} made a direction of shape {tuple(update.value.shape)} for a parameter of shape {tuple(shape)}; "
            "keep the shape.",
            stage=address,
        )
    return update, cast("Slots", slots)


def _ask(address: str, stage: Generator[Request, Totals, Result]) -> Generator[tuple[str, Request], Totals, Result]:
    """Pass on the requests of a stage under its address."""
    try:
        request = next(stage)
        while True:
            totals = yield address, request
            request = stage.send(totals)
    except StopIteration as stop:
        return stop.value


_RANDOM = frozenset(name for name, storage in STORAGES.items() if storage.random)


def _storage_for(stage: Stage, dense: torch.Tensor, param: torch.Tensor) -> Storage | None:
    """The storage of a slot; `None` if it is kept as `init` made it."""
    chosen: str | None = getattr(stage, "storage", None)
    applies = chosen is not None and dense.is_floating_point() and dense.shape == param.shape
    return STORAGES[chosen] if chosen is not None and applies else None


def _cast(update: Update, dtype: torch.dtype) -> Update:
    """What leaves a stage is in the compute dtype, however wide the stage computed."""
    tensors = (update.value, update.scale, update.averaged, update.decay)
    if all(tensor is None or tensor.dtype == dtype for tensor in tensors):
        return update
    return Update(*(None if tensor is None else tensor.to(dtype) for tensor in tensors))  # type: ignore[arg-type]
