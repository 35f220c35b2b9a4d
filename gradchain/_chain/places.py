"""Where elements stand in a chain: found by name, exchanged, taken out and put in, unchecked."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

from gradchain._chain.elements import Composed, Element, Partition
from gradchain.errors import UnknownOptionError, nearest, shown

Elements: TypeAlias = "tuple[Element, ...]"
Path: TypeAlias = "tuple[int | str, ...]"
"""The number of an element in its row, after the number and the label of each partition and branch that it is in."""


@dataclasses.dataclass(frozen=True)
class Place:
    """An element, what it is called, and its path. `row` is what the names of its row begin with."""

    name: str
    path: Path
    element: Element
    row: str


def partition_name(partition: Partition) -> str:
    """What edits call a partition: its labels, `matrix|vector`, or `all|` if there is one."""
    labels = "|".join(label for label, _ in partition.branches)
    return labels if "|" in labels else f"{labels}|"


def places(elements: Sequence[Element], row: str = "", path: Path = ()) -> Iterator[Place]:
    """Every stage and every partition. Partitions of one name in one row are numbered: `matrix|vector#2`."""
    names = [partition_name(x) if isinstance(x, Partition) else x.address for x in elements]
    total, seen = Counter(names), Counter[str]()
    for number, (element, name) in enumerate(zip(elements, names)):
        seen[name] += 1
        several = isinstance(element, Partition) and total[name] > 1
        yield Place(row + (f"{name}#{seen[name]}" if several else name), (*path, number), element, row)
        if isinstance(element, Partition):
            for label, branch in element.branches:
                yield from places(branch.elements, f"{row}{label}/", (*path, number, label))


def find(elements: Elements, name: str) -> Place:
    """The stage or partition of this name, or of this bare name if only one has it."""
    known = list(places(elements))
    whole = [place for place in known if place.name in (name, name.removesuffix("#1"))]
    for matches in (whole, [place for place in known if place.name.rpartition("/")[2] == name]):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = ", ".join(place.name for place in matches)
            raise UnknownOptionError(f"stage name {shown(name)} is ambiguous; say which: {listed}.")
    raise UnknownOptionError(f"the chain has no stage {shown(name)}. {nearest(name, [place.name for place in known])}")


def find_branch(elements: Elements, name: str) -> Path:
    """The path of a branch called `label/`."""
    found = [
        (f"{place.row}{label}/", (*place.path, label))
        for place in places(elements)
        if isinstance(place.element, Partition)
        for label, _ in place.element.branches
    ]
    paths = [path for known, path in found if known == name]
    if len(paths) == 1:
        return paths[0]
    if paths:
        raise UnknownOptionError(
            f"{len(paths)} partitions have a branch {shown(name)}; replace one of them as a whole."
        )
    raise UnknownOptionError(f"the chain has no branch {shown(name)}. {nearest(name, [known for known, _ in found])}")


def spliced(elements: Elements, path: Path, new: Elements) -> Elements:
    """The elements with `new` instead of the one at a path; where the path ends in a branch, with `new` at its end."""
    number = cast("int", path[0])
    if len(path) > 1:
        partition, label = cast("Partition", elements[number]), path[1]
        branches = [
            (name, Composed(_inside(branch.elements, path[2:], new)) if name == label else branch)
            for name, branch in partition.branches
        ]
        new = (dataclasses.replace(partition, branches=tuple(branches)),)
    return (*elements[:number], *new, *elements[number + 1 :])


def _inside(elements: Elements, path: Path, new: Elements) -> Elements:
    return spliced(elements, path, new) if path else (*elements, *new)
