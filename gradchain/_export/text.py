"""Pieces of the text of a file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from gradchain._core.fields import Spec
from gradchain._export.graph import Graph, Node
from gradchain._export.printer import literal, quoted

RESERVED = (
    "p", "grad", "state", "group", "step", "index", "noise_key", "role", "totals", "shared", "torch", "math", "self", "Any",
    "Tensor", "params", "answer", "max", "min", "abs", "round", "int", "float", "tuple", "dict", "list", "range", "key",
)  # fmt: skip
"""Names that no variable gets."""

FRESH = ("full_like", "new_full", "new_zeros", "new_ones", "torch.full_like", "torch.zeros", "torch.ones", "torch.full")
"""Operations that make new memory where they are written."""

SAME = ("to", "view", "reshape", "detach", "flatten", "expand", "t", "contiguous")
"""Methods that may hand on the memory that they get."""


def memory(node: Node) -> list[Node]:
    """Where the memory of a tensor may come from."""
    if node.op == "choice":
        return [x for arm in node.args[1:] for x in memory(arm)]
    if node.op in ("item", "attribute") or (
        node.op == "method" and node.target in SAME and "copy" not in node.keywords
    ):
        return memory(node.args[0])
    return [] if node.op == "leaf" and node.target == "absent" else [node]


def is_state(node: Node) -> bool:
    return str(node.target).startswith("state ")


def all_nodes(roots: Iterable[Node]) -> list[Node]:
    found: dict[int, Node] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += node.args
    return list(found.values())


def writing(key: str) -> Callable[[str], str]:
    return lambda text: f"state[{quoted(key)}].copy_({text})"


def raising(message: str, kind: str) -> Callable[[str], str]:
    def write(text: str) -> str:
        lines = [f"if {text}:", f"    raise {kind}("]
        for part in textwrap.wrap(" ".join(message.split()), 90, drop_whitespace=False):
            lines.append(f"        {quoted(part)}")
        one = f"    raise {kind}({lines[2].strip()})"
        return "\n".join([lines[0], one] if len(lines) == 3 and len(one) < 110 else [*lines, "    )"])

    return write


def joined(graph: Graph, conditions: Sequence[tuple[Node, bool]]) -> Node:
    """All of these together."""
    parts = [node if wanted else graph.make("not", "not", (node,), kind=node.kind) for node, wanted in conditions]
    result = parts[0]
    for part in parts[1:]:
        result = graph.make("binary", "and", (result, part), kind="number", order=max(result.order, part.order))
    return result


def first_write(lines: Sequence[str]) -> int:
    """Where writing begins."""
    place = len(lines)
    starts = ("p.copy_", 'state["', "totals[", "return totals")
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number]
        if not line.strip().startswith(starts) and not line.startswith(("if ", "else:", "elif ")):
            break
        if not line.startswith(" "):
            place = number
    return place


def indented(lines: Sequence[str], times: int = 1) -> list[str]:
    while lines and not lines[0]:
        lines = lines[1:]
    flat = [part for line in lines for part in line.split("\n")]
    return ["    " * times + line if line else "" for line in flat]


def assigned(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Load several entries, a few on each line."""
    lines: list[str] = []
    waiting = list(pairs)
    while waiting:
        count = len(waiting)
        while count > 1 and len(one(waiting[:count])) > 110:
            count -= 1
        lines.append(one(waiting[:count]))
        waiting = waiting[count:]
    return lines


def one(pairs: Sequence[tuple[str, str]]) -> str:
    return f"{', '.join(name for name, _ in pairs)} = {', '.join(f'group[{quoted(key)}]' for _, key in pairs)}"


def range_of(name: str, spec: Spec) -> str:
    """Whether a number is in range, as a condition that NaN fails."""
    interval = spec.interval
    low = f"{literal(interval.low)[0]} {'<' if interval.low_open or interval.low == -torch.inf else '<='} "
    infinite = interval.high == torch.inf and spec.infinite
    high = f" {'<=' if infinite or not (interval.high_open or interval.high == torch.inf) else '<'} "
    return f"{low.replace('.0 ', ' ')}{name}{high}{literal(interval.high)[0].removesuffix('.0')}"


def interval_of(spec: Spec) -> str:
    return str(spec.interval)


def annotation(value: Any) -> str:
    if isinstance(value, tuple):
        return f"tuple[{', '.join('float' if x is not None else 'None' for x in value)}]"
    return "float"


def default_of(value: Any) -> str:
    if isinstance(value, tuple):
        inside = ", ".join(default_of(x) for x in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return literal(value)[0]


def dict_of(target: str, entries: Sequence[str]) -> list[str]:
    one = f"{target} = {{{', '.join(entries)}}}"
    if len(one) <= 104:
        return [one]
    return [f"{target} = {{", *(f"    {entry}," for entry in entries), "}"]


def pairs_of(numbers: Mapping[str, torch.Tensor]) -> str:
    return f"({', '.join(f'({quoted(key)}, {literal(float(value))[0]})' for key, value in numbers.items())})"


def filled(text: str) -> list[str]:
    lines = textwrap.wrap(text, 104, break_long_words=False)
    return [f"    {lines[0]}", *(f"        {line}" for line in lines[1:])]
