"""What an optimizer does about gradients that are not finite: let them pass, skip the step, or raise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch

from gradchain._chain.lockstep import run_lockstep
from gradchain._core.totals import Accumulator, reduce_accumulators
from gradchain._core.update import Update
from gradchain._dist.zero import Partitioned
from gradchain._engine.param_step import ParamStep
from gradchain.errors import GradientError, OptionError
from gradchain.ops import widest

Policy = Literal["propagate", "skip", "error"]
Scope = Literal["model", "parameter"]

Names: TypeAlias = "Callable[[], list[str]]"


@dataclass(frozen=True)
class NonfiniteReport:
    """Where gradients were not finite, so far; printed, a few lines.

    Under the policy `"propagate"` nothing is counted.
    """

    policy: Policy
    steps: int
    """In how many steps a gradient was not finite."""
    parameters: dict[str, int]
    """In how many steps the gradient of each parameter was not finite; those with none are left out."""
    first: str | None
    """The first such parameter, in the optimizer's order, of the last such step."""
    origins: dict[str, str] = field(default_factory=dict[str, str])
    """What made the next step of a parameter not finite, if that was asked for: a tensor or a stage."""

    def __str__(self) -> str:
        counted = "not counted under 'propagate'" if self.policy == "propagate" else f"in {self.steps} steps"
        lines = [f"gradients that are not finite: {counted}"]
        if self.first is not None:
            lines.append(f"first in the last of these steps: {self.first}")
        lines += [f"{name}: {count} steps" for name, count in self.parameters.items()]
        lines += [f"{name}: {origin}" for name, origin in self.origins.items()]
        return "\n".join(lines)


class Guard:
    """Decides which parameters are stepped, and counts those that are not.

    The host decides where it can: parameters that are not to be stepped leave the step before it begins. With counters on
    the device it does not know. Then each item gets a flag, `keep`, and what it computes is written where that is true.
    """

    def __init__(self, policy: Policy = "propagate", scope: Scope | None = None) -> None:
        for name, value, allowed in (("nonfinite", policy, Policy), ("nonfinite_scope", scope or "model", Scope)):
            if not isinstance(value, str) or value not in get_args(allowed):
                choices = ", ".join(map(repr, get_args(allowed)))
                raise OptionError(f"{name} = {value!r} is not one of {choices}. Pass one of these.")
        if scope is not None and policy != "skip":
            raise OptionError(
                f"nonfinite_scope = {scope!r} says what is skipped, and with nonfinite={policy!r} nothing is. Pass "
                "nonfinite='skip' as well, or leave nonfinite_scope out."
            )
        self.policy: Policy = policy
        self.scope: Scope | None = scope or "model" if policy == "skip" else None
        self.active = policy != "propagate"
        self.tally = Tally()

    @property
    def model_wide(self) -> bool:
        """Whether one gradient decides about all parameters."""
        return self.policy == "error" or (self.policy == "skip" and self.scope == "model")

    @property
    def joint(self) -> str | None:
        """What needs the gradients of all parameters at one time, if anything does."""
        return f"nonfinite={self.policy!r} (of the whole model)" if self.model_wide else None

    def check_one_by_one(self) -> None:
        """Raise `OptionError` if parameters cannot be stepped one by one."""
        if self.scope == "model":
            raise OptionError(
                "nonfinite='skip' decides about all parameters at one time, and here they are stepped one by one. Pass "
                "nonfinite_scope='parameter' to the optimizer."
            )

    def lets_pass(self, grads: Sequence[torch.Tensor], partition: Partitioned) -> bool:
        """Whether a step with these gradients is like any other, as far as this process can tell alone."""
        alone = not self.model_wide or partition.everybody is None
        return alone and all_finite(grads)

    def admit(self, due: list[ParamStep], names: Names, *, members: Any, on_device: bool) -> list[ParamStep]:
        """Those that are to be stepped. `names` gives those of all parameters.

        `members` is the process group that the parameters are divided over, if they are: one decision is made for all.

        Raises:
            GradientError: the policy is `"error"`, and a gradient is not finite.
        """
        split = any(item.record.shard.group is not None for item in due)
        if not due and members is None:
            return due
        if not (split or on_device or members is not None) and all_finite([item.grad for item in due]):
            return due
        bad = _bad(due, on_device, members)
        if split:
            bad = _over_shards(due, bad)
        total = bad.sum()
        if members is not None:
            _sum_over(members, total)
        if not on_device and float(total) == 0:
            return due
        called = names()
        self.tally.add([item.place for item in due], bad, total, len(called))
        if on_device:
            return self._mark(due, bad, total)
        if self.policy == "error":
            raise GradientError(
                f"the gradient of {self.tally.first(called)} is not finite; nothing was written. Look for the cause (a loss "
                "that overflows, a rate that is too high), or pass nonfinite='skip'."
            )
        return [] if self.model_wide else [item for item, count in zip(due, bad.tolist()) if not count]

    def _mark(self, due: list[ParamStep], bad: torch.Tensor, total: torch.Tensor) -> list[ParamStep]:
        """Give each its flag."""
        flags = ((total == 0).expand_as(bad) if self.model_wide else bad == 0).unbind()
        for item, flag in zip(due, flags):
            item.keep = flag.to(item.owner.device, non_blocking=True)
        return due

    def report(self, names: list[str], origins: dict[str, str]) -> NonfiniteReport:
        """Waits for the device."""
        counts = {names[place]: count for place, count in enumerate(self.tally.counts.tolist()) if count}
        first = self.tally.first(names)
        return NonfiniteReport(self.policy, int(self.tally.steps), counts, first, origins)


class Tally:
    """How often the gradient of each parameter was not finite, and in which of the steps that had such a gradient."""

    def __init__(self) -> None:
        self.counts = self.last = torch.zeros(0, dtype=torch.int64)
        self.steps = torch.zeros((), dtype=torch.int64)

    def add(self, places: list[int], bad: torch.Tensor, total: torch.Tensor, size: int) -> None:
        """Count a step, without waiting for the device."""
        if len(self.counts) < size or self.counts.device != bad.device:
            fresh = torch.zeros(2, size, dtype=torch.int64, device=bad.device)
            fresh[:, : len(self.counts)] = torch.stack([self.counts, self.last]).to(bad.device)
            self.counts, self.last = fresh.unbind()
            self.steps = self.steps.to(bad.device)
        found = bad != 0
        self.steps += total != 0
        at = torch.tensor(places, dtype=torch.int64).to(bad.device, non_blocking=True)
        self.counts.index_add_(0, at, found.to(torch.int64))
        self.last.index_copy_(0, at, torch.where(found, self.steps, self.last[at]))

    def numbers(self) -> dict[str, float]:
        """For telemetry: in how many steps a gradient was not finite, and the place of the first in the last of them."""
        found = (self.last == self.steps).nonzero().flatten().tolist() if int(self.steps) else []
        return {"nonfinite_steps": int(self.steps), "nonfinite_first": found[0] if found else -1}

    def first(self, names: list[str]) -> str | None:
        """The first parameter of the last step that had any. Waits for the device."""
        if int(self.steps) == 0:
            return None
        there = (self.last == self.steps).nonzero().flatten().tolist()
        return names[there[0]] if there else "a parameter that another process steps"


def any_kept(due: Sequence[ParamStep]) -> torch.Tensor | None:
    """Whether any parameter is stepped, where only the device knows."""
    keeps = [item.keep for item in due if item.keep is not None]
    return torch.stack([keep.to(keeps[0].device) for keep in keeps]).any() if keeps else None


def all_finite(grads: Sequence[torch.Tensor]) -> bool:
    """Whether all elements are finite. Waits for the device."""
    alike: dict[Any, list[torch.Tensor]] = {}
    for grad in grads:
        alike.setdefault((grad.dtype, grad.device), []).append(grad)
    return all(map(_all_finite, alike.values()))


def _all_finite(grads: list[torch.Tensor]) -> bool:
    """As `all_finite`, of one dtype and device. A norm of finite numbers may overflow: then all elements are looked at."""
    wide = torch.promote_types(grads[0].dtype, torch.float32)
    norms: list[torch.Tensor] = torch._foreach_norm(grads, dtype=wide)  # pyright: ignore
    return math.isfinite(float(torch.stack(norms).sum())) or all(bool(grad.isfinite().all()) for grad in grads)


def _bad(due: Sequence[ParamStep], on_device: bool, members: Any) -> torch.Tensor:
    """1 for each parameter whose gradient is not finite, as far as it is here, and 0 for each other, as a vector."""
    if not due:
        return torch.zeros(0, dtype=torch.float64, device=_device_of(members))
    device = due[0].owner.device
    if not on_device:
        return torch.tensor([not all_finite([item.grad]) for item in due], dtype=torch.float64).to(device)
    good = [_largest(item.grad).isfinite().to(device, non_blocking=True) for item in due]
    return 1 - torch.stack(good).to(widest(device))


def _largest(grad: torch.Tensor) -> torch.Tensor:
    """The largest magnitude; NaN if there is one."""
    return torch.linalg.vector_norm(grad, torch.inf) if grad.numel() else grad.new_zeros(())


def _over_shards(due: Sequence[ParamStep], bad: torch.Tensor) -> torch.Tensor:
    """The sums over the processes that hold the other rows of each tensor."""
    accumulator = Accumulator("sum")
    for place, (item, own) in enumerate(zip(due, bad.unbind())):
        accumulator.add({str(place): own}, item.record.shard.group)
    reduce_accumulators([accumulator])
    whole = accumulator.merge()
    return torch.stack([whole[str(place)] for place in range(len(due))])


def _sum_over(members: Any, total: torch.Tensor) -> None:
    from torch import distributed as dist

    dist.all_reduce(total, group=members)


def _device_of(members: Any) -> str:
    """The device that a process without parameters sums on."""
    from torch import distributed as dist

    return "cuda" if "nccl" in str(dist.get_backend(members)) else "cpu"


# Where it comes from.


class Witness:
    """Watches the stages of one parameter, and remembers the first that makes something that is not finite."""

    def __init__(self, item: ParamStep) -> None:
        self.origin: str | None = None
        for what, tensor in (("its gradient", item.grad), ("the parameter itself", item.owner), *item.state.items()):
            if isinstance(tensor, torch.Tensor) and not _finite(tensor):
                slot = tensor is not item.grad and tensor is not item.owner
                self.origin = f"first in slot {what}, as the last step left it" if slot else f"first in {what}"
                return

    def see(self, address: str, update: Update, slots: Mapping[str, torch.Tensor]) -> None:
        """Look at what a stage made. A denominator that is infinite gives a step of 0, and is let pass."""
        parts = {"direction": update.value, "decay": update.decay, **{f"slot {name}": x for name, x in slots.items()}}
        for what, tensor in parts.items():
            if self.origin is None and tensor is not None and not _finite(tensor):
                self.origin = f"first in stage {address}, in its {what}"


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def origins(due: Sequence[ParamStep], names: list[str], partition: Any = None) -> dict[str, str]:
    """For each parameter whose next step would not be finite, the first thing that is not. Writes nothing."""
    witnesses = [Witness(item) for item in due]
    runs = [item.task.start(witness.see) for item, witness in zip(due, witnesses)]
    run_lockstep([item.program for item in due], runs, partition)
    return {names[item.place]: seen.origin for item, seen in zip(due, witnesses) if seen.origin is not None}
