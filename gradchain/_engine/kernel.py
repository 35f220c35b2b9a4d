"""One bucket of parameters as one compiled function: what it depends on, how it is traced, what it gives back."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import advance
from gradchain._chain.program import Outcome, Program
from gradchain._chain.slots import kept
from gradchain._chain.tracing import traits_of
from gradchain._core.reduce import Totals
from gradchain._core.shard import Shard
from gradchain._core.totals import Asked
from gradchain._engine.inductor import compile_graph, trace
from gradchain._engine.packs import Packs, pattern_of
from gradchain._engine.work import Task, Work, check_purity, commit, versions_of
from gradchain._engine.writing import memory_of
from gradchain.errors import GradchainError

Result: TypeAlias = "Asked | Outcome"

Status = Literal["done", "asks", "uneven"]
"""Whether all works of a bucket are done, all wait at the same stage, or neither."""

Known: TypeAlias = "tuple[tuple[tuple[str, ...], ...], ...]"
"""For each work, for each answered request, the names of the totals."""


@dataclass(frozen=True)
class Layout:
    """The static part of a work: what its kernel depends on. Equal layouts share a kernel."""

    structure: tuple[Any, ...]
    tensors: tuple[tuple[Any, ...], ...]
    slots: tuple[str, ...]
    fields: tuple[tuple[tuple[str, bool], ...], ...]
    maximize: bool
    telemetry: bool
    noisy: bool
    guarded: bool
    shard: Shard
    matrix: tuple[int, int] | None
    common: tuple[str, ...]

    @staticmethod
    def of(work: Work) -> Layout:
        slots = work.program.keys(work.state)
        tensors = (work.owner, work.grad, *(work.state[slot] for slot in slots))
        return Layout(
            work.program.structure,
            tuple((tuple(x.shape), x.stride(), x.dtype, x.device) for x in tensors),
            slots,
            pattern_of(work.numbers),
            work.maximize,
            work.telemetry,
            work.index is not None,
            work.keep is not None,
            work.seat.shard,
            _matrix_of(work),
            work.common,
        )

    def task(
        self,
        program: Program,
        kept: Sequence[torch.Tensor],
        grad: torch.Tensor,
        pack: torch.Tensor,
        key: Any,
        keep: Any,
    ) -> Task:
        """A task like the original, over these tensors; `kept` are the parameter and its slots."""
        param, *slots = kept
        numbers = iter(pack.unbind())
        values = tuple({name: None if none else next(numbers) for name, none in stage} for stage in self.fields)
        gradient = -grad if self.maximize else grad
        if self.matrix is not None:
            dense = [_is_dense(slot) and x.shape == param.shape for slot, x in zip(self.slots, slots)]
            slots = [x.view(self.matrix) if whole else x for x, whole in zip(slots, dense)]
            param, gradient = param.view(self.matrix), gradient.view(self.matrix)
        return Task(param, gradient, dict(zip(self.slots, slots)), program, values, key, self.shard, keep)


def _is_dense(slot: str) -> bool:
    """Whether a tensor of the state has a number for each element, going by its name; packed signs may have its shape."""
    return slot.count(".") < 2 or slot.endswith(".data")


def _matrix_of(work: Work) -> tuple[int, int] | None:
    """The matrix as which a kernel sees an elementwise step: that of its storages, which else would divide at each index."""
    dense = [x for x in (work.owner, work.grad, *work.state.values()) if x.shape == work.owner.shape]
    shard = work.seat.shard
    if (
        (shard.group is not None and shard.columns is None)
        or not traits_of(work.program, work.owner).elementwise
        or not all(x.is_contiguous() for x in dense)
    ):
        return None
    matrices = {
        storage.matrix(kept(slot, work.owner, shard))
        for _, slot in work.program.owners.values()
        if (storage := slot.kept_as) is not None
    }
    return next(iter(matrices - {None}), None)


class Seated:
    """What the compiled path knows of a parameter: its layout, as long as nothing that it depends on has changed."""

    __slots__ = ("held", "layout", "number", "signature", "spans", "tensors")

    def __init__(self, work: Work, signature: tuple[Any, ...]) -> None:
        self.signature = signature
        self.layout = Layout.of(work)
        self.number = _numbers.setdefault(self.layout, len(_numbers))
        self.tensors: list[torch.Tensor] = [work.state[slot] for slot in self.layout.slots]
        self.held = [(slot, x, x.stride()) for slot, x in zip(self.layout.slots, self.tensors)]
        self.spans = [_span(x) for x in (work.owner, *self.tensors)]


_numbers: dict[Layout, int] = {}
"""The layouts of this process, numbered."""


def seated(work: Work, packs: Packs) -> Seated:
    """What is known of a parameter, found anew if it has changed since the last step."""
    grad, owner, state = work.grad, work.owner, work.state
    signature = (
        grad.stride(), grad.dtype, owner.data_ptr(), owner.shape, owner.stride(), owner.dtype, packs.pattern(work.numbers),
        work.maximize, work.telemetry, work.index is None, work.keep is None,
    )  # fmt: skip
    known: Seated | None = work.seat.layout
    if known is not None and known.signature == signature:
        for slot, tensor, stride in known.held:
            if state[slot] is not tensor or tensor.stride() != stride:
                break
        else:
            return known
    known = work.seat.layout = Seated(work, signature)
    return known


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The memory that a tensor lives in, from and to."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def inputs_of(works: Sequence[Work], packs: Packs) -> list[torch.Tensor]:
    """The dynamic part of a bucket, in the order in which a kernel takes it."""
    kept = [tensor for work in works for tensor in work.kept]
    return [*kept, *map(_gradient, works), *map(packs.of, works), *_noise_keys(works), *_keeps(works)]


def _gradient(work: Work) -> torch.Tensor:
    """The gradient, in memory of its own: a kernel may read it after it has begun to write."""
    place = work.grad.data_ptr()
    shared = any(start <= place < end for start, end in work.seat.layout.spans)
    return work.grad.clone() if shared else work.grad


def _noise_keys(works: Sequence[Work]) -> list[torch.Tensor]:
    """The noise keys of a bucket as one vector, if its program draws noise."""
    if works[0].index is None:
        return []
    if works[0].step is None:
        return [torch.stack([cast("torch.Tensor", work.noise_key) for work in works])]
    keys = torch.tensor([work.noise for work in works], dtype=torch.int32)
    return [keys.to(works[0].owner.device, non_blocking=True)]


def _keeps(works: Sequence[Work]) -> list[torch.Tensor]:
    """Which works of a bucket are to be stepped, as one vector, if only the device knows."""
    keeps = [work.keep for work in works if work.keep is not None]
    return [torch.stack(keeps)] if keeps else []


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


def replay(task: Task, answers: Sequence[Totals]) -> Result:
    """Run a task up to the first request beyond the answers known, or to its end."""
    running = task.start()
    result = advance(running)
    for answer in answers:
        result = advance(running, answer)
    return result


class Kernel:
    """One phase of one bucket, compiled; or plain Python if it could not be."""

    def __init__(self, layouts: Sequence[Layout], program: Program, known: Known, inputs: list[torch.Tensor]) -> None:
        self.layouts, self.program, self.known = tuple(layouts), program, known
        self.status: Status | None = None
        self.requests: list[Asked] = []
        self.recorded: list[list[Any]] = []
        self.compiled: Callable[..., Any] | None = None
        self.failure: str | None = None
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():  # the compiler's own deprecations are not the user's business
                warnings.simplefilter("ignore")
                examples = _apart([x.detach() for x in inputs])
                graph = trace(self._traced, examples)
                inline = not any(layout.matrix for layout in self.layouts)  # bits are packed along other rows
                self.compiled = None if self.uneven else compile_graph(graph, examples, inline=inline)
        except GradchainError:  # a stage that does wrong would do so eagerly too
            raise
        except Exception as error:  # whatever the compiler trips over, the eager result is right
            first = self.layouts[0].tensors[0]
            reason = (str(error).strip().splitlines() or [""])[0]
            self.failure = f"{len(layouts)} parameter(s) like {first[0]} {first[2]}: {type(error).__name__}: {reason}"
        self.seconds = time.perf_counter() - start

    @property
    def uneven(self) -> bool:
        return self.status == "uneven"

    def compute(self, flat: Sequence[torch.Tensor]) -> tuple[list[Task], list[Result]]:
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
        return tasks, [replay(task, answer) for task, answer in zip(tasks, answers)]

    def _traced(self, *flat: torch.Tensor) -> list[torch.Tensor]:
        """What the compiler sees: compute, then write in place or return the partials that are asked about."""
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
                own = {slot: value for slot, value in result.state.items() if slot not in layout.common}
                commit([task], [dataclasses.replace(result, state=own)])
                recorded = {key: x for key, x in result.recorded.items() if layout.telemetry or key[1] == "total"}
                recorded |= {(slot, "common"): result.state[slot] for slot in layout.common}
                self.recorded.append(list(recorded))
                outputs += recorded.values()
        # One more output keeps the graph from having none.
        return [*outputs, flat[0].new_zeros((), dtype=torch.int32)]

    def ask(self, flat: Sequence[torch.Tensor]) -> list[Asked]:
        """Run a compiled phase that ends in requests; writes nothing."""
        assert self.compiled is not None
        outputs = iter(self.compiled(*flat))
        asked: list[Asked] = []
        for address, request in self.requests:
            partials = {name: next(outputs) for name in request.partials}
            asked.append((address, dataclasses.replace(request, partials=partials)))
        return asked

    def write(self, flat: Sequence[torch.Tensor]) -> list[Recorded]:
        """Run a compiled phase that is the last: parameters and state are written in place."""
        assert self.compiled is not None
        outputs = iter(self.compiled(*flat))
        return [{key: next(outputs) for key in keys} for keys in self.recorded]

    @property
    def noisy(self) -> bool:
        """Whether it takes noise keys."""
        return self.layouts[0].noisy

    @property
    def silent(self) -> bool:
        """Whether nothing is recorded."""
        return not any(self.recorded)
