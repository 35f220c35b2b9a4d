"""A large tensor whose stages ask for totals, or look along its rows, stepped eagerly in tiles of rows.

Each tile is a shard, as a process has one under `fully_shard`, but all shards are here. So whatever a chain asks for, each
of its operations runs over data that is still in the cache, and what it makes in between takes the memory of a tile and not
of the tensor: memory that a CPU's allocator gets from the system anew at each step.
"""

from __future__ import annotations

import dataclasses

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import resume
from gradchain._chain.program import Outcome, Running
from gradchain._core.matrices import MatrixRequest
from gradchain._core.reduce import Totals
from gradchain._core.shard import HERE, Shard
from gradchain._core.totals import Accumulator, Asked
from gradchain._engine.param_step import ParamStep, StepInputs
from gradchain._engine.writing import overwrite
from gradchain.errors import ChainError

ELEMENTS = 1 << 17
"""The approximate size of a tile."""

WHOLE = "needs whole matrices"


def fits(item: ParamStep) -> bool:
    """Whether a parameter is stepped in tiles: it is large, on a CPU, and nothing is known that cannot be cut."""
    owner, program = item.owner, item.program
    if owner.device.type != "cpu" or owner.numel() < 4 * ELEMENTS or len(owner) < 2:
        return False
    if item.telemetry or item.keep is not None or item.record.shard.group is not None or item.common:
        return False
    if any(key.endswith(".row") for key in item.state):  # each tile would unpack and make factors of the whole
        return False
    return not (program.third_party or program.narrows or WHOLE in program.traced)


class Tiles:
    """The tiles of one parameter at one step. Nothing is written before `commit`."""

    def __init__(self, task: StepInputs) -> None:
        self.task = task
        plan = task.program.plan(task.param.shape, task.param.dtype)
        self.split = {key: plan[key][1] for key in task.program.keys(task.state)}
        """The tensors of the state, and whether each tile has its own rows of them. The others are the same for all."""
        length, width = len(task.param), task.param[0].numel()
        rows = max(ELEMENTS // width, 1)
        self.tasks = [self._tile(first, min(rows, length - first)) for first in range(0, length, rows)]
        self.alone = True
        """Whether nothing was asked about other parameters, nor told to them."""
        self.rest: list[Running] = []
        self.totals: Totals | None = None

    def _tile(self, first: int, rows: int) -> StepInputs:
        task, here = self.task, slice(first, first + rows)
        state = {key: task.state[key][here] if split else task.state[key] for key, split in self.split.items()}
        shard = Shard(task.param.shape, first, rows, HERE)
        return dataclasses.replace(task, param=task.param[here], gradient=task.gradient[here], state=state, shard=shard)

    def start(self) -> Running:
        """The step in progress, as of the whole tensor: it asks about others only. Its outcome is that of the first tile."""
        runs = [task.start() for task in self.tasks]
        totals: Totals | None = None
        while True:
            first = resume(runs[0], totals)
            if isinstance(first, Outcome):
                self.rest, self.totals = runs[1:], totals
                return first
            if isinstance(first[1], MatrixRequest):
                self.task.program.traced[WHOLE], self.alone = True, False
                self.tasks = [self.task]
                return (yield from self.task.start())
            address, request = first
            sums = Accumulator(request.combine)
            for asked in (first, *(_asks(resume(run, totals), address) for run in runs[1:])):
                sums.add(asked[1].partials)
            request = dataclasses.replace(request, partials=sums.merge(), group=None)
            self.alone = self.alone and request.local
            totals = request.local_totals() if request.local else (yield address, request)

    def commit(self, outcome: Outcome) -> Recorded:
        """Write all tiles, given the outcome of the first. Returns what they recorded."""
        recorded, common = dict(outcome.recorded), self._write(self.tasks[0], outcome)
        for task, run in zip(self.tasks[1:], self.rest):
            outcome = resume(run, self.totals)  # type: ignore[assignment]
            common = self._write(task, outcome)
            for key, value in outcome.recorded.items():
                recorded[key] = recorded[key] + value if key[1] == "total" else value
        overwrite([self.task.state[key] for key in common], list(common.values()))
        self.alone = self.alone and all(kind != "total" for _, kind in recorded)
        return recorded

    def _write(self, task: StepInputs, outcome: Outcome) -> dict[str, torch.Tensor]:
        """Write what a tile has for itself. Returns the rest: it comes last, since each tile reads its old value."""
        own = {key: value for key, value in outcome.state.items() if self.split[key] or len(self.tasks) == 1}
        overwrite([task.param, *map(task.state.__getitem__, own)], [outcome.param, *own.values()])
        return {key: value for key, value in outcome.state.items() if key not in own}


def _asks(state: Asked | Outcome, address: str) -> Asked:
    """What a tile asks for, where the first tile asks."""
    if isinstance(state, Outcome) or state[0] != address:
        raise ChainError(
            f"{address} asks for totals over some rows of a parameter and not over others. Let it ask in every step, and "
            "choose with torch.where whether the totals count.",
            stage=address,
        )
    return state
