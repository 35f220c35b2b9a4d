"""Operations that were recorded, written as a function that plays them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from gradchain._engine.recorder import GRADIENT, Columns, NoTape, Operation, tensors_in
from gradchain._engine.traced_number import TracedNumber
from gradchain._engine.writing import memory_of

INTO = (
    "abs", "add", "addcdiv", "addcmul", "atan2", "clamp", "copysign", "div", "eq", "exp", "ge", "gt", "hypot", "le",
    "lerp", "log", "lt", "maximum", "minimum", "mul", "ne", "neg", "pow", "reciprocal", "rsqrt", "sign", "sqrt", "square",
    "sub",
)  # fmt: skip
"""Operations on each element by itself that can write into given memory, also that of what they read."""

OPERATORS = {"truediv": "div", "rmul": "mul", "radd": "add"}


class Room:
    """Memory to work in; tapes that are played one after another have it together."""

    def __init__(self) -> None:
        self.pieces: list[torch.Tensor] = []

    def piece(self, number: int, like: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor like another in a piece of the memory."""
        wanted = like.numel() * like.element_size()
        if number == len(self.pieces):
            self.pieces.append(torch.empty(0, dtype=torch.uint8, device="cpu"))
        if self.pieces[number].numel() < wanted:
            self.pieces[number] = torch.empty(wanted, dtype=torch.uint8, device="cpu")
        return self.pieces[number][:wanted].view(like.dtype).view(like.shape)


class Writer:
    """Writes a function that plays operations."""

    def __init__(
        self,
        operations: Sequence[Operation],
        columns: Columns,
        results: Mapping[str, torch.Tensor],
        room: Room,
        shared: Collection[str] = (),
    ) -> None:
        self.room = room
        self.operations, self.columns, self.results = needed(operations, results), columns, results
        self.scalars: list[str] = []
        self.constants: dict[str, Any] = {"copy": torch.Tensor.copy_}
        self.memory: list[torch.Tensor] = []
        self._names: dict[int, str] = {id(x): f"c[{name!r}]" for name, x in columns.items()}
        self._last: dict[int, int] = {}
        """The last operation that reads some memory."""
        self._views: dict[int, int] = {}
        """How many tensors live in some memory."""
        self._place: dict[int, str] = {}
        """Where in the given memory some memory stands."""
        self._free: dict[Any, list[str]] = {}
        self._first = _of_shared(self.operations, {memory_of(columns[name]) for name in shared})

    def functions(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """What is done once for all that have the same shared columns; and what is done for each, in some memory."""
        for number, operation in enumerate(self.operations):
            for x in operation.reads():
                self._last[memory_of(x)] = number
        for x in self.results.values():
            self._last[memory_of(x)] = len(self.operations)
        for operation in self.operations:
            for x in operation.fresh():
                self._views[memory_of(x)] = self._views.get(memory_of(x), 0) + 1
        own = {memory_of(x): name for name, x in self.columns.items()}
        for name, x in self.results.items():
            if own.get(memory_of(x), name) not in (name, GRADIENT):
                raise NoTape(f"{name} is handed on from another tensor")
        first = [self._line_of_shared(number) for number in self._first]
        rest = [(number, x) for number, x in enumerate(self.operations) if number not in self._first]
        lines = [line for number, operation in rest for line in self._lines(number, operation)]
        lines += [
            f"copy(c[{name!r}], {self._name(x)})" for name, x in self.results.items() if self._name(x) != f"c[{name!r}]"
        ]
        arguments = "".join(f", m{place}" for place in range(len(self.memory)))
        return self._function("begin(c, s)", first), self._function(f"play(c, s{arguments})", lines)

    def _function(self, head: str, lines: Sequence[str]) -> Callable[..., None]:
        body = "\n    ".join([f"def {head}:", *lines, "return None"])
        return compiled(body, self.constants, head.partition("(")[0])

    def _line_of_shared(self, number: int) -> str:
        made = self.operations[number].made
        self._names[id(made)] = f"c['{number}']"
        return f"c['{number}'] = {self._called(self.operations[number])}"

    def _called(self, operation: Operation) -> str:
        """The call of an operation."""
        return f"{self._constant(operation.function)}({self._arguments(operation)})"

    def _arguments(self, operation: Operation) -> str:
        args = [self._code(x) for x in operation.args]
        return ", ".join([*args, *(f"{key}={self._code(x)}" for key, x in operation.kwargs.items())])

    def _lines(self, number: int, operation: Operation) -> list[str]:
        into = self._into(number, operation)
        if into is not None:
            arguments = self._arguments(operation)  # before the result has a name: it may be one of them
            self._names[id(operation.made)] = into
            line = f"{self._constant(_writing(operation))}({arguments}, out={into})"
        else:
            line = f"{self._assigned(operation.made, number)} = {self._called(operation)}"
        dead = [x for x in operation.reads() if self._last[memory_of(x)] <= number and self._name(x).startswith("t")]
        self._release(number, operation)
        return [line, *(f"{name} = None" for name in dict.fromkeys(map(self._name, dead)))]

    def _assigned(self, made: Any, number: int, place: int = 0) -> str:
        """The variables that hold what an operation has made."""
        if isinstance(made, torch.Tensor):
            return self._names.setdefault(id(made), f"t{number}_{place}")
        if not isinstance(made, (tuple, list)) or not all(isinstance(x, torch.Tensor) for x in made):  # pyright: ignore
            raise NoTape("an operation makes more than tensors")
        return f"({''.join(f'{self._assigned(x, number, place)}, ' for place, x in enumerate(made))})"  # pyright: ignore

    def _into(self, number: int, operation: Operation) -> str | None:
        """The memory that an operation is to write into, if it can."""
        made: Any = operation.made
        if _writing(operation) is None or "out" in operation.kwargs or not isinstance(made, torch.Tensor):
            return None
        memory = memory_of(made)
        if self._views[memory] > 1 or not made.is_contiguous() or memory in map(memory_of, operation.reads()):
            return None
        self._release(number, operation, like=made)
        for name, x in self.results.items():
            column = self.columns[name]
            read_on = self._last.get(memory_of(column), -1) > number or not _aligned(column, operation, made)
            if x is made and not read_on and (column.shape, column.dtype) == (x.shape, x.dtype):
                return f"c[{name!r}]"
        kind = (made.shape, made.dtype)
        if not (free := self._free.setdefault(kind, [])):
            free.append(f"m{len(self.memory)}")
            self.memory.append(self.room.piece(len(self.memory), made))
        self._place[memory] = free.pop()
        return self._place[memory]

    def _release(self, number: int, operation: Operation, like: torch.Tensor | None = None) -> None:
        """Free the memory that nothing reads after this operation; with `like`, what it may write into itself."""
        for x in operation.reads():
            memory = memory_of(x)
            if self._last[memory] > number or (like is not None and not _aligned(x, operation, like)):
                continue
            if place := self._place.pop(memory, None):
                self._free.setdefault((x.shape, x.dtype), []).append(place)

    def _name(self, x: torch.Tensor) -> str:
        if id(x) not in self._names:
            raise NoTape("it reads a tensor of its own")
        return self._names[id(x)]

    def _code(self, x: Any) -> str:
        if isinstance(x, torch.Tensor):
            return self._name(x)
        if isinstance(x, TracedNumber):
            if x.source not in self.scalars:
                self.scalars.append(x.source)
            return f"s[{self.scalars.index(x.source)}]"
        if isinstance(x, (list, tuple)) and type(x) in (list, tuple):  # pyright: ignore
            inner = "".join(f"{self._code(part)}, " for part in x)  # pyright: ignore
            return f"[{inner}]" if isinstance(x, list) else f"({inner})"
        return self._constant(x)

    def _constant(self, x: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = x
        return name


def needed(operations: Sequence[Operation], results: Mapping[str, torch.Tensor]) -> list[Operation]:
    """Those that the results depend on: what stages look at for telemetry alone is left out."""
    needed = set(map(memory_of, results.values()))
    kept: list[Operation] = []
    for operation in reversed(operations):
        if any(memory_of(x) in needed for x in tensors_in(operation.made)):
            needed.update(map(memory_of, operation.reads()))
            kept.append(operation)
    return kept[::-1]


def _of_shared(operations: Sequence[Operation], shared: set[int]) -> list[int]:
    """The operations that read nothing but the memory of shared columns, and what was made of it."""
    changed = {memory_of(x) for each in operations for x in tensors_in(each.made) if any(x is y for y in each.reads())}
    found: list[int] = []
    for number, operation in enumerate(operations):
        made = operation.made
        if not isinstance(made, torch.Tensor) or memory_of(made) in changed or not operation.reads():
            continue
        if shared and all(memory_of(x) in shared for x in operation.reads()):
            found.append(number)
            shared = shared | {memory_of(made)}
    return found


def _writing(operation: Operation) -> Callable[..., Any] | None:
    """A function that writes into given memory what an operation makes."""
    name = _named(operation.function)
    if name == "where":
        return choose if _is_choice(operation) else None
    return getattr(torch, name) if name in INTO else None


def _is_choice(operation: Operation) -> bool:
    """Whether one of two tensors is chosen as a whole."""
    if operation.kwargs or len(operation.args) != 3 or len(operation.reads()) != 3:
        return False
    condition, *options = operation.reads()
    return condition.ndim == 0 and all(
        (x.shape, x.dtype) == (operation.made.shape, operation.made.dtype) for x in options
    )


def choose(condition: torch.Tensor, one: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """`torch.where` of a 0-d condition, which takes five times as long as a copy on a CPU."""
    return out.copy_(one if condition else other)


def _aligned(x: torch.Tensor, operation: Operation, made: torch.Tensor) -> bool:
    """Whether an operation reads the memory of `x` element for element as it writes: it may write there."""
    seen = [y for y in operation.reads() if memory_of(y) == memory_of(x)]
    return all(
        (y.shape, y.stride(), y.storage_offset()) == (made.shape, made.stride(), x.storage_offset()) for y in seen
    )


def _named(function: Any) -> str:
    name = getattr(function, "__name__", "").strip("_")
    name = OPERATORS.get(name, name)
    return name if hasattr(torch, name) else ""


def compiled(source: str, names: Mapping[str, Any], name: str = "") -> Any:
    space = dict(names)
    if not name:
        return eval(source, space)
    exec(source, space)
    return space[name]
