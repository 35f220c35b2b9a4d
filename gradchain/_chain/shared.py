"""Numbers that all parameters of a chain share, such as Prodigy's `d`: where they are kept and how they change.

An optimizer keeps them in every parameter group as 0-d tensors, so they are saved, sharded and shown like a learning
rate, and the step never waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from gradchain._chain.bindings import missing
from gradchain._chain.context import Recorded
from gradchain._chain.elements import Composed
from gradchain._chain.mixins import SharedNumbers
from gradchain._chain.stage import Stage
from gradchain._core.fields import Interval, Spec, check_number, differ, stamp
from gradchain._core.fields import as_number as plain
from gradchain._core.shard import Shard
from gradchain._core.totals import Accumulator, gather, reduce_accumulators
from gradchain.errors import ChainError, OptionError
from gradchain.ops import widest


def initial(chain: Composed, group: Mapping[str, Any], device: torch.device) -> dict[str, torch.Tensor]:
    """The shared numbers before the first step, by key."""
    values: dict[str, torch.Tensor] = {}
    for address, stage in chain.addressed:
        names = dict(chain.bindings.shared_of(address))
        if names and isinstance(stage, SharedNumbers):
            bound = stage.bind({b.field: b.pick(group) for b in chain.bindings.of_stage(address)})
            values |= {names[name]: as_number(value, device) for name, value in bound.init_shared().items()}
    return values


def device_of(params: Iterable[torch.Tensor]) -> torch.device:
    """Where shared numbers live: with the first parameter."""
    return next((param.device for param in params), torch.device("cpu"))


def as_number(value: Any, device: torch.device, what: str = "a shared number") -> torch.Tensor:
    """A 0-d tensor in double precision, or single on devices that have no double."""
    number = torch.as_tensor(value, dtype=widest(device), device=device)
    if number.ndim != 0:
        raise ChainError(f"{what} is a tensor of shape {tuple(number.shape)}; make it one number.")
    return number


def keys(chain: Composed) -> set[str]:
    """The names of the shared numbers in `param_groups`."""
    return {key for _, _, key in chain.bindings.shared}


def attach_shared(chain: Composed, group: dict[str, Any], first: Mapping[str, Any]) -> None:
    """Give a new group the shared numbers: those of the first group if there is one."""
    if chain.bindings.shared:
        device = device_of(group["params"])
        for key, value in initial(chain, group, device).items():
            group[key] = as_number(first.get(key, group.get(key, value)), device, key)


def stamps(chain: Composed, groups: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Any]:
    """Stamps by which `check` recognises shared numbers that other code wrote."""
    shared = chain.bindings.shared
    return {(n, key): stamp(group[key]) for n, group in enumerate(groups) for _, _, key in shared} if shared else {}


def check(chain: Composed, number: int, group: dict[str, Any], known: dict[tuple[int, str], Any]) -> None:
    """Raise `OptionError` for an invalid shared number, and make a 0-d tensor of what other code wrote."""
    for address, name, key in chain.bindings.shared:
        if key not in group:
            raise OptionError(f"group {number}: {missing(key, f'the shared number {address}.{name} is')}")
        now = stamp(group[key])
        if (number, key) in known and not differ(known[number, key], now):
            continue
        if isinstance(group[key], torch.Tensor) and group[key].is_meta and device_of(group["params"]).type == "meta":
            continue  # a rehearsal without numbers
        stage = dict(chain.addressed)[address]
        value = checked(stage, name, group[key], f"group {number}: {key}")
        if not isinstance(group[key], torch.Tensor) or value is not group[key]:
            group[key] = as_number(value, device_of(group["params"]))
        known[number, key] = stamp(group[key])


def check_given(chain: Composed, group: Mapping[str, Any], where: str) -> None:
    """`check` the shared numbers in a new group."""
    stages = dict(chain.addressed)
    for address, name, key in chain.bindings.shared:
        if key in group:
            checked(stages[address], name, group[key], f"{where}{key}")


def checked(stage: Stage, name: str, value: Any, where: str) -> Any:
    """A shared number, checked against the range that its stage declares; a 0-d tensor is returned as it is."""
    ranges = stage.shared_ranges if isinstance(stage, SharedNumbers) else {}
    check_number(where, value, Spec(dynamic=True, interval=ranges.get(name, Interval())))
    return plain(value)


def changes(
    chain: Composed,
    group: Mapping[str, Any],
    recorded: Sequence[Recorded],
    shards: Sequence[Shard] | None = None,
    process_group: Any = None,
) -> dict[str, torch.Tensor]:
    """The shared numbers after a step, by key: contributions summed over shards in one collective, or a process group."""
    changed: dict[str, torch.Tensor] = {}
    contributed = _contributed(recorded, shards, process_group)
    for address, stage in chain.addressed:
        names = dict(chain.bindings.shared_of(address))
        if not isinstance(stage, SharedNumbers) or type(stage).share is SharedNumbers.share:
            continue
        if totals := contributed.get(address):
            fields = {b.field: b.pick(group) for b in chain.bindings.of_stage(address)}
            fields |= {name: group[key] for name, key in names.items()}
            shared = stage.bind(stage.resolve(fields, group)).share(totals)
            if unknown := shared.keys() - names.keys():
                raise ChainError(
                    f"{address}.share returned {', '.join(sorted(unknown))}, which its init_shared does not make (it makes: "
                    f"{', '.join(names)}).",
                    stage=address,
                )
            changed |= {names[name]: as_number(x, x.device, f"{address}.{name}") for name, x in shared.items()}
    return changed


def _contributed(
    recorded: Sequence[Recorded], shards: Sequence[Shard] | None, process_group: Any
) -> dict[str, dict[str, torch.Tensor]]:
    """The sums of what each stage contributed."""
    accumulator = Accumulator("sum")
    for number, record in enumerate(recorded):
        partials = {name: value for (name, reduce), value in record.items() if reduce == "total"}
        accumulator.add(partials, shards[number].group if shards is not None and partials else None)
    reduce_accumulators([accumulator])
    totals = accumulator.merge()
    if process_group is not None:
        accumulator = Accumulator("sum")
        for theirs in gather(totals, process_group):
            accumulator.add(theirs)
        totals = accumulator.merge()
    result: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in totals.items():
        address, _, name = key.rpartition(".")
        result.setdefault(address, {})[name] = value
    return result


def update(
    chain: Composed,
    groups: Sequence[dict[str, Any]],
    recorded: Sequence[Recorded],
    shards: Sequence[Shard] | None = None,
    process_group: Any = None,
    in_place: bool = False,
    keep: torch.Tensor | None = None,
) -> None:
    """Write the shared numbers into all groups; `in_place` for CUDA graphs. Where `keep`, 0-d bool, is false, they stay."""
    if chain.bindings.shared and groups:
        changed = changes(chain, groups[0], recorded, shards, process_group)
        for group in groups:
            for key, value in changed.items():
                if keep is not None:
                    value = torch.where(keep.to(value.device), value, group[key].to(value.device))
                if in_place:
                    group[key].copy_(value)
                else:
                    group[key] = as_number(value, group[key].device)
