"""Numbers that remember how they were calculated: hyperparameters, the step, sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Protocol

import torch

from gradchain._export.graph import Graph, Node
from gradchain.errors import ChainError


class ExportError(ChainError):
    """A chain cannot be written as one file."""


class Decides(Protocol):
    """What knows which way a condition goes."""

    graph: Graph

    def decide(self, condition: Node, seen: bool) -> bool: ...

    def lift(self, value: Any) -> Node: ...


class Symbol:
    """Mixed into the kinds of numbers: `node` is the expression, `low` a lower and `high` an upper bound of its values."""

    node: Node
    tracer: Decides
    low: float
    high: float


def symbol(value: Any, node: Node, tracer: Decides, low: float = -math.inf, high: float = math.inf) -> Any:
    """A number with its expression. A complex number has no place in a step, and stands for a wrong turn."""
    kind = SymBool if isinstance(value, bool) else SymInt if isinstance(value, int) else SymFloat
    made: Any = kind(value if isinstance(value, (int, float)) else 1.0)
    made.node, made.tracer, made.low, made.high = node, tracer, low, high
    return made


def plain(value: Any) -> Any:
    """The bare number."""
    if isinstance(value, SymBool):
        return int.__int__(value) != 0
    if isinstance(value, SymInt):
        return int.__int__(value)
    return float.__add__(value, 0.0) if isinstance(value, SymFloat) else value


TEXT = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "lt": "<", "le": "<=",
    "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and_": "&", "or_": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
}  # fmt: skip


def known_outcome(name: str, low: float, high: float, other: float) -> bool | None:
    """What bounds say about a comparison with a number; `None` if they say nothing."""
    below, above = high < other, low > other
    if name in ("eq", "ne"):
        return name == "ne" if below or above else None
    sure = {"lt": (below, low >= other), "le": (high <= other, above), "gt": (above, high <= other)}
    yes, no = sure.get(name, (low >= other, below))
    return True if yes else False if no else None


COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def _binary(name: str, reverse: bool = False) -> Any:
    function: Callable[[Any, Any], Any] = getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        if isinstance(other, torch.Tensor) or not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if reverse else (self, other)
        if not isinstance(other, Symbol):
            if name in COMPARISONS and (known := known_outcome(name, self.low, self.high, other)) is not None:
                return known
            if name == "mul" and type(other) is int and other == 0 and isinstance(self, SymInt):
                return 0
            if name == "add" and type(other) is int and other == 0 and isinstance(self, SymInt):
                return self
        tracer: Decides = self.tracer
        try:
            value = function(plain(left), plain(right))
        except (ArithmeticError, ValueError):
            value = 1.0
        args = (tracer.lift(left), tracer.lift(right))
        kind = "number" if any(arg.kind == "number" for arg in args) else "shape"
        return symbol(value, tracer.graph.make("binary", TEXT[name], args, kind=kind), tracer)

    return method


def _unary(text: str, function: Callable[[Any], Any], op: str = "unary") -> Any:
    def method(self: Any, *more: Any) -> Any:
        args = (self.node, *map(self.tracer.lift, more))
        node = self.tracer.graph.make(op, text, args, kind=self.node.kind)
        return symbol(function(plain(self), *more), node, self.tracer)

    return method


class _Arithmetic(Symbol):
    """Every operator makes a new node; a truth value is asked of the tracer."""

    __add__, __radd__ = _binary("add"), _binary("add", True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", True)
    __truediv__, __rtruediv__ = _binary("truediv"), _binary("truediv", True)
    __floordiv__, __rfloordiv__ = _binary("floordiv"), _binary("floordiv", True)
    __mod__, __rmod__ = _binary("mod"), _binary("mod", True)
    __pow__, __rpow__ = _binary("pow"), _binary("pow", True)
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __eq__, __ne__ = _binary("eq"), _binary("ne")
    __neg__, __abs__, __round__ = _unary("-", operator.neg), _unary("abs", abs, "call"), _unary("round", round, "call")

    def __hash__(self) -> int:
        return hash(plain(self))

    def __bool__(self: Any) -> bool:
        condition = self if isinstance(self, SymBool) else self != 0
        if not isinstance(condition, Symbol):
            return bool(condition)
        return self.tracer.decide(condition.node, plain(condition))


class SymFloat(_Arithmetic, float):
    """A float."""

    def __float__(self) -> float:
        raise ExportError("a number is read with float(...), which an exported file could not follow.")


class SymInt(_Arithmetic, int):
    """An int."""

    __and__, __rand__ = _binary("and_"), _binary("and_", True)
    __or__, __ror__ = _binary("or_"), _binary("or_", True)
    __xor__, __rxor__ = _binary("xor"), _binary("xor", True)
    __lshift__, __rlshift__ = _binary("lshift"), _binary("lshift", True)
    __rshift__, __rrshift__ = _binary("rshift"), _binary("rshift", True)


class SymBool(SymInt):
    """A truth value. Python's own cannot be extended."""

    def _joined(self: Any, other: Any, text: str) -> Any:
        if isinstance(other, torch.Tensor):
            return NotImplemented
        if other is False or other is True:
            neutral = other is (text == "&")
            return self if neutral else other
        args = (self.node, self.tracer.lift(other))
        value = plain(self) & plain(other) if text == "&" else plain(self) | plain(other)
        return symbol(bool(value), self.tracer.graph.make("binary", text, args, kind="number"), self.tracer)

    def __and__(self, other: Any) -> Any:
        return self._joined(other, "&")

    def __or__(self, other: Any) -> Any:
        return self._joined(other, "|")

    __rand__, __ror__ = __and__, __or__


class SymSize(tuple[Any, ...]):  # torch.Size cannot be extended
    """A shape whose entries are symbols. `node` is the whole of it."""

    node: Node
    tracer: Any
    count: Any
    """The number of elements."""

    def numel(self) -> Any:
        return self.count()

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, slice):
            return tuple.__getitem__(self, place)
        whole = self
        bounds = ":".join("" if x is None else str(x) for x in (place.start, place.stop))
        items = tuple.__getitem__(self, place)
        return self.tracer.size(items, self.tracer.graph.make("slice_of", bounds, (whole.node,), kind="shape"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple):
            return False
        seen = tuple(map(plain, self)) == tuple(map(plain, other))
        if not isinstance(other, SymSize) or other.node is self.node:
            return seen
        node = self.tracer.graph.make("binary", "==", (self.node, other.node), kind="shape", data="shapes")
        return self.tracer.decide(node, seen)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple(map(plain, self)))
