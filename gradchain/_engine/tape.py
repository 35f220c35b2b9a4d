"""An eager step as a list of operations: recorded once, and played for other tensors and other numbers.

Stages are pure, so each of their operations takes new memory, and all their Python runs for each batch. Of a step that was
recorded only the operations are left; each writes into memory that nothing reads any more, the last ones into the parameter
and the slots. They are the same operations of torch in the same order, so that the bits are the same.

A step has a tape if it consists of such operations. That nothing else goes into it is tried before it is used: on other
elements and with other numbers it has to make what the stages make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gradchain._chain.program import Numbers, Outcome
from gradchain._engine.traced_number import Answers, TracedNumber
from gradchain._engine.writing import memory_of

Columns = Mapping[str, torch.Tensor]
"""The parameter, the gradient and the slots, by names; the first two are `PARAM` and `GRADIENT`."""

Run = Callable[[Columns, Numbers], Outcome]
"""A step; its state has the names of the columns."""

PARAM, GRADIENT = "param", "gradient"

INTO = (
    "abs", "add", "addcdiv", "addcmul", "atan2", "clamp", "copysign", "div", "eq", "exp", "ge", "gt", "hypot", "le",
    "lerp", "log", "lt", "maximum", "minimum", "mul", "ne", "neg", "pow", "reciprocal", "rsqrt", "sign", "sqrt", "square",
    "sub",
)  # fmt: skip
"""Operations on each element by itself that can write into given memory, also that of what they read."""

OPERATORS = {"truediv": "div", "rmul": "mul", "radd": "add"}

CHANGE = 2.0**-9
"""By how much, and multiples of how much, numbers are changed to try a tape out."""


class NoTape(Exception):
    """A step cannot be played."""


@dataclass(frozen=True)
class Operation:
    """One call of torch, and what it made."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    made: Any

    def reads(self) -> list[torch.Tensor]:
        return _tensors((self.args, self.kwargs))

    def fresh(self) -> list[torch.Tensor]:
        """What it has made that it was not given."""
        given = set(map(id, self.reads()))
        return [x for x in _tensors(self.made) if id(x) not in given]


class Recorder(TorchFunctionMode):
    """Notes the calls that make tensors."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._given = {memory_of(x) for x in columns.values()}

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = _tensors((args, kwargs))
        versions = [0 if x.is_inference() else x._version for x in read]
        made = func(*args, **kwargs)
        written = [x for x, version in zip(read, versions) if not x.is_inference() and x._version != version]
        if any(memory_of(x) in self._given for x in written):
            raise NoTape("it writes into what it is given")
        if written or (_tensors(made) and not any(made is x for x in read)):
            self.operations.append(Operation(func, args, kwargs, made))
        return made


def _tensors(x: Any) -> list[torch.Tensor]:
    """All tensors in nested containers."""
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, Mapping):
        return _tensors(list(x.values()))  # pyright: ignore
    return [found for part in x for found in _tensors(part)] if isinstance(x, (tuple, list)) else []


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


class Tape:
    """A recorded step of tensors of some shapes."""

    def __init__(self, run: Run, columns: Columns, numbers: Numbers, room: Room) -> None:
        """Record a step, and try it out.

        Raises: NoTape: it cannot be played.
        """
        self._kinds = [[type(value) for value in stage.values()] for stage in numbers]
        self._constants = [[None if type(x) is float else x for x in stage.values()] for stage in numbers]
        if any(isinstance(x, torch.Tensor) for stage in numbers for x in stage.values()):
            raise NoTape("numbers in tensors are not known here")
        if any(type(x) is not torch.Tensor or x.device.type != "cpu" for x in columns.values()):
            raise NoTape("it has been tried with plain tensors of a CPU only, where to compare results takes no sync")
        answers: Answers = []
        traced = tuple(
            {
                key: TracedNumber(value, f"n[{place}][{key!r}]", answers) if type(value) is float else value
                for key, value in stage.items()
            }
            for place, stage in enumerate(numbers)
        )
        with Recorder(columns) as recorder:
            outcome = run(columns, traced)
        self.written = (PARAM, *outcome.state)
        writer = Writer(recorder.operations, columns, {PARAM: outcome.param, **outcome.state}, room)
        self._body, self._memory = writer.function()
        self._scalars = _compiled(f"lambda n: ({''.join(f'{source}, ' for source in writer.scalars)})", {})
        self._answers = [answer for _, answer in answers]
        self._questions = _compiled(f"lambda n: [{', '.join(question for question, _ in answers)}]", {})
        self._try(run, columns, numbers)

    def scalars(self, numbers: Numbers) -> tuple[float, ...] | None:
        """What is computed of the numbers; `None` if the tape is not for such numbers."""
        for stage, kinds, constants in zip(numbers, self._kinds, self._constants):
            if list(map(type, stage.values())) != kinds:
                return None
            if any(kind is not float and x is not y and x != y for kind, x, y in zip(kinds, stage.values(), constants)):
                return None
        try:
            return self._scalars(numbers) if self._questions(numbers) == self._answers else None
        except ArithmeticError:  # the stages will say more of it
            return None

    def play(self, columns: Columns, scalars: Sequence[float]) -> None:
        """Step: the parameter and the slots are written."""
        self._body(columns, scalars, *self._memory)

    def _try(self, run: Run, columns: Columns, numbers: Numbers) -> None:
        """Raises: NoTape: on other elements, with other numbers, it does something else."""
        count = 0
        changed: list[dict[str, Any]] = []
        for stage in numbers:
            changed.append({})
            for key, value in stage.items():
                count += 1
                changed[-1][key] = value * (1 - CHANGE * count) if type(value) is float else value
        other = {name: x.roll(1) for name, x in columns.items()}
        scalars = self.scalars(tuple(changed))
        if scalars is None:
            raise NoTape("what it does depends on its numbers")
        expected = run(other, tuple(changed))
        self.play(other, scalars)
        for name, x in {PARAM: expected.param, **expected.state}.items():
            if not torch.equal(_bits(other[name]), _bits(x.to(other[name].dtype))):
                raise NoTape(f"{name} depends on something else")


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(-1).view(torch.uint8)


class Writer:
    """Writes a function that plays operations."""

    def __init__(
        self, operations: Sequence[Operation], columns: Columns, results: Mapping[str, torch.Tensor], room: Room
    ) -> None:
        self.room = room
        self.operations, self.columns, self.results = _needed(operations, results), columns, results
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

    def function(self) -> tuple[Callable[..., None], list[torch.Tensor]]:
        """The function, and the memory that it works in."""
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
        lines = [line for number, each in enumerate(self.operations) for line in self._lines(number, each)]
        lines += [
            f"copy(c[{name!r}], {self._name(x)})" for name, x in self.results.items() if self._name(x) != f"c[{name!r}]"
        ]
        arguments = "".join(f", m{place}" for place in range(len(self.memory)))
        body = "\n    ".join([f"def play(c, s{arguments}):", *lines, "return None"])
        return _compiled(body, self.constants, "play"), self.memory

    def _lines(self, number: int, operation: Operation) -> list[str]:
        into = self._into(number, operation)
        args = [self._code(x) for x in operation.args]
        args += [f"{key}={self._code(x)}" for key, x in operation.kwargs.items()]
        if into is not None:
            name = _named(operation.function)
            self._names[id(operation.made)] = into
            line = f"{self._constant(getattr(torch, name))}({', '.join([*args, f'out={into}'])})"
        else:
            line = f"{self._assigned(operation.made, number)} = {self._constant(operation.function)}({', '.join(args)})"
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
        if _named(operation.function) not in INTO or "out" in operation.kwargs or not isinstance(made, torch.Tensor):
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


def _needed(operations: Sequence[Operation], results: Mapping[str, torch.Tensor]) -> list[Operation]:
    """Those that the results depend on: what stages look at for telemetry alone is left out."""
    needed = set(map(memory_of, results.values()))
    kept: list[Operation] = []
    for operation in reversed(operations):
        if any(memory_of(x) in needed for x in _tensors(operation.made)):
            needed.update(map(memory_of, operation.reads()))
            kept.append(operation)
    return kept[::-1]


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


def _compiled(source: str, names: Mapping[str, Any], name: str = "") -> Any:
    space = dict(names)
    if not name:
        return eval(source, space)
    exec(source, space)
    return space[name]
