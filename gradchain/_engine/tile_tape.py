"""The tape of a large tensor in tiles of rows.

Where stages ask for totals, a step takes several passes over the tiles. Each of them begins anew: what a tile made in the
one before has left the cache by then, and is made again sooner than it would be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch

from gradchain._chain.lockstep import resume
from gradchain._chain.program import Numbers, Outcome, Running
from gradchain._core.reduce import Request, Totals
from gradchain._core.totals import Asked
from gradchain._engine.eager_tiles import Tiles
from gradchain._engine.recorder import GRADIENT, PARAM, Columns, NoTape, Recorder
from gradchain._engine.tape import Run, Tape
from gradchain._engine.tape_writer import Room, needed
from gradchain._engine.writing import memory_of, overwrite

MOST = 8
"""The totals that tiles are asked for, at most."""

Scalars: TypeAlias = "tuple[float, ...]"


class Tiled(Protocol):
    """A tensor in tiles."""

    tiles: Tiles
    rows: list[int]
    """Of each tile."""
    common: dict[str, torch.Tensor]
    """The slots that all tiles share."""
    columns: list[dict[str, torch.Tensor]]
    """The parameter and the slots of each tile."""

    def start(self, tile: int, columns: Columns, numbers: Numbers) -> Running:
        """A tile's step."""
        ...


@dataclasses.dataclass
class Total:
    """What tiles ask for at one time."""

    request: Request
    own: list[str]
    """What each tile is told of itself alone."""
    place: int

    def column(self, name: str) -> str:
        """Where a partial, or its total, stands."""
        return f"{self.place}.{name}"

    def answer(self, columns: Columns) -> Totals:
        return Totals(**{name: columns[self.column(name)] for name in self.request.partials})

    def memory(self) -> dict[str, torch.Tensor]:
        """New memory for the totals over all tiles, or for the partials of one."""
        partials = self.request.partials.items()
        return {self.column(name): torch.empty_like(x) for name, x in partials if name not in self.own}

    @property
    def combine(self) -> Callable[..., torch.Tensor]:
        return torch.add if self.request.combine == "sum" else torch.maximum


def _request(asked: Asked) -> Request:
    """What a tile asks for.

    Raises: NoTape: it asks about more than its tensor.
    """
    if asked[1].scope != "tensor":
        raise NoTape("it does not ask for totals of a tensor")
    return asked[1]


def _memory(totals: Sequence[Total]) -> dict[str, torch.Tensor]:
    return {name: x for total in totals for name, x in total.memory().items()}


class TiledTape:
    """A recorded step of tensors of one shape: for each length of tiles a tape of each pass over them."""

    def __init__(self, tensor: Tiled, gradients: Sequence[torch.Tensor], numbers: Numbers, room: Room) -> None:
        """Record a step, and try it out on other tiles.

        Raises: NoTape: it cannot be played.
        """
        self.lengths = tensor.rows
        self.passes = self._measured(tensor, {**tensor.columns[0], GRADIENT: gradients[0]}, numbers)
        """The totals that are added up in each pass but the last."""
        self.totals = [_memory(totals) for totals in self.passes]
        self.partials = [_memory(totals) for totals in self.passes]
        """The same of one tile."""
        self.combine = [{name: total.combine for total in totals for name in total.memory()} for totals in self.passes]
        self.fresh = {f"new {key}": torch.empty_like(x) for key, x in tensor.common.items()}
        """What tiles share, until all have read the old."""
        self.own: dict[Tiled, list[dict[str, torch.Tensor]]] = {}
        """What each tile of a tensor is told of itself alone."""
        places = {length: self._ends(length) for length in self.lengths}
        self.tapes: dict[int, list[Tape]] = {length: [] for length in places}
        for number in range(len(self.passes) + 1):
            for length, (first, last) in places.items():
                self.tapes[length].append(self._tape(tensor, gradients, numbers, room, number, first, last))
            if number < len(self.passes):
                if (given := self._scalars(numbers, number)) is None:
                    raise NoTape("what it does depends on its numbers")
                self._gather(tensor, gradients, given, number)

    def _ends(self, length: int) -> tuple[int, int]:
        """The first and the last tile of a length."""
        return self.lengths.index(length), len(self.lengths) - 1 - self.lengths[::-1].index(length)

    @staticmethod
    def _measured(tensor: Tiled, columns: Columns, numbers: Numbers) -> list[list[Total]]:
        """The totals of each pass: what does not depend on the ones before goes with them."""
        passes: list[list[Total]] = []
        told: set[int] = set()
        with Recorder(columns) as recorder:
            running = tensor.start(0, columns, numbers)
            asked = resume(running)
            while not isinstance(asked, Outcome):
                request = _request(asked)
                read = {memory_of(x) for each in needed(recorder.operations, request.partials) for x in each.reads()}
                if not passes or not told.isdisjoint({*read, *map(memory_of, request.partials.values())}):
                    passes, told = [*passes, []], set()
                number = sum(map(len, passes))
                if number == MOST:
                    raise NoTape("it asks for many totals")
                passes[-1].append(Total(request, tensor.tiles.own(request), number))
                with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
                    answer = {name: x.clone() for name, x in request.partials.items()}
                told |= set(map(memory_of, answer.values()))
                asked = resume(running, Totals(**answer))
        return passes

    def _tape(
        self,
        tensor: Tiled,
        gradients: Sequence[torch.Tensor],
        numbers: Numbers,
        room: Room,
        number: int,
        first: int,
        last: int,
    ) -> Tape:
        """The tape of a pass over tiles of one length."""
        shared = self._shared(tensor)
        one, other = (
            {**tensor.columns[tile], GRADIENT: gradients[tile], **shared, **self._told(tensor)[tile]}
            for tile in (first, last)
        )
        known = [*tensor.common, *(name for totals in self.totals[:number] for name in totals)]
        run, again = self._run(tensor, number, first), self._run(tensor, number, last)
        return Tape(run, one, numbers, room, (again, other), known)

    def _run(self, tensor: Tiled, number: int, tile: int) -> Run:
        """A tile's step from its start to what it asks for in a pass, whose partials it makes; or to its end."""

        def run(columns: Columns, numbers: Numbers) -> Columns:
            running = tensor.start(tile, columns, numbers)
            asked = resume(running)
            for total in (total for totals in self.passes[:number] for total in totals):
                asked = resume(running, total.answer(columns))
            if number == len(self.passes):
                if not isinstance(asked, Outcome):
                    raise NoTape("it asks for more than before")
                named = {f"new {key}" if key in tensor.common else key: x for key, x in asked.state.items()}
                return {PARAM: asked.param, **named}
            made: dict[str, torch.Tensor] = {}
            for total in self.passes[number]:
                if isinstance(asked, Outcome):
                    raise NoTape("it asks for less than before")
                partials = _request(asked).partials
                made |= {total.column(name): x for name, x in partials.items()}
                asked = resume(running, Totals(**partials))
            return made

        return run

    def _told(self, tensor: Tiled) -> list[dict[str, torch.Tensor]]:
        """Where each tile keeps what it is told of itself."""
        if tensor not in self.own:
            totals = [total for totals in self.passes for total in totals]
            first = tensor.rows[0]
            self.own[tensor] = [
                {
                    total.column(name): x.new_empty((len(x) * rows // first, *x.shape[1:]))
                    for total in totals
                    for name, x in total.request.partials.items()
                    if name in total.own
                }
                for rows in tensor.rows
            ]
        return self.own[tensor]

    def _shared(self, tensor: Tiled) -> dict[str, torch.Tensor]:
        """What all tiles have."""
        shared = tensor.common | self.fresh
        for totals in self.totals:
            shared |= totals
        return shared

    def _scalars(self, numbers: Numbers, number: int) -> dict[int, Scalars] | None:
        """Those of a pass for tiles of each length; `None` if a tape is not for such numbers."""
        found = {length: tapes[number].scalars(numbers) for length, tapes in self.tapes.items()}
        known = {length: given for length, given in found.items() if given is not None}
        return known if len(known) == len(found) else None

    def scalars(self, numbers: Numbers) -> list[dict[int, Scalars]] | None:
        """What is computed of the numbers, for each pass; `None` if a tape is not for such numbers."""
        found = [self._scalars(numbers, number) for number in range(len(self.passes) + 1)]
        known = [given for given in found if given is not None]
        return known if len(known) == len(found) else None

    def play(self, tensor: Tiled, gradients: Sequence[torch.Tensor], scalars: Sequence[dict[int, Scalars]]) -> None:
        """Step: the parameter and the slots are written."""
        for number in range(len(self.passes)):
            self._gather(tensor, gradients, scalars[number], number)
        for tape, columns, given in self._tiles(tensor, gradients, scalars[-1], -1)[::-1]:  # the last are in the cache
            tape.play(columns, given)
        made = [key for key in tensor.common if f"new {key}" in self.tapes[self.lengths[0]][-1].written]
        overwrite([tensor.common[key] for key in made], [self.fresh[f"new {key}"] for key in made])

    def _gather(
        self, tensor: Tiled, gradients: Sequence[torch.Tensor], scalars: dict[int, Scalars], number: int
    ) -> None:
        """Add up the totals of a pass."""
        totals, partials, combine = self.totals[number], self.partials[number], self.combine[number]
        for tile, (tape, columns, given) in enumerate(self._tiles(tensor, gradients, scalars, number)):
            tape.play({**columns, **partials} if tile else columns, given)
            for name, total in totals.items() if tile else ():
                combine[name](total, partials[name], out=total)

    def _tiles(
        self, tensor: Tiled, gradients: Sequence[torch.Tensor], scalars: dict[int, Scalars], number: int
    ) -> list[tuple[Tape, Columns, Scalars]]:
        """What is played in a pass, over what, for each tile."""
        begun = {length: self._shared(tensor) for length in self.tapes}
        for length, columns in begun.items():
            self.tapes[length][number].begin(columns, scalars[length])
        return [
            (self.tapes[length][number], {**own, GRADIENT: gradient, **begun[length], **told}, scalars[length])
            for length, own, gradient, told in zip(self.lengths, tensor.columns, gradients, self._told(tensor))
        ]
