"""Hyperparameter fields: their ranges, the names they go by in `param_groups`, and their checks."""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch

from gradchain.errors import OptionError, kind_of, nearest, shown

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
    when: str | None = None
    unless: str | None = None
    initial: str | None = None
    inert: str = ""


def hyper(
    *,
    default: Any = dataclasses.MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    key: str | None = None,
    optional: bool = False,
    when: str | None = None,
    unless: str | None = None,
    inert: str = "",
) -> Any:
    """Declare a *dynamic* hyperparameter: a number that may differ per group and change at any step.

    `ge`, `gt`, `le`, `lt` bound it. `key` is its name in `param_groups` (the field's own name by default);
    `key="betas[1]"` makes it one entry of a tuple. `optional` also admits `None`, and `le=math.inf` infinity.
    `when="schedule"` keeps it out of `param_groups` while that field is `None` or `False`; `unless` while it is neither.
    `inert` is the reason why it changes nothing, for `gradchain.audit`.

    Returns: a dataclass field.
    Raises: OptionError: a bound is no number, bounds exclude each other, or `key` is no name.

    >>> class shrink(gradchain.Stage):
    ...     factor: float = gradchain.hyper(default=0.5, gt=0, le=1)
    ...     def update(self, update, ctx):
    ...         return update.replace(value=self.factor * update.value)
    >>> shrink(2.0)
    Traceback (most recent call last):
    ...
    gradchain.errors.OptionError: shrink.factor = 2.0 is outside (0, 1]. Pass a number in (0, 1], such as the default 0.5.
    """
    check_key("hyper", key)
    interval, infinite = _interval(ge=ge, gt=gt, le=le, lt=lt), le == math.inf
    spec = Spec(True, interval, key, optional=optional, infinite=infinite, when=when, unless=unless, inert=inert)
    return dataclasses.field(default=default, metadata={_METADATA: spec})


def static(
    *,
    default: Any = dataclasses.MISSING,
    choices: tuple[object, ...] = (),
    convert: Callable[[Any], Any] | None = None,
    ge: float | None = None,
    gt: float | None = None,
    when: str | None = None,
    inert: str = "",
    kw_only: bool = False,
) -> Any:
    """Declare a *static* option (bool, str, dtype, int): part of the chain's structure and of the compile key.

    `choices` lists its values; `convert` canonicalises what the user passed; `ge` and `gt` bound a number. `when` and
    `inert` are as for `hyper`; `when="mode=fast"` asks for one value of another option. Returns: a dataclass field.

    Raises: OptionError: `choices` is no tuple, `convert` no function, or a bound no number.
    """
    if not isinstance(choices, (tuple, list)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"static(choices={shown(choices)}): pass a tuple of the values that the option may take.")
    if convert is not None and not callable(convert):
        raise OptionError(f"static(convert={shown(convert)}): pass a function of the value that was given.")
    bounds = _interval(ge=ge, gt=gt)
    spec = Spec(False, bounds, choices=tuple(choices), convert=convert, when=when, inert=inert)
    return dataclasses.field(default=default, kw_only=kw_only, metadata={_METADATA: spec})


def follow(
    key: str | None = None,
    *,
    optional: bool = False,
    initial: bool = False,
    when: str | None = None,
    unless: str | None = None,
    init: Literal[False] = False,
) -> Any:
    """Declare a number that another stage owns: the field takes the group's value of `key`, e.g. `follow("lr")`.

    The key may name a shared number, such as Prodigy's `d`. A chain without the key is an error, unless `optional`: then
    the field is `None`. Without a key it is `None` until `stage.rename(field="key")` names one. `initial` takes the value
    that the optimizer was built with, which the group keeps as `constructor_lr`. `when` and `unless` are as for `hyper`.

    Returns: a dataclass field.
    Raises: OptionError: `key` is no name.
    """
    check_key("follow", key)
    own = f"constructor_{key}" if initial else key
    spec = Spec(
        True, key=own, follows=True, dispensable=optional or initial, optional=True, when=when, unless=unless,
        initial=key if initial else None,
    )  # fmt: skip
    return dataclasses.field(default=None, init=init, repr=False, compare=False, metadata={_METADATA: spec})


KEY = re.compile(r"[A-Za-z_]\w{0,63}(\[\d\])?")
"""A name in `param_groups`, or one entry of a tuple there."""


def check_key(where: str, key: object) -> None:
    if key is not None and (not isinstance(key, str) or not KEY.fullmatch(key)):
        raise OptionError(f"{where}: key = {shown(key)}; pass a name such as 'momentum' or 'betas[0]'.")


def _interval(**bounds: float | None) -> Interval:
    """The numbers within the bounds `ge`, `gt`, `le`, `lt`."""
    for name, bound in bounds.items():
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, float)) or math.isnan(bound)):
            raise OptionError(f"hyper({name}={shown(bound)}): a bound is {kind_of(bound)}; pass a number.")
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    for one, other in (("ge", "gt"), ("le", "lt")):
        if one in given and other in given:
            raise OptionError(f"hyper({one}={given[one]}, {other}={given[other]}): pass one of {one} and {other}.")
    low, high = given.get("ge", given.get("gt", -math.inf)), given.get("le", given.get("lt", math.inf))
    if low > high:
        raise OptionError(f"hyper: no number lies between {low} and {high}. Exchange the bounds.")
    return Interval(low, high, "gt" in given, "lt" in given)


def spec_of(field: dataclasses.Field[Any]) -> Spec:
    """The declared spec of a field, or the one its annotation implies: `float` is dynamic, all else static."""
    declared = field.metadata.get(_METADATA)
    if declared is not None:
        return declared
    annotation = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    kinds = {part.strip() for part in annotation.split("|")}
    return Spec(dynamic="float" in kinds, optional="None" in kinds)


EXACT = 2**53
"""Integers beyond this are taken as floats."""


def as_number(value: Any) -> Any:
    """A number as stages compute with it: Python's for numpy's, 0-d for one-element tensors; all else is unchanged."""
    if type(value) is float or (type(value) is int and -EXACT <= value <= EXACT):
        return value
    if isinstance(value, torch.Tensor):
        return value.reshape(()) if value.layout == torch.strided and value.ndim and value.numel() == 1 else value
    if isinstance(value, bool) or not isinstance(value, (int, float, *_numpy_numbers())):
        return value
    try:
        return int(value) if isinstance(value, numbers.Integral) and abs(int(value)) <= EXACT else float(value)
    except OverflowError:
        return value


def _numpy_numbers() -> tuple[type, ...]:
    numpy = sys.modules.get("numpy")
    return () if numpy is None else (numpy.floating, numpy.integer)


def check_number(where: str, value: object, spec: Spec, default: object = dataclasses.MISSING) -> None:
    """Raise `OptionError` unless `value` is a number in the range of `spec`."""
    if value is None and spec.optional:
        return
    number = as_number(value)
    if isinstance(number, torch.Tensor):
        _check_tensor(where, number)
        number = reading(number)
        if number is None:
            return
    hint = " or None" if spec.optional else ""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise OptionError(
            f"{where} = {shown(value)} is {kind_of(value)}; pass a number in {spec.interval}{hint}{_conversion(value)}."
        )
    try:
        number = float(number)
    except OverflowError:
        number = math.nan  # no float is near
    if (
        math.isnan(number)
        or number not in spec.interval
        or (math.isinf(number) and default != number and not spec.infinite)
    ):
        example = f", such as the default {default}" if isinstance(default, (int, float)) else ""
        raise OptionError(
            f"{where} = {shown(value)} is outside {spec.interval}. Pass a number in {spec.interval}{hint}{example}."
        )


def _conversion(value: object) -> str:
    """How to make a number of something that looks like one."""
    if isinstance(value, (str, bytes, numbers.Number)) and not isinstance(value, (bool, complex)):
        try:
            number = float(cast("str", value))
        except (TypeError, ValueError, OverflowError):
            return ""
        return f", here float({shown(value)})" if math.isfinite(number) else ""
    return ", such as .item() of an array of one element" if type(value).__module__ == "numpy" else ""


def _check_tensor(where: str, value: torch.Tensor) -> None:
    good = "pass a dense real tensor of one element, or a number"
    if value.numel() != 1 or value.is_complex():
        raise OptionError(f"{where} = {shown(value)} is not one real number; {good}.")
    if value.layout != torch.strided or value.dtype == torch.bool or value.is_meta or value.is_quantized:
        what = "is on the meta device" if value.is_meta else "is bool" if value.dtype == torch.bool else "is not dense"
        raise OptionError(f"{where} = {shown(value)} {what}; {good}.")


def reading(value: torch.Tensor) -> float | None:
    """The number in a tensor; `None` while something is traced, captured or mapped."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
        return None
    if value.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    try:
        return float(value.detach())
    except (RuntimeError, ValueError):  # inside torch.func, or of a proxy
        return None


def stamp(value: object) -> object:
    """A value that changes when `value` is replaced, or written to where that shows without waiting for a device."""
    if isinstance(value, torch.Tensor):
        return (id(value), value, value._version if value.device.type == "cpu" and not value.is_inference() else 0)
    if isinstance(value, (list, tuple)):
        return tuple(stamp(item) for item in cast("list[object]", value))
    return value


def differ(old: object, new: object) -> bool:
    """Whether two stamps differ."""
    if old is new:
        return False
    if type(old) is not type(new):
        return True
    if isinstance(old, tuple) and isinstance(new, tuple):
        before, after = cast("tuple[object, ...]", old), cast("tuple[object, ...]", new)
        return len(before) != len(after) or any(map(differ, before, after))
    try:
        return bool(old != new)
    except Exception:  # an array says neither yes nor no
        return True


def check_static(where: str, value: object, spec: Spec, annotation: object, default: object) -> object:
    """Canonicalise and check one static option; returns the value to keep."""
    if spec.convert is not None:
        try:
            value = spec.convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise OptionError(f"{where} = {shown(value)}: {error}") from None
    value = _frozen(as_number(value))
    choices = ", ".join(map(repr, spec.choices))
    kind, named = KINDS.get(getattr(annotation, "__name__", str(annotation)), (object, ""))
    wanted = ", one of ".join(filter(None, (named, choices)))
    try:
        hash(value)
    except TypeError:
        raise OptionError(
            f"{where} = {shown(value)} is {kind_of(value)}, which cannot be an option: options are compared and hashed. "
            f"Pass {wanted or 'a number, a string, a dtype or a tuple of these'}."
        ) from None
    if isinstance(value, torch.Tensor) or not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise OptionError(f"{where} = {shown(value)} is {kind_of(value)}; pass {wanted or 'a plain value'}.")
    if spec.choices and value not in spec.choices:
        hint = nearest(value, map(str, spec.choices)) if isinstance(value, str) else ""
        hint = f" {hint}" if hint.startswith("Did") else ""
        raise OptionError(f"{where} = {shown(value)} is not one of {choices}. Pass one of these.{hint}")
    if spec.interval != Interval():
        check_number(where, value, spec, default)
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise OptionError(f"{where} = {shown(value)} is too large; pass an integer below 2**63.")
    return value


LARGEST = 2**63


KINDS: Mapping[str, tuple[type, str]] = {
    "bool": (bool, "True or False"),
    "int": (int, "an integer"),
    "str": (str, "a string"),
}


def _frozen(value: object) -> object:
    """Lists as tuples, also inside: a stage is hashable."""
    if type(value) in (list, tuple):
        return tuple(_frozen(item) for item in cast("list[object]", value))
    return value


DTYPES: Mapping[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_ALIASES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}


def dtype_name(value: object) -> str | None:
    """Short name of a floating dtype: `"fp64"` for `torch.float64` or `" Float64 "`; `None` for `"none"` or `"null"`."""
    if value is None:
        return None
    text = str(value).strip().lower().removeprefix("torch.") if isinstance(value, (str, torch.dtype)) else ""
    if text in ("none", "null"):
        return None
    name = _ALIASES.get(text, text)
    if name not in DTYPES:
        raise ValueError(f"not a floating dtype; pass one of {', '.join(DTYPES)}, their torch dtypes, or None.")
    return name


def as_tuple(value: Any) -> Any:
    """A list, or a list-like thing of a configuration library, as a tuple; anything else as it is."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(cast("Sequence[Any]", value))
    return value
