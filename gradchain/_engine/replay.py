"""Replay the last step without per-parameter checks.

Most steps differ from the one before in the gradients' values and the step count alone. For a thousand small tensors,
finding that out one by one takes longer than the arithmetic. So what the last step used is kept in rows and compared row
by row; if nothing has changed, the same kernels or batches run with the new gradients and numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_, methodcaller
from typing import Any, Protocol

import torch

from gradchain._chain.bindings import Bindings
from gradchain._chain.context import Recorded
from gradchain._chain.numbers import Numbers
from gradchain._core.counters import COUNTER, Counters
from gradchain._core.noise import parameter_key_tensor, parameter_salt
from gradchain._core.shard import is_distributed, local_of
from gradchain._engine.call import Plan
from gradchain._engine.inductor import Seen
from gradchain._engine.layouts import layout_check, pack, pattern_of
from gradchain._engine.param_step import ParamStep, tells

Group = Mapping[str, Any]
PLACES = 1 << 16
"""How many places of gradients are remembered; allocators come back to the same ones."""

_GRAD, _DATA_PTR, _VALUES = attrgetter("grad"), torch.Tensor.data_ptr, methodcaller("values")


class Replayable(Protocol):
    """What a step ran, to be run again."""

    order: list[int]
    """The places of the parameters, in the order in which it takes gradients and numbers."""

    def slots(self, item: ParamStep) -> Sequence[str]:
        """The entries of a parameter's state that it reads or writes."""
        ...

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Whether it can be run over these gradients, which lie in memory as the last ones did."""
        ...

    def run(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> list[Recorded]:
        """Write parameters and state. Returns what each recorded, in their order."""
        ...


class ReplayPlan:
    """What the last step went by: parameters, state, layouts of gradients, settings, and what it ran.

    It holds no gradients: they would outlive their step.
    """

    def __init__(
        self,
        due: Sequence[ParamStep],
        replayed: Replayable,
        bindings: Bindings,
        state: Mapping[Any, Any],
        groups: Sequence[Group],
    ) -> None:
        self.replayed = replayed
        order = [due[place] for place in replayed.order]
        self.params = [item.record.param for item in order]
        self.owners = [item.owner for item in order]
        self.whole = all(map(is_, self.params, self.owners))
        self.states = [list(state), list(state.values())]
        stepped = {id(param) for param in self.params}
        self.idle = [param for group in groups for param in group["params"] if id(param) not in stepped]
        slots = [(item, key) for item in order for key in replayed.slots(item)]
        self.held = [item.record.state for item in order]
        self.keys, self.values = _entries(self.held)
        self.slots = [item.state[key] for item, key in slots]
        self.laid_alike = layout_check([*(item.grad for item in order), *self.owners, *self.slots])
        self.places, self.inference = list(map(_DATA_PTR, self.owners)), torch.is_inference_mode_enabled()
        self.counters = Counters([item.state["step"] for item in order])
        self.versions = self.counters.versions()
        self.head_of = [id(item.numbers) for item in order]
        self.heads = {key: SharedNumbersOf(item, bindings) for key, item in zip(self.head_of, order)}
        self.telling = [item.telemetry for item in due]
        self.tells = any(self.telling)
        self.shards = [item.record.shard for item in due]
        self.last = due[-1].step or 0

    # Whether the next step is like the last.

    def gradients(self, state: Mapping[Any, Any]) -> list[torch.Tensor] | None:
        """The gradients of a step that is like the last one, or `None` if it is not. The groups are known to be the same."""
        grads: list[Any] = list(map(_GRAD, self.params))
        if not self.whole:
            if any(map(_laid_otherwise, grads, self.params)):
                return None
            grads = list(map(local_of, grads))
        if self.idle and any(param.grad is not None for param in self.idle):
            return None
        return grads if self._as_before(state, grads) and self.replayed.fits(grads) else None

    def _as_before(self, state: Mapping[Any, Any], grads: Sequence[Any]) -> bool:
        known, values = self.states
        keys, entries = _entries(self.held)
        owners = self.owners if self.whole else list(map(local_of, self.params))
        return (
            self.laid_alike(
                *grads, *owners, *self.slots
            )  # a gradient may be missing or sparse; someone may set `.data`
            and len(state) == len(known)
            and all(map(is_, state, known))
            and all(map(is_, state.values(), values))
            and keys == self.keys
            and len(entries) == len(self.values)
            and all(map(is_, entries, self.values))
            and list(map(_DATA_PTR, owners)) == self.places
            and self.counters.versions() == self.versions
            and torch.is_inference_mode_enabled() == self.inference
        )

    def numbers(self) -> list[Numbers] | None:
        """The numbers of the next step, for each parameter; `None` if what was run is for others."""
        found: dict[int, Numbers] = {}
        for key, head in self.heads.items():
            numbers = head.read(head.group, head.step + 1, head.ages, head.turn)
            if not head.like(numbers):
                return None
            found[key] = numbers
        return list(map(found.__getitem__, self.head_of))

    # The step.

    def run(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> list[Recorded]:
        """Step all parameters and raise their counters. Returns what each recorded."""
        recorded = self.replayed.run(grads, numbers)
        self.versions = self.counters.raise_all()
        self.last += 1
        for head in self.heads.values():
            head.step += 1
        return recorded


class SharedNumbersOf:
    """What parameters that share their numbers have in common."""

    def __init__(self, item: ParamStep, bindings: Bindings) -> None:
        self.group, self.step, self.read = item.group, item.step or 0, item.program.reader(bindings).read
        self.flags = (item.maximize, item.telemetry)
        self.ages, self.turn = item.record.ages, item.record.turn
        self.pattern = pattern_of(item.numbers)

    def like(self, numbers: Numbers) -> bool:
        """Whether there are the same numbers, and what was `None` still is."""
        flags = self.group["maximize"], tells(self.group["telemetry"], self.step + 1)
        return pattern_of(numbers) == self.pattern and flags == self.flags


class KernelReplay:
    """A compiled step: kernels over parameters, slots, gradients, packed numbers and noise keys."""

    def __init__(self, due: Sequence[ParamStep], plan: Plan) -> None:
        self.plan = plan
        self.order = [place for call in plan.calls for place in call.places]
        order = [due[place] for place in self.order]
        self.owners = [item.owner for item in order]
        self.kept: list[Sequence[torch.Tensor]] = []
        for call in plan.calls:
            kept = [x for place in call.places for x in due[place].kept]
            self.kept.append(kept if call.meter else call.kernel.seen_once(kept))  # plain Python may measure it
        self.spans = sorted({span for item in order for span in item.record.layout.spans})
        self.free: set[int] = set()  # where gradients have been that were apart from all this
        firsts: dict[tuple[int, torch.device], int] = {}
        self.pack_of = [firsts.setdefault((id(item.numbers), item.owner.device), at) for at, item in enumerate(order)]
        self.packing = list(dict.fromkeys(self.pack_of))
        """The places of those whose numbers are packed; others have the same."""
        self.noise = Noise(order) if any(item.index is not None for item in order) else None

    def slots(self, item: ParamStep) -> Sequence[str]:
        return item.record.layout.layout.slots

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Whether no gradient lives in the memory of a parameter or of its state."""
        places = set(map(_DATA_PTR, grads))
        if places <= self.free:
            return True
        for place in places - self.free:
            at = bisect_right(self.spans, (place, 1 << 63)) - 1
            if at >= 0 and place < self.spans[at][1]:
                return False
        self.free = self.free | places if len(self.free) < PLACES else places
        return True

    def run(self, grads: Sequence[torch.Tensor], numbers: Sequence[Numbers]) -> list[Recorded]:
        packed = {place: pack(numbers[place], self.owners[place].device) for place in self.packing}
        packs = list(map(packed.__getitem__, self.pack_of))
        keys = self.noise.keys() if self.noise else None
        inputs: list[list[torch.Tensor]] = []
        start = 0
        for call, kept in zip(self.plan.calls, self.kept):
            stop = start + len(call.places)
            others = [*grads[start:stop], *packs[start:stop]]
            if keys is not None and call.kernel.noisy:
                others.append(keys[start:stop].to(kept[0].device, non_blocking=True))
            inputs.append(call.kernel.seen_with(kept, others) if isinstance(kept, Seen) else [*kept, *others])
            start = stop
        return self.plan.write(inputs)


class Noise:
    """The noise keys of all parameters, found at once."""

    def __init__(self, due: Sequence[ParamStep]) -> None:
        self.steps = torch.tensor([item.step or 0 for item in due], dtype=COUNTER)
        self.salts = torch.tensor([parameter_salt(item.index or 0) for item in due], dtype=torch.int32)

    def keys(self) -> torch.Tensor:
        """Those of the next step."""
        self.steps = self.steps + 1
        return parameter_key_tensor(self.steps, self.salts)


def _laid_otherwise(grad: Any, param: Any) -> bool:
    """Whether a gradient is not spread over the processes as its parameter is."""
    if is_distributed(param) != is_distributed(grad):
        return True
    return is_distributed(param) and (grad.placements != param.placements or grad.device_mesh != param.device_mesh)


def _entries(states: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Any]]:
    """What some states hold: all keys in a row, and all values."""
    return list(chain.from_iterable(states)), list(chain.from_iterable(map(_VALUES, states)))
