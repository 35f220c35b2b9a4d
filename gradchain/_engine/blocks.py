"""The eager path of elementwise chains: in blocks that stay in the cache, whatever tensors they are made of.

A chain whose stages look at each element by itself does not care where a tensor begins. So large tensors are cut, and
small ones joined: each operation of each stage then runs over data that is still in the cache, and a thousand small
tensors cost no more calls than one large one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.program import Outcome
from gradchain._chain.tracing import traits_of
from gradchain._engine.work import Task, Work
from gradchain._engine.writing import overwrite
from gradchain.errors import ChainError

ELEMENTS = 1 << 17
"""The size of a block."""

EXACT = (torch.float32, torch.float64)
"""Where an element's result does not depend on its place: in half precision the ends of a tensor, which do not fill a
vector register, are rounded otherwise than the rest."""

Pieces = list[torch.Tensor]


def fits(work: Work) -> bool:
    """Whether a work can be done in blocks."""
    if not traits_of(work.program, work.owner).exact:
        return False
    if work.index is not None or work.telemetry or work.keep is not None or not work.owner.is_contiguous():
        return False
    if work.owner.dtype not in EXACT:
        return False
    if not work.grad.is_contiguous() or work.grad.dtype != work.owner.dtype:
        return False
    shape = work.owner.shape
    slots = [work.state[key] for key in work.program.keys(work.state)]
    return all(slot.shape == shape and slot.is_contiguous() for slot in slots)


def divided(works: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """The works that can be done in blocks, and the others."""
    as_built: dict[int, bool] = {}
    for work in works:
        if id(work.numbers) not in as_built:
            as_built[id(work.numbers)] = work.program.as_built(work.numbers)
    inside = [work for work in works if as_built[id(work.numbers)] and fits(work)]
    chosen = {id(work) for work in inside}
    return inside, [work for work in works if id(work) not in chosen]


@dataclass
class Block:
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
        return pieces, _alone(task)

    def commit(self, pieces: list[Pieces], outcome: Outcome) -> None:
        """Write an outcome into the pieces."""
        first = self.works[0]
        keys = first.program.keys(first.state)
        columns = [pieces[0], *(pieces[2 + keys.index(key)] for key in outcome.state)]
        targets = [column[0] if len(column) == 1 else column for column in columns]
        overwrite(targets, [outcome.param, *outcome.state.values()])


def _alone(task: Task) -> Outcome:
    """The outcome of a step that asks for nothing: a total over a block would be one of no tensor."""
    running = task.start()
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


def blocks(works: Sequence[Work]) -> list[list[Block]]:
    """The blocks of all works, by the works that have the same numbers and dtypes."""
    groups: dict[Any, list[Work]] = {}
    for work in works:
        dtypes = tuple(work.state[key].dtype for key in work.program.keys(work.state))
        key = (id(work.program), id(work.numbers), work.maximize, work.owner.dtype, work.owner.device, dtypes)
        groups.setdefault(key, []).append(work)
    return [list(_cut(members)) for members in groups.values()]


def _cut(works: Sequence[Work]) -> Iterator[Block]:
    joined: list[Work] = []
    held = 0
    for work in works:
        size = work.owner.numel()
        if size > ELEMENTS // 2:
            for start in range(0, size, ELEMENTS):
                yield Block([work], start, min(start + ELEMENTS, size))
            continue
        if held + size > ELEMENTS:
            yield Block(joined, 0, held)
            joined, held = [], 0
        joined.append(work)
        held += size
    if joined:
        yield Block(joined, 0, held)
