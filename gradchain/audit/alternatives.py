"""Other values that a field or an option could have, likely ones first."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable
from typing import Any

from gradchain._core.fields import DTYPES, Interval

MOST = 8
ANY = Interval()

_FRACTIONS = (0.25, 1e3, 1.0, 1e-3, 0.9)
_COUNTS = (3, 2, 1, 7, 50)
_LITERAL = re.compile(r"Literal(\[[^\]]*\])")


def numbers(value: Any, interval: Interval = ANY, *, optional: bool = False) -> list[Any]:
    """Other numbers of an interval: near, large and small ones, and `None` where it is allowed."""
    if value is None:
        found: list[Any] = [*_FRACTIONS, 3.0]
    elif isinstance(value, int):
        found = [*([2 * value, value // 2, value + 1] if value else []), *_COUNTS, 0]
    elif value == 0 or math.isinf(value):
        found = [*_FRACTIONS, 1.5, 0.0]
    else:
        found = [value / 2, 2 * value, *_FRACTIONS, 0.0]
    inside = [number for number in found if number in interval]
    return _others(value, [*inside[: MOST - optional], *([None] if optional else [])])


def values(value: Any, annotation: str, choices: Iterable[Any] = ()) -> list[Any]:
    """Other values: the choices, or else by the type of the present one and the annotation."""
    literal = _LITERAL.search(annotation)
    found = [*choices, *(ast.literal_eval(literal[1]) if literal else ())]
    kinds = {kind.strip() for kind in annotation.split("|")}
    if isinstance(value, bool) or "bool" in kinds:
        found += [not value] if isinstance(value, bool) else [True, False]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found += numbers(value) if not found else []
    elif "float" in kinds:
        found += numbers(None)
    elif "int" in kinds:
        found += _COUNTS
    return _others(value, [*found, *([None] if "None" in kinds else [])])


def named(refusal: str) -> list[str]:
    """The values that a refusal offers: `... is not one of 'a', 'b'. Pass one of these.`"""
    offered = refusal.partition("one of")[2] or refusal.partition("Known:")[2] or refusal.partition("pass ")[2]
    return re.findall(r"'([^' ]+)'", offered) or [name for name in DTYPES if name in offered]


def _others(value: Any, found: Iterable[Any]) -> list[Any]:
    """Without repetitions, and without the value itself; `True` is not 1."""
    seen: list[tuple[type, Any]] = [(type(value), value)]
    for item in found:
        if (type(item), item) not in seen:
            seen.append((type(item), item))
    return [item for _, item in seen[1:]]
