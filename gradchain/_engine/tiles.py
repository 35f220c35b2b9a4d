"""A large factored tensor that is stepped in tiles of rows, so that a kernel's intermediate results stay in the cache.

Factors of a matrix are unpacked, and the result is used more than once. For a tensor of 60 MB that takes three more of its
size, memory that a CPU's allocator gets from the system anew at each step, which takes longer than the arithmetic: a step
of 4096 x 4096 takes 70 ms whole and 30 ms in tiles. A tile is some rows of the parameter that are also rows of the matrix.
Its kernel takes it for a shard, but all shards are here, and their totals are added up between the calls.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TypeAlias, cast

import torch

from gradchain._chain.context import Recorded
from gradchain._core.reduce import Totals
from gradchain._core.shard import HERE, Shard
from gradchain._engine.call import Call, OwnKernels
from gradchain._engine.eager_tiles import columns_of, is_common, is_own, rows_alone, rows_of
from gradchain._engine.kernel import Kernel, Status
from gradchain._engine.layouts import ScalarArgs
from gradchain._engine.param_step import ParamRecord, ParamStep
from gradchain._engine.widened import Widened
from gradchain._engine.writing import overwrite

ELEMENTS = 1 << 20
"""The approximate size of a tile."""

LARGE = 1 << 22
"""Tensors of fewer elements are stepped whole."""


Tiled: TypeAlias = "tuple[Widened, list[ParamStep]]"
"""What tiles are stepped with, and the tiles."""


def tiles_of(item: ParamStep) -> Tiled | None:
    """The tiles of a parameter; `None` if it is better stepped whole."""
    columns = columns_of(item, item.record.layout.layout.matrix)
    if (
        columns is None
        or item.owner.device.type != "cpu"  # other allocators keep what they have freed
        or item.owner.numel() < LARGE
        or item.keep is not None
    ):
        return None
    rows, wide = rows_of(item.owner, columns, ELEMENTS), Widened.of(item)
    if 2 * rows > len(item.owner) or wide is None:
        return None
    length = len(item.owner)
    return wide, [_tile(item, wide, first, min(rows, length - first), columns) for first in range(0, length, rows)]


def _tile(item: ParamStep, wide: Widened, first: int, rows: int, columns: int) -> ParamStep:
    shape = torch.Size((rows, *item.owner.shape[1:]))
    place = Shard(shape, 0, rows, HERE, columns)
    state = rows_alone(wide.program, wide.state, first, rows, shape[1:].numel(), columns)
    record = SimpleNamespace(state=state, here=state, shard=place, layout=None, program=wide.program)
    end = first + rows
    tile = ParamStep(
        item.owner.detach()[first:end],
        item.grad.detach()[first:end],
        cast("ParamRecord", record),
        item.group,
        item.step,
    )
    tile.numbers, tile.pack, tile.common = item.numbers, item.pack, tuple(filter(is_common, state))
    return tile


class RowTiles:
    """The calls for the tiles of one tensor, in lockstep."""

    def __init__(self, item: ParamStep, tiled: Tiled, scalars: ScalarArgs, kernels: OwnKernels, whole: Call) -> None:
        self.due, self.wide, self.whole = [item], tiled[0], whole
        self.calls = [Call([tile], scalars, [[]], kernels) for tile in tiled[1]]
        self.recorded: list[Recorded] = [{}]

    def kernel(self) -> Kernel:
        """The kernel of the present phase of the first tile, whose shape most have."""
        return self.calls[0].kernel()

    @property
    def only_writes(self) -> bool:
        """Whether that can be said before all phases have run."""
        return False

    def advance(self) -> Status:
        """Run all phases up to the last, which waits for `finish`."""
        while True:
            statuses = {call.advance() for call in self.calls}
            kernels = [call.kernel() for call in self.calls]
            if any(kernel.compiled is None and not kernel.pending for kernel in kernels):
                return "uneven"
            if statuses == {"done"}:
                return "done"
            for call, total in zip(self.calls, self._totals()):
                call.take([total])

    def _totals(self) -> list[Totals]:
        """What each tile is told: the totals of all tiles, but its own rows."""
        requests = [call.asked[0][1] for call in self.calls]
        combine = torch.add if requests[0].combine == "sum" else torch.maximum
        totals: dict[str, torch.Tensor] = {}
        for request in requests:
            for name, partial in request.partials.items():
                if not is_own(name):
                    totals[name] = combine(totals[name], partial) if name in totals else partial
        return [
            Totals(**{name: totals.get(name, own) for name, own in request.partials.items()}) for request in requests
        ]

    def measure(self) -> None:
        """Measure the whole tensor, before the tiles are written."""
        self.whole.measure()

    def split(self) -> list[Call]:
        """The whole tensor, where tiles cannot be compiled."""
        return [self.whole]

    def finish(self) -> None:
        """Write the results; what the tiles share comes last, since each of them reads its old value."""
        for call in self.calls:
            call.finish()
        (record,) = self.calls[0].recorded
        overwrite([self.wide.state[slot] for slot, _ in record], list(record.values()))
        self.wide.pack()
        self.recorded = self.whole.measured or [{}]
