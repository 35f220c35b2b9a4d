"""A bucket of parameters at one step, moving from kernel to kernel; and a whole step as a plan of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.program import Outcome
from gradchain._core.reduce import Totals
from gradchain._core.totals import Asked
from gradchain._engine.inductor import Seen
from gradchain._engine.kernel import Kernel, Known, Status, status_of
from gradchain._engine.layouts import LayoutIds, ScalarArgs, cached_layout, inputs_of
from gradchain._engine.measure import told
from gradchain._engine.param_step import ParamStep, StepInputs, commit
from gradchain._engine.rounds import Waiting, answer

K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V]):
    """At most `limit` entries; the least recently used are evicted."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def use(self, key: K) -> V | None:
        """The value, which is now the last to be evicted; `None` if there is none."""
        value = self.pop(key, None)
        if value is not None:
            self[key] = value
        return value

    def add(self, key: K, value: V) -> V:
        self[key] = value
        while len(self) > self.limit:
            del self[next(iter(self))]
        return value


Key = tuple[LayoutIds, Known, bool]
"""A bucket, the answers that it has, and whether it is measured for telemetry."""

KERNELS = 256
"""The number of kernels that this process keeps, besides those that its optimizers use."""

_kernels: Recent[Key, Kernel] = Recent(KERNELS)
"""The last kernels of this process, by bucket and phase. They are pure code: any optimizer may use them."""


class OwnKernels(Recent[Key, tuple[Kernel, bool]]):
    """The kernels that one optimizer uses, and whether it was the first to."""

    def __init__(self) -> None:
        super().__init__(KERNELS)
        self.background = False
        """Whether new ones are compiled in another process."""
        self.made: list[tuple[object, Kernel]] = []
        """New ones, by bucket: why they could not be compiled is still to be told."""
        self.pending: list[Kernel] = []
        """Those that another process has not compiled yet."""

    def allow(self, due: int) -> None:
        """Keep enough for a step of so many parameters, however many kernels each of them goes through."""
        self.limit = max(self.limit, 8 * due)

    def find(self, key: Key, call: Call) -> Kernel:
        """A kernel: one that is known, or made now."""
        if (own := self.use(key)) is not None:
            return own[0]
        kernel, made = _kernels.use(key), False
        if kernel is None:
            told = any(known.failure for held, known in _kernels.items() if held[0] == key[0])
            layouts, program = [layout.layout for layout in key[0]], call.due[0].program
            kernel = _kernels.add(key, Kernel(layouts, program, key[1], call.flat(), key[2], self.background))
            made = True
            if not told:
                self.made.append((key[0], kernel))
        if kernel.pending:
            self.pending.append(kernel)
            if not self.background:
                self.take_over(wait=True)
        self.add(key, (kernel, made))
        return kernel

    def take_over(self, *, wait: bool) -> None:
        """Take over one kernel that another process has compiled, or `wait` for all.

        One at a time, since each takes a moment. Another optimizer may have done it.
        """
        for kernel in list(self.pending):
            taken = kernel.job
            if taken is not None and not wait and not taken.ended():
                continue
            self.pending.remove(kernel)
            kernel.take_over()
            if taken is not None:
                self.made.append((kernel.layouts, kernel))
                if not wait:
                    break

    def failures(self) -> list[str]:
        """Why kernels that are new could not be compiled, once a bucket; does not wait for those that still may be."""
        made, self.made = self.made, []
        found: dict[object, str] = {}
        for bucket, kernel in made:
            if kernel.failure is not None:
                found.setdefault(bucket, kernel.failure)
        return list(found.values())


class Call:
    """A bucket at one step, moving through its phases. Nothing is written before `finish`."""

    def __init__(
        self, due: list[ParamStep], scalars: ScalarArgs, answers: list[list[Totals]], kernels: OwnKernels
    ) -> None:
        self.due, self.scalars, self.answers, self.kernels = due, scalars, answers, kernels
        self.ids: LayoutIds = tuple(cached_layout(item, scalars).id for item in due)
        self.inputs = inputs_of(due, scalars)
        self.asked: list[Asked] = []
        self.tasks: list[StepInputs] = []
        self.outcomes: list[Outcome] = []
        self.recorded: list[Recorded] = []
        self.measured: list[Recorded] = []

    def flat(self) -> list[torch.Tensor]:
        return _with(self.inputs, self.answers)

    def kernel(self, measures: bool = False) -> Kernel:
        """The kernel of the present phase, or the one that measures it for telemetry."""
        return self.kernels.find((self.ids, self.known, measures), self)

    @property
    def only_writes(self) -> bool:
        """Whether nothing is left to do but to write, with a kernel whose compilers may still be running."""
        kernel = self.kernel()
        return kernel.building and kernel.status == "done"

    @property
    def known(self) -> Known:
        """The names of the totals that it has been told."""
        return tuple(tuple(tuple(vars(total)) for total in totals) for totals in self.answers)

    @property
    def tells(self) -> bool:
        return any(item.telemetry for item in self.due)

    def measure(self) -> None:
        """Measure what is to be stepped, before it is written. Requests that nobody has answered are of what is here."""
        if self.tells:
            while self.advance(measures=True) == "asks":
                self.take([request.local_totals() for _, request in self.asked])
            kernel = self.kernel(measures=True)
            if kernel.pending:
                return
            self.measured = (
                [told(outcome.recorded) for outcome in self.outcomes]
                if kernel.compiled is None
                else kernel.measure(self.flat())
            )

    def advance(self, measures: bool = False) -> Status:
        """Run the present phase up to its requests; one that would write waits for `finish`."""
        kernel = self.kernel(measures)
        if kernel.pending and kernel.status == "done":  # it is not going to be finished
            return "done"
        if kernel.compiled is None:
            self.tasks, results = kernel.compute(self.flat())
            status = status_of(results)
            self.outcomes = [result for result in results if isinstance(result, Outcome)]
            self.asked = [result for result in results if not isinstance(result, Outcome)]
            return status
        assert kernel.status is not None
        if kernel.status == "asks":
            self.asked = kernel.ask(self.flat())
        return kernel.status

    def rows(self, places: Mapping[int, int]) -> list[Waiting]:
        """What its parameters ask for, with the place of each among all."""
        return [(places[id(item)], item.program, asked) for item, asked in zip(self.due, self.asked)]

    def take(self, totals: Sequence[Totals]) -> None:
        for known, total in zip(self.answers, totals):
            known.append(total)

    def split(self) -> list[Call]:
        """A call for each parameter, since they do not keep step with each other."""
        return [Call([item], self.scalars, [answers], self.kernels) for item, answers in zip(self.due, self.answers)]

    def finish(self) -> None:
        """Write the results."""
        kernel = self.kernel()
        if kernel.compiled is None:
            commit(self.tasks, self.outcomes)
            self.recorded = [outcome.recorded for outcome in self.outcomes]
        else:
            self.recorded = kernel.write(self.flat())
        if self.measured:
            self.recorded = [{**own, **seen} for own, seen in zip(self.recorded, self.measured)]


class Planned:
    """A call of a plan: whose it is, and the kernels that it goes through, the last of which writes."""

    def __init__(self, call: Call, places: list[int]) -> None:
        self.places = places
        self.programs = [item.program for item in call.due]
        known = call.known
        phases = range(len(known[0]) + 1)
        keys: list[Key] = [(call.ids, tuple(totals[:phase] for totals in known), False) for phase in phases]
        self.kernels = [call.kernels[key][0] for key in keys if key in call.kernels]
        self.complete = len(self.kernels) == len(keys)
        """Whether it had these kernels to itself from the start: it was not split off another call on the way."""
        self.meter = call.kernel(measures=True) if call.tells else None

    @property
    def kernel(self) -> Kernel:
        """The kernel that writes."""
        return self.kernels[-1]

    def ask(self, flat: Sequence[torch.Tensor], answers: Sequence[Sequence[Totals]]) -> list[Waiting]:
        """What its parameters ask for after some answers."""
        asked = self.kernels[len(answers[0])].ask(_with(flat, answers))
        return list(zip(self.places, self.programs, asked))


def _with(flat: Sequence[torch.Tensor], answers: Sequence[Sequence[Totals]]) -> list[torch.Tensor]:
    """The inputs of a kernel: what there is before any answer, and the answers."""
    known = [x for totals in answers for total in totals for x in vars(total).values()]
    return Seen([*flat, *known]) if isinstance(flat, Seen) else [*flat, *known]


class Plan:
    """The calls of a step: which kernels take which parameters. For all steps of equal layouts."""

    def __init__(self, due: Sequence[ParamStep], calls: Sequence[Call], partition: Any) -> None:
        places = {id(item): place for place, item in enumerate(due)}
        self.due, self.partition = len(due), partition
        self.calls = [Planned(call, [places[id(item)] for item in call.due]) for call in calls]

    @staticmethod
    def of(due: Sequence[ParamStep], calls: Sequence[object], partition: Any = None) -> Plan | None:
        """A plan, if all calls were compiled; and took one phase, where telemetry is told."""
        plain = [call for call in calls if isinstance(call, Call) and not (any(call.answers) and call.tells)]
        if len(plain) < len(calls):
            return None
        plan = Plan(due, plain, partition)
        if not all(call.complete for call in plan.calls):
            return None
        return plan if all(kernel.compiled is not None for call in plan.calls for kernel in call.kernels) else None

    def write(self, inputs: Sequence[list[torch.Tensor]]) -> list[Recorded]:
        """Run the kernels over what each takes. Returns what each parameter recorded."""
        recorded: list[Recorded] = [{}] * self.due
        seen = [None if call.meter is None else call.meter.measure(flat) for call, flat in zip(self.calls, inputs)]
        for call, flat in zip(self.calls, self._answered(inputs)):
            written = call.kernel.write(flat)
            if not call.kernel.silent:
                for place, record in zip(call.places, written):
                    recorded[place] = record
        for call, records in zip(self.calls, seen):
            for place, record in zip(call.places, records or ()):
                recorded[place] = {**recorded[place], **record}
        return recorded

    def _answered(self, inputs: Sequence[list[torch.Tensor]]) -> Sequence[list[torch.Tensor]]:
        """What each call's last kernel takes: its inputs, and the answers to all that it asks for. Nothing is written."""
        asking = {number: call for number, call in enumerate(self.calls) if len(call.kernels) > 1}
        if not asking:
            return inputs
        answers: dict[int, list[list[Totals]]] = {number: [[] for _ in call.places] for number, call in asking.items()}
        ready, waiting = list(asking), dict[int, list[Waiting]]()
        while True:
            for number in ready:
                if len(answers[number][0]) < len(asking[number].kernels) - 1:
                    waiting[number] = asking[number].ask(inputs[number], answers[number])
            if (given := answer(waiting, self.partition)) is None:
                break
            for number, totals in given.items():
                del waiting[number]
                for known, total in zip(answers[number], totals):
                    known.append(total)
            ready = list(given)
        return [_with(flat, answers[number]) if number in asking else flat for number, flat in enumerate(inputs)]
