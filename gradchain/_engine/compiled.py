"""The compiled path: parameters in buckets, each traced once and compiled by inductor into one or a few kernels.

A bucket holds tensors of one program: small ones several together, large ones alone. Its kernel depends on shapes,
dtypes and static options; hyperparameters and per-step scalars come in as a tensor, so schedules never recompile.

A program that requests totals over other parameters runs in phases: phase `k` runs the chain from the start with the
answers to the first `k` requests, and either writes its results or returns the partials of the next request. Stages
are pure, so running one again is safe; the compiler drops what a phase does not need.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from gradchain._chain.context import Recorded
from gradchain._core.totals import APART
from gradchain._engine.buckets import TENSORS_PER_CALL, buckets
from gradchain._engine.call import Call, Key, OwnKernels, Plan
from gradchain._engine.layouts import LayoutIds, ScalarArgs
from gradchain._engine.param_step import ParamStep
from gradchain._engine.report import Bucket, CompileReport, bucket_of
from gradchain._engine.rounds import answer
from gradchain._engine.tiles import RowTiles, tiles_of
from gradchain.errors import CompileWarning

BUCKETS_PER_CALL = 4
"""The maximum number of small-tensor groupings that an optimizer compiles, for each bucket that a step has.

Where gradients come and go from step to step, small tensors would meet in ever new buckets and compile for ever. Beyond
this number they go one by one: there is a kernel for each shape and no more.
"""

AnyCall: TypeAlias = "Call | RowTiles"


class CompiledSteps:
    """The compiled steps of one optimizer, and what it keeps from one to the next."""

    def __init__(self) -> None:
        self.kernels = OwnKernels()
        self.bucket_signatures: set[LayoutIds] = set()
        """The groupings of small tensors that were compiled."""
        self._last: list[LayoutIds] = []
        self._submitted: set[tuple[LayoutIds, ...]] = set()
        """The buckets whose kernels another process has been given."""
        self._waited: list[int | None] = []
        """The first and the last of the steps that ran eagerly meanwhile."""

    def run(
        self, due: Sequence[ParamStep], partition: Any = None, background: bool = False
    ) -> tuple[list[Recorded], Plan | None] | None:
        """Step all that are due. Returns what each recorded, and a plan, if the step before made the same calls.

        All that can fail, the compiler included, comes before the first write. In the `background`, `None` as long as
        another process compiles, and nothing is written.
        """
        self.kernels.allow(len(due))
        self.kernels.background = background
        if (stepped := self._step(due, partition)) is None:
            self._waited[1:] = [due[-1].step if due else None]
            return None
        calls, recorded = stepped
        self._submitted.clear()
        ids = [call.ids for call in calls if isinstance(call, Call)]
        alike, self._last = ids == self._last, ids
        apart = partition is None or partition is APART  # a plan makes no totals with others
        return recorded, Plan.of(due, calls, partition) if alike and apart else None

    def _step(self, due: Sequence[ParamStep], partition: Any) -> tuple[list[AnyCall], list[Recorded]] | None:
        scalars = ScalarArgs()
        self.kernels.take_over(wait=not self.kernels.background)
        ready = [call for bucket in buckets(due) for call in self._calls(bucket, scalars, len(due))]
        if self.kernels.background:
            ids = tuple((call if isinstance(call, Call) else call.whole).ids for call in ready)
            if self.kernels.pending and ids in self._submitted:
                self._warn()
                return None
            self._submitted.add(ids)
        done = self._advanced(ready, {id(item): place for place, item in enumerate(due)}, partition)
        for call in done:
            call.measure()
        self._warn()
        if self.kernels.pending and self.kernels.background:
            return None
        self._announce(due)
        for call in done:
            call.finish()
        recorded = {id(item): record for call in done for item, record in zip(call.due, call.recorded)}
        return done, [recorded[id(item)] for item in due]

    def _advanced(self, ready: list[AnyCall], places: Mapping[int, int], partition: Any) -> list[AnyCall]:
        """Calls that have run up to where they write. Their kernels are made before any is waited for."""
        waiting: list[Call] = []
        later: list[AnyCall] = []
        done: list[AnyCall] = []
        while True:
            for call in ready:
                call.kernel()
            while ready:
                call = ready.pop()
                if call.only_writes:
                    later.append(call)
                    continue
                status = call.advance()
                if status == "uneven":
                    ready += call.split()
                elif status == "done":
                    done.append(call)
                else:
                    assert isinstance(call, Call)  # tiles answer each other
                    waiting.append(call)
            if (given := answer({call: call.rows(places) for call in waiting}, partition)) is None:
                break
            for call in given:
                call.take(given[call])
            ready += given
            waiting = [call for call in waiting if call not in given]
        for call in later:
            call.advance()
        return [*done, *later]

    def _warn(self) -> None:
        """Say what could not be compiled."""
        if failures := self.kernels.failures():
            warnings.warn(
                f"could not be compiled and runs eagerly, with the same results: {'; '.join(failures)}",
                CompileWarning,
                stacklevel=6,
            )

    def _announce(self, due: Sequence[ParamStep]) -> None:
        """Say which steps ran eagerly, once; a step that has failed so comes again."""
        waited, self._waited = self._waited, []
        if waited and any(kernel.compiled is not None for kernel, _ in self.kernels.values()):
            warnings.warn(
                f"compiled from step {due[-1].step} on; steps {waited[0]} to {waited[-1]} ran eagerly while another process "
                "compiled, and may differ in the last bits. compile=True waits, and repeats them.",
                CompileWarning,
                stacklevel=6,
            )

    def _calls(self, bucket: list[ParamStep], scalars: ScalarArgs, due: int) -> Sequence[AnyCall]:
        """One call for the bucket, or one for each of its tensors if the grouping has changed too often."""
        call = Call(bucket, scalars, [[] for _ in bucket], self.kernels)
        if len(bucket) == 1 and (tiles := tiles_of(bucket[0])):
            return [RowTiles(bucket[0], tiles, scalars, self.kernels, call)]
        if len(bucket) == 1 or call.ids in self.bucket_signatures:
            return [call]
        if len(self.bucket_signatures) >= BUCKETS_PER_CALL * -(-due // TENSORS_PER_CALL):
            return call.split()
        self.bucket_signatures.add(call.ids)
        return [call]

    def report(self) -> CompileReport:
        """What has been compiled, by bucket."""
        keys: dict[LayoutIds, list[Key]] = {}
        for key in self.kernels:
            keys.setdefault(key[0], []).append(key)
        return CompileReport(tuple(self._bucket(phases) for phases in keys.values()))

    def _bucket(self, phases: Sequence[Key]) -> Bucket:
        kernels = [self.kernels[key][0] for key in phases]
        seconds = sum(kernel.seconds for kernel, made in (self.kernels[key] for key in phases) if made)
        return bucket_of(kernels[0].layouts, kernels, seconds)
