"""Answer requests for totals: over the parameters here, over the processes that share a tensor, over a partition.

All requests open at one time make a round. A round costs one all-reduce for each process group that holds parts of its
tensors, however many tensors, sums and maxima there are; many maxima cost a second one. Whole matrices cost two all-to-alls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch

from gradchain._core.exchange import answer_matrices
from gradchain._core.matrices import MatrixRequest
from gradchain._core.reduce import Request, Totals
from gradchain.errors import ChainError

Asked = tuple[str, Request]

Partials: TypeAlias = "dict[str, torch.Tensor]"

Key: TypeAlias = "int | tuple[str, str | None]"
"""The subject of a total: one tensor, by its number, or all that ask for a label at a stage."""

FEW = 4096
"""Up to this many numbers, maxima travel with the sums, each process in its own places."""

WIDE = torch.float64


class Route(Protocol):
    """The stages in order."""

    def after(self, address: str) -> tuple[str, ...]: ...


@dataclass
class Accumulator:
    """Partials of one total: those of whole tensors, and for each process group those of sharded ones."""

    combine: Literal["sum", "max"]
    by_group: dict[Any, Partials] = field(default_factory=dict[Any, "dict[str, torch.Tensor]"])

    def add(self, partials: Mapping[str, torch.Tensor], group: Any = None) -> None:
        held = self.by_group.setdefault(group, {})
        combine = torch.add if self.combine == "sum" else torch.maximum
        for name, partial in partials.items():
            held[name] = combine(held[name], partial.to(held[name].device)) if name in held else partial

    def merge(self) -> Partials:
        """The totals, once each group's partials are reduced."""
        merged = Accumulator(self.combine)
        for partials in self.by_group.values():
            merged.add(partials)
        return merged.by_group.get(None, {})


def complete(waiting: Iterable[tuple[Route, str]]) -> set[str]:
    """The stages whose requests can be answered: no parameter still has to reach them."""
    at, later = _places(waiting)
    return at - later


def _places(waiting: Iterable[tuple[Route, str]]) -> tuple[set[str], set[str]]:
    """The stages where parameters wait, and those that they have yet to reach."""
    held = list(waiting)
    return {at for _, at in held}, {later for program, at in held for later in program.after(at)}


APART: Any = object()
"""In the place of a process group: the other parameters are stepped at another time, or elsewhere."""


def reduce_requests(waiting: Sequence[tuple[Route, Asked]], process_group: Any = None) -> list[Totals | None] | None:
    """An answer for each waiting parameter, or `None` if it must wait on; `None` if nothing waits.

    The order must be the same in all processes. With a `process_group` over which the parameters are divided, all members
    must call this; all get an answer or `None` together.
    """
    if process_group is APART:
        process_group = _check_alone(waiting)
    at, later = _places((program, address) for program, (address, _) in waiting)
    matrices = {
        number: request
        for number, (_, (address, request)) in enumerate(waiting)
        if isinstance(request, MatrixRequest) and address in at - later  # all that are here go together
    }
    accumulators = _accumulators(waiting)
    if process_group is not None:
        if (known := _of_all(process_group, at, later, accumulators)) is None:
            return None
        at, later, accumulators = known
    elif not waiting:
        return None
    ready = {key: sums for key, sums in accumulators.items() if isinstance(key, int) or key[0] in at - later}
    reduce_accumulators(ready.values())
    totals = {key: Totals(**sums.merge()) for key, sums in ready.items()} | answer_matrices(matrices)
    result: list[Totals | None] = []
    for number, (_, asked) in enumerate(waiting):
        total = totals.get(_key(number, asked))
        result.append(None if total is None else total.near(asked[1]))
    return result


def _check_alone(waiting: Iterable[tuple[Route, Asked]]) -> None:
    """Raise `ChainError` if a stage asks about parameters that are not here."""
    for _, (address, request) in waiting:
        if request.joint:
            raise ChainError(
                f"{address} asks for totals over several parameters, which are stepped apart (by ZeRO, or in the backward "
                "pass). It did not ask when it was tried on small tensors: let it ask in every step, and choose with "
                "torch.where whether the totals count.",
                stage=address,
            )


def _key(number: int, asked: Asked) -> Key:
    address, request = asked
    return (address, request.label) if request.joint else number


def _accumulators(waiting: Sequence[tuple[Route, Asked]]) -> dict[Key, Accumulator]:
    accumulators: dict[Key, Accumulator] = {}
    for number, (_, (address, request)) in enumerate(waiting):
        if isinstance(request, MatrixRequest):
            continue
        key = _key(number, (address, request))
        accumulators.setdefault(key, Accumulator(request.combine)).add(request.partials, request.group)
    return accumulators


def reduce_accumulators(accumulators: Iterable[Accumulator]) -> None:
    """Reduce the partials of each process group over that group."""
    held = list(accumulators)
    for group in dict.fromkeys(group for one in held for group in one.by_group if group is not None):
        places = [(one.combine, one.by_group[group], name) for one in held for name in one.by_group.get(group, ())]
        sums = [(partials, name) for combine, partials, name in places if combine == "sum"]
        maxima = [(partials, name) for combine, partials, name in places if combine == "max"]
        totals = all_reduce([partials[n] for partials, n in sums], [partials[n] for partials, n in maxima], group)
        for (partials, name), total in zip([*sums, *maxima], totals):
            partials[name] = total


def all_reduce(sums: Sequence[torch.Tensor], maxima: Sequence[torch.Tensor], group: Any) -> list[torch.Tensor]:
    """The sums and then the maxima over a process group, each in its own dtype, computed in double precision."""
    from torch import distributed as dist

    tensors = [*sums, *maxima]
    device = tensors[0].device
    flat = [x.reshape(-1).to(device=device, dtype=WIDE) for x in tensors]
    added, largest = flat[: len(sums)], flat[len(sums) :]
    size, many = dist.get_world_size(group), sum(x.numel() for x in largest)
    apart = many * size > FEW
    if largest and not apart:
        slots = torch.zeros(size, many, device=device, dtype=WIDE)
        slots[dist.get_rank(group)] = torch.cat(largest)
        added.append(slots.reshape(-1))
    buffer = torch.cat(added) if added else torch.zeros(0, dtype=WIDE, device=device)
    if buffer.numel():
        dist.all_reduce(buffer, group=group)
    if largest:
        end = buffer.numel() if apart else buffer.numel() - size * many
        if apart:
            highest = torch.cat(largest)
            dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
        else:
            highest = buffer[end:].view(size, many).amax(0)
        buffer = torch.cat([buffer[:end], highest])
    pieces = buffer.split([x.numel() for x in tensors])
    return [piece.view(x.shape).to(device=x.device, dtype=x.dtype) for piece, x in zip(pieces, tensors)]


def _of_all(
    process_group: Any, at: set[str], later: set[str], accumulators: Mapping[Key, Accumulator]
) -> tuple[set[str], set[str], dict[Key, Accumulator]] | None:
    """Where any member of a partition waits, and their joint partials; `None` if none waits."""
    joint = {key: (sums.combine, sums.merge()) for key, sums in accumulators.items() if not isinstance(key, int)}
    everybody = gather((at, later, joint), process_group)
    if not any(at for at, _, _ in everybody):
        return None
    merged: dict[Key, Accumulator] = {key: sums for key, sums in accumulators.items() if isinstance(key, int)}
    for _, _, theirs in everybody:
        for key, (combine, partials) in theirs.items():
            merged.setdefault(key, Accumulator(combine)).add(partials)
    return set().union(*(at for at, _, _ in everybody)), set().union(*(later for _, later, _ in everybody)), merged


def gather(thing: Any, group: Any) -> list[Any]:
    """The `thing` of each member of a process group, in order of rank; tensors travel through the CPU."""
    from torch import distributed as dist

    everybody: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everybody, _on_cpu(thing), group=group)
    return everybody


def _on_cpu(thing: Any) -> Any:
    if isinstance(thing, torch.Tensor):
        return thing.detach().cpu()
    if isinstance(thing, dict):
        return {key: _on_cpu(value) for key, value in thing.items()}  # pyright: ignore
    if isinstance(thing, tuple):
        return tuple(_on_cpu(value) for value in thing)  # pyright: ignore
    return thing
