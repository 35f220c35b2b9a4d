"""Runs a step on tensors without data, and notes every operation of torch that it calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name

from gradchain._export.graph import Graph, Node
from gradchain._export.symbols import ExportError, Symbol, SymSize, plain, symbol

META = torch.device("meta")

ASKS = {
    "torch.Tensor.shape.__get__", "torch.Tensor.size", "torch.Tensor.numel", "torch.Tensor.nelement", "torch.numel",
    "torch.Tensor.__len__",
}  # fmt: skip
"""Questions about a size; the answer is a symbol."""

LOOKS = {
    f"torch.Tensor.{name}"
    for name in (
        "item",
        "tolist",
        "numpy",
        "__bool__",
        "__float__",
        "__int__",
        "__index__",
        "is_nonzero",
        "__contains__",
    )
}
"""Questions about a value, which stages may not ask."""

INFIX = {
    "add": "+", "__add__": "+", "__radd__": "+", "sub": "-", "__sub__": "-", "mul": "*", "__mul__": "*", "__rmul__": "*",
    "div": "/", "true_divide": "/", "__truediv__": "/", "__pow__": "**", "pow": "**", "gt": ">", "lt": "<", "ge": ">=",
    "le": "<=", "eq": "==", "__eq__": "==", "ne": "!=", "__ne__": "!=", "__gt__": ">", "__lt__": "<", "__ge__": ">=",
    "__le__": "<=", "__and__": "&", "bitwise_and": "&", "__or__": "|", "bitwise_or": "|", "__xor__": "^",
    "bitwise_xor": "^", "__lshift__": "<<", "__rshift__": ">>", "matmul": "@", "__matmul__": "@", "__mod__": "%",
}  # fmt: skip
REVERSED = {"__rsub__": "-", "__rtruediv__": "/", "__rdiv__": "/", "__rpow__": "**", "__rmatmul__": "@"}
PREFIX = {"neg": "-", "__neg__": "-", "__invert__": "~", "bitwise_not": "~", "logical_not": "~"}
RESHAPING = ("view", "reshape", "flatten", "new_full", "new_zeros", "new_ones", "unsqueeze", "squeeze", "expand", "t")
SHAPED = ("new_full", "new_zeros", "new_ones", "torch.zeros", "torch.ones", "torch.full", "torch.empty")
"""Operations whose result has the shape that they are called with."""
LISTED = ("view", "reshape", "permute", "expand", "new_zeros", "new_ones", "new_empty", "repeat")
"""Methods that take a shape as one tuple or as several numbers."""


class Undecided(BaseException):
    """A condition came up that the run was not told about. No `except Exception` of a stage stops it."""

    def __init__(self, condition: Node) -> None:
        super().__init__()
        self.condition = condition


class Recorder(TorchFunctionMode):
    """Makes the graph of what runs inside. One serves for one run, with one set of decisions."""

    def __init__(self, graph: Graph, decisions: Mapping[int, bool]) -> None:
        super().__init__()
        self.graph, self.decisions = graph, decisions
        self.known: dict[int, tuple[torch.Tensor, Node, bool]] = {}
        """The tensors, their expressions, and whether their shape is the parameter's by the way they were made."""
        self.shape: SymSize | None = None
        """That of the parameter."""
        self.asked: list[tuple[Node, bool]] = []
        """The conditions on shapes, and how they turned out."""
        self.address = ""

    # Symbols.

    def decide(self, condition: Node, seen: bool) -> bool:
        if condition.kind == "shape":
            if all(condition is not other for other, _ in self.asked):
                self.asked.append((condition, seen))
            return seen
        if id(condition) not in self.decisions:
            raise Undecided(condition)
        return self.decisions[id(condition)]

    def number(self, text: str, value: Any, low: float = -torch.inf, high: float = torch.inf) -> Any:
        """A hyperparameter, or the step."""
        return symbol(value, self.graph.leaf(text, "number"), self, low, high)

    def parameter_shape(self, shape: Sequence[int]) -> SymSize:
        items = [symbol(n, self.graph.leaf(f"p.shape[{i}]", "shape", ("dim", i)), self, 1) for i, n in enumerate(shape)]
        self.shape = self.size(items, self.graph.leaf("p.shape", "shape", ("shape",)))
        return self.shape

    def size(self, items: Iterable[Any], node: Node) -> SymSize:
        made = SymSize(items)
        made.node, made.tracer = node, self
        made.count = lambda: self._count(made)
        return made

    def _count(self, size: SymSize) -> Any:
        count = torch.Size(map(plain, size)).numel()
        if self.shape is not None and size.node is self.shape.node:
            return symbol(count, self.graph.leaf("p.numel()", "shape", ("numel",)), self, 1)
        return symbol(count, self.graph.make("method", "numel", (size.node,), kind="shape"), self, 1)

    def shape_of(self, tensor: torch.Tensor) -> SymSize:
        """The shape of a tensor, as that of the parameter where it is the same."""
        shape = tensor.shape
        node = self.node_of(tensor)
        if self.shape is not None and self.known[id(tensor)][2]:
            return self.shape
        given = next((arg for arg in node.args if arg.op == "tuple"), None) if node.target in SHAPED else None
        if given is not None and len(given.args) == len(shape) and given.kind == "shape":
            items = [symbol(n, arg, self, 1) if arg.op != "const" else n for n, arg in zip(shape, given.args)]
            return self.size(items, given)
        whole = self.graph.make("attribute", "shape", (node,), kind="shape")
        items = [
            symbol(n, self.graph.make("item", "[]", (whole, self.graph.const(i)), kind="shape"), self, 1)
            for i, n in enumerate(shape)
        ]
        return self.size(items, whole)

    # Tensors.

    def tensor(self, text: str, tensor: torch.Tensor, name: str = "") -> torch.Tensor:
        """A tensor that is there before the step."""
        node = self.graph.leaf(text, "tensor")
        node.name = name or node.name
        alike = self.shape is not None and tuple(tensor.shape) == tuple(map(plain, self.shape))
        return self.keep(tensor, node, alike)

    def keep(self, tensor: torch.Tensor, node: Node, alike: bool = False) -> torch.Tensor:
        self.known[id(tensor)] = (tensor, node, alike)
        return tensor

    def _alike(self, node: Node, args: Any, result: torch.Tensor) -> bool:
        """Whether a result has the shape of the parameter, and not by chance."""
        if self.shape is None or tuple(result.shape) != tuple(map(plain, self.shape)):
            return False
        if node.op in ("method", "call") and node.target in RESHAPING:
            return any(arg is self.shape.node for arg in node.args)
        if any(arg is self.shape.node for arg in node.args):
            return True
        same = [self.known[id(x)][2] for x in args if isinstance(x, torch.Tensor) and x.shape == result.shape]
        return any(same) if not result.ndim else bool(same) and all(same)

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is part of this run."""
        return id(tensor) in self.known

    def node_of(self, tensor: torch.Tensor) -> Node:
        if id(tensor) not in self.known:
            raise ExportError(
                f"{self.graph.stage or 'the step'} uses a tensor of shape {tuple(tensor.shape)} that was made outside of "
                "the step. Make it in the step, or keep it in a slot."
            )
        return self.known[id(tensor)][1]

    def lift(self, value: Any) -> Node:
        """The expression of anything that an operation may be called with."""
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if isinstance(value, (Symbol, SymSize)):
            return value.node
        if isinstance(value, (tuple, list)):
            kind = "other"
            items = tuple(map(self.lift, value))
            if all(item.kind == "shape" or item.op == "const" for item in items):
                kind = "shape"
            return self.graph.make("tuple", "()", items, kind=kind)  # type: ignore[arg-type]
        if isinstance(value, slice):
            return self.graph.make("slice", ":", map(self.lift, (value.start, value.stop, value.step)))
        if isinstance(value, torch.device):
            return self.graph.leaf("p.device", "other")
        if value is None or isinstance(value, (bool, int, float, str, torch.dtype, EllipsisType, torch.layout)):
            return self.graph.const(value)
        if isinstance(value, torch.memory_format):
            return self.graph.const(value)
        raise ExportError(
            f"{self.graph.stage}: an operation is called with {type(value).__name__}, which has no literal."
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("out") is None:  # no place to write into
            kwargs.pop("out", None)
        name = resolve_name(func) or getattr(func, "__name__", "")
        if name in ASKS:
            return self._asked(name, args)
        if name in LOOKS:
            raise ExportError(
                f"{self.graph.stage} looks at a value ({name.removeprefix('torch.')}). Choose with torch.where instead."
            )
        result = func(*_bare(args), **_bare(kwargs))
        if isinstance(result, torch.Tensor):
            return self._noted(name, args, kwargs, result)
        if isinstance(result, (tuple, list)) and any(isinstance(x, torch.Tensor) for x in result):
            whole = self._node(name, args, kwargs)
            for place, part in enumerate(result):
                item = self.graph.make("item", "[]", (whole, self.graph.const(place)), kind="tensor")
                self.keep(part, item)
        return result

    def _asked(self, name: str, args: Any) -> Any:
        shape = self.shape_of(args[0])
        if name in ("torch.Tensor.shape.__get__", "torch.Tensor.size") and len(args) < 2:
            return shape
        if name == "torch.Tensor.size":
            return shape[args[1]]
        return plain(shape[0]) if name == "torch.Tensor.__len__" else shape.numel()

    def _noted(self, name: str, args: Any, kwargs: Any, result: torch.Tensor) -> torch.Tensor:
        method = name.rpartition(".")[2]
        in_place = method.endswith("_") and not method.endswith("__")
        if in_place or "out" in kwargs or (method.startswith("__i") and method != "__invert__"):
            raise ExportError(
                f"{self.graph.stage} writes into a tensor ({name}). Use {method.strip('_')} without the underscore."
            )
        cast = isinstance(args[0], torch.Tensor) if args else False
        if cast and result is args[0]:
            if method in ("to", "type", "float", "double") and result.is_floating_point():
                result = result.detach()
            else:
                return result
        node = self._node(name, args, kwargs)
        node.dtypes.setdefault(not self.shape, set()).add(result.dtype)
        node.changes = node.changes or not cast or result.dtype != args[0].dtype or result.shape != args[0].shape
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            alike = self._alike(node, args, result)
        return self.keep(result, node, alike)

    def _node(self, name: str, args: Any, kwargs: Any) -> Node:
        method = name.rpartition(".")[2]
        on_tensor = name.startswith("torch.Tensor.")
        if on_tensor and method in LISTED and len(args) > 2 and all(isinstance(arg, int) for arg in args[1:]):
            args = (args[0], tuple(args[1:]))
        lifted = [self.lift(arg) for arg in args]
        make, kind = self.graph.make, "tensor"
        if method == "__get__":
            return make("attribute", name.split(".")[2], lifted, kind=kind)
        if on_tensor and not kwargs and len(lifted) == 2 and method in (*INFIX, *REVERSED):
            pair = lifted[::-1] if method in REVERSED else lifted
            if INFIX.get(method) in ("*", "+") and pair[1].kind != "tensor" and method != "add":
                pair = pair[::-1]  # it does not matter, and reads better: lr * direction
            return make("binary", INFIX.get(method) or REVERSED[method], pair, kind=kind)
        if on_tensor and len(lifted) == 1 and method in PREFIX:
            return make("unary", PREFIX[method], lifted, kind=kind)
        if on_tensor and method == "__getitem__":
            return make("item", "[]", lifted, kind=kind)
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        named = [self.lift(value) for value in kwargs.values()]
        op, target = ("method", method) if on_tensor else ("call", name.replace("torch.functional", "torch"))
        return make(op, target, (*lifted, *named), tuple(kwargs), kind=kind)


def _bare(value: Any) -> Any:
    """Arguments without symbols."""
    if isinstance(value, Symbol):
        return plain(value)
    if isinstance(value, slice):
        return slice(*map(_bare, (value.start, value.stop, value.step)))
    if isinstance(value, SymSize):
        return torch.Size(map(plain, value))
    if type(value) is torch.Size:
        return torch.Size(map(plain, value))
    if type(value) in (tuple, list):
        return type(value)(map(_bare, value))
    return {key: _bare(item) for key, item in value.items()} if type(value) is dict else value
