"""One bucket of parameters as one compiled function: what it depends on, how it is traced, what it gives back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch.autograd.graph import increment_version

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import resume
from gradchain._chain.program import Outcome, Program, Running
from gradchain._core.reduce import Totals
from gradchain._core.totals import Asked
from gradchain._engine.background import Job, Task, submit
from gradchain._engine.inductor import Seen, as_matrices, many_lines, reason_of, start_compiling, trace
from gradchain._engine.layouts import Layout
from gradchain._engine.measure import measured, told
from gradchain._engine.param_step import StepInputs, check_purity, commit, versions_of
from gradchain._engine.shelf import Compiled, find, name_of
from gradchain._engine.writing import memory_of
from gradchain.errors import GradchainError

Result: TypeAlias = "Asked | Outcome"

Status = Literal["done", "asks", "uneven"]
"""Whether all parameters of a bucket are done, all wait at the same stage, or neither."""

Known: TypeAlias = "tuple[tuple[tuple[str, ...], ...], ...]"
"""For each parameter, for each answered request, the names of the totals."""


def _apart(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Examples for the compiler: like the inputs, but no two in the same memory.

    The tracer takes inputs that are one tensor for one input for ever. Which inputs coincide (the numbers of two
    parameters at the same step) changes from step to step, and is no part of a kernel's key.
    """
    seen: set[int] = set()
    examples: list[torch.Tensor] = []
    for tensor in inputs:
        memory = memory_of(tensor)
        if memory in seen:
            tensor = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        seen.add(memory)
        examples.append(tensor)
    return examples


def status_of(results: Sequence[Result]) -> Status:
    """Where a bucket stands."""
    places = {None if isinstance(result, Outcome) else result[0] for result in results}
    return "uneven" if len(places) > 1 else "done" if places == {None} else "asks"


def replay(running: Running, answers: Sequence[Totals]) -> Result:
    """Run a step up to the first request beyond the answers known, or to its end."""
    result = resume(running)
    for answer in answers:
        result = resume(running, answer)
    return result


class Kernel:
    """One phase of one bucket, compiled; or plain Python if it could not be.

    One that `measures` runs the last phase for telemetry, and writes nothing: the kernel that writes is the same with
    telemetry and without. It has many sums, which take long to compile; for small tensors, and for those that share a
    kernel whatever their shapes, it stays plain Python.

    In the `background` another process compiles it, and it is `pending` until it is taken over. Otherwise compilers of C++
    may run on until it is needed.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        program: Program,
        known: Known,
        inputs: list[torch.Tensor],
        measures: bool = False,
        background: bool = False,
    ) -> None:
        self.layouts, self.program, self.known = tuple(layouts), program, known
        self.start = measured if measures else StepInputs.start
        self.measures = measures
        self.kept = sum(1 + len(layout.slots) for layout in self.layouts)
        """The number of inputs that are parameters or slots; they come first."""
        grads = range(self.kept, self.kept + len(self.layouts))
        kept = iter(range(self.kept))
        places = [[next(kept), grad, *(next(kept) for _ in layout.slots)] for grad, layout in zip(grads, self.layouts)]
        self.matrices = {
            place: layout.seen
            for layout, row in zip(self.layouts, places)
            for place, dense in zip(row, layout.dense)
            if dense and layout.seen is not None
        }
        """The shapes in which a compiled function takes some inputs, so that all its loops go alike."""
        self._of_gradients = {place: shape for place, shape in self.matrices.items() if place >= self.kept}
        self.status: Status | None = None
        self.requests: list[Asked] = []
        self.recorded: list[list[Any]] = []
        self._function: Compiled | None = None
        self._finish: Callable[[], Compiled] | None = None
        self.failure: str | None = None
        self.job: Job | None = None
        self.seconds = 0.0
        if measures and (layouts[0].small or layouts[0].line):
            return
        with self._attempt():
            lined = self.kept + 1 if self.layouts[0].line else 0  # with the gradient
            examples = many_lines(as_matrices(_apart([x.detach() for x in inputs]), self.matrices), lined)
            inline = not any(layout.packed for layout in self.layouts)
            self._name = name_of(self._traced, examples, lined, inline)
            if self.uneven:
                return
            if self._name is not None and (function := find(self._name)) is not None:
                self._function = function
            else:
                self._compile(examples, lined, inline, background)

    def _compile(self, examples: list[torch.Tensor], lined: int, inline: bool, background: bool) -> None:
        """Trace it, and start compilers."""
        graph = trace(self._traced, examples, lined)
        if background and not self.uneven:
            self.job = submit(Task.of(graph, examples, inline, lined))
        elif not self.uneven:
            self._finish = start_compiling(graph, examples, inline=inline, lined=lined, name=self._name)

    def take_over(self) -> None:
        """Take over what another process has compiled; waits until it has."""
        job, self.job = self.job, None
        if job is None:
            return
        seconds, failure = job.result()
        with self._attempt():
            if failure is not None:
                self._fail(failure)
            else:
                self._function = job.task.compile(self._name)
        self.seconds += seconds

    @property
    def building(self) -> bool:
        """Whether compilers of C++ may still be running."""
        return self._finish is not None

    @property
    def compiled(self) -> Compiled | None:
        """The function, of what is `seen`; waits for it. `None` if there is none, which has its reasons."""
        if (finish := self._finish) is not None:
            self._finish = None
            with self._attempt():
                self._function = finish()
        return self._function

    def seen(self, flat: Sequence[torch.Tensor]) -> Seen:
        """Inputs in the shapes in which the function takes them."""
        return flat if isinstance(flat, Seen) else as_matrices(flat, self.matrices)

    def seen_once(self, kept: Sequence[torch.Tensor]) -> Seen:
        """The parameters and slots among the inputs in these shapes."""
        return as_matrices(kept, {place: shape for place, shape in self.matrices.items() if place < self.kept})

    def seen_with(self, kept: Seen, others: Sequence[torch.Tensor]) -> Seen:
        """Inputs of which the parameters and slots have these shapes."""
        return as_matrices([*kept, *others], self._of_gradients)

    @contextlib.contextmanager
    def _attempt(self) -> Generator[None, None, None]:
        """Time what is done, and note why it fails."""
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():  # the compiler's own deprecations are not the user's business
                warnings.simplefilter("ignore")
                yield
        except GradchainError:  # a stage that does wrong would do so eagerly too
            raise
        except Exception as error:  # whatever the compiler trips over, the eager result is right
            self._fail(reason_of(error))
        self.seconds += time.perf_counter() - start

    def _fail(self, reason: str) -> None:
        first = self.layouts[0].tensors[0]
        self.failure = f"{len(self.layouts)} parameter(s) like {first[0]} {first[2]}: {reason}"

    @property
    def pending(self) -> bool:
        """Whether another process is compiling it, or has and it is not yet taken over."""
        return self.job is not None

    @property
    def uneven(self) -> bool:
        return self.status == "uneven"

    def compute(self, flat: Sequence[torch.Tensor]) -> tuple[list[StepInputs], list[Result]]:
        """The tasks and their results; writes nothing."""
        tensors = iter(flat)
        kept = [[next(tensors) for _ in range(1 + len(layout.slots))] for layout in self.layouts]
        grads = [next(tensors) for _ in self.layouts]
        packs = [next(tensors) for _ in self.layouts]
        keys = next(tensors).unbind() if self.noisy else [None] * len(kept)
        keeps = next(tensors).unbind() if self.layouts[0].guarded else [None] * len(kept)
        rows = zip(self.layouts, kept, grads, packs, keys, keeps)
        tasks = [layout.task(self.program, *row) for layout, *row in rows]
        answers = [[Totals(**{name: next(tensors) for name in names}) for names in phases] for phases in self.known]
        return tasks, [replay(self.start(task), answer) for task, answer in zip(tasks, answers)]

    def _traced(self, *flat: torch.Tensor) -> list[torch.Tensor]:
        """What the compiler sees: compute, then write in place or return the partials that are asked about."""
        self.requests, self.recorded = [], []
        before = versions_of(flat)
        tasks, results = self.compute(flat)
        check_purity(self.program, before, versions_of(flat))
        self.status = status_of(results)
        outputs: list[torch.Tensor] = []
        for task, layout, result in zip(tasks, self.layouts, results):
            if not isinstance(result, Outcome):
                self.requests.append(result)
                outputs += result[1].partials.values()
            elif self.status == "done":
                recorded = self._written(task, layout, result) if not self.measures else told(result.recorded)
                self.recorded.append(list(recorded))
                outputs += recorded.values()
        # One more output keeps the graph from having none.
        return [*outputs, flat[0].new_zeros((), dtype=torch.int32)]

    def _written(self, task: StepInputs, layout: Layout, result: Outcome) -> dict[Any, torch.Tensor]:
        """Write an outcome into the trace. Returns: what else the step has to know of it."""
        own = {slot: value for slot, value in result.state.items() if slot not in layout.common}
        commit([task], [dataclasses.replace(result, state=own)])
        totals = {key: x for key, x in result.recorded.items() if key[1] == "total"}
        return {**totals, **{(slot, "common"): result.state[slot] for slot in layout.common}}

    def measure(self, flat: Sequence[torch.Tensor]) -> list[Recorded]:
        """What telemetry wants to know of each parameter; writes nothing."""
        if self.compiled is None:
            return [told(result.recorded) for result in self.compute(flat)[1] if isinstance(result, Outcome)]
        values = iter(self.compiled(*self.seen(flat)))
        return [{key: next(values) for key in keys} for keys in self.recorded]

    def ask(self, flat: Sequence[torch.Tensor]) -> list[Asked]:
        """Run a compiled phase that ends in requests; writes nothing."""
        assert self.compiled is not None
        outputs = iter(self.compiled(*self.seen(flat)))
        asked: list[Asked] = []
        for address, request in self.requests:
            partials = {name: next(outputs) for name in request.partials}
            asked.append((address, dataclasses.replace(request, partials=partials)))
        return asked

    def write(self, flat: Sequence[torch.Tensor]) -> list[Recorded]:
        """Run a compiled phase that is the last: parameters and state are written in place."""
        assert self.compiled is not None
        outputs = self.compiled(*self.seen(flat))
        increment_version(flat[: self.kept])
        if self.silent:
            return [{}] * len(self.recorded)
        values = iter(outputs)
        return [{key: next(values) for key in keys} for keys in self.recorded]

    @property
    def noisy(self) -> bool:
        """Whether it takes noise keys."""
        return self.layouts[0].noisy

    @functools.cached_property
    def silent(self) -> bool:
        """Whether nothing is recorded."""
        return not any(self.recorded)
