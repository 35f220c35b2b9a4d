"""Stages, partitions and values as text: read without running code, and written so that they can be read back."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from gradchain._chain import config, registry
from gradchain._chain.elements import Element, Partition
from gradchain._chain.partition import partition
from gradchain._chain.stage import Stage
from gradchain.errors import ConfigError, GradchainError, OptionError, kind_of, shown

StageSpec: TypeAlias = "str | Stage | Mapping[str, Any]"
"""`"divide"`, `"atan2_scale(a=1.27)"`, `{"stage": "atan2_scale", "a": 1.27}`, or a stage."""

LONGEST = 20_000
"""Characters of a text that is read as literals."""


def stage_from(spec: StageSpec) -> Stage:
    """The stage that a spec names. Runs no code: options are literals.

    Raises:
        UnknownNameError: there is no such stage.
        OptionError: the text is not a stage's name, or a call of one with literals; or the stage refuses an option.
    """
    if isinstance(spec, Stage):
        return spec
    if isinstance(spec, str):
        return _stage(_expression(spec), spec)
    if isinstance(spec, Mapping) and isinstance(spec.get("stage"), str):  # pyright: ignore[reportUnnecessaryIsInstance]
        options = {key: value for key, value in spec.items() if key != "stage"}
        return config.stage_of(registry.stage(spec["stage"]), options)
    raise OptionError(
        f"{shown(spec)} is {kind_of(spec)}; name a stage as 'divide', 'atan2_scale(a=1.27)' or {{'stage': 'divide'}}."
    )


def call_from(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name, the arguments and the options of `name` or `name(1, option=2)`."""
    return _call(_expression(text), text)


def element_from(text: str) -> Element:
    """The stage or the partition that a text names, as `repr` shows it. Runs no code.

    Raises:
        UnknownNameError: there is no such stage or label function.
        OptionError, ChainError: the text names none, or what it names cannot be.
    """
    return _element(_expression(text), text)


def value_from(text: str) -> Any:
    """A literal, `inf`, or a word, which stands for itself."""
    try:
        return _literal(ast.parse(text[:LONGEST].strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        if re.fullmatch(r"[A-Za-z][\w.-]*", text.strip()):
            return text.strip()
    raise OptionError(
        f"{shown(text.strip())} is no value; write a number, a word, True, False, None, or a tuple such as (0.9, 1)."
    )


def text_of(element: Element) -> str:
    """A stage or a partition as `element_from` reads it.

    Raises:
        ConfigError: it holds what cannot be written: a label function without a registered name, or a value that is none of
            numbers, strings and tuples.
    """
    text = _written(element)
    try:
        if element_from(text) == element:
            return text
    except GradchainError:
        pass
    raise ConfigError(
        f"{shown(text)} cannot be written as text. Register its label function with @gradchain.label_function, and use "
        "numbers, strings and tuples as options."
    )


def _written(element: Element) -> str:
    if isinstance(element, Stage):
        return registry.stage_name(type(element)) + repr(element).removeprefix(type(element).__name__)
    branches = (
        f"{label!r}: [{', '.join(_written(inner) for inner in branch.elements)}]" for label, branch in element.branches
    )
    return f"partition({{{', '.join(branches)}}}, {element.label_name!r})"


def _expression(text: str) -> ast.expr:
    try:
        if len(text) <= LONGEST:
            return ast.parse(text.strip(), mode="eval").body
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise _unreadable(text)


def _unreadable(text: str) -> OptionError:
    return OptionError(
        f"{shown(text)} is not a name, nor a call with literals, such as 'divide' or 'atan2_scale(a=1.27, b=1.0)'."
    )


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Infinity().visit(node))


class _Infinity(ast.NodeTransformer):
    """`inf`, as Python prints it, for which it has no literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(math.inf), node) if node.id == "inf" else node


def _dotted(node: ast.expr) -> str | None:
    """The name of a stage, which a module may stand before."""
    if isinstance(node, ast.Name):
        return node.id
    before = _dotted(node.value) if isinstance(node, ast.Attribute) else None
    return None if before is None else f"{before}.{cast('ast.Attribute', node).attr}"


def _call(node: ast.expr, text: str) -> tuple[str, list[Any], dict[str, Any]]:
    name = _dotted(node.func if isinstance(node, ast.Call) else node)
    if name is None:
        raise _unreadable(text)
    if not isinstance(node, ast.Call):
        return name, [], {}
    try:
        options = {entry.arg: _literal(entry.value) for entry in node.keywords if entry.arg is not None}
        if len(options) == len(node.keywords):
            return name, [_literal(value) for value in node.args], options
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise _unreadable(text)


def _stage(node: ast.expr, text: str) -> Stage:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
        if node.func.attr != "rename" or node.args:
            raise _unreadable(text)
        keys = {entry.arg or "": entry.value.value for entry in node.keywords if isinstance(entry.value, ast.Constant)}
        if len(keys) != len(node.keywords):
            raise _unreadable(text)
        return _stage(node.func.value, text).rename(**cast("dict[str, str]", keys))
    name, args, options = _call(node, text)
    return registry.stage(name)(*args, **options)


def _element(node: ast.expr, text: str) -> Element:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "partition"):
        return _stage(node, text)
    if len(node.args) != 2 or node.keywords or not isinstance(node.args[0], ast.Dict):
        raise OptionError(
            f"{shown(text)}: a partition is written partition({{'matrix': [...], 'vector': [...]}}, 'label_function')."
        )
    table, label = node.args
    if not isinstance(table, ast.Dict) or not isinstance(label, ast.Constant):
        raise OptionError(f"{shown(text)}: the label function of a partition is written as its registered name.")
    return _partition(table, registry.label(label.value), text)


def _partition(table: ast.Dict, label: registry.LabelFunction, text: str) -> Partition:
    branches: dict[str, list[Any]] = {}
    for key, stages in zip(table.keys, table.values):
        if not isinstance(key, ast.Constant) or not isinstance(stages, ast.List) or not isinstance(key.value, str):
            raise OptionError(f"{shown(text)}: a branch of a partition is written 'label': [stage(...), ...].")
        branches[key.value] = [_element(stage, text) for stage in stages.elts]
    return partition(branches, label)
