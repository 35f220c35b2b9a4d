"""A large tensor whose stages ask for totals, or look along its rows, stepped eagerly in tiles of rows.

Each tile is a shard, as a process has one under `fully_shard`, but all shards are here. So whatever a chain asks for, each
of its operations runs over data that is still in the cache, and what it makes in between takes the memory of a tile and not
of the tensor: memory that a CPU's allocator gets from the system anew at each step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import resume
from gradchain._chain.program import Outcome, Program, Running
from gradchain._chain.slots import parts_of
from gradchain._core.matrices import MatrixRequest
from gradchain._core.reduce import Request, Totals
from gradchain._core.shard import HERE, Shard
from gradchain._core.totals import Accumulator, Asked
from gradchain._engine.layouts import matrix_of
from gradchain._engine.param_step import ParamStep, StepInputs
from gradchain._engine.widened import Widened
from gradchain._engine.writing import overwrite
from gradchain.errors import ChainError
from gradchain.storage.factored import FACTORS

ELEMENTS = 1 << 18
"""The approximate size of a tile."""

WHOLE = "needs whole matrices"

ROWS, COLUMNS = FACTORS
"""The parts of factored slots: each tile has its own rows of the matrix, and all share the columns."""


class Tiles:
    """The tiles of one parameter at one step. Nothing is written before `commit`."""

    def __init__(self, task: StepInputs, columns: int | None = None, wide: Widened | None = None) -> None:
        """With `columns`, of the matrix that factors describe, each tile is a factored tensor by itself.

        `wide` is what is to be packed when all are done.
        """
        self.task, self.columns, self.wide = task, columns, wide
        program, state = task.program, task.state
        if columns is None:
            plan = program.plan(task.param.shape, task.param.dtype)
            self.split = {key: plan[key][1] for key in program.keys(state)}
            """The tensors of the state, and whether each tile has rows of its own. The others are the same for all."""
        else:
            self.split = {key: not is_common(key) for key in program.keys(state)}
        length, rows = len(task.param), rows_of(task.param, columns, ELEMENTS)
        self.tasks = [self._tile(first, min(rows, length - first)) for first in range(0, length, rows)]
        self.alone = True
        """Whether nothing was asked about other parameters, nor told to them."""
        self.rest: list[Running] = []
        self.totals: Sequence[Totals | None] = [None] * len(self.tasks)
        """What each tile was told last."""

    @staticmethod
    def of(item: ParamStep) -> Tiles | None:
        """The tiles of a parameter: if it is large, on a CPU, and nothing is known that cannot be cut."""
        owner, program = item.owner, item.program
        if owner.device.type != "cpu" or owner.numel() < 2 * ELEMENTS or len(owner) < 2:
            return None
        if item.telemetry or item.keep is not None or item.record.shard.group is not None or item.common:
            return None
        if program.third_party or program.narrows or WHOLE in program.traced:
            return None
        if not any(key.endswith((f".{ROWS}", f".{ROWS}_data")) for key in item.state):
            return Tiles(item.task)
        columns = columns_of(item, matrix_of(item))  # else each tile would unpack and make factors of the whole
        if columns is None or 2 * rows_of(owner, columns, ELEMENTS) > len(owner):
            return None
        if (wide := Widened.of(item)) is None:
            return None
        task = dataclasses.replace(item.task, program=wide.program, state=wide.state)
        return Tiles(task, columns, wide)

    def _tile(self, first: int, rows: int) -> StepInputs:
        task, here = self.task, slice(first, first + rows)
        if self.columns is None:
            state = {key: task.state[key][here] if split else task.state[key] for key, split in self.split.items()}
            shard = Shard(task.param.shape, first, rows, HERE)
        else:
            state = rows_alone(task.program, task.state, first, rows, task.param[0].numel(), self.columns)
            shard = Shard(torch.Size((rows, *task.param.shape[1:])), 0, rows, HERE, self.columns)
        return dataclasses.replace(task, param=task.param[here], gradient=task.gradient[here], state=state, shard=shard)

    def start(self) -> Running:
        """The step in progress, as of the whole tensor: it asks about others only. Its outcome is that of the first tile."""
        runs = [task.start() for task in self.tasks]
        while True:
            first = resume(runs[0], self.totals[0])
            if isinstance(first, Outcome):
                self.rest = runs[1:]
                return first
            if isinstance(first[1], MatrixRequest):
                self.task.program.traced[WHOLE], self.alone = True, False
                self.tasks = [self.task]
                return (yield from self.task.start())
            address, request = first
            asked = [first, *(_asks(resume(*pair), address) for pair in zip(runs[1:], self.totals[1:]))]
            sums, own = Accumulator(request.combine), self.own(request)
            for _, each in asked:
                sums.add({name: x for name, x in each.partials.items() if name not in own})
            request = dataclasses.replace(request, partials=sums.merge(), group=None)
            self.alone = self.alone and request.local
            totals = request.local_totals() if request.local else (yield address, request)
            self.totals = [Totals(**vars(totals), **{name: each.partials[name] for name in own}) for _, each in asked]

    def own(self, request: Request) -> list[str]:
        """What a tile is told of its own partials alone."""
        return [name for name in request.partials if self.columns is not None and is_own(name)]

    def commit(self, outcome: Outcome) -> Recorded:
        """Write all tiles, given the outcome of the first. Returns what they recorded."""
        recorded, common = dict(outcome.recorded), self._write(self.tasks[0], outcome)
        for task, run, totals in zip(self.tasks[1:], self.rest, self.totals[1:]):
            outcome = resume(run, totals)  # type: ignore[assignment]
            common = self._write(task, outcome)
            for key, value in outcome.recorded.items():
                recorded[key] = recorded[key] + value if key[1] == "total" else value
        overwrite([self.task.state[key] for key in common], list(common.values()))
        if self.wide is not None:
            self.wide.pack()
        self.alone = self.alone and all(kind != "total" for _, kind in recorded)
        return recorded

    def _write(self, task: StepInputs, outcome: Outcome) -> dict[str, torch.Tensor]:
        """Write what a tile has for itself. Returns the rest: it comes last, since each tile reads its old value."""
        own = {key: value for key, value in outcome.state.items() if self.split[key] or len(self.tasks) == 1}
        overwrite([task.param, *map(task.state.__getitem__, own)], [outcome.param, *own.values()])
        return {key: value for key, value in outcome.state.items() if key not in own}


def is_own(partial: str) -> bool:
    """Whether each tile of a factored tensor keeps what it asks for by this name to itself."""
    return partial.rpartition(".")[2] == ROWS


def is_common(key: str) -> bool:
    """Whether all tiles of a factored tensor have an entry of the state together."""
    return key.endswith(f".{COLUMNS}")


def columns_of(item: ParamStep, matrix: tuple[int, int] | None) -> int | None:
    """The columns of the matrix that factors describe, if its rows can be stepped apart; those of vectors cannot."""
    in_tiles = item.owner.ndim > 1 and all(storage.in_tiles for storage in item.program.storages)
    return matrix[1] if matrix is not None and in_tiles else None


def rows_of(param: torch.Tensor, columns: int | None, elements: int) -> int:
    """The rows of a tile of about so many elements; of a factored tensor they are rows of the matrix as well."""
    return _rows(len(param), param[0].numel(), columns, elements)


@functools.lru_cache(maxsize=4096)
def _rows(length: int, width: int, columns: int | None, elements: int) -> int:
    """As many as fit; or up to half of them fewer, if all tiles are alike then: a shorter one has kernels of its own."""
    unit = 1 if columns is None else math.lcm(columns, width) // width
    most = max(min(elements // (unit * width), length // unit), 1)
    alike = (count for count in range(most, most // 2, -1) if length % (count * unit) == 0)
    return next(alike, most) * unit


def rows_alone(
    program: Program, state: Mapping[str, torch.Tensor], first: int, rows: int, width: int, columns: int
) -> dict[str, torch.Tensor]:
    """The state of some rows of a factored tensor, as of a tensor by itself."""
    found: dict[str, torch.Tensor] = {}
    for slot in program.owners:
        for part, key in parts_of(program.key(slot), state).items():
            start, stop = first, first + rows
            if part == COLUMNS:
                start, stop = 0, columns
            if part == ROWS:
                start, stop = start * width // columns, stop * width // columns
            found[key] = state[key][start:stop]
    return found


def _asks(state: Asked | Outcome, address: str) -> Asked:
    """What a tile asks for, where the first tile asks."""
    if isinstance(state, Outcome) or state[0] != address:
        raise ChainError(
            f"{address} asks for totals over some rows of a parameter and not over others. Let it ask in every step, and "
            "choose with torch.where whether the totals count.",
            stage=address,
        )
    return state
