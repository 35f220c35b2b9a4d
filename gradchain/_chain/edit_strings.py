"""Edits of chains as text: one small grammar, read by `edits_from` and applied by `apply_edits`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from gradchain._chain.elements import Composed, Element
from gradchain._chain.places import Elements, find, find_branch, spliced
from gradchain._chain.reading import element_from, value_from
from gradchain._chain.targets import targets
from gradchain._core.fields import as_tuple
from gradchain.errors import ChainError, GradchainError, OptionError, kind_of, shown

FORMS = (
    "'-stage', '+stage(...) before other', 'stage -> other(...)', 'a <-> b', 'a before b', 'lr = 0.1' or "
    "'stage.option = value'"
)


@dataclass(frozen=True)
class Remove:
    """`-name`"""

    name: str

    def apply(self, elements: Elements) -> Elements:
        return spliced(elements, find(elements, self.name).path, ())


@dataclass(frozen=True)
class Insert:
    """`+element`, `+element before other`, `+element after other`, `+element in branch/`"""

    element: Element
    where: str = ""
    other: str = ""

    def apply(self, elements: Elements) -> Elements:
        if not self.where:
            return (*elements, self.element)
        if self.where == "in":
            return spliced(elements, find_branch(elements, self.other), (self.element,))
        other = find(elements, self.other)
        pair = (self.element, other.element) if self.where == "before" else (other.element, self.element)
        return spliced(elements, other.path, pair)


@dataclass(frozen=True)
class Move:
    """`name before other`, `name after other`, `name last`"""

    name: str
    where: str
    other: str = ""

    def apply(self, elements: Elements) -> Elements:
        moved = find(elements, self.name)
        rest = spliced(elements, moved.path, ())
        if self.where == "last":
            return spliced(rest, moved.path[:-1], (moved.element,)) if len(moved.path) > 1 else (*rest, moved.element)
        if find(elements, self.other) == moved:
            raise OptionError("a stage cannot stand before or after itself. Name another stage.")
        return Insert(moved.element, self.where, self.other).apply(rest)


@dataclass(frozen=True)
class Replace:
    """`name -> element`"""

    name: str
    element: Element

    def apply(self, elements: Elements) -> Elements:
        return spliced(elements, find(elements, self.name).path, (self.element,))


@dataclass(frozen=True)
class Swap:
    """`name <-> other`"""

    name: str
    other: str

    def apply(self, elements: Elements) -> Elements:
        one, two = sorted((find(elements, self.name), find(elements, self.other)), key=lambda place: len(place.path))
        if two.path[: len(one.path)] == one.path:
            raise OptionError(f"{two.name} and {one.name} cannot exchange places. Name two stages that stand apart.")
        return spliced(spliced(elements, one.path, (two.element,)), two.path, (one.element,))


@dataclass(frozen=True)
class Assign:
    """`option = value`"""

    name: str
    value: Any

    def apply(self, elements: Elements) -> Elements:
        return assigned(elements, [self])


Edit: TypeAlias = "Remove | Insert | Move | Replace | Swap | Assign"


def apply_edits(elements: Elements, edits: Iterable[str]) -> Elements:
    """The elements with all edits applied in order, unchecked. An error names the edit."""
    waiting: list[tuple[str, Assign]] = []
    for text, edit in (pair for given in edits for pair in edits_from(given)):
        if isinstance(edit, Assign):  # values that only fit together are set together
            waiting.append((text, edit))
            continue
        elements, waiting = _assigned(elements, waiting), []
        elements = _named(text, edit.apply, elements)
    return _assigned(elements, waiting)


def _assigned(elements: Elements, waiting: Sequence[tuple[str, Assign]]) -> Elements:
    texts = "; ".join(text for text, _ in waiting)
    return _named(texts, assigned, elements, [edit for _, edit in waiting]) if waiting else elements


def _named(text: str, function: Any, *args: Any) -> Any:
    """What a function returns; its error begins with the edit."""
    try:
        return function(*args)
    except ChainError as error:
        raise ChainError(f"edit {shown(text)}: {error}", stage=error.stage) from None
    except GradchainError as error:
        raise type(error)(f"edit {shown(text)}: {error}") from None


def assigned(elements: Elements, edits: Sequence[Assign]) -> Elements:
    """The elements with options set, those of a stage at once."""
    changes: dict[str, dict[str, Any]] = {}
    for edit in edits:
        for address, field, value in targets(Composed(elements), edit.name, as_tuple(edit.value)):
            changes.setdefault(address, {})[field] = value
    for address, fields in changes.items():
        place = find(elements, address)
        elements = spliced(elements, place.path, (dataclasses.replace(cast("Any", place.element), **fields),))
    return elements


# Reading.


def edits_from(text: str) -> list[tuple[str, Edit]]:
    """Read edits separated by `;`. Returns: each with its text.

    Raises:
        OptionError, UnknownNameError: a text is no edit, or names a stage that is not known.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"edit {shown(text)} is {kind_of(text)}; write it as text: {FORMS}.")
    masked, parts, start = _masked(text), list[str](), 0
    for part in masked.split(";"):  # as long as it is in the text
        parts.append(text[start : start + len(part)].strip())
        start += len(part) + 1
    return [(part, _named(part, _edit_from, part)) for part in parts if part]


def _edit_from(text: str) -> Edit:
    if text[0] == "-":
        return Remove(_name(text[1:]))
    if text[0] == "+":
        spec, where, other = _split(text[1:], r"\s(before|after|in)\s")
        return Insert(element_from(spec), where, _name(other) if where else "")
    for sign, kind in (("<->", Swap), ("->", Replace), ("=", Assign)):
        left, found, right = _split(text, sign)
        if found:
            read = {"<->": _name, "->": element_from, "=": value_from}[sign]
            return kind(_name(left), cast("Any", read(right)))
    name, where, other = _split(text, r"\s(before|after)\s|\s(last)$")
    if not where:
        raise OptionError(f"this is no edit. Write {FORMS}.")
    return Move(_name(name), where, "" if where == "last" else _name(other))


def _split(text: str, pattern: str) -> tuple[str, str, str]:
    """What stands before, in and after the last match outside of quotes and brackets."""
    found = [*re.finditer(pattern, _masked(text))]
    if not found:
        return text, "", ""
    return text[: found[-1].start()], found[-1].group().strip(), text[found[-1].end() :]


_NAME = re.compile(r"[\w-]+(\|[\w-]*)*(/[\w-]+(\|[\w-]*)*)*/?(#\d+)?(\.\w+)?(\[\d+\])?")


def _name(text: str) -> str:
    name = text.strip()
    if not _NAME.fullmatch(name):
        raise OptionError(f"{shown(name)} is not the name of a stage or an option. Write {FORMS}.")
    return name


_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")


def _masked(text: str) -> str:
    """The text with blanked quotes and brackets, each as long as it was."""
    characters, depth = list(_QUOTED.sub(lambda found: "." * len(found[0]), text)), 0
    for place, character in enumerate(characters):
        depth += character in "([{"
        if depth:
            characters[place] = "."
        depth -= character in ")]}"
        if depth < 0:
            raise OptionError(f"{shown(text)} closes a bracket that was not opened.")
    if depth:
        raise OptionError(f"{shown(text)} opens a bracket and does not close it.")
    return "".join(characters)
