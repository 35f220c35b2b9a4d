"""What is measured on a GPU besides pairs: shares of its bandwidth, launches, graphs, waiting, and Muon in training.

A rehearsal goes through the same lines on a CPU, where a graph is the step itself and nothing is told of the GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

import gradchain
from benchmarks import training
from benchmarks.shapes import LISTS, TABLES, Shape
from benchmarks.sides import ADAM, MUON

WARMUP, REPLAYS = 4, 5
LEAST = 5
Step = Callable[[], object]
Result = dict[str, Any]


class Device(Protocol):
    """Where tensors live, and what can be asked there."""

    place: str

    def synchronize(self) -> None: ...

    def captured(self, step: Step) -> Step:
        """Some warm-up steps, then the step as a graph to be replayed."""
        ...

    def unsynchronized(self) -> contextlib.AbstractContextManager[None]:
        """In it, waiting for the device is an error."""
        ...

    def launches(self, step: Step) -> int:
        """Kernels and copies that a step launches."""
        ...


class Cuda:
    place = "cuda"

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def captured(self, step: Step) -> Step:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    @contextlib.contextmanager
    def unsynchronized(self) -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def launches(self, step: Step) -> int:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            step()
            torch.cuda.synchronize()
        there = [event for event in seen.events() or () if event.device_type == torch.autograd.DeviceType.CUDA]
        return sum(not getattr(event, "is_user_annotation", False) for event in there)


class Rehearsal:
    """A CPU in the place of a GPU."""

    place = "cpu"

    def synchronize(self) -> None:
        pass

    def captured(self, step: Step) -> Step:
        for _ in range(WARMUP):
            step()
        return step

    def unsynchronized(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def launches(self, step: Step) -> int:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            step()
        return sum(event.name.startswith("aten::") for event in seen.events() or ())


@dataclass(frozen=True)
class Subject:
    """A chain that is looked at: a recipe, its options, and whether each element is stepped by itself."""

    recipe: str
    options: dict[str, Any]
    elementwise: bool = True
    storage: str | None = None
    roles: bool = False

    def chain(self) -> gradchain.Chain:
        chain = gradchain.recipe(self.recipe, **self.options)
        stored = () if self.storage is None else ("first_moment", "second_moment")
        return chain.with_options(**{f"{stage}.storage": self.storage for stage in stored}) if stored else chain

    def role(self, count: int) -> Any:
        return TABLES * ["embedding"] + (count - TABLES) * [None] if self.roles else None

    def optimizer(self, params: Sequence[torch.nn.Parameter], **options: Any) -> gradchain.Optimizer:
        return gradchain.Optimizer(params, self.chain(), role=self.role(len(params)), **options)


SUBJECTS = {
    "adamw": Subject("adamw", ADAM),
    "sgd momentum": Subject("sgd", {"lr": 1e-2, "momentum": 0.9}),
    "lion": Subject("lion", {"lr": 1e-4}),
    "adv-adamw": Subject("adv-adamw", {"lr": 1e-4}),
    "adv-adopt": Subject("adv-adopt", {"lr": 1e-4}),
    "adams": Subject("adams", {"lr": 1e-4}, False),
    "rose fp32": Subject("rose", {"lr": 1e-3, "compute_dtype": "fp32"}, False),
    "gyro-adam": Subject("gyro-adam", {"lr": 1e-4, "warmup_steps": 0}, False),
    "adv-prodigy": Subject("adv-prodigy", {}, False),
    "muon": Subject("muon", {**MUON, **{f"adam_{k}": v for k, v in ADAM.items() if k != "lr"}}, False, roles=True),
    "adamw bf16": Subject("adamw", ADAM, storage="bf16"),
    "adamw int8": Subject("adamw", ADAM, False, storage="int8"),
    "adamw factored": Subject("adamw", ADAM, False, storage="factored"),
}
"""What a run looks at. Codes with a scale for several elements, and factors, are no elementwise states."""

TIMED = ("speed", "training")
"""Checks that measure seconds, so that nothing else may run beside them."""

CHECKED = ("adamw", "lion", "rose fp32", "adams", "adv-prodigy", "muon", "adamw int8", "adamw factored")
"""Those that are captured, and looked at for waiting."""


def tasks(name: str) -> list[Result]:
    """All checks of a run, on a list."""
    checked = [(what, subject) for what in ("waiting", "graph") for subject in CHECKED]
    rows = [*(("speed", subject) for subject in SUBJECTS), ("training", "muon"), *checked]
    return [{"what": "check", "check": what, "subject": subject, "list": name} for what, subject in rows]


def check(task: Result) -> Result:
    """One check, on a GPU or rehearsed."""
    device: Device = Rehearsal() if task.get("rehearse") else Cuda()
    options = {"compile": task.get("compile", not task.get("rehearse"))}
    if task["check"] == "training":
        return training.compare(device.place, device.synchronize, task["rounds"], task["seconds"], **options)
    run = {"speed": speed, "graph": graph, "waiting": waiting}[task["check"]]
    return run(device, SUBJECTS[task["subject"]], LISTS[task["list"]], task, **options)


class Side:
    """An optimizer whose gradients are always in the same place, as a graph needs them."""

    def __init__(self, subject: Subject, shapes: Sequence[Shape], place: str, **options: Any) -> None:
        generator = torch.Generator(place).manual_seed(0)
        draw = lambda shape: 0.02 * torch.randn(shape, generator=generator, device=place)  # noqa: E731
        self.params = [torch.nn.Parameter(draw(shape)) for shape in shapes]
        self.generator = torch.Generator(place).manual_seed(1)
        for param in self.params:
            param.grad = torch.empty_like(param)
        self.refill()
        self.optimizer = subject.optimizer(self.params, **options)

    def refill(self) -> None:
        """Other gradients, the same on every side that has refilled as often."""
        for param in self.params:
            assert param.grad is not None
            param.grad.normal_(std=0.01, generator=self.generator)

    def step(self) -> None:
        self.optimizer.step()

    def held(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The parameters and all that the state holds."""
        for number, param in enumerate(self.params):
            yield f"parameter {number}", param.detach()
            entries = self.optimizer.state[param].items()
            yield from ((f"{key} of parameter {number}", x) for key, x in entries if isinstance(x, torch.Tensor))


def graph(device: Device, subject: Subject, shapes: Sequence[Shape], task: Result, compile: bool) -> Result:
    """Whether replays of a captured step give the bits of steps that are not captured."""
    ours, plain = (Side(subject, shapes, device.place, compile=compile, capturable=True) for _ in range(2))
    replay = device.captured(ours.step)
    for _ in range(WARMUP):
        plain.step()
    for _ in range(REPLAYS):
        ours.refill(), plain.refill()
        replay(), plain.step()
    device.synchronize()
    pairs = zip(ours.held(), plain.held(), strict=True)
    wrong = [name for (name, x), (_, y) in pairs if not torch.equal(x, y)]
    return {"ok": not wrong, "detail": f"differ: {', '.join(wrong[:3])}" if wrong else f"{REPLAYS} replays, bit-equal"}


def waiting(device: Device, subject: Subject, shapes: Sequence[Shape], task: Result, compile: bool) -> Result:
    """Whether steps wait for the device: plain and capturable ones, eager and compiled, by a rate that is there too."""
    faults: list[str] = []
    for compiled, kind in itertools.product({False, compile}, ("", ", capturable", ", lr there")):
        side = Side(subject, shapes, device.place, compile=compiled, capturable=kind == ", capturable")
        if kind == ", lr there":
            group = side.optimizer.param_groups[0]
            group["lr"] = torch.full((), group["lr"], device=device.place)
        for _ in range(WARMUP):
            side.step()
        device.synchronize()
        try:
            with device.unsynchronized():
                side.step(), side.step()
        except RuntimeError as error:
            faults.append(f"{'compiled' if compiled else 'eager'}{kind}: {str(error).splitlines()[0][:120]}")
        del side
    return {"ok": not faults, "detail": "; ".join(faults) or "no step waits"}


def speed(device: Device, subject: Subject, shapes: Sequence[Shape], task: Result, compile: bool) -> Result:
    """Milliseconds of a step, the bytes that it has to move, and its launches."""
    side = Side(subject, shapes, device.place, compile=compile)
    for _ in range(WARMUP):
        side.step()
    seconds: list[float] = []
    while len(seconds) < LEAST or (len(seconds) < task["rounds"] and sum(seconds) < task["seconds"]):
        device.synchronize()
        start = time.perf_counter()
        side.step()
        device.synchronize()
        seconds.append(time.perf_counter() - start)
    lower, middle, upper = statistics.quantiles(seconds, n=4)
    return {
        "ms": 1e3 * middle,
        "quartiles": [1e3 * lower, 1e3 * upper],
        "rounds": len(seconds),
        "moved": moved(subject, shapes),
        "launches": device.launches(side.step),
        "elementwise": subject.elementwise,
    }


def moved(subject: Subject, shapes: Sequence[Shape]) -> int:
    """The bytes that a step moves if all is fused, as `chain.cost` counts them."""
    params = [torch.empty(shape, device="meta") for shape in shapes]
    return subject.chain().cost(params, subject.role(len(params))).moved_bytes


def needed(shapes: Sequence[Shape], pool: int, shared_from: int) -> int:
    """Bytes that a pair takes: the start, two sides with two moments each, their gradients, and what those are made of."""
    elements = sum(map(math.prod, shapes))
    shared = elements >= shared_from
    return 4 * elements * (1 + 2 * (1 + 2) + (1 if shared else 2) + pool - shared)


def lacking(shapes: Sequence[Shape], pool: int, shared_from: int) -> str | None:
    """What to say where the GPU has too little memory free for a pair."""
    needs, free = needed(shapes, pool, shared_from), torch.cuda.mem_get_info()[0]
    return None if needs <= free else f"does not fit: needs {needs / 2**30:.0f} GiB, {free / 2**30:.0f} are free"
