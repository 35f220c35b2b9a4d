"""The eager step: tensor by tensor; and in flat batches where stages treat each element by itself.

An elementwise chain does not care where a tensor begins. So small tensors are joined: a thousand of them cost no more calls
than one large one. On a CPU large ones are cut, so that each operation of each stage runs over data that is still in the
cache; on other devices a call costs more than that saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import run_lockstep
from gradchain._chain.program import Numbers, Outcome, Running
from gradchain._chain.tracing import traits_of
from gradchain._core.shard import Shard
from gradchain._engine.work import Task, Work, check_purity, commit, versions_of
from gradchain._engine.writing import overwrite
from gradchain.errors import ChainError

ELEMENTS = 1 << 17
"""The size of a batch; a tensor of more than half of it is large."""

EXACT = (torch.float32, torch.float64)
"""Where an element's result does not depend on its place: in half precision the ends of a tensor, which do not fill a
vector register, are rounded otherwise than the rest."""

Pieces = list[torch.Tensor]


def run(works: Sequence[Work], partition: Any = None) -> tuple[list[Recorded], list[list[FlatBatch]] | None]:
    """Step all works; what can fail fails before anything is written. Returns what each recorded, and the batches.

    There are batches to run again where all works are in some, and none has third-party stages.

    One batch of each kind is computed before the first write, and the others of its kind are the same computation. Where
    a program has third-party stages, which may fail at any batch, all batches are computed first.
    """
    inside, outside = divided(works)
    inputs = [work.inputs() for work in works]
    versions = [versions_of(tensors) for tensors in inputs]
    outcomes = run_lockstep([work.program for work in outside], [work.task.start() for work in outside], partition)
    kinds = batches(inside)
    ready = [
        [batch.compute() for batch in (kind if kind[0].works[0].program.third_party else kind[:1])] for kind in kinds
    ]
    for work, tensors, before in zip(works, inputs, versions):
        check_purity(work.program, before, versions_of(tensors))
    commit([work.task for work in outside], outcomes)
    for kind, computed in zip(kinds, ready):
        for batch, made in zip(kind, computed):
            batch.commit(*made)
        for batch in kind[len(computed) :]:
            batch.commit(*batch.compute())
    recorded = {id(work): outcome.recorded for work, outcome in zip(outside, outcomes)}
    again = bool(works) and not outside and not any(kind[0].works[0].program.third_party for kind in kinds)
    return [recorded.get(id(work), {}) for work in works], kinds if again else None


def cuts(device: torch.device) -> bool:
    """Whether large tensors are cut: on a CPU, for its cache."""
    return device.type == "cpu"


def fits(work: Work) -> bool:
    """Whether a work can be done in batches."""
    if not traits_of(work.program, work.owner).exact:
        return False
    if work.index is not None or work.telemetry or work.keep is not None or not work.owner.is_contiguous():
        return False
    if work.owner.dtype not in EXACT or (_is_large(work) and not cuts(work.owner.device)):
        return False
    if not work.grad.is_contiguous() or work.grad.dtype != work.owner.dtype:
        return False
    shape = work.owner.shape
    slots = [work.state[key] for key in work.program.keys(work.state)]
    return all(slot.shape == shape and slot.is_contiguous() for slot in slots)


def _is_large(work: Work) -> bool:
    return work.owner.numel() > ELEMENTS // 2


def divided(works: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """The works that can be done in batches, and the others."""
    as_built: dict[int, bool] = {}
    for work in works:
        if id(work.numbers) not in as_built:
            as_built[id(work.numbers)] = work.program.as_built(work.numbers)
    inside = [work for work in works if as_built[id(work.numbers)] and fits(work)]
    chosen = {id(work) for work in inside}
    return inside, [work for work in works if id(work) not in chosen]


@dataclass
class FlatBatch:
    """Some elements of some works with equal numbers: all of small ones, or a part of a large one."""

    works: list[Work]
    start: int
    stop: int

    def pieces(self) -> list[Pieces]:
        """Views of the parameters, of the gradients, and of each slot."""
        first = self.works[0]
        keys = first.program.keys(first.state)
        columns = [[w.owner.detach() for w in self.works], [w.grad.detach() for w in self.works]]
        columns += [[w.state[key] for w in self.works] for key in keys]
        flat = [[tensor.view(-1) for tensor in column] for column in columns]
        if len(self.works) == 1:
            return [[tensor[self.start : self.stop] for tensor in column] for column in flat]
        return flat

    def compute(self) -> tuple[list[Pieces], Outcome]:
        """The pieces, and the outcome for all of them in a row; writes nothing."""
        first, pieces = self.works[0], self.pieces()
        param, gradient, *slots = [column[0] if len(column) == 1 else torch.cat(column) for column in pieces]
        state = dict(zip(first.program.keys(first.state), slots))
        gradient = -gradient if first.maximize else gradient
        task = Task(param, gradient, state, first.program, first.numbers, None)
        return pieces, _finished(task.start())

    def commit(self, pieces: list[Pieces], outcome: Outcome) -> None:
        """Write an outcome into the pieces."""
        first = self.works[0]
        keys = first.program.keys(first.state)
        columns = [pieces[0], *(pieces[2 + keys.index(key)] for key in outcome.state)]
        targets = [column[0] if len(column) == 1 else column for column in columns]
        overwrite(targets, [outcome.param, *outcome.state.values()])


def _finished(running: Running) -> Outcome:
    """The outcome of a step that asks for nothing: a total over a batch would be one of no tensor."""
    try:
        address, _ = next(running)
    except StopIteration as stop:
        return stop.value
    raise ChainError(
        f"{address} asks for totals, and did not ask when it was tried on small tensors: whether it asks depends on more "
        "than the parameter, its state and the step. Let it ask in every step, and choose with torch.where whether the "
        "totals count.",
        stage=address,
    )


def batches(works: Sequence[Work]) -> list[list[FlatBatch]]:
    """The batches of all works, by the works that have the same numbers and dtypes."""
    groups: dict[Any, list[Work]] = {}
    for work in works:
        dtypes = tuple(work.state[key].dtype for key in work.program.keys(work.state))
        key = (id(work.program), id(work.numbers), work.maximize, work.owner.dtype, work.owner.device, dtypes)
        groups.setdefault(key, []).append(work)
    return [list(_batches(members)) for members in groups.values()]


def _batches(works: Sequence[Work]) -> Iterator[FlatBatch]:
    joined: list[Work] = []
    filled = 0
    for work in works:
        size = work.owner.numel()
        if _is_large(work):
            for start in range(0, size, ELEMENTS):
                yield FlatBatch([work], start, min(start + ELEMENTS, size))
            continue
        if filled + size > ELEMENTS:
            yield FlatBatch(joined, 0, filled)
            joined, filled = [], 0
        joined.append(work)
        filled += size
    if joined:
        yield FlatBatch(joined, 0, filled)


class Batches:
    """The batches of an eager step, to be run again over other gradients and with other numbers."""

    def __init__(self, works: Sequence[Work], kinds: Sequence[Sequence[FlatBatch]]) -> None:
        place_of = {id(work): place for place, work in enumerate(works)}
        self.order = list(range(len(works)))
        self.none: list[Recorded] = [{}] * len(works)
        self.kinds = [
            [BatchAgain(batch, [place_of[id(work)] for work in batch.works]) for batch in kind] for kind in kinds
        ]

    def slots(self, work: Work) -> Sequence[str]:
        return work.program.keys(work.state)

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        return True

    def run(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> list[Recorded]:
        first: list[Outcome] = []
        for kind in self.kinds:
            first.append(kind[0].compute(grads, numbers))
        for kind, outcome in zip(self.kinds, first):
            kind[0].commit(outcome)
            for batch in kind[1:]:
                batch.commit(batch.compute(grads, numbers))
        return self.none


class BatchAgain:
    """A batch with the views of its parameters and slots."""

    def __init__(self, batch: FlatBatch, places: list[int]) -> None:
        work = batch.works[0]
        self.program, self.maximize = work.program, work.maximize
        self.places, self.start, self.stop = places, batch.start, batch.stop
        self.params, _, *slots = batch.pieces()
        self.slots = dict(zip(work.program.keys(work.state), slots))
        alone = len(self.params) == 1
        self.target = self.params[0] if alone else self.params
        self.targets = {key: column[0] if alone else column for key, column in self.slots.items()}
        self.shard = Shard.whole(torch.Size((sum(x.numel() for x in self.params),)))

    def compute(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> Outcome:
        """The outcome for all pieces in a row; writes nothing."""
        first = self.places[0]
        if len(self.params) == 1:
            param, gradient = self.params[0], grads[first].detach().view(-1)[self.start : self.stop]
            state: dict[str, Any] = self.targets
        else:
            param, gradient = torch.cat(self.params), torch.cat([grads[place].view(-1) for place in self.places])
            state = {key: torch.cat(column) for key, column in self.slots.items()}
        gradient = -gradient if self.maximize else gradient
        return _finished(self.program.run(param, gradient, state, numbers[first], shard=self.shard))

    def commit(self, outcome: Outcome) -> None:
        """Write an outcome into the pieces."""
        targets = [self.target, *map(self.targets.__getitem__, outcome.state)]
        overwrite(targets, [outcome.param, *outcome.state.values()])
