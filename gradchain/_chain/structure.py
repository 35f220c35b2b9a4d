"""What two configs of chains differ in: stages and static options; hyperparameters travel in the groups and do not count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gradchain._chain import registry
from gradchain._chain.config import FORMAT
from gradchain.errors import ConfigError, shown

Structure = dict[str, dict[str, Any]]


def chain_differences(saved: object, current: Mapping[str, Any] | None) -> list[str]:
    """The stages in which a saved config differs in structure from that of a chain, which may have none; one line each."""
    try:
        old = structure(saved)
    except ConfigError as error:
        return [f"its 'chain' is damaged: {error}"]
    if current is None:
        return []
    new = structure(current)
    lines = [f"stage {name} of the state dict is not in this chain" for name in old if name not in new]
    lines += [f"stage {name} of this chain is not in the state dict" for name in new if name not in old]
    for name in [name for name in old if name in new]:
        lines += [
            f"stage {name}: {option} was {shown(old[name].get(option))}, is {shown(new[name].get(option))}"
            for option in sorted({*old[name], *new[name]})
            if old[name].get(option) != new[name].get(option)
        ]
    return lines


def structure(config: object) -> Structure:
    """The static options of each stage of a config, by address.

    Raises:
        ConfigError: it is not of the form that `Chain.to_config` gives it.
    """
    version = cast("Mapping[Any, Any]", config).get("gradchain", FORMAT) if isinstance(config, Mapping) else None
    if not isinstance(version, int) or version != FORMAT:
        raise ConfigError(f"got {shown(config)}; this version reads a dict of format {FORMAT}.")
    result: Structure = {}
    waiting: list[tuple[str, Any]] = [("", cast("Any", config).get("stages"))]  # a config may be nested deeply
    while waiting:
        prefix, items = waiting.pop()
        if not isinstance(items, (list, tuple)):
            raise ConfigError(f"{prefix}stages is {shown(items)}; it should be a list.")
        for item in cast("list[Any]", items):
            if not isinstance(item, Mapping) or not all(isinstance(key, str) for key in cast("Any", item)):
                raise ConfigError(f"{prefix}stages has {shown(item)}; it should be a dict with strings as keys.")
            entry = cast("Mapping[str, Any]", item)
            if "partition" in entry:
                waiting += [(f"{prefix}{label}/", stages) for label, stages in _branches(entry, prefix)]
            else:
                address, options = _stage(entry, prefix)
                if address in result:
                    raise ConfigError(f"stage {address} comes twice.")
                result[address] = options
    return result


def _branches(item: Mapping[str, Any], prefix: str) -> list[tuple[Any, Any]]:
    branches = item.get("branches")
    if not isinstance(branches, Mapping):
        raise ConfigError(f"a partition in {prefix}stages has branches {shown(branches)}; they should be a dict.")
    return list(cast("Mapping[Any, Any]", branches).items())


def _stage(item: Mapping[str, Any], prefix: str) -> tuple[str, dict[str, Any]]:
    """The address of a stage and its static options."""
    name, kind = item.get("name"), item.get("stage")
    if not isinstance(kind, str) or not isinstance(name or "", str):
        raise ConfigError(f"{prefix}stages has a stage {shown(kind)} with the name {shown(name)}; use strings.")
    known = registry.stages().get(kind)
    skipped = {"keys", *(known.dynamic_fields() if known is not None else ())}
    address = prefix + (name or kind)
    return address, {key: _plain(value, f"stage {address}: {key}") for key, value in item.items() if key not in skipped}


def _plain(value: Any, where: str, depth: int = 4) -> Any:
    """A value as it is compared: a list counts as a tuple."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and depth:
        return tuple(_plain(entry, where, depth - 1) for entry in cast("list[Any]", value))
    raise ConfigError(f"{where} is {shown(value)}; it should be a number, a string or a list of these.")
