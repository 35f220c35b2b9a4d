"""Which name in `param_groups` sets which field of which stage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradchain.errors import ChainError, OptionError
from gradchain.fields import Spec, check_number
from gradchain.stage import Stage

RESERVED = frozenset({"params", "param_names", "role", "disable", "maximize", "telemetry"})
_ENTRY = re.compile(r"(\w+)\[(\d+)\]")


@dataclass(frozen=True)
class Binding:
    """One dynamic field and the key it goes by; `index` is its place if the key holds a tuple."""

    address: str
    field: str
    spec: Spec
    key: str
    index: int | None

    def pick(self, group: Mapping[str, Any]) -> Any:
        """The value of this field in a parameter group."""
        value = group[self.key]
        if self.index is None:
            return value
        if not isinstance(value, (tuple, list)) or len(value) <= self.index:
            raise OptionError(
                f"{self.key} = {value!r} must be a tuple of at least {self.index + 1} numbers: "
                f"{self.address}.{self.field} is {self.key}[{self.index}]."
            )
        return value[self.index]

    def check(self, group: Mapping[str, Any]) -> None:
        shown = self.key if self.index is None else f"{self.key}[{self.index}]"
        alias = "" if shown in (self.field, f"{self.address}.{self.field}") else f" ({shown!r} in the group)"
        check_number(f"{self.address}.{self.field}{alias}", self.pick(group), self.spec)


@dataclass(frozen=True)
class Bindings:
    """All dynamic fields of a chain. Fields that share a key share its value.

    Where stages with the same key were built with different values, each field goes by `stage.field` instead.
    """

    bindings: tuple[Binding, ...]
    defaults: dict[str, Any] = field(compare=False)
    shared: tuple[tuple[str, str, str], ...] = ()

    def shared_of(self, address: str) -> tuple[tuple[str, str], ...]:
        """The shared numbers of a stage: their names, and their keys in `param_groups`."""
        return tuple((name, key) for at, name, key in self.shared if at == address)

    def of_stage(self, address: str) -> tuple[Binding, ...]:
        return tuple(binding for binding in self.bindings if binding.address == address)

    def check(self, group: Mapping[str, Any], where: str = "") -> None:
        """Raise `OptionError` if a group holds a value that a stage cannot use."""
        for binding in self.bindings:
            if binding.spec.follows:
                continue
            try:
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
    numbers = {name for _, stage in stages for name in stage.init_shared()}
    bindings: list[Binding] = []
    defaults: dict[str, Any] = {}
    for address, stage, name, spec in declared:
        key = stage.key_of(name)
        if spec.follows and key not in values and key not in numbers:
            continue
        if spec.follows and key not in shared | numbers:
            raise ChainError(
                f"{address} follows hyperparameter {key!r}, which two stages hold with different values. Give one of them "
                f"another name with expose(...), or both the same value.",
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
    declared = [(address, name) for address, stage in stages for name in stage.init_shared()]
    names = [name for _, name in declared]
    followed = {stage.key_of(f) for _, stage in stages for f, spec in stage.live_fields().items() if spec.follows}
    if clash := set(names) & defaults.keys() & followed:
        key = min(clash)
        raise ChainError(
            f"{key!r} is a hyperparameter of this chain and a number that its stages share, which others follow. Give the "
            f"hyperparameter another name with expose(...)."
        )
    taken = {name for name in names if names.count(name) > 1} | defaults.keys() | RESERVED
    return tuple((at, name, f"{at}.{name}" if name in taken else name) for at, name in declared)


def _set_default(defaults: dict[str, Any], binding: Binding, value: Any) -> None:
    if isinstance(defaults.get(binding.key, () if binding.index is not None else value), tuple) != (
        binding.index is not None
    ):
        raise ChainError(
            f"hyperparameter {binding.key!r} is a number to one stage and a tuple to another; give "
            f"{binding.address}.{binding.field} another name with expose({binding.field}='...').",
            stage=binding.address,
        )
    if binding.index is None:
        defaults[binding.key] = value
        return
    held = list(defaults.get(binding.key, ()))
    held += [None] * (binding.index + 1 - len(held))
    held[binding.index] = value
    defaults[binding.key] = tuple(held)
