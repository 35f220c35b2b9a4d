"""Numbers that remember how they were made, so that what was made of them can be made again of others."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

Answers = list[tuple[str, bool]]
"""Questions that were asked about numbers, as Python, and their answers."""


class TracedNumber(float):
    """A number, and the Python that makes it.

    Arithmetic makes traced numbers; comparisons are noted in `answers`. What a function of the math module makes of one has
    lost its trace.
    """

    source: str
    answers: Answers

    def __new__(cls, value: float, source: str, answers: Answers) -> TracedNumber:
        made = super().__new__(cls, value)
        made.source, made.answers = source, answers
        return made

    __hash__ = float.__hash__

    def __bool__(self) -> bool:
        answer = float.__bool__(self)
        self.answers.append((f"bool({self.source})", answer))
        return answer


def source_of(x: float) -> str:
    """A number as Python."""
    return x.source if isinstance(x, TracedNumber) else f"float('{x!r}')" if isinstance(x, float) else repr(x)


def _arithmetic(function: Callable[[Any, Any], Any], symbol: str, swapped: bool) -> Callable[[Any, Any], Any]:
    def method(self: TracedNumber, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        value = function(_plain(left), _plain(right))
        return _traced(value, f"({source_of(left)} {symbol} {source_of(right)})", self)

    return method


def _comparison(function: Callable[[Any, Any], Any], symbol: str) -> Callable[[Any, Any], Any]:
    def method(self: TracedNumber, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        answer = function(_plain(self), _plain(other))
        self.answers.append((f"({source_of(self)} {symbol} {source_of(other)})", answer))
        return answer

    return method


def _unary(function: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    return lambda self: _traced(function(_plain(self)), f"({name}({self.source}))", self)


def _plain(x: float) -> float:
    return float.__float__(x) if isinstance(x, TracedNumber) else x


def _traced(value: Any, source: str, like: TracedNumber) -> Any:
    return TracedNumber(value, source, like.answers) if isinstance(value, float) else value


for _name, _symbol in {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "pow": "**",
}.items():
    setattr(TracedNumber, f"__{_name}__", _arithmetic(getattr(operator, _name), _symbol, swapped=False))
    setattr(TracedNumber, f"__r{_name}__", _arithmetic(getattr(operator, _name), _symbol, swapped=True))
for _name, _symbol in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    setattr(TracedNumber, f"__{_name}__", _comparison(getattr(operator, _name), _symbol))
for _name, _symbol in {"neg": "-", "pos": "+", "abs": "abs"}.items():
    setattr(TracedNumber, f"__{_name}__", _unary(getattr(operator, _name), _symbol))
