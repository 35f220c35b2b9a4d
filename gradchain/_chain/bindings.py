"""Which name in `param_groups` sets which field of which stage."""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradchain._chain.mixins import numbers_of
from gradchain._chain.stage import RESERVED, Stage
from gradchain._core.fields import Spec, as_number, check_number
from gradchain.errors import ChainError, OptionError, kind_of, shown

_ENTRY = re.compile(r"(\w+)\[(\d+)\]")


def missing(key: str, what: str) -> OptionError:
    """The error for a group without an entry."""
    return OptionError(
        f"the group has no entry {key!r}, which {what} taken from. Put it back: group[{key!r}] = ...; the optimizer's "
        f"`defaults` has the value that it was built with."
    )


@dataclass(frozen=True)
class Binding:
    """One dynamic field and the key it goes by; `index` is its place if the key holds a tuple."""

    address: str
    field: str
    spec: Spec
    key: str
    index: int | None

    def pick(self, group: Mapping[str, Any]) -> Any:
        """The value of this field in a parameter group, as stages compute with it."""
        try:
            value = group[self.key]
        except KeyError:
            if self.spec.initial is not None:
                return None
            raise missing(self.key, f"{self.address}.{self.field} is") from None
        if self.index is None:
            return as_number(value)
        if not isinstance(value, (tuple, list)) or len(value) <= self.index:
            raise OptionError(
                f"{self.key} = {shown(value)} must be a tuple of at least {self.index + 1} numbers: "
                f"{self.address}.{self.field} is {self.key}[{self.index}]."
            )
        return as_number(value[self.index])

    def check(self, group: Mapping[str, Any]) -> None:
        key = self.key if self.index is None else f"{self.key}[{self.index}]"
        alias = "" if key in (self.field, f"{self.address}.{self.field}") else f" ({key!r} in the group)"
        check_number(f"{self.address}.{self.field}{alias}", self.pick(group), self.spec)


@dataclass(frozen=True)
class Bindings:
    """All dynamic fields of a chain. Fields that share a key share its value.

    Where stages with the same key were built with different values, each field goes by `stage.field` instead.
    """

    bindings: tuple[Binding, ...]
    defaults: dict[str, Any] = field(compare=False)
    shared: tuple[tuple[str, str, str], ...] = ()

    @functools.cached_property
    def readers(self) -> dict[int, Any]:
        """What reads the numbers of each program that goes by these bindings, by the id of the program, which it holds."""
        return {}

    def shared_of(self, address: str) -> tuple[tuple[str, str], ...]:
        """The shared numbers of a stage: their names, and their keys in `param_groups`."""
        return tuple((name, key) for at, name, key in self.shared if at == address)

    def of_stage(self, address: str) -> tuple[Binding, ...]:
        return tuple(binding for binding in self.bindings if binding.address == address)

    @functools.cached_property
    def _lengths(self) -> dict[str, int]:
        """The number of entries of each key that holds a tuple."""
        return {key: len(value) for key, value in self.defaults.items() if isinstance(value, tuple)}

    def check_length(self, key: str, value: object) -> None:
        """Raise `OptionError` for a tuple with more entries than any stage takes."""
        wanted = self._lengths.get(key)
        if wanted is None:
            return
        if not isinstance(value, (tuple, list)):
            raise OptionError(f"{key} = {shown(value)} is {kind_of(value)}; pass a tuple of {wanted} numbers.")
        if len(value) > wanted:
            raise OptionError(f"{key} = {shown(value)} has {len(value)} entries; pass a tuple of {wanted} numbers.")

    def check(self, group: Mapping[str, Any], where: str = "", keys: Container[str] | None = None) -> None:
        """Raise `OptionError` if a group holds, under one of `keys` (all by default), what a stage cannot use."""
        for binding in self.bindings:
            if binding.spec.follows or (keys is not None and binding.key not in keys):
                continue
            try:
                if binding.index is not None and binding.key in group:
                    self.check_length(binding.key, group[binding.key])
                binding.check(group)
            except OptionError as error:
                raise OptionError(f"{where}{error}") from None


def bind_keys(stages: Sequence[tuple[str, Stage]]) -> Bindings:
    """Work out the keys of all dynamic fields, and the default value of each key."""
    declared = [(address, stage, name, spec) for address, stage in stages for name, spec in stage.live_fields().items()]
    values: dict[str, list[Any]] = {}
    for _, stage, name, spec in declared:
        if not spec.follows:
            values.setdefault(stage.key_of(name), []).append(getattr(stage, name))
    shared = {key for key, held in values.items() if all(value == held[0] for value in held)} - RESERVED
    numbers = {name for _, stage in stages for name in numbers_of(stage)}
    bindings: list[Binding] = []
    defaults: dict[str, Any] = {}
    for address, stage, name, spec in declared:
        key = stage.key_of(name)
        if spec.follows and spec.initial is None and key not in values and key not in numbers:
            continue
        if spec.follows and spec.initial is None and key not in shared | numbers:
            raise ChainError(
                f"{address} follows hyperparameter {key!r}, which two stages hold with different values. Give one of them "
                f"another name with rename(...), or both the same value.",
                stage=address,
            )
        if key not in shared and not spec.follows:
            key = f"{address}.{name}"
        entry = _ENTRY.fullmatch(key)
        binding = Binding(address, name, spec, entry[1] if entry else key, int(entry[2]) if entry else None)
        bindings.append(binding)
        if not spec.follows:
            _set_default(defaults, binding, getattr(stage, name))
    return Bindings(tuple(bindings), defaults, _shared(stages, defaults))


def _shared(stages: Sequence[tuple[str, Stage]], defaults: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Address, name and key of each shared number: its own name, unless that is taken."""
    declared = [(address, name) for address, stage in stages for name in numbers_of(stage)]
    names = [name for _, name in declared]
    followed = {stage.key_of(f) for _, stage in stages for f, spec in stage.live_fields().items() if spec.follows}
    if clash := set(names) & defaults.keys() & followed:
        key = min(clash)
        raise ChainError(
            f"{key!r} is a hyperparameter of this chain and a number that its stages share, which others follow. Give the "
            f"hyperparameter another name with rename(...)."
        )
    taken = {name for name in names if names.count(name) > 1} | defaults.keys() | RESERVED
    return tuple((at, name, f"{at}.{name}" if name in taken else name) for at, name in declared)


def _set_default(defaults: dict[str, Any], binding: Binding, value: Any) -> None:
    if isinstance(defaults.get(binding.key, () if binding.index is not None else value), tuple) != (
        binding.index is not None
    ):
        raise ChainError(
            f"hyperparameter {binding.key!r} is a number to one stage and a tuple to another; give "
            f"{binding.address}.{binding.field} another name with rename({binding.field}='...').",
            stage=binding.address,
        )
    if binding.index is None:
        defaults[binding.key] = value
        return
    held = list(defaults.get(binding.key, ()))
    held += [None] * (binding.index + 1 - len(held))
    held[binding.index] = value
    defaults[binding.key] = tuple(held)
