"""Reads the numbers of a step from a parameter group: which entry is for which field is worked out once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from operator import is_, itemgetter
from typing import Any, Protocol, TypeAlias

from gradchain._chain.bindings import Binding, Bindings
from gradchain._chain.mixins import SharedNumbers
from gradchain._chain.stage import Stage
from gradchain._core.ages import Ages, own_count
from gradchain.errors import ChainError
from gradchain.ops import minimum

Numbers: TypeAlias = "tuple[dict[str, Any], ...]"
"""For each stage of a program: its dynamic fields and per-step scalars, by name."""

PLAIN = (float, int, type(None))

Stages: TypeAlias = "tuple[tuple[str, Stage], ...]"


class Staged(Protocol):
    """A program."""

    @property
    def stages(self) -> Stages: ...


class Row:
    """One stage: where its fields come from, and which of its hooks it has."""

    def __init__(self, address: str, stage: Stage, stages: Stages, bindings: Bindings) -> None:
        self.address, self.stage, kind = address, stage, type(stage)
        here = {at for at, _ in stages} - {address}
        shared = {name for _, name, _ in bindings.shared}
        own = bindings.of_stage(address)
        self.picked: tuple[Binding, ...] = tuple(b for b in own if not (b.spec.follows and b.key in shared))
        """Fields by entries of the group; what follows a number that is shared, on this route or another, is not there."""
        self.copied = bindings.shared_of(address) + tuple(
            (b.field, key)
            for at, name, key in bindings.shared
            if at in here
            for b in own
            if b.spec.follows and b.key == name
        )
        self.resolves = kind.resolve is not Stage.resolve
        self.scales = kind.scalars is not Stage.scalars
        self.in_turn = takes_turns(stage)

    def fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The values in force of the dynamic fields and of the shared numbers."""
        values = self.entries(group)
        return self.stage.resolve(values, group) if self.resolves else values

    def entries(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """What the group holds for them."""
        values: dict[str, Any] = {}
        for binding in self.picked:
            value: Any = group.get(binding.key)
            if binding.index is not None and type(value) is tuple and len(value) > binding.index:  # pyright: ignore[reportUnknownArgumentType]
                value = value[binding.index]  # pyright: ignore[reportUnknownVariableType]
            values[binding.field] = value if type(value) is float else binding.pick(group)
        for name, key in self.copied:
            values[name] = group[key]
        return values


def takes_turns(stage: Stage) -> bool:
    """Whether a stage goes by the place of a parameter, so that not all do something dear in the same step."""
    return getattr(stage, "spread", False) is True


class NumberReader:
    """Reads the numbers of one program; `clocks` are the stages by whose age each stage goes."""

    def __init__(self, program: Staged, clocks: Mapping[str, set[str]], bindings: Bindings) -> None:
        self.program = program  # so that no other gets its id
        self.rows = [Row(address, stage, program.stages, bindings) for address, stage in program.stages]
        self.overriding = [(row, row.stage) for row in self.rows if isinstance(row.stage, SharedNumbers)]
        self.clocks = clocks
        keys = sorted(
            {b.key for row in self.rows for b in row.picked} | {key for row in self.rows for _, key in row.copied}
        )
        self._raw: Callable[[Any], tuple[Any, ...]] = itemgetter(*keys, *keys) if keys else _nothing  # always a tuple
        self._known: tuple[tuple[Any, ...], list[dict[str, Any]]] | None = None
        """What the group held at the last step, and what that was for the stages; if it can only change by exchange."""
        self._bound: dict[str, Stage] = {}
        """The stages with those values, by their addresses."""

    def read(self, group: Mapping[str, Any], step: Any, ages: Ages, turn: Any = 0) -> Numbers:
        """The numbers in force at a step: fields from the group, scalars computed from them in double precision.

        `turn` is the place of the parameter, for stages that go by it.
        """
        views = self._views(group) if self.overriding else None
        entries = self._entries(group) if views is None else [row.entries(views[row.address]) for row in self.rows]
        bound = self._bound if views is None else {}
        result: list[dict[str, Any]] = []
        for row, values in zip(self.rows, entries):
            if row.resolves:
                values = row.stage.resolve(dict(values), group if views is None else views[row.address])
            if row.scales:
                count = self._count(row.address, step, ages) if ages else step
                if (stage := bound.get(row.address)) is None:
                    stage = row.stage.bind({**values, "turn": turn} if row.in_turn else values)
                    if not (row.in_turn or row.resolves):
                        bound[row.address] = stage
                try:
                    scalars = stage.scalars(count)
                except OverflowError as error:
                    raise _overflow(row.address, count, error) from None
                values = {**values, **scalars}
                for name, value in scalars.items():
                    if type(value) is int:
                        values[name] = float(value)
                result.append(values)
            else:
                result.append(dict(values))
        return tuple(result)

    def _entries(self, group: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What the group holds for each stage; what it held at the last step if that is still there."""
        try:
            raw = self._raw(group)
        except KeyError:
            raw = ()
        if self._known is not None and len(raw) == len(self._known[0]) and all(map(is_, raw, self._known[0])):
            return self._known[1]
        entries = [row.entries(group) for row in self.rows]
        self._known = (raw, entries) if all(map(_is_plain, raw)) else None
        self._bound = {}
        return entries

    def _views(self, group: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """The group as each stage sees it: with what the others override."""
        made = {row.address: stage.bind(row.fields(group)).override(group) for row, stage in self.overriding}
        views: dict[str, Mapping[str, Any]] = {}
        for row in self.rows:
            view = dict(group)
            for address, values in made.items():
                if address != row.address:
                    view.update(values)
            views[row.address] = view
        return views

    def _count(self, address: str, step: Any, ages: Ages) -> Any:
        """The number of a step, as a stage counts."""
        own = [own_count(step, missed) for at, missed in ages if at in self.clocks[address]]
        return functools.reduce(minimum, own, step)


def _nothing(group: Any) -> tuple[Any, ...]:
    return ()


def _is_plain(value: Any) -> bool:
    """Whether a value cannot be written to."""
    return type(value) in PLAIN or (type(value) is tuple and all(type(x) in PLAIN for x in value))  # pyright: ignore[reportUnknownVariableType]


def _overflow(address: str, step: Any, error: OverflowError) -> ChainError:
    return ChainError(
        f"{address}.scalars({step}) is an overflow: {error}. Bound what grows with the step, such as by min(step, 1e6).",
        stage=address,
    )
