"""The eager step: tensor by tensor; and in flat batches where stages treat each element by itself.

An elementwise chain does not care where a tensor begins. So small tensors are joined: a thousand of them cost no more calls
than one large one. On a CPU large ones are cut, so that each operation of each stage runs over data that is still in the
cache; on other devices a call costs more than that saves, batches are larger, and nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import run_lockstep
from gradchain._chain.program import Outcome, Running
from gradchain._engine import eager_tiles
from gradchain._engine.measure import measured
from gradchain._engine.param_step import ParamStep, StepInputs, check_purity, commit, versions_of
from gradchain._engine.writing import overwrite
from gradchain.errors import ChainError

ELEMENTS = 1 << 18
"""The size of a batch on a CPU; a tensor of more than half of it is large."""

LAUNCHED_ELEMENTS = 1 << 22
"""The same on other devices: to join tensors of two million elements takes about as long as the launches that it saves (56
bytes an element at 2 TB/s; a dozen launches of 5 microseconds)."""

EXACT = (torch.float32, torch.float64)
"""Where an element's result does not depend on its place: in half precision the ends of a tensor, which do not fill a
vector register, are rounded otherwise than the rest."""

Pieces = list[torch.Tensor]


@dataclass
class Parts:
    """How a step was divided."""

    batches: list[list[FlatBatch]]
    """By kind."""
    others: list[ParamStep]
    """Those that go by themselves."""
    tiled: list[tuple[ParamStep, eager_tiles.Tiles]]
    """Those that were cut into tiles of rows."""


def run(due: Sequence[ParamStep], partition: Any = None) -> tuple[list[Recorded], Parts | None]:
    """Step all that are due; what can fail fails before anything is written. Returns what each recorded, and the parts.

    There are parts to run again where none has third-party stages, draws noise, or asks in tiles about other parameters.

    One batch of each kind is computed before the first write, and the others of its kind are the same computation. Where
    a program has third-party stages, which may fail at any batch, all batches are computed first.
    """
    inside, outside = divided(due)
    inputs = [item.inputs() for item in due]
    versions = [versions_of(tensors) for tensors in inputs]
    tiled = {id(item): tiles for item in outside if (tiles := eager_tiles.Tiles.of(item)) is not None}
    runs = [tiled[id(item)].start() if id(item) in tiled else _whole(item) for item in outside]
    outcomes = run_lockstep([item.program for item in outside], runs, partition)
    kinds = batches(inside)
    ready = [
        [batch.compute() for batch in (kind if kind[0].due[0].program.third_party else kind[:1])] for kind in kinds
    ]
    for item, tensors, before in zip(due, inputs, versions):
        check_purity(item.program, before, versions_of(tensors))
    recorded = {id(item): outcome.recorded for item, outcome in zip(outside, outcomes)}
    at_once = [(item.task, outcome) for item, outcome in zip(outside, outcomes) if id(item) not in tiled]
    commit([task for task, _ in at_once], [outcome for _, outcome in at_once])
    for item, outcome in zip(outside, outcomes):
        if id(item) in tiled:
            recorded[id(item)] = tiled[id(item)].commit(outcome)
    for kind, computed in zip(kinds, ready):
        for batch, made in zip(kind, computed):
            batch.commit(*made)
        for batch in kind[len(computed) :]:
            batch.commit(*batch.compute())
    alike = (
        not any(kind[0].due[0].program.third_party for kind in kinds)
        and all(map(_goes_alone, outside))
        and all(tiles.alone for tiles in tiled.values())
    )
    others = [item for item in outside if id(item) not in tiled]
    parts = Parts(kinds, others, [(item, tiled[id(item)]) for item in outside if id(item) in tiled])
    return [recorded.get(id(item), {}) for item in due], parts if due and alike else None


def _goes_alone(item: ParamStep) -> bool:
    """Whether a step of a parameter depends on its gradient, its state and its numbers alone, as far as can be seen."""
    program, plain = item.program, item.record.shard.group is None and not item.common
    looked_at = item.telemetry or item.keep is not None
    whole = program.narrows or eager_tiles.WHOLE in program.traced
    return plain and not looked_at and item.index is None and not whole and not program.third_party


def _whole(item: ParamStep) -> Running:
    """The step of a whole tensor."""
    return measured(item.task) if item.telemetry else item.task.start()


def cuts(device: torch.device) -> bool:
    """Whether large tensors are cut: on a CPU, for its cache."""
    return device.type == "cpu"


def batch_size(device: torch.device) -> int:
    """The elements of a batch, at most."""
    return ELEMENTS if cuts(device) else LAUNCHED_ELEMENTS


def fits(item: ParamStep) -> bool:
    """Whether a parameter can be stepped in batches."""
    if item.telemetry or item.keep is not None or item.grad.dtype != item.owner.dtype:
        return False
    if item.owner.dtype not in EXACT or (_is_large(item) and not cuts(item.owner.device)):
        return False
    return item.by_element()


def _is_large(item: ParamStep) -> bool:
    return item.owner.numel() > batch_size(item.owner.device) // 2


def divided(due: Sequence[ParamStep]) -> tuple[list[ParamStep], list[ParamStep]]:
    """Those that can be stepped in batches, and the others."""
    as_built: dict[int, bool] = {}
    for item in due:
        if id(item.numbers) not in as_built:
            as_built[id(item.numbers)] = item.program.as_built(item.numbers)
    inside = [item for item in due if as_built[id(item.numbers)] and fits(item)]
    chosen = {id(item) for item in inside}
    return inside, [item for item in due if id(item) not in chosen]


@dataclass
class FlatBatch:
    """Some elements of some parameters with equal numbers: all of small ones, or a part of a large one."""

    due: list[ParamStep]
    start: int
    stop: int

    def pieces(self) -> list[Pieces]:
        """Views of the parameters, of the gradients, and of each slot."""
        first = self.due[0]
        keys = first.program.keys(first.state)
        columns = [[w.owner.detach() for w in self.due], [w.grad.detach() for w in self.due]]
        columns += [[w.state[key] for w in self.due] for key in keys]
        flat = [[tensor.view(-1) for tensor in column] for column in columns]
        if len(self.due) == 1:
            return [[tensor[self.start : self.stop] for tensor in column] for column in flat]
        return flat

    def compute(self) -> tuple[list[Pieces], Outcome]:
        """The pieces, and the outcome for all of them in a row; writes nothing."""
        first, pieces = self.due[0], self.pieces()
        param, gradient, *slots = [column[0] if len(column) == 1 else torch.cat(column) for column in pieces]
        state = dict(zip(first.program.keys(first.state), slots))
        gradient = -gradient if first.maximize else gradient
        task = StepInputs(param, gradient, state, first.program, first.numbers, None)
        return pieces, finished(task.start())

    def commit(self, pieces: list[Pieces], outcome: Outcome) -> None:
        """Write an outcome into the pieces."""
        first = self.due[0]
        keys = first.program.keys(first.state)
        columns = [pieces[0], *(pieces[2 + keys.index(key)] for key in outcome.state)]
        targets = [column[0] if len(column) == 1 else column for column in columns]
        overwrite(targets, [outcome.param, *outcome.state.values()])


def finished(running: Running) -> Outcome:
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


def batches(due: Sequence[ParamStep]) -> list[list[FlatBatch]]:
    """The batches of all parameters, by those that have the same numbers and dtypes."""
    groups: dict[Any, list[ParamStep]] = {}
    for item in due:
        dtypes = tuple(item.state[key].dtype for key in item.program.keys(item.state))
        key = (id(item.program), id(item.numbers), item.maximize, item.owner.dtype, item.owner.device, dtypes)
        groups.setdefault(key, []).append(item)
    return [list(_batches(members)) for members in groups.values()]


def _batches(due: Sequence[ParamStep]) -> Iterator[FlatBatch]:
    joined: list[ParamStep] = []
    filled, most = 0, batch_size(due[0].owner.device)
    for item in due:
        size = item.owner.numel()
        if _is_large(item):
            for start in range(0, size, most):
                yield FlatBatch([item], start, min(start + most, size))
            continue
        if filled + size > most:
            yield FlatBatch(joined, 0, filled)
            joined, filled = [], 0
        joined.append(item)
        filled += size
    if joined:
        yield FlatBatch(joined, 0, filled)
