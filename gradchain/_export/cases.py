"""Puts the traces of many examples together: one expression for all shapes, or conditions on the shape that choose."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gradchain._core.fields import DTYPES
from gradchain._export.graph import Mismatch, Node, Unifier
from gradchain._export.symbols import TEXT, ExportError
from gradchain._export.trace import Example, Refusal, Traced, Tracer, merged
from gradchain.roles import ROLES
from gradchain.storage.base import near_square

FEW = ((), (7,), (5,), (6, 10), (3, 7), (2, 3, 5), (5, 2, 3), (2, 3, 4, 5), (4, 2, 1, 3), (2, 3, 1, 2, 2))
"""Shapes for stages that do not look at sizes."""

MANY = (
    (1,), (2,), (12,), (33,), (44,), (64,), (288,), (300,), (1, 1), (1, 7), (7, 1), (4, 4), (4, 32), (32, 4),
    (3, 11), (5, 22), (3, 300), (300, 3), (65, 130), (128, 3), (64, 33), (1, 64), (64, 1), (1, 1, 1),
    (4, 1, 1), (1, 5, 3), (3, 4, 8), (65, 2, 3), (3, 3, 1),
    (3, 1, 3), (2, 11, 2), (1, 1, 1, 1), (4, 1, 1, 1), (1, 2, 3, 1), (3, 2, 4, 4), (66, 2, 2, 1), (2, 11, 2, 1),
    (2, 2, 2, 2, 2), (3, 1, 1, 1, 1), (1, 1, 1, 1, 1), (2, 1, 3, 1, 11), (2, 2, 2, 2, 4),
    (2500,), (2048,), (65, 40), (64, 64), (5, 30, 20), (3, 10, 10, 10),
)  # fmt: skip
"""More of them, for those that do."""


class Fixed:
    """Constants that shapes and dtypes decide, by how a file would calculate them."""

    def __init__(self) -> None:
        self.known: dict[Example, dict[str, Any]] = {}

    def of(self, example: Example) -> dict[str, Any]:
        if example not in self.known:
            self.known[example] = dict(_constants(example))
        return self.known[example]


def _constants(example: Example) -> Iterator[tuple[str, Any]]:
    shape, dtype = torch.Size(example.shape), DTYPES[example.dtype]
    sizes = {"p.numel()": shape.numel(), "p.shape[1:].numel()": shape[1:].numel(), "p.ndim": len(shape)}
    sizes |= {f"p.shape[{i}]": n for i, n in enumerate(shape)}
    if len(shape) > 1:
        sizes |= {"p.shape[-1]": shape[-1], "p.shape[-2]": shape[-2]}
    yield from sizes.items()
    sides = near_square(shape.numel())
    yield from ((f"_near_square(p.numel())[{place}]", side) for place, side in enumerate(sides))
    for text, size in sizes.items():
        yield f"math.sqrt({text})", math.sqrt(size)
        yield f"1 / math.sqrt({text})", 1 / math.sqrt(size) if size else math.nan
        yield f"{text}**0.5", size**0.5
        yield f"{text}**-0.5", size**-0.5 if size else math.nan
    yield "tuple(range(1, p.ndim))", tuple(range(1, len(shape)))
    yield "tuple(range(p.ndim))", tuple(range(len(shape)))
    yield "(1,) * p.ndim", (1,) * len(shape)
    if shape:
        yield "(p.shape[0], *(1 for _ in p.shape[1:]))", (shape[0], *(1 for _ in shape[1:]))
        yield "(1, *p.shape[1:])", (1, *shape[1:])
        yield "p.shape[1:]", tuple(shape[1:])
        yield "p.shape[:-1]", tuple(shape[:-1])
        yield "p.shape[:-2]", tuple(shape[:-2])
    yield "p.shape", tuple(shape)
    yield "p.shape[:1].numel()", shape[:1].numel()
    yield 'f"shape {tuple(p.shape)}"', f"shape {tuple(shape)}"
    info = torch.finfo(dtype)
    yield "p.dtype", dtype
    for name in ("max", "eps", "smallest_normal", "resolution"):
        value = getattr(info, name)
        yield f"torch.finfo(p.dtype).{name}", value
        yield f"-torch.finfo(p.dtype).{name}", -value
    yield "torch.finfo(p.dtype).max / 4", info.max / 4
    yield "-torch.finfo(p.dtype).max / 4", -info.max / 4
    yield "8 * torch.finfo(p.dtype).eps", 8 * info.eps
    yield "torch.finfo(p.dtype).resolution ** (1 / 3)", info.resolution ** (1 / 3)


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {text: getattr(operator, name) for name, text in TEXT.items()}


class Unknown(Exception):
    """An expression depends on more than the shape and dtype of the parameter."""


class Cases:
    """The cases that a chain tells apart."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer, self.graph, self.fixed = tracer, tracer.graph, Fixed()
        self.unseen: list[tuple[Node, bool]] = []
        """Conditions that turned out one way for all examples, and which way."""

    # Evaluation.

    def value(self, node: Node, example: Example) -> Any:
        """What an expression of the shape is for one example."""
        shape = torch.Size(example.shape)
        if node.op == "const":
            return node.target
        if node.op == "fixed":
            return self.fixed.of(example)[node.data[0]]
        if node.op == "leaf" and isinstance(node.data, tuple):
            kind = node.data[0]
            if kind == "dim":
                if node.data[1] >= len(shape):
                    raise Unknown
                return shape[node.data[1]]
            known = {"shape": tuple(shape), "numel": shape.numel(), "ndim": len(shape), "dtype": DTYPES[example.dtype]}
            return known.get(kind, example.role)
        args = [self.value(arg, example) for arg in node.args]
        if node.op == "tuple":
            return tuple(args)
        if node.op == "slice_of":
            return args[0][slice(*(int(x) if x else None for x in node.target.split(":")))]
        if node.op == "method" and node.target == "numel" and isinstance(args[0], tuple):
            return math.prod(args[0])
        if node.op == "item" and isinstance(args[0], tuple):
            return args[0][args[1]]
        if node.op == "helper" and node.target == "_near_square":
            return near_square(args[0])
        if node.op == "binary" and node.kind == "shape":
            return OPERATORS[node.target](*args)
        if node.op == "call" and node.kind == "shape" and node.target.startswith("math."):
            return getattr(math, node.target[5:])(*args)
        if node.op == "call" and node.kind == "shape" and node.target in ("min", "max"):
            return min(args) if node.target == "min" else max(args)
        if node.op == "unary" and node.kind == "shape":
            return -args[0]
        if node.op == "choice" and node.kind == "shape":
            return args[1] if args[0] else args[2]
        raise Unknown

    def _values(self, node: Node, examples: Sequence[Example]) -> list[Any]:
        return [self.value(node, example) for example in examples]

    # One expression for all.

    def common(self, a: Traced, b: Traced, ours: Sequence[Example], theirs: Sequence[Example]) -> Traced:
        """The trace that serves the examples of both. `Mismatch` if there is none."""
        if a.roots.keys() != b.roots.keys():
            raise Mismatch("they keep different state")
        if len(a.roots) == len(b.roots) and all(a.roots[name] is b.roots[name] for name in a.roots):
            marks = {mark: node for mark, node in a.marks.items() if b.marks.get(mark) is node}
            return Traced(a.roots, marks, {**a.guards, **b.guards}, _both(a.asked, b.asked))

        def resolve(x: Node, y: Node) -> Node:
            for cast, other, others in ((x, y, theirs), (y, x, ours)):
                if _is_cast(cast) and not _is_cast(other) and _dtypes(other, others) == {cast.args[1].target}:
                    inner = unifier.unify(*((cast.args[0], y) if cast is x else (x, cast.args[0])))
                    made = self.graph.rebuilt(cast, (inner, cast.args[1]))
                    made.changes = True
                    return made
            return self._constant(x, y, ours, theirs)

        unifier = Unifier(self.graph, resolve)
        roots = {name: unifier.unify(node, b.roots[name]) for name, node in a.roots.items()}
        marks: dict[tuple[str, str], Node] = {}
        for mark in a.marks.keys() & b.marks.keys():
            try:
                marks[mark] = unifier.unify(a.marks[mark], b.marks[mark])
            except Mismatch:
                continue
        return Traced(roots, marks, {**a.guards, **b.guards}, _both(a.asked, b.asked))

    def _constant(self, a: Node, b: Node, ours: Sequence[Example], theirs: Sequence[Example]) -> Node:
        """The constant that is one number for some shapes, and another for others."""
        try:
            left, right = self._values(a, ours), self._values(b, theirs)
        except Unknown:
            raise Mismatch(f"{a!r:.80} and {b!r:.80}") from None
        for node in (a, b):
            try:
                if node.op not in ("const", "fixed") and _same(self._values(node, (*ours, *theirs)), [*left, *right]):
                    return node
            except (Unknown, IndexError):
                continue
        texts = [
            text
            for text in self.fixed.of(ours[0])
            if _same([self.fixed.of(example).get(text) for example in (*ours, *theirs)], [*left, *right])
        ]
        if not texts:
            raise Mismatch(f"{left[0]!r} for {ours[0]}, {right[0]!r} for {theirs[0]}")
        kind = "shape" if isinstance(left[0], (int, tuple)) else "other"
        return self.graph.make("fixed", texts[0], kind=kind, order=-1.0, data=(texts[0],))

    # Conditions.

    def build(self, cases: Mapping[Example, Traced]) -> Traced:
        """One trace for all these examples, which have one dtype and role."""
        examples = list(cases)
        try:
            return self._folded(cases)
        except Mismatch as error:
            reason = error
        condition, outcomes = self._split(cases)
        if condition is None:
            raise ExportError(
                f"the step of a parameter of {examples[0]} differs from that of another of the same rank, for a reason that "
                f"no condition shows: {reason}."
            )
        yes = self.build({example: case for example, case in cases.items() if outcomes[example]})
        no = self.build({example: case for example, case in cases.items() if not outcomes[example]})
        result = merged(self.graph, condition, yes, no)
        assert not isinstance(result, Refusal)
        return result

    def _folded(self, cases: Mapping[Example, Traced]) -> Traced:
        examples = list(cases)
        result = cases[examples[0]]
        for place in range(1, len(examples)):
            result = self.common(result, cases[examples[place]], examples[:place], [examples[place]])
        return result

    def _split(self, cases: Mapping[Example, Traced]) -> tuple[Node | None, dict[Example, bool]]:
        """The condition that the examples met first; or one on the number of axes, where that is seen to matter."""
        first = next(iter(cases.values()))
        ranks = sorted({len(example.shape) for example in cases})
        for node, _ in first.asked:
            outcomes = {example: _outcome(node, case) for example, case in cases.items()}
            if None in outcomes.values():
                break
            if len(set(outcomes.values())) == 2:
                return node, {example: bool(outcome) for example, outcome in outcomes.items()}
        if len(ranks) > 1:
            met = {rank: self._met(cases, rank) for rank in ranks}
            bound = next((rank for rank in ranks if met[rank] != met[ranks[0]]), ranks[1])
            ndim = self.graph.leaf("p.ndim", "shape", ("ndim",))
            node = self.graph.make("binary", "<", (ndim, self.graph.const(bound)), kind="shape", order=-0.5)
            return node, {example: len(example.shape) < bound for example in cases}
        for case in cases.values():
            for node, _ in case.asked:
                try:
                    outcomes = {example: bool(self.value(node, example)) for example in cases}
                except (Unknown, IndexError):
                    continue
                if len(set(outcomes.values())) == 2:
                    return node, outcomes
        return None, {}

    def _met(self, cases: Mapping[Example, Traced], rank: int) -> set[int]:
        return {id(n) for example, case in cases.items() if len(example.shape) == rank for n, _ in case.asked[:1]}

    # All.

    def all(self, dtypes: Iterable[str]) -> list[tuple[list[str], Traced]]:
        """The step of every parameter; one for several dtypes where their expressions are the same."""
        found: list[tuple[list[str], Traced, list[Example]]] = []
        for dtype in dtypes:
            made, examples = self._of_dtype(dtype, None)
            for place, (known, other, done) in enumerate(found):
                try:
                    both = self.common(other, made, done, examples)
                except Mismatch:
                    continue
                found[place] = ([*known, dtype], both, [*done, *examples])
                break
            else:
                found.append(([dtype], made, examples))
        return [(known, made) for known, made, _ in found]

    def by_role(self) -> bool:
        """Whether parameters with a role are stepped otherwise."""
        for shape in ((6, 10), (7,)):
            plain = self.tracer.step(Example(shape))
            for role in ROLES:
                try:
                    other = self.tracer.step(Example(shape, role=role))
                except ExportError:
                    return True
                if not _same_roots(plain, other):
                    return True
        return False

    def _of_dtype(self, dtype: str, role: str | None) -> tuple[Traced, list[Example]]:
        cases: dict[Example, Traced] = {}
        for shape in FEW:
            example = Example(shape, dtype, role)
            cases[example] = self.tracer.step(example)
        if any(case.asked for case in cases.values()):
            for shape in MANY:
                example = Example(shape, dtype, role)
                cases[example] = self.tracer.step(example)
        cases = dict(sorted(cases.items(), key=lambda item: len(item[0].shape)))
        result = self.build(cases)
        self._guard_unseen(result, cases)
        return result, list(cases)

    def _guard_unseen(self, result: Traced, cases: Mapping[Example, Traced]) -> None:
        """What turned out one way for all examples has to do so when the file is used."""
        outcomes: dict[int, tuple[Node, set[bool]]] = {}
        for node, outcome in itertools.chain.from_iterable(case.asked for case in cases.values()):
            outcomes.setdefault(id(node), (node, set()))[1].add(outcome)
        for node, seen in outcomes.values():
            burnt = (node.target, True in seen) in (("==", True), ("!=", False))  # a size, and what `len` said of it
            if len(seen) == 1 and node.data != "shapes" and not burnt:
                try:
                    self.value(node, next(iter(cases)))
                except (Unknown, IndexError):
                    continue
                self.unseen.append((node, seen.pop()))


def _is_cast(node: Node) -> bool:
    return node.op == "method" and node.target == "to" and len(node.args) == 2 and not node.keywords


def _dtypes(node: Node, examples: Sequence[Example]) -> set[Any]:
    """What a node was seen with, for the kind of parameters that these are."""
    found: set[Any] = set()
    for scalar in {not example.shape for example in examples}:
        found |= node.dtypes.get(scalar, {None})
    return found


def _outcome(node: Node, case: Traced) -> bool | None:
    return next((outcome for other, outcome in case.asked if other is node), None)


def _both(a: list[tuple[Node, bool]], b: list[tuple[Node, bool]]) -> list[tuple[Node, bool]]:
    seen = {id(node) for node, _ in a}
    return [*a, *((node, outcome) for node, outcome in b if id(node) not in seen)]


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return all(type(x) is type(y) and (x == y or (x != x and y != y)) for x, y in zip(a, b))


def _same_roots(a: Traced, b: Traced) -> bool:
    return a.roots.keys() == b.roots.keys() and all(a.roots[name] is b.roots[name] for name in a.roots)
