"""Run a program's stages on small tensors under watch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping
from types import GeneratorType, SimpleNamespace
from typing import Any, cast

import torch

from gradchain._chain import shared
from gradchain._chain.bindings import bind_keys
from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.mixins import Constraint, Precision
from gradchain._chain.program import Numbers, Outcome, Program, State
from gradchain._chain.stage import Slots, Stage
from gradchain._chain.tracing.watch import Deeds, Looks, Watch, Witness
from gradchain._core.noise import parameter_key
from gradchain._core.reduce import Request, Totals
from gradchain._core.update import Update
from gradchain.storage import Parts, SlotView, Storage
from gradchain.storage.base import Bits

STEPS = (1, 2, 1000)
"""The watched steps: the first, an ordinary one, and one after every warmup."""


class WatchedStage:
    """A stand-in for a stage, which reports to a watch. Slots in `dense` are kept as plain tensors."""

    def __init__(self, stage: Stage, address: str, watch: Watch, deeds: Deeds, dense: bool) -> None:
        self.stage, self.address, self.watch, self.deeds, self.dense = stage, address, watch, deeds, dense

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # to `isinstance` it is the stage
        return type(self.stage)

    def bind(self, values: Mapping[str, Any]) -> WatchedStage:
        return WatchedStage(self.stage.bind(values), self.address, self.watch, self.deeds, self.dense)

    @functools.cached_property
    def known_slots(self) -> dict[str, Slot]:
        return {name: self._watched(name, slot) for name, slot in self.stage.known_slots.items()}

    def slots_of(self, p: ParamInfo) -> dict[str, Slot]:
        slots = self.stage.slots_of(p)
        return {name: dataclasses.replace(slot, storage=self.known_slots[name].storage) for name, slot in slots.items()}

    def _watched(self, name: str, slot: Slot) -> Slot:
        storage = None if self.dense else slot.kept_as
        if storage is not None:
            storage = cast("Storage", WatchedStorage(storage, f"{self.address}.{name}", self.watch))
        return dataclasses.replace(slot, storage=storage)

    def update(self, update: Update, ctx: Context) -> Any:
        witness, given = Witness.of(ctx, self.watch), self._given(ctx, update)
        with self.watch.at(self.address, self.deeds, "update", given):
            result = self.stage.update(update, witness)
        return self._driven(result, given, self._noted) if isinstance(result, GeneratorType) else self._noted(result)

    def constrain(self, new_param: torch.Tensor, ctx: Context) -> Any:
        given = self._given(ctx, new_param)
        with self.watch.at(self.address, self.deeds, "constrain", given):
            result = cast("Constraint", self.stage).constrain(new_param, Witness.of(ctx, self.watch))
        return self._driven(result, given, self._kept) if isinstance(result, GeneratorType) else self._kept(result)

    def _kept(self, result: Any) -> Any:
        """Keep what a constraint makes of the parameter for comparison."""
        self.watch.made.append((self.address, [x for x in (result,) if isinstance(x, torch.Tensor)]))
        return result

    def read(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        with self.watch.at(self.address, self.deeds, "read", self._given(ctx, param)):
            return cast("Precision", self.stage).read(param, Witness.of(ctx, self.watch))

    def write(self, new_param: torch.Tensor, ctx: Context) -> tuple[torch.Tensor, Slots]:
        with self.watch.at(self.address, self.deeds, "write", self._given(ctx, new_param)):
            return cast("Precision", self.stage).write(new_param, Witness.of(ctx, self.watch))

    def _given(self, ctx: Context, given: Any) -> list[torch.Tensor]:
        """The tensors that a stage may read and not write."""
        params = [] if ctx.narrowed else [ctx.param]
        return [*_tensors(given), *params, ctx.stored_param, ctx.gradient, *self.watch.state]

    def _driven(
        self, running: Generator[Request, Totals, Any], given: list[torch.Tensor], noted: Callable[[Any], Any]
    ) -> Generator[Request, Totals, Any]:
        answer: Any = None
        while True:
            mixed = self.deeds.mixes
            with self.watch.at(self.address, self.deeds, "update", given):
                try:
                    request = running.send(answer)
                except StopIteration as stop:
                    return noted(stop.value)
            if self.watch.storing:
                answer = yield request
                continue
            asks = f"its update asks for totals over {'more than one' if request.joint else 'the'} tensor"
            self.deeds.mixes = mixed or asks  # rather than the sums that it asks about
            if request.joint:
                self.deeds.asks = asks
            answer = yield request

    def _noted(self, result: Any) -> Any:
        """Keep the stage's output for comparison."""
        update, slots = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
        self.watch.made.append((self.address, [*_tensors(update), *slots.values()]))
        return result


class WatchedKept(SlotView):
    """The description of a slot for its storage, which notes that the shape is read."""

    deeds: Deeds

    @staticmethod
    def of(kept: SlotView, deeds: Deeds) -> WatchedKept:
        watched = WatchedKept(kept.shape, kept.dtype, kept.signed, kept.shard)
        object.__setattr__(watched, "deeds", deeds)
        return watched

    def __getattribute__(self, name: str) -> Any:
        if name in ("shape", "shard", "part", "square"):
            deeds = object.__getattribute__(self, "deeds")
            deeds.shapes = deeds.shapes or f"it looks at the {name} of a slot"
        return object.__getattribute__(self, name)


class WatchedStorage:
    """A stand-in for a storage, which reports to a watch."""

    def __init__(self, storage: Storage, key: str, watch: Watch) -> None:
        self.storage, self.key, self.watch = storage, key, watch
        self.deeds = watch.storages.setdefault(key, Deeds())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # to `isinstance` it is the storage
        return type(self.storage)

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Bits) -> Any:
        def noted(*args: Any) -> torch.Tensor:
            if args:
                self.deeds.mixing("it draws noise for another tensor")
            self.deeds.draws = True
            with self.watch.paused():
                return bits(*args)

        with self._at("store", [dense]):
            parts = self.storage.store(dense, WatchedKept.of(kept, self.deeds), noted)
        return self._driven(parts, [dense]) if isinstance(parts, GeneratorType) else parts

    def _driven(self, running: Any, given: list[torch.Tensor]) -> Any:
        answer: Any = None
        while True:
            with self._at("store", given):
                try:
                    request = running.send(answer)
                except StopIteration as stop:
                    return stop.value
            self.deeds.mixing("its store asks for totals")
            answer = yield request

    def load(self, parts: Parts, kept: SlotView) -> torch.Tensor:
        with self._at("load", [*parts.values()]):
            return self.storage.load(parts, WatchedKept.of(kept, self.deeds))

    def _at(self, method: str, given: list[torch.Tensor]) -> Any:
        return self.watch.at(self.key, self.deeds, method, given)


def _tensors(given: Any) -> list[torch.Tensor]:
    names = ("value", "scale", "averaged", "decay", "decay_weight")
    parts = [getattr(given, name, None) for name in names] if isinstance(given, Update) else [given]
    return [part for part in parts if isinstance(part, torch.Tensor)]


class Watching:
    """A program under watch, on small tensors of one dtype."""

    def __init__(self, program: Program, dtype: torch.dtype, device: str = "cpu", dense: bool = False) -> None:
        self.dtype, self.device, self.watch = dtype, device, Watch()
        self.deeds = {address: Deeds() for address, _ in program.stages}
        stages = tuple((at, WatchedStage(stage, at, self.watch, self.deeds[at], dense)) for at, stage in program.stages)
        self.program = Program(cast("Any", stages), program.role)

    def run(self, shape: torch.Size, numbers: Mapping[int, Numbers]) -> Watching:
        """Step one tensor a few times, with gradients that change sign."""
        param = self.values(shape, 0)
        state = self.program.init(param)
        for turn, (step, values) in enumerate(numbers.items(), 1):
            outcome = self.step(param, self.values(shape, turn), state, values, step)
            param, state = outcome.param, {**state, **outcome.state}
        return self

    def step(self, param: torch.Tensor, gradient: torch.Tensor, state: State, numbers: Numbers, step: int) -> Outcome:
        """Take one step under watch."""
        self.watch.key = torch.tensor(parameter_key(step, 0), dtype=torch.int32, device=self.device)
        self.watch.state = [*state.values()]
        with self.watch, Looks(self.watch):
            return self.unseen(param, gradient, state, numbers)

    def unseen(self, param: torch.Tensor, gradient: torch.Tensor, state: State, numbers: Numbers) -> Outcome:
        """Take one step and note nothing but the output of each stage."""
        watch = self.watch
        watch.made = []
        running = self.program.run(param, gradient, state, numbers, noise_key=watch.key)
        try:
            _, request = next(running)
            while True:
                _, request = running.send(request.local_totals())
        except StopIteration as stop:
            return stop.value

    def values(self, shape: torch.Size, seed: int) -> torch.Tensor:
        """Numbers between -1 and 1, the same in every process; undefined ones on the meta device."""
        if self.device == "meta":
            return torch.empty(shape, dtype=self.dtype, device="meta")
        return _waves(shape.numel(), seed).view(shape).to(self.dtype, copy=True)


@functools.lru_cache(maxsize=1024)
def _waves(count: int, seed: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) * 1.7 + seed * 2.3 + 0.5).sin()


def usual_numbers(program: Program, steps: tuple[int, ...] = STEPS) -> dict[int, Numbers]:
    """The stages' own numbers at the watched steps."""
    known = program.traced.get(steps)
    if known is None:
        known = program.traced[steps] = _numbers(program, steps)
    return known


def _numbers(program: Program, steps: tuple[int, ...]) -> dict[int, Numbers]:
    bindings = bind_keys(program.stages)
    route: Any = SimpleNamespace(addressed=program.stages, bindings=bindings)
    group: dict[str, Any] = dict(bindings.defaults)
    for _, stage in program.stages:
        group = {**stage.initial_entries(bindings.defaults), **group}
    group |= shared.initial(route, group, torch.device("cpu"))
    return {step: _here(program.numbers(bindings, group, step)) for step in steps}


def _here(numbers: Numbers) -> Numbers:
    def moved(value: Any) -> Any:
        return value.detach().to("cpu") if isinstance(value, torch.Tensor) else value

    return tuple({name: moved(value) for name, value in values.items()} for values in numbers)


def as_tensors(numbers: Numbers) -> Numbers:
    """The numbers as tensors, as compiled code gets them."""

    def number(value: Any) -> Any:
        return torch.tensor(float(value), dtype=torch.float64) if isinstance(value, (bool, int, float)) else value

    return tuple({name: number(value) for name, value in values.items()} for values in numbers)
