"""The compiled path: works in buckets, each traced once and compiled by inductor into one or a few kernels.

A bucket holds tensors of one program: small ones several together, large ones alone. Its kernel depends on shapes,
dtypes and static options; hyperparameters and per-step scalars come in as a tensor, so schedules never recompile.

A program that asks for totals over other parameters runs in phases: phase `k` runs the chain from the start with the
answers to the first `k` requests, and either writes its results or returns the partials of the next request. Stages
are pure, so running one again is safe; the compiler drops what a phase does not need.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch._inductor
from torch.fx.experimental.proxy_tensor import make_fx

from gradchain.errors import CompileWarning
from gradchain.program import Outcome, Program
from gradchain.reduce import Request, Totals
from gradchain.run import Asked, advance, total_up
from gradchain.telemetry import Recorded
from gradchain.work import Task, Work

SMALL_ELEMENTS = 1 << 16
TENSORS_PER_CALL = 16

Result: TypeAlias = "Asked | Outcome"


@dataclass(frozen=True)
class Layout:
    """The static part of a work: what its kernel depends on. Equal layouts share a kernel."""

    structure: tuple[Any, ...]
    tensors: tuple[tuple[Any, ...], ...]
    slots: tuple[str, ...]
    fields: tuple[tuple[tuple[str, bool], ...], ...]
    role: str | None
    maximize: bool
    telemetry: bool
    noisy: bool

    @staticmethod
    def of(work: Work) -> Layout:
        slots = tuple(key for slot in work.program.owners if (key := work.program.key(slot)) in work.state)
        tensors = (work.owner, work.grad, *(work.state[slot] for slot in slots))
        return Layout(
            work.program.structure,
            tuple((tuple(x.shape), x.stride(), x.dtype, x.device) for x in tensors),
            slots,
            tuple(tuple((name, value is None) for name, value in stage.items()) for stage in work.numbers),
            work.role,
            work.maximize,
            work.telemetry,
            work.noise is not None,
        )

    def read(self, program: Program, flat: Iterator[torch.Tensor]) -> Task:
        """A task like the original, over the next tensors of `flat`."""
        param, grad = next(flat), next(flat)
        state = {slot: next(flat) for slot in self.slots}
        numbers = iter(next(flat).unbind())
        values = tuple({name: None if none else next(numbers) for name, none in stage} for stage in self.fields)
        noise_key = next(flat) if self.noisy else None
        gradient = -grad if self.maximize else grad
        return Task(param, gradient, state, program, values, self.role, noise_key)


def tensors_of(work: Work, layout: Layout, packed: dict[int, torch.Tensor]) -> list[torch.Tensor]:
    """The dynamic part of a work, in the order in which `Layout.read` takes it."""
    key = id(work.numbers)
    if key not in packed:
        packed[key] = _pack([value for stage in work.numbers for value in stage.values()], work.owner.device)
    noise = [] if work.noise_key is None else [work.noise_key]
    return [work.owner.detach(), work.grad.detach(), *(work.state[slot] for slot in layout.slots), packed[key], *noise]


def _pack(numbers: list[Any], device: torch.device) -> torch.Tensor:
    """The numbers in double precision, as one vector on the device."""
    present = [number for number in numbers if number is not None]
    if any(isinstance(number, torch.Tensor) for number in present):
        return torch.stack(
            [torch.as_tensor(number, dtype=torch.float64, device=device).reshape(()) for number in present]
        )
    return torch.tensor(present, dtype=torch.float64).to(device)


Answers: TypeAlias = "list[list[Totals]]"


def replay(task: Task, answers: Sequence[Totals]) -> Result:
    """Run a task up to the first request beyond the answers known, or to its end."""
    running = task.start()
    result = advance(running)
    for answer in answers:
        result = advance(running, answer)
    return result


compile_graph = cast("Callable[..., Callable[..., Any]]", torch._inductor.compile)  # pyright: ignore[reportPrivateUsage]


class Kernel:
    """One phase of one bucket, compiled; or plain Python if it could not be."""

    def __init__(self, layouts: Sequence[Layout], program: Program, inputs: list[torch.Tensor], known: Known) -> None:
        self.layouts, self.program, self.known = tuple(layouts), program, known
        self.results: list[tuple[str, Any]] = []
        self.compiled: Callable[..., Any] | None = None
        try:
            with warnings.catch_warnings():  # the compiler's own deprecations are not the user's business
                warnings.simplefilter("ignore")
                graph = make_fx(self._traced, tracing_mode="fake")(*inputs)
                self.compiled = compile_graph(graph, inputs)
        except Exception as error:  # whatever the compiler trips over, the eager result is right
            first = self.layouts[0].tensors[0]
            warnings.warn(
                f"the bucket of {len(self.layouts)} parameter(s) like {first[0]} {first[2]} runs eagerly: it could not "
                f"be compiled ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}). Its "
                "results are the same.",
                CompileWarning,
                stacklevel=7,
            )

    def compute(self, flat: Sequence[torch.Tensor]) -> tuple[list[Task], list[Result]]:
        """The tasks and their results; writes nothing."""
        tensors = iter(flat)
        tasks = [layout.read(self.program, tensors) for layout in self.layouts]
        answers = [[_totals(phase, tensors) for phase in phases] for phases in self.known]
        return tasks, [replay(task, answer) for task, answer in zip(tasks, answers)]

    def _traced(self, *flat: torch.Tensor) -> list[torch.Tensor]:
        """What the compiler sees: compute, write in place, return what others need."""
        tasks, results = self.compute(flat)
        outputs: list[torch.Tensor] = []
        self.results = []
        if len({type(result) for result in results}) > 1:
            raise TypeError("some parameters of the bucket wait for totals while others are done")
        for task, layout, result in zip(tasks, self.layouts, results):
            if isinstance(result, Outcome):
                task.commit(result)
                recorded = list(result.recorded) if layout.telemetry else []
                self.results.append(("done", recorded))
                outputs += [result.recorded[key] for key in recorded]
            else:
                address, request = result
                self.results.append((address, request))
                outputs += request.partials.values()
        # A constant output keeps the graph from being empty of results.
        return [*outputs, flat[0].new_zeros((), dtype=torch.int32)]

    def run(self, flat: Sequence[torch.Tensor]) -> tuple[list[Asked], list[Recorded]]:
        """Run the compiled phase: what the works wait for, or, if they are done, what they recorded."""
        assert self.compiled is not None
        outputs = iter(self.compiled(*flat))
        waiting: list[Asked] = []
        recorded: list[Recorded] = []
        for address, detail in self.results:
            if isinstance(detail, Request):
                partials = {name: next(outputs) for name in detail.partials}
                waiting.append((address, Request(detail.scope, partials, detail.label, detail.combine)))
            else:
                recorded.append({key: next(outputs) for key in detail})
        return waiting, recorded


Known: TypeAlias = "tuple[tuple[tuple[str, ...], ...], ...]"
"""For each work, for each answered request, the names of the totals."""

_kernels: dict[Any, Kernel] = {}


def _totals(names: tuple[str, ...], flat: Iterator[torch.Tensor]) -> Totals:
    return Totals(**{name: next(flat) for name in names})


class Call:
    """A bucket at one step, moving through its phases."""

    def __init__(self, works: list[Work], packed: dict[int, torch.Tensor]) -> None:
        self.works = works
        self.layouts = tuple(Layout.of(work) for work in works)
        self.inputs = [x for work, layout in zip(works, self.layouts) for x in tensors_of(work, layout, packed)]
        self.answers: list[list[Totals]] = [[] for _ in works]
        self.recorded: list[Recorded] = []
        self.waiting: list[Asked] = []
        self.outcomes: list[Outcome] = []

    def flat(self) -> list[torch.Tensor]:
        return [*self.inputs, *(x for totals in self.answers for total in totals for x in vars(total).values())]

    def kernel(self) -> Kernel:
        """The kernel of the present phase, from the cache or made now."""
        known: Known = tuple(tuple(tuple(vars(total)) for total in totals) for totals in self.answers)
        key = (self.layouts, known)
        if key not in _kernels:
            _kernels[key] = Kernel(self.layouts, self.works[0].program, self.flat(), known)
        return _kernels[key]

    def advance(self, kernel: Kernel) -> None:
        """Run one phase. An eager kernel computes now and is committed when all others have succeeded."""
        if kernel.compiled is not None:
            self.waiting, self.recorded = kernel.run(self.flat())
            if not self.waiting:
                torch.autograd.graph.increment_version([work.owner for work in self.works])
            return
        _, results = kernel.compute(self.flat())
        self.outcomes = [result for result in results if isinstance(result, Outcome)]
        self.waiting = [result for result in results if not isinstance(result, Outcome)]
        self.recorded = [outcome.recorded for outcome in self.outcomes]

    def take(self, totals: dict[tuple[str, str | None], Totals]) -> None:
        for answers, (address, request) in zip(self.answers, self.waiting):
            answers.append(totals[address, request.label].near(request))


def run(works: Sequence[Work]) -> list[Recorded]:
    """Step all works. Kernels of a phase are made before any of them runs, eager ones run first."""
    packed: dict[int, torch.Tensor] = {}
    calls = [Call(bucket, packed) for bucket in buckets(works)]
    active = calls
    while active:
        kernels = [(call, call.kernel()) for call in active]
        for call, kernel in sorted(kernels, key=lambda pair: pair[1].compiled is not None):
            call.advance(kernel)
        active = [call for call in active if call.waiting]
        totals = total_up(asked for call in active for asked in call.waiting)
        for call in active:
            call.take(totals)
    for call in calls:
        for work, outcome in zip(call.works, call.outcomes):
            work.task.commit(outcome)
    recorded = {id(work): record for call in calls for work, record in zip(call.works, call.recorded)}
    return [recorded[id(work)] for work in works]


def buckets(works: Sequence[Work]) -> list[list[Work]]:
    """Works of one program and device that share a call: small tensors several together, large ones alone."""
    small: dict[Any, list[Work]] = {}
    result: list[list[Work]] = []
    for work in works:
        if work.owner.numel() > SMALL_ELEMENTS:
            result.append([work])
        else:
            small.setdefault((work.program.structure, work.owner.device), []).append(work)
    for members in small.values():
        result += [members[i : i + TENSORS_PER_CALL] for i in range(0, len(members), TENSORS_PER_CALL)]
    return result
