"""Hyperparameter fields: their ranges, the names they go by in `param_groups`, and their checks."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch

from gradchain.errors import OptionError

_METADATA = "gradchain"


@dataclasses.dataclass(frozen=True)
class Interval:
    """A range of numbers; printed as in a paper: `[0, 1)`."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        left = "(" if self.low_open or math.isinf(self.low) else "["
        right = ")" if self.high_open or math.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is known about one field of a stage."""

    dynamic: bool
    interval: Interval = Interval()
    key: str | None = None
    optional: bool = False
    infinite: bool = False
    follows: bool = False
    dispensable: bool = False
    choices: tuple[object, ...] = ()
    convert: Callable[[Any], Any] | None = None


def hyper(
    *,
    default: Any = dataclasses.MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    key: str | None = None,
    optional: bool = False,
    kw_only: bool = False,
) -> Any:
    """Declare a *dynamic* hyperparameter: a number that may differ per group and change at any step.

    `ge`, `gt`, `le`, `lt` bound it. `key` is its name in `param_groups` (the field's own name by default);
    `key="betas[1]"` makes it one entry of a tuple. `optional` also admits `None`, and
    `le=math.inf` infinity.

    >>> class shrink(gradchain.Stage):
    ...     factor: float = gradchain.hyper(default=0.5, gt=0, le=1)
    ...     def update(self, update, ctx):
    ...         return update.replace(value=self.factor * update.value)
    >>> shrink(2.0)
    Traceback (most recent call last):
    ...
    gradchain.errors.OptionError: shrink.factor = 2.0 is outside (0, 1]. Pass a number in (0, 1], such as the default 0.5.
    """
    low = gt if gt is not None else (ge if ge is not None else -math.inf)
    high = lt if lt is not None else (le if le is not None else math.inf)
    interval = Interval(low, high, gt is not None, lt is not None)
    spec = Spec(dynamic=True, interval=interval, key=key, optional=optional, infinite=le == math.inf)
    return dataclasses.field(default=default, kw_only=kw_only, metadata={_METADATA: spec})


def static(
    *,
    default: Any = dataclasses.MISSING,
    choices: tuple[object, ...] = (),
    convert: Callable[[Any], Any] | None = None,
    kw_only: bool = False,
) -> Any:
    """Declare a *static* option (bool, str, dtype, int): part of the chain's structure and of the compile key.

    `choices` lists the values it may take; `convert` canonicalises what the user passed.
    """
    spec = Spec(dynamic=False, choices=choices, convert=convert)
    return dataclasses.field(default=default, kw_only=kw_only, metadata={_METADATA: spec})


def follow(key: str | None = None, *, optional: bool = False, init: Literal[False] = False) -> Any:
    """Declare a number that another stage owns: the field takes the group's value of `key`, e.g. `follow("lr")`.

    The key may also be that of a shared number, such as Prodigy's `d`. A chain without the key is an error, unless
    `optional`: then the field is `None`. Without a key it is `None` until `stage.expose(field="key")` names one.
    """
    spec = Spec(dynamic=True, key=key, follows=True, dispensable=optional, optional=True)
    return dataclasses.field(default=None, init=init, repr=False, compare=False, metadata={_METADATA: spec})


def spec_of(field: dataclasses.Field[Any]) -> Spec:
    """The declared spec of a field, or the one its annotation implies: `float` is dynamic, all else static."""
    declared = field.metadata.get(_METADATA)
    if declared is not None:
        return declared
    annotation = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    kinds = {part.strip() for part in annotation.split("|")}
    return Spec(dynamic="float" in kinds, optional="None" in kinds)


def check_number(where: str, value: object, spec: Spec, default: object = dataclasses.MISSING) -> None:
    """Raise `OptionError` unless `value` is a number in the range of `spec`. Tensors are taken on trust: no sync."""
    if value is None and spec.optional:
        return
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise OptionError(f"{where} is a tensor of shape {tuple(value.shape)}; pass a real tensor of one element.")
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        hint = " or None" if spec.optional else ""
        raise OptionError(f"{where} = {value!r} is a {type(value).__name__}; pass a number in {spec.interval}{hint}.")
    number = float(value)
    if (
        math.isnan(number)
        or number not in spec.interval
        or (math.isinf(number) and default != number and not spec.infinite)
    ):
        example = f", such as the default {default}" if isinstance(default, (int, float)) else ""
        raise OptionError(f"{where} = {value!r} is outside {spec.interval}. Pass a number in {spec.interval}{example}.")


def check_static(where: str, value: object, spec: Spec, annotation: object) -> object:
    """Canonicalise and check one static option; returns the value to keep."""
    if spec.convert is not None:
        try:
            value = spec.convert(value)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{where} = {value!r}: {error}") from None
    if isinstance(value, list):
        value = tuple(cast("list[object]", value))  # a stage is hashable
    if annotation in ("bool", bool) and not isinstance(value, bool):
        raise OptionError(f"{where} = {value!r} is a {type(value).__name__}; pass True or False.")
    if annotation in ("int", int) and (isinstance(value, bool) or not isinstance(value, int)):
        raise OptionError(f"{where} = {value!r} is a {type(value).__name__}; pass an integer.")
    if annotation in ("str", str) and not isinstance(value, str):
        raise OptionError(f"{where} = {value!r} is a {type(value).__name__}; pass a string.")
    if spec.choices and value not in spec.choices:
        allowed = ", ".join(repr(choice) for choice in spec.choices)
        raise OptionError(f"{where} = {value!r} is not one of {allowed}. Pass one of these.")
    return value


DTYPES: Mapping[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_ALIASES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}


def dtype_name(value: object) -> str | None:
    """Canonical short name of a floating dtype: `torch.float64`, `"float64"`, `" FP64 "` are all `"fp64"`.

    `None`, `"none"` and `"null"` give `None`: no conversion.
    """
    if value is None:
        return None
    text = str(value).strip().lower().removeprefix("torch.")
    if text in ("none", "null"):
        return None
    name = _ALIASES.get(text, text)
    if name not in DTYPES or not isinstance(value, (str, torch.dtype)):
        raise ValueError(f"not a floating dtype; pass one of {', '.join(DTYPES)}, their torch dtypes, or None.")
    return name
