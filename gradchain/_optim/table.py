"""What an optimizer knows of its groups and parameters, so that a step like the last one looks again at nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, is_, itemgetter
from typing import Any, cast

import torch

from gradchain._chain import shared
from gradchain._chain.chain import Chain
from gradchain._chain.program import Numbers, Program
from gradchain._chain.tracing import Traits, traits_of
from gradchain._core.counters import counter_of
from gradchain._core.fields import differ, stamp
from gradchain._core.parameters import check_live, check_members
from gradchain._dist.zero import Partitioned
from gradchain._engine import capturable as on_device
from gradchain._engine.param_step import ParamRecord, ParamStep
from gradchain._optim.first_state import Stateful, renew_state
from gradchain._optim.routing import Routing, Settings, parameter_names
from gradchain.errors import GradientError, ParameterError, shown

Group = Mapping[str, Any]
Groups = Sequence[dict[str, Any]]
State = dict[torch.Tensor, dict[str, Any]]

_VERSION = attrgetter("_version")
_PLAIN = (float, int, bool, str, type(None))
_MISSING = object()


class GroupRecord:
    """A parameter group as it was when it was last checked."""

    def __init__(self, group: Group, keys: Sequence[str], settings: list[Settings], stamps: dict[str, object]) -> None:
        self.group, self.settings, self.stamps = group, settings, stamps
        self._entries = itemgetter(*keys, "params")
        self._values = self._entries(group)
        self._names: Any = group.get("param_names")
        self.params: list[torch.Tensor] = list(group["params"])
        held: list[Any] = []
        for value in self._values[:-1]:
            held += value if type(value) is tuple else [value]
        tensors = [x for x in held if isinstance(x, torch.Tensor)]
        self._comparable = all(isinstance(x, torch.Tensor) or type(x) in _PLAIN for x in held)
        """Whether a change shows in the identity of the values or in the version of a tensor."""
        self._written = [x for x in tensors if x.device.type == "cpu" and not x.is_inference()]
        self._versions = list(map(_VERSION, self._written))

    def is_as_in(self, group: Group, members: bool = True) -> bool:
        """Whether nobody has written to the entries of the group, nor to the list of its parameters (`members`)."""
        try:
            values = self._entries(group)
        except KeyError:
            return False
        return (
            group is self.group
            and self._comparable
            and all(map(is_, values, self._values))
            and group.get("param_names") is self._names
            and len(values[-1]) == len(self.params)
            and (not self._names or len(self._names) == len(self.params))
            and (not self._written or list(map(_VERSION, self._written)) == self._versions)
            and (not members or all(map(is_, values[-1], self.params)))
        )


@dataclass
class StepInfo:
    """What the parameters of a step have in common."""

    state: State
    """That of the optimizer."""
    partition: Partitioned
    capturable: bool
    numbers: dict[Any, Numbers] = field(default_factory=dict[Any, Numbers])
    """Those of this step so far."""


class ParamTable:
    """One record for each group and for each parameter. `sync` brings those of the groups up to date, `due` the others.

    Nothing else writes to them but `add`, when a parameter is added, and `invalidate`, after which all is looked up anew.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.routing = Routing(chain)
        self.keys = (*chain.hyperparameters, "disable", "role", "maximize", "telemetry")
        self.invalidate()

    def invalidate(self) -> None:
        """Know nothing: the state and the groups may be others."""
        self.groups: list[GroupRecord] = []
        self.records: dict[torch.Tensor, ParamRecord] = {}
        self.fresh: dict[torch.Tensor, torch.Tensor] = {}
        """The counters of states that nobody has stepped or loaded yet."""
        self.places: dict[torch.Tensor, tuple[int, int, int]] = {}
        """The number of the group of each parameter, its position there, and its place among all."""
        self.membership: object = None
        """Another one when groups, their parameters or the settings of these are others."""
        self._shared: dict[tuple[int, str], Any] = {}
        """What the shared numbers were when they were last checked or written."""

    # Groups.

    def sync(self, groups: Groups) -> None:
        """Bring what is known of the groups up to date, and check what anyone has written to them since the last step.

        Raises:
            ParameterError, OptionError, ChainError: a group holds what it may not.
        """
        known = self.groups
        same = len(known) == len(groups) and all(map(GroupRecord.is_as_in, known, groups))
        if not same:
            for number, group in enumerate(groups):
                check_live(group, f"group {number}: ")
        if self.chain.bindings.shared:
            for number, group in enumerate(groups):
                shared.check(self.chain, number, group, self._shared)
        if not same:
            self._sync_members(groups, [self._checked(number, group) for number, group in enumerate(groups)])

    def sync_one(self, number: int, groups: Groups) -> GroupRecord:
        """As `sync`, where only the values of one group matter."""
        if number >= len(self.groups) or not self.groups[number].is_as_in(groups[number], members=False):
            self.sync(groups)
        return self.groups[number]

    def _checked(self, number: int, group: dict[str, Any]) -> GroupRecord:
        """A record of a group, whose values are checked where they are not those that it had."""
        known = self.groups[number] if number < len(self.groups) else None
        stamps = {key: stamp(group.get(key, _MISSING)) for key in self.keys}
        old = {} if known is None else known.stamps
        changed = {key for key, value in stamps.items() if key not in old or differ(old[key], value)}
        if changed:
            self.routing.check(group, f"group {number}: ", changed)
        settings = Settings.each(group)
        if known is not None and settings == known.settings:
            settings = known.settings
        return GroupRecord(group, self.keys, settings, stamps)

    def _sync_members(self, groups: Groups, records: list[GroupRecord]) -> None:
        places = self.places
        old = [param for record in self.groups for param in record.params]
        new = [param for record in records for param in record.params]
        if len(self.groups) != len(records) or len(old) != len(new) or not all(map(is_, old, new)):
            check_members(groups)
            self._index(groups)
            here = set(new)  # the memory of those that have left is theirs to free
            self.records = {param: record for param, record in self.records.items() if param in here}
        pairs = zip(self.groups, records)
        if self.places is not places or any(a.group is not b.group or a.settings is not b.settings for a, b in pairs):
            self.membership = object()
        self.groups = records

    def stamp_shared(self, groups: Groups) -> None:
        """Note that the shared numbers are as they should be."""
        if self.chain.bindings.shared:
            self._shared = shared.stamps(self.chain, groups)

    def place(self, param: torch.Tensor, groups: Groups) -> tuple[int, int, int]:
        """The group of a parameter, its position there, and its place among all."""
        number, position, _ = self.places.get(param, (0, 0, 0))
        held = groups[number]["params"] if number < len(groups) else []
        if param not in self.places or position >= len(held) or held[position] is not param:
            self._index(groups)
        if param not in self.places:
            raise ParameterError(f"{shown(param)} is not a parameter of this optimizer. Add it with add_param_group.")
        return self.places[param]

    def _index(self, groups: Groups) -> None:
        rows = [(n, at, param) for n, group in enumerate(groups) for at, param in enumerate(group["params"])]
        self.places = {param: (n, at, place) for place, (n, at, param) in enumerate(rows)}

    # Parameters.

    def program(self, param: torch.Tensor, settings: Settings, name: str) -> Program:
        """The stages of a parameter."""
        known = self.records.get(param)
        if known is not None and known.settings == settings:
            return known.program
        return self.routing.variant(settings.disable).route(name, param, settings.role)

    def add(self, param: torch.Tensor, settings: Settings, program: Program, state: dict[str, Any], name: str) -> None:
        """Note a new parameter, and its state if it has one."""
        self.records[param] = ParamRecord(settings, program, state, param, name)
        if state:
            self.fresh[param] = state["step"]

    def record(
        self, param: torch.Tensor, settings: Settings, group: Group, position: int, info: StepInfo
    ) -> ParamRecord:
        """The record of a parameter; made anew where its settings or its state are not those that it knows."""
        known = self.records.get(param)
        if (
            known is not None
            and known.settings is settings
            and not (self.fresh and param in self.fresh)
            and info.state.get(param) is known.state
            and len(known.state) == len(known.entries)
            and all(map(is_, known.state.values(), known.entries))
        ):
            return known
        name = parameter_names(group)[position]
        program = self.program(param, settings, name)
        own = info.state.setdefault(param, {})
        stateful = Stateful(param, name, settings.role, program, self.chain.route(name, param, settings.role))
        counter = self.fresh.get(param)
        renew_state(own, stateful, counter, info.capturable, edited=known is None or known.settings == settings)
        made = self.records[param] = ParamRecord(settings, program, own, param, name)
        return made

    @property
    def traits(self) -> Iterable[Traits]:
        """The traits of each parameter's program."""
        return (traits_of(record.program, param) for param, record in self.records.items())

    # A step.

    def due(self, groups: Groups, info: StepInfo) -> list[ParamStep]:
        """What a step has to do, checked, for all parameters that have a gradient; nothing is written but state that was
        missing or stale. The groups are synchronized."""
        due: list[ParamStep] = []
        place = 0
        for number, (group, known) in enumerate(zip(groups, self.groups)):
            for position, (param, settings) in enumerate(zip(known.params, known.settings)):
                if param.grad is not None:
                    due.append(self._work(param, settings, group, (number, position, place), info))
                place += 1
        if info.capturable:
            on_device.number(due, self.chain.bindings)
        return due

    def due_one(self, param: torch.Tensor, groups: Groups, info: StepInfo) -> ParamStep:
        """As `due`, of one parameter; the groups need not be synchronized."""
        number, position, place = self.place(param, groups)
        if param.grad is None:
            raise GradientError(f"parameter {position} of group {number} has no gradient. Step it after its backward.")
        settings = self.sync_one(number, groups).settings[position]
        item = self._work(param, settings, groups[number], (number, position, place), info)
        if info.capturable:
            on_device.number([item], self.chain.bindings)
        return item

    def count(self, due: Sequence[ParamStep]) -> None:
        """Raise the step counters."""
        counters = [item.state["step"] for item in due]
        keeps = [item.keep.to(x.device, x.dtype) for item, x in zip(due, counters) if item.keep is not None]
        if due:
            torch._foreach_add_(counters, keeps or 1)  # pyright: ignore
        for item in due:
            if item.step is not None:
                item.record.stepped()
        if self.fresh:
            for item in due:
                self.fresh.pop(item.record.param, None)

    def _work(
        self, param: torch.Tensor, settings: Settings, group: Group, at: tuple[int, int, int], info: StepInfo
    ) -> ParamStep:
        """What a step needs of one parameter."""
        number, position, place = at
        grad = cast("torch.Tensor", param.grad)
        if grad.layout != torch.strided or grad.is_complex():
            raise _refused(param, parameter_names(group)[position] or f"{position} of group {number}")
        record = self.record(param, settings, group, position, info)
        if record.program.takes_turns:
            record.takes_turn(info.partition.place(param, place))
        if info.capturable:
            counter_of(record.state, param.device)
            item = ParamStep(*record.local(grad), record, group)
        else:
            step = record.steps + 1
            key = (number, id(record.program), step, record.ages, record.turn)
            if key not in info.numbers:
                info.numbers[key] = record.program.numbers(self.chain.bindings, group, *key[2:])
            item = ParamStep(*record.local(grad), record, group, step, info.numbers[key])
        item.place = place
        if traits_of(record.program, param).draws:
            item.index = info.partition.place(param, place)
        return item


def _refused(param: torch.Tensor, what: str) -> GradientError:
    grad = cast("torch.Tensor", param.grad)
    kind = "complex" if grad.is_complex() else str(grad.layout).removeprefix("torch.").replace("_", " ")
    return GradientError(
        f"parameter {what} of shape {tuple(param.shape)} has a {kind} gradient; gradchain steps dense real gradients. "
        "Build embeddings with sparse=False, or give this parameter to torch.optim.SparseAdam."
    )
