"""A compiled step that is like the last one, without a look at each parameter in turn.

Most steps differ from the one before in nothing but the gradients' values and the step count. For a thousand small
tensors, finding that out one by one takes longer than the arithmetic. So what a step went by is kept in rows, compared
row by row, and if all is as it was, the same kernels are called with the new gradients and numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.program import Numbers, Program
from gradchain._core.ages import Ages
from gradchain._core.counters import COUNTER, Counters
from gradchain._core.noise import parameter_key_tensor, parameter_salt
from gradchain._engine.call import Plan
from gradchain._engine.layouts import pack, pattern_of
from gradchain._engine.work import Work

Group = Mapping[str, Any]
Compute = Callable[[Program, Group, int, Ages], Numbers]


PLACES = 1 << 16
"""How many places of gradients are remembered; allocators come back to the same ones."""


class Standing:
    """What the last step went by: parameters, state, layouts of gradients, settings, and the calls that it made.

    It holds no gradients: they would outlive their step.
    """

    def __init__(
        self, works: Sequence[Work], plan: Plan, state: Mapping[Any, Any], groups: Sequence[Group], settings: Any
    ) -> None:
        self.plan = plan
        order = [works[place] for places, _ in plan.calls for place in places]
        self.params = [work.owner for work in order]
        self.kept = [[x for place in places for x in works[place].kept] for places, _ in plan.calls]
        self.grad_layouts = _strides([work.grad for work in order])
        self.spans = sorted({span for work in order for span in work.seat.layout.spans})
        self.free: set[int] = set()  # where gradients have been that were apart from all this
        self.rows = _rows(state, groups, settings)
        stepped = {id(param) for param in self.params}
        self.idle = [param for group in groups for param in group["params"] if id(param) not in stepped]
        self.slots = [(w.state, key, w.state[key]) for w in order for key in ("step", *w.seat.layout.layout.slots)]
        self.kept_slots = [tensor for _, key, tensor in self.slots if key != "step"]
        self.slot_layouts = [tensor.stride() for tensor in self.kept_slots]
        self.places, self.flags = _places(self.params), _flags(groups)
        self.counters = Counters([work.state["step"] for work in order])
        self.versions = self.counters.versions()
        self.head_of = [(id(work.numbers), work.owner.device) for work in order]
        self.heads = {key: Head(work) for key, work in zip(self.head_of, order)}
        self.noise = Noise(order) if any(work.index is not None for work in order) else None
        self.telling = [work.telemetry for work in works]
        self.shards = [work.seat.shard for work in works]
        self.last = works[-1].step or 0

    # Whether the next step is like the last.

    def gradients(self, state: Mapping[Any, Any], groups: Sequence[Group], settings: Any) -> list[torch.Tensor] | None:
        """The gradients of a step that is like the last one, or `None` if it is not."""
        grads = [param.grad for param in self.params]
        if any(grad is None or grad.layout is not torch.strided for grad in grads):
            return None
        if any(param.grad is not None for param in self.idle):
            return None
        found: list[torch.Tensor] = grads  # type: ignore[assignment]
        same = self._as_before(state, groups, settings) and _strides(found) == self.grad_layouts
        return found if same and self._apart(found) else None

    def _as_before(self, state: Mapping[Any, Any], groups: Sequence[Group], settings: Any) -> bool:
        return (
            all(_same(row, known) for row, known in zip(_rows(state, groups, settings), self.rows, strict=True))
            and _flags(groups) == self.flags
            and all([state.get(key) is tensor for state, key, tensor in self.slots])  # noqa: C419  # faster
            and [tensor.stride() for tensor in self.kept_slots] == self.slot_layouts  # someone may set `.data`
            and _places(self.params) == self.places
            and self.counters.versions() == self.versions
        )

    def _apart(self, grads: Sequence[torch.Tensor]) -> bool:
        """Whether no gradient lives in the memory of a parameter or of its state."""
        places = {grad.data_ptr() for grad in grads}
        if places <= self.free:
            return True
        for place in places - self.free:
            at = bisect_right(self.spans, (place, 1 << 63)) - 1
            if at >= 0 and place < self.spans[at][1]:
                return False
        self.free = self.free | places if len(self.free) < PLACES else places
        return True

    def packs(self, compute: Compute) -> list[torch.Tensor] | None:
        """The numbers of the next step, for each parameter; `None` if the kernels were made for others."""
        packs: dict[Any, torch.Tensor] = {}
        for key, head in self.heads.items():
            numbers = compute(head.program, head.group, head.step + 1, head.ages)
            if pattern_of(numbers) != head.pattern:
                return None
            packs[key] = pack(numbers, head.device)
        return [packs[key] for key in self.head_of]

    # The step.

    def run(self, grads: Sequence[torch.Tensor], packs: Sequence[torch.Tensor]) -> list[Recorded]:
        """Step all parameters and raise their counters. Returns what each recorded."""
        keys = self.noise.keys() if self.noise else None
        inputs: list[list[torch.Tensor]] = []
        start = 0
        for (places, kernel), kept in zip(self.plan.calls, self.kept):
            stop = start + len(places)
            inputs.append([*kept, *grads[start:stop], *packs[start:stop]])
            if keys is not None and kernel.noisy:
                inputs[-1].append(keys[start:stop].to(kept[0].device, non_blocking=True))
            start = stop
        recorded = self.plan.write(inputs, self.params)
        self._count()
        return recorded

    def _count(self) -> None:
        self.counters.raise_all()
        self.versions = self.counters.versions()
        self.last += 1
        for head in self.heads.values():
            head.step += 1


class Head:
    """What parameters that share their numbers have in common."""

    def __init__(self, work: Work) -> None:
        self.program, self.group, self.step = work.program, work.group, work.step or 0
        self.ages = work.seat.ages
        self.pattern, self.device = pattern_of(work.numbers), work.owner.device


class Noise:
    """The noise keys of all parameters, found at once."""

    def __init__(self, works: Sequence[Work]) -> None:
        self.steps = torch.tensor([work.step or 0 for work in works], dtype=COUNTER)
        self.salts = torch.tensor([parameter_salt(work.index or 0) for work in works], dtype=torch.int32)

    def keys(self) -> torch.Tensor:
        """Those of the next step."""
        self.steps = self.steps + 1
        return parameter_key_tensor(self.steps, self.salts)


def _strides(tensors: Sequence[torch.Tensor]) -> tuple[list[Any], list[Any]]:
    """How gradients lie in memory; torch sees to it that their shapes are those of the parameters."""
    return [x.stride() for x in tensors], [x.dtype for x in tensors]


def _layouts(tensors: Sequence[torch.Tensor]) -> tuple[list[Any], list[Any], list[Any]]:
    return [x.shape for x in tensors], [x.stride() for x in tensors], [x.dtype for x in tensors]


def _places(tensors: Sequence[torch.Tensor]) -> tuple[Any, list[Any]]:
    return _layouts(tensors), [x.data_ptr() for x in tensors]


def _flags(groups: Sequence[Group]) -> list[Any]:
    return [(group["maximize"], group["telemetry"]) for group in groups]


def _rows(state: Mapping[Any, Any], groups: Sequence[Group], settings: Any) -> list[list[Any]]:
    """What must be the same objects as in the last step."""
    return [list(groups), *(list(group["params"]) for group in groups), settings, list(state), list(state.values())]


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(left) == len(right) and all(map(is_, left, right))
