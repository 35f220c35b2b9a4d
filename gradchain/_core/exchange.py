"""Answer requests for sharded matrices: an owner puts each together, computes, and hands the rows of the result back.

The rows of all matrices of a round go to their owners in one all-to-all, and the results come back in another. Of many
bytes there are several parts, each with its own two: while one is computed, the next is on its way, and the one before is on
its way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gradchain._core.matrices import MatrixRequest, Results, compute
from gradchain._core.reduce import Totals

Wanted = tuple[torch.Size, torch.dtype]
"""What is known of a tensor that another process sends."""

PART = 1 << 25
"""The bytes that each process gets of a part, at least: in a millisecond or less where a link moves 32 GB/s or more, so that
the twenty microseconds of one more all-to-all do not count."""

MOST_PARTS = 4
"""With so many, three quarters of what is sent is sent beside what is computed."""


def answer_matrices(asked: Mapping[int, MatrixRequest]) -> dict[int, Totals]:
    """The answers to some requests, by their numbers. All processes of a group must call this with the same ones."""
    here = {number: request for number, request in asked.items() if request.group is None}
    made = compute(here, {number: list(request.partials.values()) for number, request in here.items()})
    for group in dict.fromkeys(request.group for request in asked.values() if request.group is not None):
        made |= Exchange({n: request for n, request in asked.items() if request.group is group}, group).results()
    return {number: asked[number].named(tensors) for number, tensors in made.items()}


def owners_of(costs: Sequence[int], world: int) -> list[int]:
    """The process that each matrix is given to: the dearest first, each to who has least; the same in all processes."""
    load = [0] * world
    owners = [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owners[place] = min(range(world), key=lambda rank: load[rank])
        load[owners[place]] += costs[place]
    return owners


def parts_of(moved: int, matrices: int, world: int) -> int:
    """In how many parts so many bytes of so many matrices are sent, and computed; no owner need wait for an empty one."""
    return max(1, min(moved // (world * PART), MOST_PARTS, matrices // world))


class Exchange:
    """One round of the processes that share some matrices."""

    def __init__(self, asked: Mapping[int, MatrixRequest], group: Any) -> None:
        from torch import distributed as dist

        self.asked, self.group = asked, group
        self.world, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.computed = {number: request for number, request in asked.items() if request.function is not None}
        costs = [request.cost for request in self.computed.values()]
        self.owner_of = dict(zip(self.computed, owners_of(costs, self.world)))

    def results(self) -> Results:
        """What each request is answered with, in this process."""
        made: Results = {}
        returning: list[Callable[[], Results]] = []
        parts = self._parts()
        coming = self._gather(parts[0])
        for place, part in enumerate(parts):
            ahead = self._gather(parts[place + 1]) if place + 1 < len(parts) else None
            wholes = coming()
            own = [number for number in part if self.owner_of.get(number) == self.rank]
            computed = compute({number: self.asked[number] for number in own}, wholes)
            made |= {number: wholes[number] for number in part if number not in self.computed}
            if self.computed:
                returning.append(self._scatter(part, computed))
            coming = ahead or coming
        for finish in returning:
            made |= finish()
        return made

    def _parts(self) -> list[list[int]]:
        """The requests by the part that they are sent in; of each owner's work, each part has about as much."""
        moved = sum(request.row_bytes for request in self.computed.values())
        parts: list[list[int]] = [[] for _ in range(parts_of(moved, len(self.computed), self.world))]
        work = [0] * self.world
        done = [0] * self.world
        for number, owner in self.owner_of.items():
            work[owner] += self.computed[number].cost
        for number in self.asked:
            owner = self.owner_of.get(number)
            part = 0 if owner is None else len(parts) * done[owner] // max(work[owner], 1)
            parts[min(part, len(parts) - 1)].append(number)
            if owner is not None:
                done[owner] += self.computed[number].cost
        return parts

    def _goes_to(self, number: int, rank: int) -> bool:
        """Whether a process gets a matrix whole: its owner; everybody, if nothing is computed."""
        return self.owner_of.get(number, rank) == rank

    def _gather(self, part: Sequence[int]) -> Callable[[], Results]:
        """Send for the whole tensors of those matrices that this process gets whole. Returns: what waits for them."""
        sent: list[list[torch.Tensor]] = [[] for _ in range(self.world)]
        wanted: list[list[Wanted]] = [[] for _ in range(self.world)]
        asked = {number: self.asked[number] for number in part}
        for number, request in asked.items():
            for name in request.split:
                x = request.partials[name]
                for other, rows in enumerate(request.rows(self.world)):
                    if self._goes_to(number, other):
                        sent[other].append(x)
                    if self._goes_to(number, self.rank):
                        wanted[other].append((torch.Size((rows, *x.shape[1:])), x.dtype))
        receive = self._all_to_all(sent, wanted)

        def finish() -> Results:
            pieces = [iter(each) for each in receive()]
            found: Results = {}
            for number, request in asked.items():
                if self._goes_to(number, self.rank):
                    parts = {name: torch.cat([next(each) for each in pieces]) for name in request.split}
                    found[number] = [parts.get(name, x) for name, x in request.partials.items()]
            return found

        return finish

    def _scatter(self, part: Sequence[int], made: Results) -> Callable[[], Results]:
        """Send for the rows here of what the owners compute, and all of what is the same everywhere. Returns: what waits."""
        sent: list[list[torch.Tensor]] = [[] for _ in range(self.world)]
        wanted: list[list[Wanted]] = [[] for _ in range(self.world)]
        computed = {number: self.computed[number] for number in part if number in self.computed}
        for number, request in computed.items():
            rows = request.rows(self.world)
            for place, (name, x) in enumerate(request.partials.items()):
                if number in made:
                    whole = made[number][place]
                    for other, piece in enumerate(whole.split(rows) if name in request.split else [whole] * self.world):
                        sent[other].append(piece)
                wanted[self.owner_of[number]].append((x.shape, x.dtype))
        receive = self._all_to_all(sent, wanted)

        def finish() -> Results:
            pieces = [iter(each) for each in receive()]
            return {
                number: [next(pieces[self.owner_of[number]]) for _ in request.partials]
                for number, request in computed.items()
            }

        return finish

    def _all_to_all(
        self, sent: Sequence[Sequence[torch.Tensor]], wanted: Sequence[Sequence[Wanted]]
    ) -> Callable[[], list[list[torch.Tensor]]]:
        """Send tensors to each process as bytes, whatever their dtypes. Returns: what waits for those from each."""
        from torch import distributed as dist

        some = next(iter(next(iter(self.asked.values())).partials.values()))
        flat = [[_flat(x).view(torch.uint8) for x in each] for each in sent]
        sizes = [[shape.numel() * dtype.itemsize for shape, dtype in each] for each in wanted]
        outgoing = torch.cat([some.new_empty(0, dtype=torch.uint8), *(x for each in flat for x in each)])
        incoming = outgoing.new_empty(sum(map(sum, sizes)))
        counts = list(map(sum, sizes)), [sum(map(len, each)) for each in flat]
        work = dist.all_to_all_single(incoming, outgoing, *counts, group=self.group, async_op=True)

        def receive() -> list[list[torch.Tensor]]:
            if work is not None:  # this process is of the group
                work.wait()
            pieces = iter(incoming.split([size for each in sizes for size in each]))
            return [[next(pieces).clone().view(dtype).view(shape) for shape, dtype in each] for each in wanted]

        return receive


def _flat(x: torch.Tensor) -> torch.Tensor:
    """The elements in a row; one alone may have any stride, which bytes cannot be seen through."""
    return x.contiguous().as_strided((x.numel(),), (1,))
