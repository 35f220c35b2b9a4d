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

import torch

from gradchain.distributed.totals import APART, Asked, answers
from gradchain.engine.kernel import Kernel, Known, Status, inputs_of, seated, status_of
from gradchain.engine.packs import Packs
from gradchain.engine.pieces import Pieces, cut
from gradchain.engine.report import Bucket, CompileReport, bucket_of
from gradchain.engine.work import Work, commit
from gradchain.errors import CompileWarning
from gradchain.program import Outcome
from gradchain.reduce import Totals
from gradchain.telemetry import Recorded

SMALL_ELEMENTS = 1 << 16
TENSORS_PER_CALL = 16
BUCKETS_PER_CALL = 4
"""How many different companies of small tensors an optimizer compiles for each that a step has.

Where gradients come and go from step to step, small tensors would meet in ever new buckets and compile for ever. Beyond
this number they go one by one: there is a kernel for each shape and no more.
"""

PLANS = 64
"""How many plans an optimizer keeps: one for each set of parameters that have gradients."""

Numbers: TypeAlias = "tuple[int, ...]"
"""The layouts of some works, by number."""

Key: TypeAlias = "tuple[Numbers, Known]"
"""A bucket and the answers that it has."""

_kernels: dict[Key, Kernel] = {}
"""The kernels of this process, by bucket and phase. They are pure code: what they compute depends on nothing else."""


class Call:
    """A bucket at one step, moving through its phases. Nothing is written before `finish`."""

    def __init__(self, works: list[Work], packs: Packs, answers: list[list[Totals]], memory: Memory) -> None:
        self.works, self.packs, self.answers, self.memory = works, packs, answers, memory
        known = [seated(work, packs) for work in works]
        self.layouts = tuple(seat.layout for seat in known)
        self.numbers: Numbers = tuple(seat.number for seat in known)
        self.inputs = inputs_of(works, packs)
        self.asked: list[Asked] = []
        self.outcomes: list[Outcome] = []
        self.recorded: list[Recorded] = []

    def flat(self) -> list[torch.Tensor]:
        return [*self.inputs, *(x for totals in self.answers for total in totals for x in vars(total).values())]

    def kernel(self, failures: list[str]) -> Kernel:
        """The kernel of the present phase, from the cache or made now."""
        known: Known = tuple(tuple(tuple(vars(total)) for total in totals) for totals in self.answers)
        key = (self.numbers, known)
        if key not in _kernels:
            told = any(numbers == self.numbers and kernel.failure for (numbers, _), kernel in _kernels.items())
            _kernels[key] = made = Kernel(self.layouts, self.works[0].program, known, self.flat())
            self.memory.seconds[key] = made.seconds
            if made.failure is not None and not told:
                failures.append(made.failure)
        self.memory.kernels[key] = _kernels[key]
        return _kernels[key]

    def advance(self, failures: list[str]) -> Status:
        """Run the present phase up to its requests; one that would write waits for `finish`."""
        kernel = self.kernel(failures)
        if kernel.compiled is None:
            _, results = kernel.compute(self.flat())
            status = status_of(results)
            self.outcomes = [result for result in results if isinstance(result, Outcome)]
            self.asked = [result for result in results if not isinstance(result, Outcome)]
            return status
        assert kernel.status is not None
        if kernel.status == "asks":
            self.asked = kernel.ask(self.flat())
        return kernel.status

    def take(self, totals: Sequence[Totals]) -> None:
        for known, total in zip(self.answers, totals):
            known.append(total)

    def split(self) -> list[Call]:
        """A call for each work, since they do not keep step with each other."""
        return [Call([work], self.packs, [answers], self.memory) for work, answers in zip(self.works, self.answers)]

    def finish(self) -> None:
        """Write the results."""
        kernel = self.kernel([])
        if kernel.compiled is None:
            commit([work.task for work in self.works], self.outcomes)
            self.recorded = [outcome.recorded for outcome in self.outcomes]
        else:
            self.recorded = kernel.write(self.flat())
            torch.autograd.graph.increment_version([work.owner for work in self.works])


class Plan:
    """The calls of a step that has nothing to ask: which kernel takes which works. Good for all steps with equal layouts."""

    def __init__(self, works: Sequence[Work], calls: Sequence[Call]) -> None:
        places = {id(work): place for place, work in enumerate(works)}
        self.calls = [([places[id(work)] for work in call.works], call.kernel([])) for call in calls]

    @staticmethod
    def of(works: Sequence[Work], calls: Sequence[AnyCall]) -> Plan | None:
        """A plan, if all calls were compiled and took one phase."""
        plain = [call for call in calls if isinstance(call, Call) and not any(call.answers)]
        fits = len(plain) == len(calls) and all(call.kernel([]).compiled is not None for call in plain)
        return Plan(works, plain) if fits else None

    def run(self, works: Sequence[Work], packs: Packs) -> list[Recorded]:
        inputs = [inputs_of([works[place] for place in places], packs) for places, _ in self.calls]
        return self.write(inputs, [work.owner for work in works])

    def write(self, inputs: Sequence[Sequence[torch.Tensor]], params: Sequence[torch.Tensor]) -> list[Recorded]:
        """Run the kernels over what each takes; all these parameters are written. Returns what each recorded."""
        recorded: list[Recorded] = [{}] * len(params)
        for (places, kernel), flat in zip(self.calls, inputs):
            written = kernel.write(flat)
            if not kernel.silent:
                for place, record in zip(places, written):
                    recorded[place] = record
        torch.autograd.graph.increment_version(params)
        return recorded


AnyCall: TypeAlias = "Call | Pieces"


class Memory:
    """What the compiled steps of an optimizer remember."""

    def __init__(self) -> None:
        self.companies: set[Numbers] = set()
        self.plans: dict[Numbers, Plan] = {}
        self.last: Plan | None = None
        self.kernels: dict[Key, Kernel] = {}
        self.seconds: dict[Key, float] = {}

    def report(self) -> CompileReport:
        """What has been compiled, by bucket."""
        buckets: dict[Numbers, list[Key]] = {}
        for key in self.kernels:
            buckets.setdefault(key[0], []).append(key)
        return CompileReport(tuple(self._bucket(keys) for keys in buckets.values()))

    def _bucket(self, keys: Sequence[Key]) -> Bucket:
        kernels = [self.kernels[key] for key in keys]
        return bucket_of(kernels[0].layouts, kernels, sum(self.seconds.get(key, 0.0) for key in keys))


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
    given = answers([(call.works[0].program, asked) for _, call, asked in rows], partition)
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
