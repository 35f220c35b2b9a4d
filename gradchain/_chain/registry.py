"""Names of stages, so that a config can be read back, and of label functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch

from gradchain.errors import OptionError, UnknownNameError, nearest, shown

LabelFunction = Callable[[str, torch.Tensor], str]

Named = TypeVar("Named")

_stages: dict[str, type[Any]] = {}
_labels: dict[str, LabelFunction] = {}


def find(what: str, name: object, known: Mapping[str, Named], advice: str = "") -> Named:
    """What goes by a name, or an `UnknownNameError` with the nearest ones."""
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError(f"unknown {what} {shown(name)}. {nearest(str(name), known)}{advice}")
    return known[name]


def add_stage(cls: type[Any]) -> None:
    """Register a stage class under its qualified name, and under its bare name unless one of ours has that."""
    _stages[_qualified(cls)] = cls
    known = _stages.get(cls.__name__)
    if known is None or not known.__module__.startswith("gradchain.") or _qualified(known) == _qualified(cls):
        _stages[cls.__name__] = cls


def _qualified(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__name__}"


def stage_name(cls: type[Any]) -> str:
    """The name under which a config finds a stage class: the bare one, unless another class has it."""
    return cls.__name__ if _stages.get(cls.__name__) is cls else _qualified(cls)


def stages() -> dict[str, type[Any]]:
    """All known stage classes by name: ours, and those that the running program has defined."""
    return {name: cls for name, cls in sorted(_stages.items()) if name == stage_name(cls)}


def stage(name: str) -> type[Any]:
    known = _stages if name in _stages else stages()  # qualified names are known, but not offered
    return find("stage", name, known, " Import the module that defines it.")


Label = TypeVar("Label", bound=LabelFunction)


def label_function(function: Label) -> Label:
    """Register a label function `(name, parameter) -> label`, so that chains that route by it can be saved.

    One that has a parameter `role` gets the role too, or `None`: `def label(name, param, role=None)`.

    Returns: the function.
    Raises: OptionError: it has no name, or does not take two arguments.
    """
    named = inspect.isfunction(cast("Any", function)) or inspect.isbuiltin(cast("Any", function))
    if not named or function.__name__ == "<lambda>":
        raise OptionError(
            f"@gradchain.label_function takes a function with a name, written with def; got {shown(function)}."
        )
    try:
        inspect.signature(function).bind("", None)
    except TypeError:
        raise OptionError(
            f"label function {function.__name__}{inspect.signature(function)} is called with two arguments, the name and "
            "the parameter. Take these."
        ) from None
    _labels[function.__name__] = function
    return function


def takes_role(function: LabelFunction) -> bool:
    """Whether a label function wants to know the role."""
    try:
        return "role" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def label(name: object) -> LabelFunction:
    return find("label function", name, _labels, " Register it with @gradchain.label_function.")


def label_name(function: LabelFunction) -> str | None:
    """The name under which a label function is registered, or `None`."""
    return next((name for name, known in _labels.items() if known is function), None)
