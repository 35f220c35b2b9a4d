"""The compiled path: works in buckets, each traced once and compiled by inductor into one or a few kernels.

A bucket holds tensors of one program: small ones several together, large ones alone. Its kernel depends on shapes,
dtypes and static options; hyperparameters and per-step scalars come in as a tensor, so schedules never recompile.

A program that asks for totals over other parameters runs in phases: phase `k` runs the chain from the start with the
answers to the first `k` requests, and either writes its results or returns the partials of the next request. Stages
are pure, so running one again is safe; the compiler drops what a phase does not need.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from gradchain._chain.context import Recorded
from gradchain._core.reduce import Totals
from gradchain._core.totals import APART, reduce_requests
from gradchain._engine.call import Call, Memory, Plan
from gradchain._engine.kernel import seated
from gradchain._engine.packs import Packs
from gradchain._engine.pieces import Pieces, cut
from gradchain._engine.work import Work
from gradchain.errors import CompileWarning

SMALL_ELEMENTS = 1 << 16
TENSORS_PER_CALL = 16
BUCKETS_PER_CALL = 4
"""How many different companies of small tensors an optimizer compiles for each that a step has.

Where gradients come and go from step to step, small tensors would meet in ever new buckets and compile for ever. Beyond
this number they go one by one: there is a kernel for each shape and no more.
"""

PLANS = 64
"""How many plans an optimizer keeps: one for each set of parameters that have gradients."""

AnyCall: TypeAlias = "Call | Pieces"


def run(works: Sequence[Work], memory: dict[str, Any], partition: Any = None) -> list[Recorded]:
    """Step all works. All that can fail, the compiler included, comes before the first write."""
    kept: Memory = memory.setdefault("compiled", Memory())
    packs = Packs()
    numbers = tuple([seated(work, packs).number for work in works])
    here = partition is None or partition is APART  # a plan makes no totals with others
    if here and (plan := kept.plans.get(numbers)) is not None:
        if plan is kept.last:
            memory["plan"] = plan
        kept.last = plan
        return plan.run(works, packs)
    calls, recorded = _run_once(works, packs, kept, partition)
    kept.last = Plan.of(works, calls) if here else None
    if kept.last is not None:
        if len(kept.plans) >= PLANS:
            kept.plans.clear()
        kept.plans[numbers] = kept.last
    return recorded


def _run_once(
    works: Sequence[Work], packs: Packs, memory: Memory, partition: Any
) -> tuple[list[AnyCall], list[Recorded]]:
    """A step without a plan."""
    failures: list[str] = []
    ready: list[AnyCall] = [call for bucket in buckets(works) for call in calls_for(bucket, packs, memory, len(works))]
    waiting: list[Call] = []
    done: list[AnyCall] = []
    places = {id(work): place for place, work in enumerate(works)}
    while True:
        while ready:
            call = ready.pop()
            status = call.advance(failures)
            if status == "uneven":
                ready += call.split()
            elif status == "done":
                done.append(call)
            else:
                assert isinstance(call, Call)  # pieces answer each other
                waiting.append(call)
        if (given := _answered(waiting, places, partition)) is None:
            break
        for call in given:
            call.take(given[call])
        ready += given
        waiting = [call for call in waiting if call not in given]
    _warn(failures)
    for call in done:
        call.finish()
    recorded = {id(work): record for call in done for work, record in zip(call.works, call.recorded)}
    return done, [recorded[id(work)] for work in works]


def _answered(waiting: Sequence[Call], places: Mapping[int, int], partition: Any) -> dict[Call, list[Totals]] | None:
    """The totals for each call that can go on; `None` if nobody waits.

    Which works share a call may differ between processes that hold parts of one tensor, so works go in their own order.
    """
    rows = [(places[id(work)], call, asked) for call in waiting for work, asked in zip(call.works, call.asked)]
    rows.sort(key=lambda row: row[0])
    given = reduce_requests([(call.works[0].program, asked) for _, call, asked in rows], partition)
    if given is None:
        return None
    totals = {place: total for (place, _, _), total in zip(rows, given) if total is not None}
    called = {call: [places[id(work)] for work in call.works] for call in waiting}
    return {call: [totals[at] for at in ats] for call, ats in called.items() if ats[0] in totals}


def calls_for(bucket: list[Work], packs: Packs, memory: Memory, works: int) -> Sequence[AnyCall]:
    """One call for the bucket, or one for each of its tensors if their company has changed too often."""
    call = Call(bucket, packs, [[] for _ in bucket], memory)
    if len(bucket) == 1 and (parts := cut(bucket[0])):
        return [Pieces(bucket[0], parts, packs, memory, call)]
    if len(bucket) == 1 or call.numbers in memory.companies:
        return [call]
    if len(memory.companies) >= BUCKETS_PER_CALL * -(-works // TENSORS_PER_CALL):
        return call.split()
    memory.companies.add(call.numbers)
    return [call]


def _warn(failures: Sequence[str]) -> None:
    if failures:
        buckets = "; ".join(failures)
        warnings.warn(
            f"could not be compiled and runs eagerly, with the same results: {buckets}", CompileWarning, stacklevel=6
        )


def buckets(works: Sequence[Work]) -> list[list[Work]]:
    """Works of one program and device that share a call: small tensors several together, large ones alone."""
    small: dict[Any, list[Work]] = {}
    result: list[list[Work]] = []
    for work in works:
        if work.owner.numel() > SMALL_ELEMENTS:
            result.append([work])
        else:
            key = (
                work.program.structure,
                work.owner.device,
                work.index is None,
                work.keep is None,
            )  # alike in all of them
            small.setdefault(key, []).append(work)
    for members in small.values():
        result += [members[i : i + TENSORS_PER_CALL] for i in range(0, len(members), TENSORS_PER_CALL)]
    return result
