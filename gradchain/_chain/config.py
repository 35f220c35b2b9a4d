"""Chains as plain data: dict, JSON, TOML. Reading a config constructs known stages from checked values; it runs no code."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradchain._chain import registry
from gradchain._chain.elements import DEEPEST, Element, Partition
from gradchain._chain.partition import partition
from gradchain._chain.stage import Stage
from gradchain.errors import ConfigError, GradchainError, kind_of, nearest, shown

FORMAT = 1


def to_config(elements: Sequence[Element]) -> dict[str, Any]:
    return {"gradchain": FORMAT, "stages": [_element(element) for element in elements]}


def _element(element: Element) -> dict[str, Any]:
    if isinstance(element, Partition):
        if registry.label_name(element.label) is None:
            raise ConfigError(
                f"the partition's label function {element.label_name} is not registered, so a config cannot name it. "
                "Decorate it with @gradchain.label_function."
            )
        branches = {label: [_element(inner) for inner in branch.elements] for label, branch in element.branches}
        return {"partition": element.label_name, "branches": branches}
    return {"stage": registry.stage_name(type(element)), **_options(element)}


def _options(stage: Stage) -> dict[str, Any]:
    """The fields of a stage as plain values, without empty names and without `None` where it is the default."""
    options: dict[str, Any] = {}
    for field in stage.fields():
        value = getattr(stage, field.name)
        if (
            not field.init
            or (field.name in ("name", "keys") and not value)
            or (value is None and field.default is None)
        ):
            continue
        options[field.name] = dict(stage.keys) if field.name == "keys" else _plain(stage.address, field.name, value)
    return options


def _plain(address: str, field: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(address, field, item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    raise ConfigError(
        f"{address}.{field} = {shown(value)} cannot be written to a config; use plain numbers and strings."
    )


def from_config(source: Any) -> tuple[Element, ...]:
    data = _read(Path(source)) if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(data, Mapping) or "stages" not in data:
        raise ConfigError(f"a chain's config is a table with a list 'stages'; got {type(data).__name__}.")
    if (known := data.get("gradchain", FORMAT)) != FORMAT or type(known) is not int:
        raise ConfigError(f"config format {shown(known)} is not known; this version reads format {FORMAT}.")
    if unknown := set(data) - {"gradchain", "stages"}:
        raise ConfigError(
            f"unknown entry {shown(sorted(unknown, key=str)[0])} in the config; it has 'gradchain' and 'stages'."
        )
    try:
        return tuple(_elements(data["stages"], "stages"))
    except RecursionError:
        raise ConfigError("the config is nested too deep. Use one label function with more labels.") from None


def _elements(items: Any, where: str, depth: int = 0) -> list[Element]:
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes)):
        raise ConfigError(f"{where} must be a list of tables, not {kind_of(items)}.")
    if depth > DEEPEST:
        raise ConfigError(f"partitions are nested more than {DEEPEST} deep. Use one label function with more labels.")
    return [_build(item, f"{where}[{position}]", depth) for position, item in enumerate(items)]


def _build(item: Any, where: str, depth: int) -> Element:
    if not isinstance(item, Mapping) or ("stage" in item) == ("partition" in item):
        raise ConfigError(f"{where} must be a table with either 'stage' or 'partition'; got {shown(item)}.")
    if "partition" in item:
        return _build_partition(item, where, depth)
    options = {key: value for key, value in item.items() if key != "stage"}
    if not isinstance(item["stage"], str) or not all(isinstance(key, str) for key in options):
        raise ConfigError(f"{where}: 'stage' and all keys must be strings; got {shown(item)}.")
    try:
        cls = registry.stage(item["stage"])
        return stage_of(cls, options)
    except GradchainError as error:
        raise ConfigError(f"{where}: {error}") from None


def stage_of(cls: type[Stage], options: dict[str, Any]) -> Stage:
    """A stage from plain values. Lists become tuples, an empty table `None`, and keys go through `rename`."""
    keys = options.pop("keys", {})
    values = {
        name: None if value == {} else tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
    if not isinstance(keys, Mapping):
        raise ConfigError(f"{cls.__name__}.keys must be a table of field = name; got {shown(keys)}.")
    if odd := [key for key in keys if not isinstance(key, str)]:
        raise ConfigError(f"{cls.__name__}.keys has the entry {shown(odd[0])}; its entries are names of fields.")
    return cls(**values).rename(**dict(keys))


def _build_partition(item: Mapping[str, Any], where: str, depth: int) -> Partition:
    branches = item.get("branches")
    if not isinstance(branches, Mapping):
        raise ConfigError(f"{where}: a partition needs a table 'branches' of label = list of stages.")
    if unknown := sorted(set(item) - {"partition", "branches"}, key=str):
        raise ConfigError(
            f"{where}: unknown entry {shown(unknown[0])}. {nearest(str(unknown[0]), ['partition', 'branches'])}"
        )
    try:
        label = registry.label(item["partition"])
    except GradchainError as error:
        raise ConfigError(f"{where}: {error}") from None
    built = {name: _elements(stages, f"{where}.{name}", depth + 1) for name, stages in branches.items()}
    try:
        return partition(built, label)  # type: ignore[arg-type]
    except GradchainError as error:
        raise ConfigError(f"{where}: {error}") from None


# Text.


def _read(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix not in (".json", ".toml"):
        raise ConfigError(f"{shown(str(path))} is neither .json nor .toml; give the file one of these endings.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no text in UTF-8, or a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{_short(path)} cannot be read: {reason}.") from None
    parse = json.loads if suffix == ".json" else _toml_reader()
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:  # an integer may be too long as well
        raise ConfigError(f"{path} is not valid {suffix[1:].upper()}: {error}.") from None


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 300 else f"{text[:100]}...{text[-100:]}"


def _toml_reader() -> Callable[[str], Any]:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return importlib.import_module(name).loads
    except ModuleNotFoundError:
        raise ConfigError("reading TOML on Python 3.10 needs the package 'tomli': pip install tomli") from None


def to_toml(data: Mapping[str, Any]) -> str:
    """One `[[stages]]` table a stage; branches of a partition are written inline."""
    lines = [f"gradchain = {data['gradchain']}"]
    if not data["stages"]:
        lines.append("stages = []")
    for stage in data["stages"]:
        lines += ["", "[[stages]]", *(f"{_toml_key(key)} = {_toml_value(value)}" for key, value in stage.items())]
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return key if key.replace("_", "a").replace("-", "a").isalnum() and key.isascii() else _toml_text(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if value is None:
        return "{}"  # TOML has no null
    if isinstance(value, str):
        return _toml_text(value)
    return json.dumps(value) if isinstance(value, bool) else repr(value)


def _toml_text(text: str) -> str:
    """A basic string: JSON's escapes, but no surrogates, and DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
