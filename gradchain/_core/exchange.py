"""Answer requests for sharded matrices: an owner puts each together, computes, and hands the rows of the result back.

The rows of all matrices of a round go to their owners in one all-to-all, and the results come back in another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradchain._core.matrices import MatrixRequest, Results, compute
from gradchain._core.reduce import Totals

Wanted = tuple[torch.Size, torch.dtype]
"""What is known of a tensor that another process sends."""


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
        wholes = self._gather()
        own = {number: request for number, request in self.computed.items() if self.owner_of[number] == self.rank}
        made = compute(own, wholes)
        seen: Results = {number: wholes[number] for number in self.asked if number not in self.computed}
        return {**seen, **self._scatter(made)} if self.computed else seen

    def _goes_to(self, number: int, rank: int) -> bool:
        """Whether a process gets a matrix whole: its owner; everybody, if nothing is computed."""
        return self.owner_of.get(number, rank) == rank

    def _gather(self) -> Results:
        """The whole tensors of those matrices that this process gets whole."""
        sent: list[list[torch.Tensor]] = [[] for _ in range(self.world)]
        wanted: list[list[Wanted]] = [[] for _ in range(self.world)]
        for number, request in self.asked.items():
            for name in request.split:
                x = request.partials[name]
                for other, rows in enumerate(request.rows(self.world)):
                    if self._goes_to(number, other):
                        sent[other].append(x)
                    if self._goes_to(number, self.rank):
                        wanted[other].append((torch.Size((rows, *x.shape[1:])), x.dtype))
        pieces = [iter(each) for each in self._all_to_all(sent, wanted)]
        found: Results = {}
        for number, request in self.asked.items():
            if self._goes_to(number, self.rank):
                parts = {name: torch.cat([next(each) for each in pieces]) for name in request.split}
                found[number] = [parts.get(name, x) for name, x in request.partials.items()]
        return found

    def _scatter(self, made: Results) -> Results:
        """The rows here of what the owners have computed, and all of what is the same everywhere."""
        sent: list[list[torch.Tensor]] = [[] for _ in range(self.world)]
        wanted: list[list[Wanted]] = [[] for _ in range(self.world)]
        for number, request in self.computed.items():
            rows = request.rows(self.world)
            for place, (name, x) in enumerate(request.partials.items()):
                if number in made:
                    whole = made[number][place]
                    for other, piece in enumerate(whole.split(rows) if name in request.split else [whole] * self.world):
                        sent[other].append(piece)
                wanted[self.owner_of[number]].append((x.shape, x.dtype))
        pieces = [iter(each) for each in self._all_to_all(sent, wanted)]
        return {
            number: [next(pieces[self.owner_of[number]]) for _ in request.partials]
            for number, request in self.computed.items()
        }

    def _all_to_all(
        self, sent: Sequence[Sequence[torch.Tensor]], wanted: Sequence[Sequence[Wanted]]
    ) -> list[list[torch.Tensor]]:
        """Send tensors to each process as bytes, whatever their dtypes. Returns those from each, which are known before."""
        from torch import distributed as dist

        some = next(iter(next(iter(self.asked.values())).partials.values()))
        flat = [[_flat(x).view(torch.uint8) for x in each] for each in sent]
        sizes = [[shape.numel() * dtype.itemsize for shape, dtype in each] for each in wanted]
        outgoing = torch.cat([some.new_empty(0, dtype=torch.uint8), *(x for each in flat for x in each)])
        incoming = outgoing.new_empty(sum(map(sum, sizes)))
        dist.all_to_all_single(
            incoming, outgoing, list(map(sum, sizes)), [sum(map(len, each)) for each in flat], group=self.group
        )
        pieces = iter(incoming.split([size for each in sizes for size in each]))
        return [[next(pieces).clone().view(dtype).view(shape) for shape, dtype in each] for each in wanted]


def _flat(x: torch.Tensor) -> torch.Tensor:
    """The elements in a row; one alone may have any stride, which bytes cannot be seen through."""
    return x.contiguous().as_strided((x.numel(),), (1,))
