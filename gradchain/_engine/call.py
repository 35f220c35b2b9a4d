"""A bucket of works at one step: the kernel of each phase, and what an optimizer remembers of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.program import Outcome
from gradchain._core.reduce import Totals
from gradchain._core.totals import Asked
from gradchain._engine.kernel import Kernel, Known, Status, inputs_of, seated, status_of
from gradchain._engine.packs import Packs
from gradchain._engine.report import Bucket, CompileReport, bucket_of
from gradchain._engine.work import Work, commit

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
    def of(works: Sequence[Work], calls: Sequence[object]) -> Plan | None:
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
