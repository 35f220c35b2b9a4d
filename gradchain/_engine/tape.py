"""An eager step as a list of operations: recorded once, and played for other tensors and other numbers.

Stages are pure, so each of their operations takes new memory, and all their Python runs for each batch. Of a step that was
recorded only the operations are left; each writes into memory that nothing reads any more, the last ones into the parameter
and the slots. They are the same operations of torch in the same order, so that the bits are the same.

A step has a tape if it consists of such operations. That nothing else goes into it is tried before it is used: on other
elements and with other numbers it has to make what the stages make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from gradchain._chain.program import Numbers
from gradchain._engine.recorder import Columns, NoTape, Recorder
from gradchain._engine.tape_writer import Room, Writer, compiled
from gradchain._engine.traced_number import Answers, TracedNumber

Run = Callable[[Columns, Numbers], Columns]
"""What a step makes of columns: new ones, for some of the same names."""

CHANGE = 2.0**-9
"""By how much, and multiples of how much, numbers are changed to try a tape out."""


class Tape:
    """A recorded step of tensors of some shapes."""

    def __init__(
        self,
        run: Run,
        columns: Columns,
        numbers: Numbers,
        room: Room,
        other: tuple[Run, Columns] | None = None,
        shared: Collection[str] = (),
    ) -> None:
        """Record a step, and try it out; on an `other` one, if one is given. Columns that are `shared` are others' too.

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
            made = run(columns, traced)
        self.written = tuple(made)
        writer = Writer(recorder.operations, columns, made, room, shared)
        self._first, self._body = writer.functions()
        self._memory = writer.memory
        self._scalars = compiled(f"lambda n: ({''.join(f'{source}, ' for source in writer.scalars)})", {})
        self._answers = [answer for _, answer in answers]
        self._questions = compiled(f"lambda n: [{', '.join(question for question, _ in answers)}]", {})
        self._try(*(other or (run, columns)), numbers)

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

    def begin(self, columns: dict[str, torch.Tensor], scalars: Sequence[float]) -> None:
        """Add columns that are made of shared ones alone."""
        self._first(columns, scalars)

    def play(self, columns: Columns, scalars: Sequence[float]) -> None:
        """Step: the parameter and the slots are written. It has begun for these columns, or for the shared ones of them."""
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
        other = {name: _otherwise(x) for name, x in columns.items()}
        scalars = self.scalars(tuple(changed))
        if scalars is None:
            raise NoTape("what it does depends on its numbers")
        expected = run(other, tuple(changed))
        self.begin(other, scalars)
        self.play(other, scalars)
        for name, x in expected.items():
            if not torch.equal(_bits(other[name]), _bits(x.to(other[name].dtype))):
                raise NoTape(f"{name} depends on something else")


def _otherwise(x: torch.Tensor) -> torch.Tensor:
    """The same elements at other places, or another one."""
    return x.roll(1) if x.numel() != 1 else x * 1.5 + 0.5 if x.is_floating_point() else x.clone()


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(-1).view(torch.uint8)
