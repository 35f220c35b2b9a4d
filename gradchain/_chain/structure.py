"""Differences between two configs in stages and static options; hyperparameters are saved in the groups and do not count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gradchain._chain import registry
from gradchain._chain.config import FORMAT
from gradchain.errors import ConfigError, shown

Structure = dict[str, dict[str, Any]]


def chain_differences(saved: object, current: Mapping[str, Any] | None) -> list[str]:
    """One line for each stage in which a saved config differs in structure from the chain's, which may be missing."""
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
    """The static options of each stage of a config, by address. `ConfigError` unless `Chain.to_config` made it."""
    version = cast("Mapping[Any, Any]", config).get("gradchain", FORMAT) if isinstance(config, Mapping) else None
    if not isinstance(version, int) or version != FORMAT:
        raise ConfigError(f"got {shown(config)}; this version reads a dict of format {FORMAT}.")
    result: Structure = {}
    waiting: list[tuple[str, Any]] = [("", cast("Any", config).get("stages"))]  # a config may be nested deeply
    while waiting:
        prefix, items = waiting.pop()
        for item in _need(items, (list, tuple), f"{prefix}stages", "a list"):
            item = _need(item, Mapping, f"an entry of {prefix}stages", "a dict with strings as keys")
            if odd := [key for key in item if not isinstance(key, str)]:
                raise ConfigError(
                    f"{prefix}stages has the key {shown(odd[0])}; it should be a dict with strings as keys."
                )
            if "partition" in item:
                branches = _need(item.get("branches"), Mapping, f"branches in {prefix}stages", "a dict")
                waiting += [(f"{prefix}{label}/", stages) for label, stages in branches.items()]
                continue
            kind = _need(item.get("stage"), str, f"{prefix}stages: a stage", "a string")
            address = prefix + (_need(item.get("name") or "", str, f"the name of {prefix}{kind}", "a string") or kind)
            if address in result:
                raise ConfigError(f"stage {address} comes twice.")
            known = registry.stages().get(kind)
            skipped = {"keys", *(known.dynamic_fields() if known is not None else ())}
            result[address] = {k: _plain(x, f"stage {address}: {k}") for k, x in item.items() if k not in skipped}
    return result


def _need(value: Any, kind: Any, what: str, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{what} is {shown(value)}; it should be {wanted}.")
    return value


def _plain(value: Any, where: str, depth: int = 4) -> Any:
    """A value for comparison: lists become tuples."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and depth:
        return tuple(_plain(entry, where, depth - 1) for entry in cast("list[Any]", value))
    raise ConfigError(f"{where} is {shown(value)}; it should be a number, a string or a list of these.")
