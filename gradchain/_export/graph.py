"""The graph of a step: one node for each expression, so that equal expressions of different traces are one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Kind = Literal["tensor", "number", "shape", "other"]
"""What a node stands for: a tensor, a number that may change from step to step, a number that shapes decide, a constant."""


@dataclass(eq=False)
class Node:
    """One expression. `op` says how it is made, `target` by what, `args` (with the names of keywords) of what."""

    op: str
    target: Any
    args: tuple[Node, ...]
    keywords: tuple[str, ...]
    kind: Kind
    order: float
    """Where it stands among the others when it is printed."""
    stage: str = ""
    name: str = ""
    """What to call it if it gets a variable."""
    changes: bool = False
    """Whether a cast has ever changed a dtype: one that never does is left out."""
    data: Any = field(default=None, repr=False)
    dtypes: dict[bool, set[Any]] = field(default_factory=dict[bool, "set[Any]"], repr=False)
    """The dtypes that it was seen with, for parameters without axes (`True`) and others."""

    @property
    def positional(self) -> tuple[Node, ...]:
        return self.args[: len(self.args) - len(self.keywords)]

    @property
    def named(self) -> tuple[tuple[str, Node], ...]:
        count = len(self.keywords)
        return tuple(zip(self.keywords, self.args[len(self.args) - count :] if count else ()))

    def __repr__(self) -> str:
        return f"{self.op} {self.target}"


Key: TypeAlias = "tuple[Any, ...]"


class Graph:
    """Makes nodes, each once."""

    def __init__(self) -> None:
        self.nodes: dict[Key, Node] = {}
        self.stage, self.rank = "", 0
        """The stage that runs, and its place in the chain."""

    def make(
        self,
        op: str,
        target: Any,
        args: Iterable[Node] = (),
        keywords: tuple[str, ...] = (),
        kind: Kind = "other",
        *,
        like: Node | None = None,
        order: float | None = None,
        data: Any = None,
    ) -> Node:
        args = tuple(args)
        key = (op, _plain(target), keywords, kind, *map(id, args))
        found = self.nodes.get(key)
        if found is None:
            order = self.rank * 1e6 + len(self.nodes) if order is None else order
            if like is not None:
                order = like.order
            stage = self.stage if like is None else like.stage
            found = self.nodes[key] = Node(op, target, args, keywords, kind, order, stage, data=data)
            if like is not None:
                found.name, found.changes, found.data = like.name, like.changes, like.data
                found.dtypes = like.dtypes
        return found

    def const(self, value: Any) -> Node:
        return self.make("const", value, order=-1.0)

    def leaf(self, text: str, kind: Kind, data: Any = None) -> Node:
        """What is there before the step: an argument, a hyperparameter, a size."""
        return self.make("leaf", text, kind=kind, order=-1.0, data=data)

    def rebuilt(self, node: Node, args: Iterable[Node]) -> Node:
        """The same operation on other arguments."""
        args = tuple(args)
        if all(a is b for a, b in zip(args, node.args)):
            return node
        return self.make(node.op, node.target, args, node.keywords, node.kind, like=node)

    def choice(self, condition: Node, yes: Node, no: Node) -> Node:
        """`yes if condition else no`."""
        if yes is no:
            return yes
        values = (yes.target if yes.op == "const" else None, no.target if no.op == "const" else None)
        if values[0] is True and values[1] is False:
            return condition
        if values[0] is False and values[1] is True:
            return self.make("not", "not", (condition,), kind=condition.kind)
        if condition.op == "binary" and condition.args == (yes, no) and condition.target in ("<", ">"):
            if no.op == "const" and no.target == 1 and condition.target == ">" and yes.kind == "shape":
                return yes  # no size is below 1
            return self.make("call", "min" if condition.target == "<" else "max", (no, yes), kind=yes.kind)
        if condition.op == "binary" and condition.args == (no, yes) and condition.target in ("<", ">"):
            return self.make("call", "max" if condition.target == "<" else "min", (no, yes), kind=yes.kind)
        kind = "tensor" if "tensor" in (yes.kind, no.kind) else condition.kind
        kind = "number" if kind == "shape" and "number" in (yes.kind, no.kind) else kind
        later = no if no.order > yes.order else yes
        made = self.make("choice", "if", (condition, yes, no), kind=kind, order=max(condition.order, later.order) + 0.5)
        made.name = made.name or no.name or yes.name
        made.stage = later.stage
        return made


def _plain(value: Any) -> Any:
    """What tells constants apart: 1, 1.0 and True, 0.0 and -0.0."""
    return (type(value).__name__, repr(value)) if not isinstance(value, str) else value


Resolve: TypeAlias = "Callable[[Node, Node], Node]"


class Unifier:
    """Finds the expression that two expressions have in common; `resolve` decides where they differ.

    `pairs` are nodes that mean the same in both, such as the direction after one stage: there they may differ as a whole.
    """

    def __init__(self, graph: Graph, resolve: Resolve, pairs: Iterable[tuple[Node, Node]] = ()) -> None:
        self.graph, self.resolve = graph, resolve
        self.pairs = {(id(a), id(b)) for a, b in pairs}
        self.known: dict[tuple[int, int], tuple[Node, bool]] = {}

    def unify(self, a: Node, b: Node) -> Node:
        return self._unify(a, b)[0]

    def _unify(self, a: Node, b: Node) -> tuple[Node, bool]:
        """The common expression, and whether it is a bare choice between the two."""
        if a is b:
            return a, False
        key = (id(a), id(b))
        if key not in self.known:
            self.known[key] = self._made(a, b)
        return self.known[key]

    def _made(self, a: Node, b: Node) -> tuple[Node, bool]:
        if alike(a, b):
            parts = [self._unify(x, y) for x, y in zip(a.args, b.args)]
            bare = sum(
                is_bare and (id(x), id(y)) not in self.pairs for (_, is_bare), x, y in zip(parts, a.args, b.args)
            )
            if bare <= 1 or a.kind != "tensor":
                made = self.graph.rebuilt(a, [part for part, _ in parts])
                made.changes = made.changes or a.changes or b.changes
                return made, False
        try:
            return self.resolve(a, b), True
        except Mismatch:
            if a.op != "tuple" or b.op != "tuple" or len(a.args) != len(b.args):
                raise
            return self.graph.rebuilt(a, [self.unify(x, y) for x, y in zip(a.args, b.args)]), False


class Mismatch(Exception):
    """Two expressions have none in common."""


def alike(a: Node, b: Node) -> bool:
    """Whether two nodes are the same operation."""
    same = a.op == b.op and _plain(a.target) == _plain(b.target) and a.keywords == b.keywords
    bare = a.op == "tuple" and not any(arg.kind == "tensor" for arg in a.args)
    return same and len(a.args) == len(b.args) and len(a.args) > 0 and a.kind == b.kind and not bare
