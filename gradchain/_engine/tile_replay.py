"""A large tensor in tiles of rows, stepped again for a step like the last one: by its stages, and then by tapes.

Where stages ask for totals, a step has phases. Each of them runs over all tiles before the next one, and begins anew: what
a tile made in between has left the cache by then, and is made again sooner than it would be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gradchain._chain.lockstep import resume
from gradchain._chain.program import Numbers, Outcome
from gradchain._core.reduce import Totals
from gradchain._engine.eager import finished
from gradchain._engine.eager_tiles import Tiles
from gradchain._engine.param_step import ParamStep, StepInputs
from gradchain._engine.recorder import GRADIENT, PARAM, Columns, NoTape
from gradchain._engine.tape import Run, Tape
from gradchain._engine.tape_writer import Room
from gradchain._engine.writing import overwrite

MOST_PHASES = 8

Scalars = Sequence[float]


class TiledTensor:
    """A parameter with the views of its tiles."""

    def __init__(self, item: ParamStep, place: int) -> None:
        self.places, self.maximize = [place], item.maximize
        self.task = dataclasses.replace(item.task, gradient=item.owner.detach())  # gradients are not kept
        self.tiles = Tiles(self.task)
        kept = [item.owner, item.grad, *map(item.state.__getitem__, self.tiles.split)]
        self.key: Any = ("tiles", *((x.shape, x.stride(), x.dtype) for x in kept))
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
        self.running = Tiles(dataclasses.replace(self.task, gradient=gradient, numbers=numbers))
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

    def play(self, tape: TiledTape, grads: Sequence[torch.Tensor], scalars: Sequence[Scalars], rows: Room) -> None:
        """Step, by a tape."""
        tape.play(self, self.gradients(grads), scalars)

    def phase(self, tile: int, number: int) -> Run:
        """A tile's step from its start to its request with this number, whose partials it makes; or to its end."""
        task: StepInputs = self.tiles.tasks[tile]

        def run(columns: Columns, numbers: Numbers) -> Columns:
            gradient = -columns[GRADIENT] if self.maximize else columns[GRADIENT]
            state = {key: columns[key] for key in self.tiles.split}
            running = task.program.run(columns[PARAM], gradient, state, numbers, shard=task.shard)
            asked = resume(running)
            for before in range(number):
                asked = resume(running, _totals(_request(asked).partials, before, columns))
            if isinstance(asked, Outcome):
                return {PARAM: asked.param, **{_kept(key, self.common): x for key, x in asked.state.items()}}
            return {f"{number}.{name}": x for name, x in _request(asked).partials.items()}

        return run


def _request(asked: Any) -> Any:
    """What a tile asks for.

    Raises: NoTape: it asks about more than its tensor, or asks otherwise than before.
    """
    if isinstance(asked, Outcome) or asked[1].scope != "tensor":
        raise NoTape("it does not ask for totals of a tensor")
    return asked[1]


def _totals(names: Sequence[str] | Any, number: int, columns: Columns) -> Totals:
    return Totals(**{name: columns[f"{number}.{name}"] for name in names})


def _kept(key: str, common: Any) -> str:
    """Where a tile leaves a slot: what tiles share is read by all of them before it is written."""
    return f"new {key}" if key in common else key


class TiledTape:
    """A recorded step of tensors of one shape: for each length of tiles a tape of each phase."""

    def __init__(self, tensor: TiledTensor, gradients: Sequence[torch.Tensor], numbers: Numbers, room: Room) -> None:
        """Record a step, and try it out on other tiles.

        Raises: NoTape: it cannot be played.
        """
        self.totals: list[dict[str, torch.Tensor]] = []
        """The totals of each phase but the last."""
        self.partials: list[dict[str, torch.Tensor]] = []
        """The same of one tile."""
        self.combine: list[Callable[..., torch.Tensor]] = []
        self.common = list(tensor.common)
        self.fresh = {f"new {key}": torch.empty_like(x) for key, x in tensor.common.items()}
        """What tiles share, until all have read the old."""
        self.tapes: dict[int, list[Tape]] = {}
        self.lengths = tensor.rows
        self._measure(tensor, gradients, numbers)
        for length in dict.fromkeys(self.lengths):
            first = self.lengths.index(length)
            last = len(self.lengths) - 1 - self.lengths[::-1].index(length)
            one, other = (
                {**tensor.columns[at], GRADIENT: gradients[at], **self._shared(tensor)} for at in (first, last)
            )
            self.tapes[length] = [
                Tape(
                    tensor.phase(first, number),
                    one,
                    numbers,
                    room,
                    (tensor.phase(last, number), other),
                    self._known(number),
                )
                for number in range(len(self.totals) + 1)
            ]

    def _measure(self, tensor: TiledTensor, gradients: Sequence[torch.Tensor], numbers: Numbers) -> None:
        """Find out the phases."""
        task = tensor.tiles.tasks[0]
        gradient = -gradients[0] if tensor.maximize else gradients[0]
        running = dataclasses.replace(task, gradient=gradient, numbers=numbers).start()
        asked = resume(running)
        while not isinstance(asked, Outcome):
            request, number = _request(asked), len(self.totals)
            if number == MOST_PHASES:
                raise NoTape("it has many phases")
            self.totals.append({f"{number}.{name}": x.clone() for name, x in request.partials.items()})
            self.partials.append({name: torch.empty_like(x) for name, x in self.totals[-1].items()})
            self.combine.append(torch.add if request.combine == "sum" else torch.maximum)
            asked = resume(running, request.local_totals())

    def _shared(self, tensor: TiledTensor) -> dict[str, torch.Tensor]:
        """What all tiles have."""
        shared = tensor.common | self.fresh
        for totals in self.totals:
            shared |= totals
        return shared

    def _known(self, number: int) -> list[str]:
        """What of it is known in a phase."""
        return [*self.common, *(name for totals in self.totals[:number] for name in totals)]

    def scalars(self, numbers: Numbers) -> dict[int, list[Scalars]] | None:
        """What is computed of the numbers, for each tape; `None` if one is not for such numbers."""
        found: dict[int, list[Scalars]] = {}
        for length, tapes in self.tapes.items():
            made = [tape.scalars(numbers) for tape in tapes]
            if any(x is None for x in made):
                return None
            found[length] = made  # type: ignore[assignment]
        return found

    def play(self, tensor: TiledTensor, gradients: Sequence[torch.Tensor], scalars: Any) -> None:
        """Step: the parameter and the slots are written."""
        for number, (totals, partials, combine) in enumerate(zip(self.totals, self.partials, self.combine)):
            begun = self._begun(tensor, number, scalars)
            for tile, (length, own, gradient) in enumerate(zip(self.lengths, tensor.columns, gradients)):
                columns = {**own, GRADIENT: gradient, **begun[length], **(partials if tile else {})}
                self.tapes[length][number].play(columns, scalars[length][number])
                for name, total in totals.items() if tile else ():
                    combine(total, partials[name], out=total)
        begun = self._begun(tensor, -1, scalars)
        for length, own, gradient in list(zip(self.lengths, tensor.columns, gradients))[
            ::-1
        ]:  # the last are in the cache
            self.tapes[length][-1].play({**own, GRADIENT: gradient, **begun[length]}, scalars[length][-1])
        made = [key for key in self.common if f"new {key}" in self.tapes[self.lengths[0]][-1].written]
        overwrite([tensor.common[key] for key in made], [self.fresh[f"new {key}"] for key in made])

    def _begun(self, tensor: TiledTensor, number: int, scalars: Any) -> dict[int, dict[str, torch.Tensor]]:
        """What tiles of each length have in common in a phase."""
        begun = {length: self._shared(tensor) for length in self.tapes}
        for length, columns in begun.items():
            self.tapes[length][number].begin(columns, scalars[length][number])
        return begun
