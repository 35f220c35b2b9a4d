"""Moving in mid-run from another optimizer, and out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from gradchain._chain.chain import Chain
from gradchain._chain.program import Program
from gradchain._core.shard import is_distributed
from gradchain._dist.initial import expected
from gradchain._optim.conversions import Place
from gradchain._optim.foreign import SOURCES
from gradchain._optim.guests import OFF, WRITTEN_BY_TORCH
from gradchain._optim.optimizer import Optimizer
from gradchain._optim.routing import Routing, Settings, labels_of, parameter_names
from gradchain._optim.saved import described, read, shown_few
from gradchain._optim.sources import Source
from gradchain.errors import OptionError, StateError, kind_of, shown

Group = Mapping[str, Any]

NOTHING = "Nothing was loaded."


@dataclass(frozen=True)
class ImportReport:
    """What `import_state` took over."""

    source: str
    """The optimizer that the state was recognised as."""
    parameters: int
    """How many have state; the others start afresh."""
    slots: Mapping[str, str]
    """What its slots are called there and here."""
    hyperparameters: tuple[str, ...]
    """What was taken over from its groups."""
    left: tuple[str, ...]
    """What was not, because it changes no step here."""

    def __str__(self) -> str:
        lines = [f"from {self.source}: the state of {self.parameters} parameters"]
        lines += [f"{theirs} -> {ours}" for theirs, ours in self.slots.items()]
        lines += [f"hyperparameters: {', '.join(self.hyperparameters) or 'none'}"]
        return "\n".join(lines + ([f"left: {', '.join(self.left)}"] if self.left else []))


@dataclass(frozen=True)
class Member:
    """A parameter of our optimizer, and the stages that it goes through."""

    label: str
    param: torch.Tensor
    program: Program

    def address(self, kind: str) -> str | None:
        """Where the stage is that is registered under this name.

        Raises: StateError: there are several.
        """
        found = addresses(self.program.stages, kind)
        if len(found) > 1:
            raise StateError(
                f"{self.label}: this chain has {len(found)} stages {kind} ({', '.join(found)}), and whose state is whose "
                f"cannot be told. {NOTHING}"
            )
        return found[0] if found else None


def addresses(stages: Sequence[tuple[str, Any]], kind: str) -> list[str]:
    return [address for address, stage in stages if type(stage).__name__ == kind]


def members(routing: Routing, number: int, group: Group) -> Iterator[Member]:
    """The parameters of one of our groups."""
    rows = zip(labels_of(group, number), parameter_names(group), group["params"], Settings.each(group))
    for label, name, param, settings in rows:
        yield Member(label, param, routing.variant(settings.disable).route(name, param, settings.role))


def import_state(optimizer: Optimizer, source: torch.optim.Optimizer | Mapping[str, Any]) -> ImportReport:
    """Go on from the state of another optimizer: its slots, counts and hyperparameters become those of this one.

    Args:
        optimizer: a gradchain optimizer over the same parameters in the same groups, whose chain keeps the same slots.
        source: a running optimizer, or its state dict. It is recognised by its keys.

    Hyperparameters of the source that this chain has are taken over; what is on there and missing here is an error, and
    so is a slot that one of the two lacks. Stages that keep no state may be added or exchanged. The source is only read.

    Returns: a report, to be printed.

    Raises:
        OptionError: a setting of the source that this chain cannot follow.
        StateError: a source that is not recognised, or whose state this chain cannot hold.

    On an error nothing has changed.

    >>> theirs = torch.optim.AdamW(model.parameters(), lr=3e-4)
    >>> loss.backward()
    >>> theirs.step()
    >>> optimizer = gradchain.optimizer("adamw", model.parameters())
    >>> print(gradchain.import_state(optimizer, theirs))
    from torch.optim.AdamW: the state of 4 parameters
    exp_avg -> first_moment.exp_avg
    exp_avg_sq -> second_moment.exp_avg_sq
    hyperparameters: lr, betas, eps, weight_decay, maximize
    left: capturable, differentiable, foreach, fused
    """
    if not isinstance(optimizer, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"import_state(optimizer, source): optimizer is {kind_of(optimizer)}; pass gradchain's first, then the source."
        )
    content = _content(source)
    plain = {"state": {}, "param_groups": content["param_groups"]}
    groups = read(plain, optimizer.param_groups).groups  # in the order of our parameters
    entry = _recognised(content["state"], groups, source)
    routing, move = Routing(optimizer.chain), _Import(entry)
    with torch.no_grad():
        saved = [
            move.group(number, theirs, ours, routing, content["state"])
            for number, (theirs, ours) in enumerate(zip(groups, optimizer.param_groups))
        ]
    optimizer.load_state_dict({"state": move.states, "param_groups": saved, "with_state": [*move.states]})
    return ImportReport(
        entry.name, len(move.states), dict(move.slots), tuple(move.taken), tuple(sorted(move.left - set(move.taken)))
    )


def _content(source: object) -> dict[str, Any]:
    """The state dict of a source, with the states of its parameters flat."""
    content = source.state_dict() if isinstance(source, torch.optim.Optimizer) else source
    if not isinstance(content, Mapping) or not {"state", "param_groups"} <= cast("Any", content).keys():
        raise StateError(f"the source is an optimizer or its state dict, not {shown(source)}. {NOTHING}")
    if "chain" in content:
        raise StateError(f"the source is a gradchain optimizer: pass its state dict to load_state_dict. {NOTHING}")
    states: Any = content["state"]
    if not isinstance(states, Mapping) or not all(isinstance(s, Mapping) for s in cast("Any", states).values()):
        raise StateError(f"the 'state' of the source is {shown(states)}, and not a dict of dicts. {NOTHING}")
    flat = {index: _flat(state) for index, state in cast("Mapping[Any, Mapping[Any, Any]]", states).items()}
    return {"state": flat, "param_groups": cast("Any", content)["param_groups"]}


def _flat(state: Mapping[Any, Any]) -> dict[str, Any]:
    """A state without what is `None`; heavyball keeps a state for each view of a parameter, of which there is one."""
    if [*state] == [0] and isinstance(state[0], Mapping):
        state = cast("Mapping[Any, Any]", state[0])
    return {str(key): value for key, value in state.items() if value is not None}


def _recognised(states: Mapping[Any, Group], groups: Sequence[Group], source: object) -> Source:
    """The entry that fits a source."""
    found = {key for state in states.values() for key in state}
    names = names_of(type(source)) if isinstance(source, torch.optim.Optimizer) else None
    for entry in SOURCES:
        called = [name for name in entry.classes if names is None or short(name) in names]
        if names is None and entry.running:
            continue
        if called and found <= entry.state and all(_fits(entry, group) for group in groups):
            return replace(entry, name=called[0])
    keys = sorted({key for group in groups for key in group} - {"params"})
    raise StateError(
        f"the source is not recognised: its states have {shown_few(sorted(found))}, and its groups {', '.join(keys)}. Known "
        f"are {', '.join(dict.fromkeys(name for entry in SOURCES for name in entry.classes))}. A running "
        f"optimizer tells more than its state dict; another one has to be turned into a state dict of this chain. {NOTHING}"
    )


def _fits(entry: Source, group: Group) -> bool:
    keys = group.keys()
    alike = all(group[key] == value for key, value in entry.where.items() if key in keys)
    if entry.closed and not keys <= {*entry.known, *WRITTEN_BY_TORCH}:
        return False
    return entry.group <= keys and entry.where.keys() <= keys and entry.absent.isdisjoint(keys) and alike


def short(name: str) -> tuple[str, str]:
    """A class by its package and name: where in the package it stands changes."""
    return name.partition(".")[0], name.rpartition(".")[2]


def names_of(kind: type) -> set[tuple[str, str]]:
    """A class and its bases, in this form."""
    return {(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__}


def is_on(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    return not any(value is off or value == off for off in (*OFF, "disabled"))


def as_flag(value: object, own: object) -> object:
    """A setting of theirs, to be compared with ours: what is off may be written in several ways."""
    return is_on(value) if isinstance(own, bool) else value


def kinds(chain: Chain) -> dict[str, Any]:
    """The stages of a chain by the names under which they are registered."""
    return {type(stage).__name__: stage for _, stage in chain.addressed}


class _Import:
    """What is collected on the way in."""

    def __init__(self, entry: Source) -> None:
        self.entry = entry
        self.states: dict[Any, dict[str, Any]] = {}
        self.slots: dict[str, str] = {}
        self.taken: dict[str, None] = {}
        self.left: set[str] = set()

    def group(self, number: int, theirs: Group, ours: Group, routing: Routing, states: Mapping[Any, Group]) -> Group:
        """Their group in our form; the states of its parameters are put down."""
        where = f"group {number} of the source"
        numbers = self._numbers(theirs, ours, where)
        _check_flags(self.entry, theirs, kinds(routing.variant(Settings.each(ours)[0].disable)), where)
        for index, member in zip(theirs["params"], members(routing, number, ours)):
            if held := states.get(index):
                self.states[index] = self._state(member, held, theirs, where)
        return {**self._hosts(theirs), **ours, **numbers, **self._named(theirs)}

    def _named(self, theirs: Group) -> Group:
        return {key: theirs[key] for key in ("params", "param_names") if key in theirs}

    def _hosts(self, theirs: Group) -> Group:
        """Entries of schedulers and training loops, which stay with the group."""
        known = self.entry.known
        self.left |= (
            known & theirs.keys() - self.entry.numbers.keys() - self.entry.flags.keys() - self.entry.where.keys()
        )
        return {key: value for key, value in theirs.items() if key not in known}

    def _numbers(self, theirs: Group, ours: Group, where: str) -> Group:
        taken: dict[str, Any] = {}
        for key, name in self.entry.numbers.items():
            if key not in theirs:
                continue
            value = theirs[key]
            if name in ours:
                taken[name] = _number(value, self.entry.first if key == self.entry.count else 0)
                self.taken[name] = None
            elif key in self.entry.lenient or not is_on(value):
                self.left.add(key)
            else:
                raise OptionError(
                    f"{where}: {key} = {shown(value)} in {self.entry.name}, and this chain has no {name}. Use a chain with "
                    f"a stage for it, or set it to 0 in the source. {NOTHING}"
                )
        return taken

    def _state(self, member: Member, held: Group, theirs: Group, where: str) -> dict[str, Any]:
        """Their state of a parameter in our form."""
        entry, wanted = self.entry, expected(member.program, member.param)
        step = _count(entry, held, theirs, f"{member.label}, {where}")
        result: dict[str, Any] = {}
        for key, value in held.items():
            if key in entry.unmapped:
                raise StateError(f"{member.label}: {key} of {entry.name}: {entry.unmapped[key]}. {NOTHING}")
            if key not in entry.slots:
                self.left |= {key} - {"step"}
                continue
            kind, _, slot = entry.slots[key].partition(".")
            address = member.address(kind)
            name = f"{address}.{slot}"
            if name not in wanted and key in entry.optional:
                self.left.add(key)
                continue
            if address is None or name not in wanted:
                raise StateError(_homeless(entry, member, key, f"{address or kind}.{slot}", wanted))
            converted = _converted(entry, key, value, member, Place(
                dict(member.program.stages)[address], slot, member.param, theirs, step
            ))  # fmt: skip
            result[name] = _as_kept(converted, wanted[name], f"{member.label}: {key} of {entry.name}", name)
            self.slots[key] = name
        if lacking := [name for name in wanted if name not in result]:
            raise StateError(
                f"{member.label}: this chain wants {', '.join(lacking)}, and the state of {entry.name} has only "
                f"{', '.join(held)}. Use a chain that keeps the same. {NOTHING}"
            )
        _check_order(entry, member, held)
        return {**result, "step": torch.tensor(step)}


def _number(value: Any, first: int) -> Any:
    """A hyperparameter or shared number as it is kept here; a count starts at 0."""
    if isinstance(value, torch.Tensor) and value.ndim and value.numel() == 1:
        value = value.reshape(())
    return value - first if first else value


def _converted(entry: Source, key: str, value: Any, member: Member, place: Place) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise StateError(f"{member.label}: {key} of {entry.name} is {shown(value)}, and not a tensor. {NOTHING}")
    if key not in entry.convert:
        return value
    if is_distributed(value) or is_distributed(member.param):
        raise StateError(
            f"{member.label}: {key} of {entry.name} has another form here, and cannot be turned into it in pieces. Import "
            f"a state dict of whole tensors before the model is sharded. {NOTHING}"
        )
    return entry.convert[key].load(value, place)


def _as_kept(value: torch.Tensor, fresh: torch.Tensor, what: str, name: str) -> torch.Tensor:
    """A tensor in the dtype that the slot has here, if that can hold it."""
    fits = value.shape == fresh.shape and torch.promote_types(value.dtype, fresh.dtype) == fresh.dtype
    if not fits or value.is_floating_point() != fresh.is_floating_point():
        raise StateError(
            f"{what} is {described(value)}, and {name} is {described(fresh)} here, which cannot hold it. Use a chain that "
            f"keeps it so, as with storage='fp32', or the same parameters. {NOTHING}"
        )
    return value.to(fresh.dtype)


def _homeless(entry: Source, member: Member, key: str, name: str, wanted: Group) -> str:
    parts = [slot for slot in wanted if slot.startswith(f"{name}.")]
    if parts:
        why = f"is kept as {', '.join(parts)} here. Build the chain with storage='param'"
    else:
        why = f"has no place here: it would be {name}, and this chain keeps {', '.join(wanted) or 'nothing'}"
        why += ". Use a chain with that stage"
    return f"{member.label}: {key} of {entry.name} {why}. {NOTHING}"


def _check_order(entry: Source, member: Member, held: Group) -> None:
    """Raise if our stages keep slots of these names, and not of this meaning."""
    order = dict.fromkeys(entry.slots[key].partition(".")[0] for key in entry.slots if key in held)
    places = [address for address, _ in member.program.stages]
    found = [(places.index(at), at) for at in map(member.address, order) if at is not None]
    if found != sorted(found):
        raise StateError(
            f"{member.label}: {entry.name} has {', '.join(order)} in this order, and this chain does not, so that its "
            f"slots mean something else. Use a chain in that order. {NOTHING}"
        )


def _check_flags(entry: Source, theirs: Group, stages: Mapping[str, Any], where: str) -> None:
    """Raise `OptionError` for a setting that this chain does not have."""
    for key, flag in entry.flags.items():
        if key not in theirs or (flag.when and not is_on(theirs.get(flag.when))):
            continue
        own = flag.of(stages)
        value = as_flag(theirs[key], own)
        if value != own and (flag.exact or is_on(value)):
            raise OptionError(
                f"{where}: {key} = {shown(theirs[key])} in {entry.name}, and this chain is one with {key} = "
                f"{shown(own)}. Use a chain that does the same, or switch it off in the source. {NOTHING}"
            )


def _count(entry: Source, held: Group, theirs: Group, where: str) -> int:
    """The steps of a parameter. Where nobody counts, one has been made, since there is state."""
    if not entry.count:
        return 1
    within = held if entry.count in ("tensor", "int") else theirs
    key = "step" if within is held else entry.count
    if key not in within:
        raise StateError(f"{where}: there is no {key!r}, the count of steps. {NOTHING}")
    value = within[key]
    try:
        return int(value) - entry.first
    except (TypeError, ValueError, RuntimeError):
        raise StateError(f"{where}: {key} = {shown(value)} is no count of steps. {NOTHING}") from None
