"""Numbers are read before the loops that use them: hyperparameters and noise keys once, totals once a loop.

Inductor (2.13) reads a number where it is used, for each vector of elements. A C++ compiler cannot tell that what the loop
writes is elsewhere, so it also converts, hashes and divides for each vector: a hundred of the 250 instructions of a step
with noise, and 10 of the 25 ms of a step of Rose. As constants outside of the loop they are that, and so is all that is
made of them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from gradchain._engine.replaced import replaced

ARGUMENT = re.compile(r"const (?:double|int32_t)\* (in_ptr\d+)\b")
"""What hyperparameters and noise keys come in. What a kernel writes is no such argument."""

NUMBER = re.compile(r"= (\w+_ptr\d+)\[static_cast<int64_t>\((\d+)L\)\];")
"""One number, at a place that depends on no loop."""

OF_BLOCK = re.compile(r"= (\w+_ptr\d+)\[static_cast<int64_t>\((x0)\)\];")
"""One number for each round of the outer loop."""

LOOP = re.compile(r"( *)for\(int64_t x[01]=")
INNER_LOOP = re.compile(r"for\(int64_t x1=")

MADE = re.compile(r"\bauto (tmp\d+) =(.*)")
"""What a round of a loop makes; of some the first line."""

VALUE = re.compile(r" ([^;\[\]]+);")
"""What is made in one line, and not of what lies in memory."""

WORD = re.compile(r"[A-Za-z_]\w*(?:::\w+)*")

SCALAR = re.compile(
    r"std::\w+|static_cast|decltype|double|float|bool|u?int\d+_t|c10::convert|\w+_propagate_nan|infinity|L|e"
)
"""Names in what is made of numbers alone, besides those of numbers."""

PERHAPS = re.compile(r"= \[&\]\s")
"""What is read in some rounds of a loop only, and may not be there in others."""


@contextlib.contextmanager
def numbers_once() -> Generator[None, None, None]:
    """While a graph is compiled, move the reading of numbers out of loops. Other versions of inductor are left alone."""
    from torch._inductor.codegen import cpp

    module: Any = cpp
    group = getattr(module, "KernelGroup", None)
    if group is None or not hasattr(group, "codegen_group"):
        yield
        return
    before = group.codegen_group

    def codegen_group(self: Any, name: Any = None) -> str:
        code: str = before(self, name)
        return hoisted(code) if code else code  # it is asked for empty ones, too

    with replaced(group, "codegen_group", codegen_group):
        yield


def hoisted(code: str) -> str:
    """The code of a kernel, with its numbers read before its loops, totals and scales before the loop that uses them."""
    if PERHAPS.search(code):
        return code
    head, brace, body = code.partition("\n{\n")
    body, numbers = _named(body, NUMBER, set(ARGUMENT.findall(head)), "")
    lines, done = body.splitlines(), [f"    {line}" for line in numbers]
    nested = "collapse(" in body  # two loops that are one, with nothing between them
    while lines:
        start = LOOP.match(lines[0])
        length = _length(lines, start.group(1)) if start else 1
        if start and any(map(INNER_LOOP.search, lines[1:length])):
            start, length = None, 1
        text = "\n".join(lines[:length])
        if start and not nested:
            known: list[str] = []
            for pattern in (NUMBER, OF_BLOCK) if INNER_LOOP.search(lines[0]) else (NUMBER,):
                read = {pointer for pointer, _ in pattern.findall(text) if not _writes(text, pointer)}
                text, found = _named(text, pattern, read, f"_{len(lines)}")
                known += found
            text, made = _made_once(text, {line.split()[2] for line in [*numbers, *known]}, f"_{len(lines)}")
            known += made
            before = len(done) - "".join(done[-1:]).lstrip().startswith(
                "#pragma"
            )  # that has to stand right before its loop
            done[before:before] = [start.group(1) + line for line in known]
        done.append(text)
        lines = lines[length:]
    return head + brace + "\n".join(done) + "\n"


def _named(text: str, pattern: re.Pattern[str], pointers: set[str], suffix: str) -> tuple[str, list[str]]:
    """A text with constants in the place of what it reads from some pointers, and the lines that define these.

    Their names end in `suffix`: several loops may stand in one scope.
    """
    lines: dict[str, None] = {}

    def constant(match: re.Match[str]) -> str:
        pointer, place = match.groups()
        if pointer not in pointers:
            return match.group()
        lines[f"const auto {pointer}_{place}{suffix} = {pointer}[{place}];"] = None
        return f"= {pointer}_{place}{suffix};"

    return pattern.sub(constant, text), list(lines)


def _made_once(text: str, known: set[str], suffix: str) -> tuple[str, list[str]]:
    """The text of a loop without what it makes of `known` numbers alone, and the lines that make it.

    A root may set `errno`, so a C++ compiler takes it in each round. A loop has a part for what does not fill a vector,
    where a name may stand for something else: what is made once means the same in both.
    """
    values: dict[str, set[str]] = {}
    for name, value in MADE.findall(text):
        values.setdefault(name, set()).add(value)
    names: dict[str, str] = {}
    lines: list[str] = []
    for name, (value, *others) in values.items():
        made = VALUE.fullmatch(value)
        if not others and made and all(x in names or x in known or SCALAR.fullmatch(x) for x in WORD.findall(value)):
            lines.append(f"const auto {name}{suffix} = {_renamed(made.group(1), names)};")
            names[name] = name + suffix
            text = re.sub(rf"^ *auto {name} =.*\n", "", text, flags=re.MULTILINE)
    return _renamed(text, names), lines


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """A text with other names of what is made."""
    return re.sub(r"\btmp\d+\b", lambda match: names.get(match.group(), match.group()), text)


def _length(lines: Sequence[str], indent: str) -> int:
    """How many lines a loop has, from its first to the brace that closes it."""
    return lines.index(indent + "}") + 1


def _writes(text: str, pointer: str) -> bool:
    """Whether some code writes behind a pointer."""
    return re.search(rf"\bstore\({pointer}\b|&{pointer}\[|\b{pointer}\[[^;]*\] *[-+]?= ", text) is not None
