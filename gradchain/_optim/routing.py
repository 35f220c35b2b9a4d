"""Which stages each parameter goes through, given what its group says, and which values a group may hold."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from gradchain._chain.bindings import missing
from gradchain._chain.chain import Chain
from gradchain._chain.check import routes
from gradchain._chain.stage import Stage
from gradchain.errors import ChainError, OptionError, UnknownOptionError, shown
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

    def variant(self, disable: tuple[str, ...], where: str = "") -> Chain:
        """The chain without some stages."""
        if disable not in self._variants:
            try:
                variant = self.chain.without(*disable)
                _check_scaled(self.chain, variant)
                self._variants[disable] = variant
            except ChainError as error:
                raise ChainError(
                    f"{where}disable={shown(list(disable))} does not leave a sound chain: {error}"
                ) from None
            except UnknownOptionError as error:
                raise UnknownOptionError(f"{where}disable={shown(list(disable))}: {error}") from None
        return self._variants[disable]

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The branches of all partitions: roles too."""
        return tuple({label: None for name in self.chain.names for label in name.split("/")[:-1]})

    def check(self, group: Mapping[str, Any], where: str, keys: Container[str] | None = None) -> None:
        """Raise `OptionError` or `ChainError` if a group holds a value, under `keys`, that cannot be used."""
        self.chain.bindings.check(group, where, keys)
        try:
            if not isinstance(group["maximize"], bool):
                raise OptionError(f"{where}maximize = {shown(group['maximize'])}: pass True or False.")
            if not isinstance(every := group["telemetry"], int) or (every < 1 and every is not False):
                raise OptionError(
                    f"{where}telemetry = {shown(every)}: pass True or False, or a number of steps (10 for every tenth)."
                )
            roles_of({**group, "params": ()}, where, self.labels)
            disable = stage_names(group["disable"], where)
        except KeyError as error:
            raise OptionError(f"{where}{missing(str(error.args[0]), 'the stages of the group are')}") from None
        for address, stage in self.variant(disable, where).addressed:
            full = {**stage.initial_entries(group), **group}
            bound = (b for b in self.chain.bindings.of_stage(address) if b.key in full)
            try:
                stage.resolve({b.field: b.pick(full) for b in bound}, full)
            except OptionError as error:
                raise OptionError(f"{where}{error}") from None


def _check_scaled(chain: Chain, variant: Chain) -> None:
    """Raise if a chain multiplies the direction by a learning rate, and the variant does not."""
    if all(map(_scaled, routes(chain.elements))) and not all(map(_scaled, routes(variant.elements))):
        raise ChainError(
            "nothing would multiply the direction by the learning rate, so that parameters step by the raw direction. To "
            "hold these parameters still, set lr=0 or leave them out of the optimizer."
        )


def _scaled(route: Sequence[tuple[str, Stage]]) -> bool:
    return any("lr" in fields and not fields["lr"].follows for fields in (s.live_fields() for _, s in route))


def stage_names(disable: Any, where: str = "") -> tuple[str, ...]:
    """The stages that a group switches off."""
    if isinstance(disable, str) or not isinstance(disable, Iterable):
        such = f", such as [{shown(disable)}]" if isinstance(disable, str) else ""
        raise OptionError(f"{where}disable = {shown(disable)}: pass a list of stage names{such}.")
    names = tuple(cast("Iterable[Any]", disable))
    for name in names:
        if not isinstance(name, str):
            raise OptionError(f"{where}disable has the entry {shown(name)}: pass a list of stage names.")
    return tuple(dict.fromkeys(names))


def parameter_names(group: Mapping[str, Any]) -> list[str]:
    """The names of a group's parameters; empty ones if it has none."""
    return group.get("param_names") or [""] * len(group["params"])


def labels_of(group: Mapping[str, Any], number: int) -> list[str]:
    """What to call the parameters of a group in a message."""
    names = enumerate(parameter_names(group))
    return [name or f"parameter {position} of group {number}" for position, name in names]
