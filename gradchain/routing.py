"""Which stages each parameter goes through, given what its group says, and which values a group may hold."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch

from gradchain.chain import Chain
from gradchain.errors import ChainError, OptionError, UnknownOptionError
from gradchain.program import Program
from gradchain.roles import roles_of


class Settings(NamedTuple):
    """What decides the stages of a parameter besides the chain."""

    disable: tuple[str, ...]
    role: str | None

    @staticmethod
    def each(group: Mapping[str, Any]) -> list[Settings]:
        """Those of every parameter of a group."""
        disable = stage_names(group["disable"])
        return [Settings(disable, role) for role in roles_of(group)]


class Routing:
    """A chain with its variants, and the program of each parameter."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._variants: dict[tuple[str, ...], Chain] = {(): chain}
        self._programs: dict[torch.Tensor, tuple[Settings, Program]] = {}

    def variant(self, disable: tuple[str, ...], where: str = "") -> Chain:
        """The chain without some stages."""
        if disable not in self._variants:
            try:
                self._variants[disable] = self.chain.without(*disable)
            except ChainError as error:
                raise ChainError(f"{where}disable={list(disable)} does not leave a sound chain: {error}") from None
            except UnknownOptionError as error:
                raise UnknownOptionError(f"{where}disable={list(disable)}: {error}") from None
        return self._variants[disable]

    def program(self, param: torch.Tensor, settings: Settings, name: str) -> Program:
        """The stages of a parameter; found once, and again if its group's settings change."""
        known = self._programs.get(param)
        if known is None or known[0] != settings:
            known = (settings, self.variant(settings.disable).route(name, param, settings.role))
            self._programs[param] = known
        return known[1]

    def forget(self, here: Container[torch.Tensor]) -> None:
        """Let go of the parameters that are no longer here."""
        self._programs = {param: known for param, known in self._programs.items() if param in here}

    @property
    def programs(self) -> Iterable[Program]:
        return (program for _, program in self._programs.values())

    def check(self, group: Mapping[str, Any], where: str) -> None:
        """Raise `OptionError` or `ChainError` if a group holds a value that cannot be used."""
        self.chain.bindings.check(group, where)
        for flag in ("maximize", "telemetry"):
            if not isinstance(group[flag], bool):
                raise OptionError(f"{where}{flag} = {group[flag]!r}: pass True or False.")
        roles_of({**group, "params": ()}, where)
        for address, stage in self.variant(stage_names(group["disable"], where), where).addressed:
            bound = (b for b in self.chain.bindings.of_stage(address) if b.key in group)
            try:
                stage.resolve({b.field: b.pick(group) for b in bound}, {**stage.pin(group), **group})
            except OptionError as error:
                raise OptionError(f"{where}{error}") from None


def stage_names(disable: Any, where: str = "") -> tuple[str, ...]:
    """The stages that a group switches off."""
    if isinstance(disable, str) or not isinstance(disable, Iterable):
        raise OptionError(f"{where}disable = {disable!r}: pass a list of stage names, such as ['{disable}'].")
    names = tuple(cast("Iterable[Any]", disable))
    if not all(isinstance(name, str) for name in names):
        raise OptionError(f"{where}disable = {disable!r}: pass a list of stage names.")
    return names


def parameter_names(group: Mapping[str, Any]) -> list[str]:
    """The names of a group's parameters; empty ones if it has none."""
    return group.get("param_names") or [""] * len(group["params"])
