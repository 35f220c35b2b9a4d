"""Statements, the conditions under which they run, and the order in which everything is there when it is needed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gradchain._export.graph import Node
from gradchain._export.symbols import ExportError

Path = tuple[tuple[Node, bool], ...]
"""The conditions under which a statement runs, and how they have to turn out."""


@dataclass
class Statement:
    """Something to be written: a variable, or what the function is for."""

    node: Node
    path: Path
    write: Callable[[str], str] | None = None
    """Makes the line from the expression; `None` for a variable."""
    target: Node | None = None
    """The choice that gets the value of `node` on this path."""
    uses: list[Node] = field(default_factory=list[Node])


def in_order(groups: list[tuple[float, list[Statement]]], ready: Mapping[int, list[int]]) -> list[Statement]:
    needs = [
        {other for statement in made for use in statement.uses for other in ready.get(id(use), ())}
        for _, made in groups
    ]
    waiting: dict[int, list[int]] = {}
    for place, needed in enumerate(needs):
        for other in needed:
            waiting.setdefault(other, []).append(place)
    heap = [(groups[place][0], place) for place, needed in enumerate(needs) if not needed]
    heapq.heapify(heap)
    result: list[Statement] = []
    while heap:
        _, place = _next(heap, groups, result)
        result += groups[place][1]
        for other in waiting.get(place, ()):
            needs[other].discard(place)
            if not needs[other]:
                heapq.heappush(heap, (groups[other][0], other))
    if sum(len(made) for _, made in groups) != len(result):
        raise ExportError(
            "the conditions of this step lie across one another, so that its `if`s have no order. Turn off options "
            "that choose by the step or by the shape, or train with gradchain itself."
        )
    return result


def _next(
    heap: list[tuple[float, int]], groups: list[tuple[float, list[Statement]]], done: list[Statement]
) -> tuple[float, int]:
    """The next that is ready; rather one under the condition that the last was under."""
    if done and done[-1].path:
        last = done[-1].path[0][0]
        same = [item for item in heap if groups[item[1]][1] and _first(groups[item[1]][1]) is last]
        if same and min(same)[0] < 1e9:
            best = min(same)
            heap.remove(best)
            heapq.heapify(heap)
            return best
    return heapq.heappop(heap)


def places(paths: Sequence[Path]) -> list[Path]:
    """Where something is made that is needed under these conditions: as far out as it is needed either way."""
    if () in paths:
        return [()]
    found: list[Path] = []
    for condition in {id(path[0][0]): path[0][0] for path in paths}.values():
        ways: list[list[Path]] = []
        for way in (True, False):
            inner = [path[1:] for path in paths if path[0][0] is condition and path[0][1] is way]
            ways.append(places(inner) if inner else [])
        if ways[0] == ways[1] == [()]:
            return [()]
        for way, inner_paths in zip((True, False), ways):
            found += [((condition, way), *inner) for inner in inner_paths]
    return [path for path in found if not any(set(other) < set(path) for other in found)]


def _first(statements: Sequence[Statement]) -> Node | None:
    path = statements[0].path
    return path[0][0] if path else None


def ends(node: Node) -> list[Node]:
    if node.op != "choice":
        return [node]
    return [end for arm in node.args[1:] for end in ends(arm)]


def is_absent(node: Node) -> bool:
    return node.op == "leaf" and node.target == "absent"
