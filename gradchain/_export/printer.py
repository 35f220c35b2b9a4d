"""Expressions as Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from gradchain._export.graph import Node

ATOM, CALL, POWER, UNARY, NOT, CHOICE = 20, 18, 16, 15, 5, 2
PRECEDENCE = {
    "*": 14, "/": 14, "//": 14, "%": 14, "@": 14, "+": 13, "-": 13, "<<": 12, ">>": 12, "&": 11, "^": 10, "|": 9,
    "and": 4, "<": 7, "<=": 7, ">": 7, ">=": 7, "==": 7, "!=": 7,
}  # fmt: skip

WIDTH = 120

Text = tuple[str, int]
"""Source and how tightly it binds."""


CONSTANTS = {
    "LARGE": torch.finfo(torch.float32).max / 4,
    "LARGEST": torch.finfo(torch.float32).max,
    "LARGE_64": torch.finfo(torch.float64).max / 4,
    "LARGEST_64": torch.finfo(torch.float64).max,
    "TINY": torch.finfo(torch.float32).smallest_normal,
    "TINY_64": torch.finfo(torch.float64).smallest_normal,
    "EPSILON": torch.finfo(torch.float32).eps,
    "EPSILON_64": torch.finfo(torch.float64).eps,
}
"""Numbers that have names in the file."""

DEFINED = {
    "LARGE": ("torch.finfo(torch.float32).max / 4", "sums of four are finite"),
    "LARGEST": ("torch.finfo(torch.float32).max", ""),
    "LARGE_64": ("torch.finfo(torch.float64).max / 4", "sums of four are finite"),
    "LARGEST_64": ("torch.finfo(torch.float64).max", ""),
    "TINY": ("torch.finfo(torch.float32).smallest_normal", ""),
    "TINY_64": ("torch.finfo(torch.float64).smallest_normal", ""),
    "EPSILON": ("torch.finfo(torch.float32).eps", ""),
    "EPSILON_64": ("torch.finfo(torch.float64).eps", ""),
}
"""How they are calculated, and a remark."""


def literal(value: Any) -> Text:
    if isinstance(value, float):
        if math.isinf(value):
            return ("math.inf", ATOM) if value > 0 else ("-math.inf", UNARY)
        if math.isnan(value):
            return "math.nan", ATOM
        for name, constant in CONSTANTS.items():
            if abs(value) == constant:
                return (name, ATOM) if value > 0 else (f"-{name}", UNARY)
        return repr(value).replace("e+", "e"), ATOM if value >= 0 and str(value)[0] != "-" else UNARY
    if isinstance(value, bool) or value is None:
        return repr(value), ATOM
    if isinstance(value, int):
        return repr(value), ATOM if value >= 0 else UNARY
    if isinstance(value, str):
        return quoted(value), ATOM
    if value is Ellipsis:
        return "...", ATOM
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value), CALL
    raise TypeError(type(value))


def quoted(text: str) -> str:
    """A string in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def tight(text: Text, precedence: int) -> str:
    return text[0] if text[1] >= precedence else f"({text[0]})"


def _simple(text: str) -> bool:
    """Whether a formatter puts no spaces around a power of this."""
    text = text.removeprefix("-")
    return text.replace("_", "a").replace(".", "a").isalnum()


def expression(node: Node, of: Callable[[Node], Text], leaf: Callable[[Node], Text]) -> Text:
    """The source of a node; `of` gives that of its arguments."""
    if node.op == "const":
        return literal(node.target)
    if node.op in ("leaf", "present"):
        return leaf(node)
    if node.op == "fixed":
        text = node.data[0]
        return text, CALL if text.replace("_", "a").replace(".", "a").replace("[", "").replace("]", "").isalnum() else 1
    return FORMS[node.op](node, of)


def _binary(node: Node, of: Callable[[Node], Text]) -> Text:
    left, right = map(of, node.args)
    if node.target == "**":
        a, b = tight(left, POWER + 1), tight(right, UNARY)
        return (f"{a}**{b}" if _simple(a) and _simple(b) else f"{a} ** {b}"), POWER
    own = PRECEDENCE[node.target]
    strict = own == 7  # comparisons are chained otherwise
    return f"{tight(left, own + strict)} {node.target} {tight(right, own + 1)}", own


def _unary(node: Node, of: Callable[[Node], Text]) -> Text:
    text, precedence = of(node.args[0])
    return f"{node.target}{f'({text})' if precedence < UNARY or ' ** ' in text else text}", UNARY


def _not(node: Node, of: Callable[[Node], Text]) -> Text:
    return f"not {tight(of(node.args[0]), NOT)}", NOT


def _choice(node: Node, of: Callable[[Node], Text]) -> Text:
    condition, yes, no = (of(arg) for arg in node.args)
    return f"{tight(yes, 3)} if {tight(condition, 3)} else {tight(no, CHOICE)}", CHOICE


def arguments(node: Node, of: Callable[[Node], Text], skip: int = 0) -> str:
    given = [of(arg)[0] for arg in node.positional[skip:]]
    return ", ".join([*given, *(f"{name}={of(arg)[0]}" for name, arg in node.named)])


def _method(node: Node, of: Callable[[Node], Text]) -> Text:
    return f"{tight(of(node.args[0]), CALL)}.{node.target}({arguments(node, of, 1)})", CALL


def _call(node: Node, of: Callable[[Node], Text]) -> Text:
    return f"{node.target}({arguments(node, of)})", CALL


def _attribute(node: Node, of: Callable[[Node], Text]) -> Text:
    return f"{tight(of(node.args[0]), CALL)}.{node.target}", CALL


def _slice_of(node: Node, of: Callable[[Node], Text]) -> Text:
    return f"{tight(of(node.args[0]), CALL)}[{node.target}]", CALL


def _item(node: Node, of: Callable[[Node], Text]) -> Text:
    place = node.args[1]
    inside = ", ".join(of(arg)[0] for arg in place.args) if place.op == "tuple" and place.args else of(place)[0]
    return f"{tight(of(node.args[0]), CALL)}[{inside}]", CALL


def _tuple(node: Node, of: Callable[[Node], Text]) -> Text:
    inside = ", ".join(of(arg)[0] for arg in node.args)
    return (f"({inside},)" if len(node.args) == 1 else f"({inside})"), ATOM


def _slice(node: Node, of: Callable[[Node], Text]) -> Text:
    start, stop, step = ("" if arg.op == "const" and arg.target is None else of(arg) for arg in node.args)
    parts = ["" if not x else x[0] for x in (start, stop, step)]
    spaced = " " if any(not part.removeprefix("-").replace("_", "a").isalnum() for part in parts if part) else ""
    text = f"{parts[0]}{spaced if parts[0] else ''}:{spaced if parts[1] else ''}{parts[1]}"
    return text + (f"{spaced}:{spaced}{parts[2]}" if parts[2] else ""), 1


def _request(node: Node, of: Callable[[Node], Text]) -> Text:
    label, *partials = (of(arg)[0] for arg in node.args)
    return f"yield {quoted(node.target[0])}, {label}, [{', '.join(partials)}]", 1


FORMS: dict[str, Callable[[Node, Callable[[Node], Text]], Text]] = {
    "binary": _binary, "unary": _unary, "not": _not, "choice": _choice, "method": _method, "call": _call, "helper": _call,
    "attribute": _attribute, "slice_of": _slice_of, "item": _item, "tuple": _tuple, "slice": _slice,
    "request": _request,
}  # fmt: skip


def fitted(line: str) -> list[str]:
    """A line that is too long as several: what is in its last brackets, or behind the sign of equality, apart."""
    if len(line) <= WIDTH:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    bare = line.rstrip(":")
    colon = line[len(bare) :]
    place = _opening(bare)
    if place is None:
        head, equals, rest = bare.strip().partition(" = ")
        return [f"{indent}{head} = (", f"{indent}    {rest}", f"{indent})"] if equals else [line]
    inside, last = bare[place + 1 : -1], bare[-1]
    lines = [bare[: place + 1], f"{indent}    {inside}", f"{indent}{last}{colon}"]
    if len(lines[1]) > WIDTH:
        lines[1:2] = [f"{indent}    {part}," for part in _split(inside)]
    return lines


def _opening(text: str) -> int | None:
    """Where the bracket opens that a line ends with."""
    if not text.endswith((")", "]")):
        return None
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] in ")]") - (text[place] in "([")
        if depth == 0:
            return place
    return None


def _split(text: str) -> list[str]:
    """The arguments in a list of arguments."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
