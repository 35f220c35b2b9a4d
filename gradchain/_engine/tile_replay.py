"""A large tensor in tiles of rows, stepped again for a step like the last one: by its stages, and then by tapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from gradchain._chain.program import Numbers, Outcome, Running
from gradchain._engine.eager import finished
from gradchain._engine.eager_tiles import Tiles
from gradchain._engine.param_step import ParamStep, StepInputs
from gradchain._engine.recorder import GRADIENT, PARAM, Columns
from gradchain._engine.tape_writer import Room
from gradchain._engine.tile_tape import TiledTape


class TiledTensor:
    """A parameter with the views of its tiles."""

    def __init__(self, columns: int | None, item: ParamStep, place: int) -> None:
        """`columns` are those of the matrix of a factored tensor. Gradients are not kept."""
        self.places, self.maximize = [place], item.maximize
        self.task = dataclasses.replace(item.task, gradient=item.owner.detach())
        self.tiles = Tiles(self.task, columns)
        kept = [item.owner, item.grad, *map(item.state.__getitem__, self.tiles.split)]
        self.key: Any = tuple((x.shape, x.stride(), x.dtype) for x in kept)
        """What a tape is for: shapes, and how they lie in memory."""
        self.running: Tiles | None = None
        self.rows = [len(task.param) for task in self.tiles.tasks]
        self.common = {key: item.state[key] for key, split in self.tiles.split.items() if not split}
        self.columns: list[dict[str, torch.Tensor]] = [{PARAM: t.param, **t.state} for t in self.tiles.tasks]

    def gradients(self, grads: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The gradients of all tiles."""
        return grads[self.places[0]].detach().split(self.rows)

    # By stages.

    def compute(self, grads: Sequence[torch.Tensor], numbers: Numbers) -> Outcome:
        """The outcome for the first tile; writes nothing."""
        gradient = grads[self.places[0]].detach()
        gradient = -gradient if self.maximize else gradient
        self.running = Tiles(dataclasses.replace(self.task, gradient=gradient, numbers=numbers), self.tiles.columns)
        return finished(self.running.start())

    def commit(self, outcome: Outcome) -> None:
        """Write all tiles, given the outcome of the first."""
        if self.running is not None:
            self.running.commit(outcome)
        self.running = None

    # By tapes.

    def tape(self, grads: Sequence[torch.Tensor], numbers: Numbers, room: Room) -> TiledTape:
        """A tape of the step, made by these gradients and numbers.

        Raises: NoTape: it cannot be played.
        """
        return TiledTape(self, self.gradients(grads), numbers, room)

    def play(self, tape: TiledTape, grads: Sequence[torch.Tensor], scalars: Any, rows: Room) -> None:
        """Step, by a tape."""
        tape.play(self, self.gradients(grads), scalars)

    def start(self, tile: int, columns: Columns, numbers: Numbers) -> Running:
        """A tile's step."""
        task: StepInputs = self.tiles.tasks[tile]
        gradient = -columns[GRADIENT] if self.maximize else columns[GRADIENT]
        state = {key: columns[key] for key in self.tiles.split}
        return task.program.run(columns[PARAM], gradient, state, numbers, shard=task.shard)
