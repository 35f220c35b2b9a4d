"""The batches of an eager step, run again for a step like the last one: by their stages, and then by tapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import resume
from gradchain._chain.program import Numbers, Outcome, Running
from gradchain._core.shard import Shard
from gradchain._engine.eager import FlatBatch, Parts, Pieces, finished
from gradchain._engine.param_step import ParamStep
from gradchain._engine.recorder import GRADIENT, PARAM, Columns, NoTape
from gradchain._engine.tape import Tape
from gradchain._engine.tape_writer import Room
from gradchain._engine.tile_replay import TiledTensor
from gradchain._engine.writing import memories_of, move, overwrite

RECORDED = 2
"""The replay in which operations are first recorded: in the fourth step, if all are alike."""

TAKES = 4
"""How often operations are recorded at most."""

ALONE, REFUSED = "goes alone", "does not go alone"
"""What is found out about programs whose steps are not of single elements."""

Scalars = Sequence[float]


class BatchReplay:
    """The parts of an eager step, to be run again over other gradients and with other numbers."""

    def __init__(self, due: Sequence[ParamStep], parts: Parts) -> None:
        """Raises: NoTape: a parameter that goes by itself asks about others."""
        place_of = {id(item): place for place, item in enumerate(due)}
        self.order = list(range(len(due)))
        self.none: list[Recorded] = [{}] * len(due)
        kinds: list[list[Replayed]] = [
            [JoinedBatch(batch, [place_of[id(item)] for item in batch.due]) for batch in kind] for kind in parts.batches
        ]
        tensors: list[tuple[ParamStep, Replayed]] = [
            *((item, WholeTensor(item, place_of[id(item)])) for item in parts.others),
            *((item, TiledTensor(tiles.columns, item, place_of[id(item)])) for item, tiles in parts.tiled),
        ]
        alike: dict[Any, list[Replayed]] = {}
        for item, tensor in tensors:
            alike.setdefault((type(tensor), item.program, id(item.numbers), item.maximize), []).append(tensor)
        room = Room()
        self.kinds = [ReplayedKind(batches, room) for batches in [*kinds, *alike.values()]]
        self.own = memories_of(x for item in due for x in (item.owner, *(item.state[key] for key in self.slots(item))))
        self.runs = 0

    @staticmethod
    def of(due: Sequence[ParamStep], parts: Parts) -> BatchReplay | None:
        """A replay, if there can be one."""
        if any(REFUSED in item.program.traced for item in parts.others):
            return None
        try:
            return BatchReplay(due, parts)
        except NoTape:
            return None

    def slots(self, item: ParamStep) -> Sequence[str]:
        return item.program.keys(item.state)

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        return True

    def run(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> list[Recorded]:
        self.runs += 1
        takes = [kind.take(grads, numbers) if self.runs >= RECORDED else None for kind in self.kinds]
        if any(takes) and not self.own.isdisjoint(memories_of(grads)):
            takes = [None] * len(takes)  # what is written is read as a gradient
        first = [kind.compute(grads, numbers) if take is None else None for kind, take in zip(self.kinds, takes)]
        for kind, outcome, take in zip(self.kinds, first, takes):
            if outcome is not None:
                kind.finish(outcome, grads, numbers)
            elif take is not None:
                kind.play(grads, take)
        return self.none


class Taped(Protocol):
    """A recorded step."""

    def scalars(self, numbers: Numbers) -> Any:
        """What it takes of the numbers of a step; `None` if it is not for such numbers."""
        ...


class Replayed(Protocol):
    """What is stepped at once."""

    places: list[int]
    """Of its parameters among all."""
    key: Any
    """What a tape is for."""

    def compute(self, grads: Sequence[torch.Tensor], numbers: Numbers) -> Outcome:
        """The first part of a step by stages; writes nothing."""
        ...

    def commit(self, outcome: Outcome) -> None:
        """The rest of it."""
        ...

    def tape(self, grads: Sequence[torch.Tensor], numbers: Numbers, room: Room) -> Taped:
        """A tape of the step, made by these gradients and numbers."""
        ...

    def play(self, tape: Any, grads: Sequence[torch.Tensor], scalars: Any, rows: Room) -> None:
        """Step, by a tape."""
        ...


Take = Sequence[tuple[Taped, Any]]
"""For each batch its tape, and what it takes of the numbers of a step."""


class ReplayedKind:
    """Batches with the same numbers and dtypes, and tapes for their lengths; or tensors, and tapes for their shapes."""

    def __init__(self, batches: Sequence[Replayed], room: Room) -> None:
        self.batches, self.room = batches, room
        self.first = batches[0].places[0]
        self.takes: list[dict[Any, Taped]] = []
        """Tapes for steps that do different things, as those before and after the end of a warmup."""
        self.recorded = 0
        self.rows = Room()
        """For columns of batches that are joined: one after another is."""

    def take(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> Take | None:
        """The tapes for a step with these numbers; `None` if it cannot be played."""
        found = self._known(numbers)
        if found is None and self.recorded < TAKES:
            self.recorded += 1
            self._record(grads, numbers)
            found = self._known(numbers)
        return found

    def _record(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> None:
        """Record a step of each length or shape; all or none."""
        tapes: dict[Any, Taped] = {}
        try:
            for batch in self.batches:
                if batch.key not in tapes:
                    tapes[batch.key] = batch.tape(grads, numbers[self.first], self.room)
        except Exception:  # whatever the matter is, stages can be run without
            return
        self.takes.append(tapes)

    def _known(self, numbers: Sequence[Numbers]) -> Take | None:
        for tapes in self.takes:
            scalars = {key: tape.scalars(numbers[self.first]) for key, tape in tapes.items()}
            found = [(tapes[batch.key], known) for batch in self.batches if (known := scalars[batch.key]) is not None]
            if len(found) == len(self.batches):
                return found
        return None

    def play(self, grads: Sequence[torch.Tensor], take: Take) -> None:
        for batch, (tape, scalars) in zip(self.batches, take):
            batch.play(tape, grads, scalars, self.rows)

    def compute(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> Outcome:
        """The outcome for the first batch; writes nothing."""
        return self.batches[0].compute(grads, numbers[self.first])

    def finish(self, outcome: Outcome, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> None:
        """Write the outcome for the first batch, and step the others."""
        self.batches[0].commit(outcome)
        for batch in self.batches[1:]:
            batch.commit(batch.compute(grads, numbers[self.first]))


class ReplayedBatch:
    """What is stepped at once, with the views of its parameters and slots."""

    def __init__(self, item: ParamStep, places: list[int], pieces: Sequence[Pieces], shape: torch.Size) -> None:
        self.program, self.maximize, self.places = item.program, item.maximize, places
        self.pieces = dict(zip([PARAM, *item.program.keys(item.state)], pieces))
        self.alone = len(places) == 1
        self.targets = {key: column[0] if self.alone else column for key, column in self.pieces.items()}
        self.shard = Shard.whole(shape)
        self.key: Any = (shape, *((x[0].shape if self.alone else shape, x[0].stride(), x[0].dtype) for x in pieces))
        """What a tape is for: shapes, and how they lie in memory."""
        self.joined: Joined | None = None

    def gradient(self, grads: Sequence[torch.Tensor]) -> torch.Tensor:
        """The gradient of what is alone."""
        return grads[self.places[0]].detach()

    def columns(self, grads: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters, gradients and slots, each in a row."""
        if self.alone:
            return {**self.targets, GRADIENT: self.gradient(grads)}  # type: ignore[dict-item]
        gradients = [grads[place].view(-1) for place in self.places]
        return {key: torch.cat(column) for key, column in [*self.pieces.items(), (GRADIENT, gradients)]}

    def tape(self, grads: Sequence[torch.Tensor], numbers: Numbers, room: Room) -> Tape:
        """A tape of the step, made by these gradients and numbers."""

        def run(columns: Columns, numbers: Numbers) -> Columns:
            outcome = self.step(columns, numbers)
            return {PARAM: outcome.param, **outcome.state}

        return Tape(run, self.columns(grads), numbers, room)

    def step(self, columns: Columns, numbers: Numbers) -> Outcome:
        """The outcome; writes nothing."""
        state = dict(columns)
        param, gradient = state.pop(PARAM), state.pop(GRADIENT)
        gradient = -gradient if self.maximize else gradient
        return self.outcome(self.program.run(param, gradient, state, numbers, shard=self.shard))

    def outcome(self, running: Running) -> Outcome:
        """That of a step which asks about no other parameter."""
        return finished(running)

    def compute(self, grads: Sequence[torch.Tensor], numbers: Numbers) -> Outcome:
        """The outcome for all pieces in a row; writes nothing."""
        return self.step(self.columns(grads), numbers)

    def commit(self, outcome: Outcome) -> None:
        """Write an outcome into the pieces."""
        targets = [self.targets[PARAM], *map(self.targets.__getitem__, outcome.state)]
        overwrite(targets, [outcome.param, *outcome.state.values()])

    def play(self, tape: Tape, grads: Sequence[torch.Tensor], scalars: Scalars, rows: Room) -> None:
        """Step, by a tape."""
        if self.alone:
            tape.play(self.columns(grads), scalars)
            return
        if self.joined is None:
            columns = {key: rows.piece(number, x) for number, (key, x) in enumerate(self.columns(grads).items())}
            self.joined = Joined(columns, [grads[place].shape for place in self.places])
        self.joined.play(tape, scalars, self.pieces, [grads[place] for place in self.places])


class JoinedBatch(ReplayedBatch):
    """Some small tensors in a row, or a part of a large one."""

    def __init__(self, batch: FlatBatch, places: list[int]) -> None:
        self.start, self.stop = batch.start, batch.stop
        params, _, *slots = batch.pieces()
        shape = torch.Size((sum(x.numel() for x in params),))
        super().__init__(batch.due[0], places, [params, *slots], shape)

    def gradient(self, grads: Sequence[torch.Tensor]) -> torch.Tensor:
        return grads[self.places[0]].detach().view(-1)[self.start : self.stop]


class WholeTensor(ReplayedBatch):
    """A tensor that goes by itself, but whose elements do not."""

    def __init__(self, item: ParamStep, place: int) -> None:
        kept = [item.owner.detach(), *(item.state[key] for key in item.program.keys(item.state))]
        super().__init__(item, [place], [[x] for x in kept], item.owner.shape)
        self.key = (*self.key, item.grad.stride(), item.grad.dtype)
        if ALONE not in item.program.traced:
            try:
                self.step({**self.targets, GRADIENT: item.grad.detach()}, item.numbers)  # type: ignore[dict-item]
            except NoTape:
                item.program.traced[REFUSED] = True
                raise
            item.program.traced[ALONE] = True

    def outcome(self, running: Running) -> Outcome:
        """Raises: NoTape: it asks about other parameters, or tells them of itself."""
        outcome = resume(running)
        if not isinstance(outcome, Outcome) or any(kind == "total" for _, kind in outcome.recorded):
            raise NoTape("it does not go alone")
        return outcome


class Joined:
    """Views of memory in which several tensors stand in a row."""

    def __init__(self, columns: dict[str, torch.Tensor], shapes: Sequence[torch.Size]) -> None:
        self.columns = columns
        self.rows = {key: list(x.split([shape.numel() for shape in shapes])) for key, x in columns.items()}
        self.rows[GRADIENT] = [x.view(shape) for x, shape in zip(self.rows[GRADIENT], shapes)]

    def play(
        self, tape: Tape, scalars: Scalars, pieces: Mapping[str, Pieces], gradients: Sequence[torch.Tensor]
    ) -> None:
        """Step tensors that stand elsewhere."""
        for key, column in [*pieces.items(), (GRADIENT, gradients)]:
            move(self.rows[key], column)
        tape.play(self.columns, scalars)
        for key in tape.written:
            move(pieces[key], self.rows[key])
