"""What a step of sharded parameters costs in communication, on paper: for planning a run of thousands of processes.

The formulas are data, one for each time that a chain asks for totals. The tests hold them against counted collectives, and
the documentation prints them. Nothing in a step depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from gradchain._core import totals
from gradchain._core.text import aligned
from gradchain.errors import ParameterError, UnknownNameError, nearest
from gradchain.storage import near_square
from gradchain.storage.signs import word_dtype

Round = tuple[str, str, str]
"""The numbers that one round reduces: for each matrix, for each vector, and once for all. `max` marks maxima."""

_NOTHING: tuple[Round, ...] = ()
_PROJECT: tuple[Round, ...] = (("3", "3", ""), ("1", "1", ""))
_ROSE: tuple[Round, ...] = (("", "max 2", ""), ("3", "3", ""))
_SHARED: tuple[Round, ...] = (("", "", "2"),)
_FACTORED: Round = ("a + b", "a + b", "")
_SIGNED: Round = ("a + b", "a + b + a * w(b)", "")
_MATRICES: Round = ("a + b", "", "")

RECIPES: dict[str, tuple[Round, ...]] = {
    **dict.fromkeys(
        ("adam-atan2", "adamw", "adv-adamw", "adv-adopt", "adv-lion", "adv-signsgd", "lion", "sgd"), _NOTHING
    ),
    "adams": (("C", "", ""), ("1", "", "")),
    "adv-adamw-orthograd": _PROJECT,
    "adv-adamw-scaled": (("C", "max 1", ""), ("2", "", "")),
    "adv-adopt-factored": (_FACTORED, _SIGNED),
    "adv-adopt-factored-ademamix": (_FACTORED, _SIGNED, _SIGNED),
    "adv-lion-prodigy": _SHARED,
    "adv-prodigy": _SHARED,
    "adv-prodigy-factored": (_MATRICES, _MATRICES, *_SHARED),
    "gyro-adam": _PROJECT,
    "gyro-sgd": _PROJECT,
    "rose": _ROSE,
    "rose-1.0.2": _ROSE,
}
"""The rounds of each recipe with its defaults."""

PARTS: dict[str, tuple[Round, ...]] = {
    "storage='int8'": (("max B", "max B", ""),),
    "storage='fp16'": (("max 1", "max 1", ""),),
    "storage='factored'": (_MATRICES,),
    "storage='factored_vectors'": (_SIGNED,),
    "clip_by_global_norm": (("", "", "1"),),
    "clip_by_norm": (("1", "1", ""),),
    "freeze_on_flip": (("", "w(N)", ""),),
    "kourkoutas_beta": (("1", "1", ""),),
    "momentum_project": _PROJECT,
    "orthograd": _PROJECT,
    "orthograd(iterative)": (("2 * C", "3", ""), ("C", "1", ""), *[("C", "", "")] * 5),
    "prodigy": _SHARED,
    "scale_update": (("C", "max 1", ""), ("2", "", "")),
    "spectral_decay": (("C", "", ""), ("1", "", "")),
    "stochastic_sign": (("max C", "", ""),),
}
"""The rounds that a storage of one slot, or a stage, adds to a chain."""


@dataclass(frozen=True)
class Cost:
    """The communication of one step, the same for each process.

    >>> from gradchain._dist import cost as collectives
    >>> collectives.Cost(collectives=2, numbers=100).sent(4)
    1200.0
    """

    collectives: int
    """The number of all-reduces."""
    numbers: int
    """The numbers in their buffers together, each of 8 bytes."""

    def sent(self, world: int) -> float:
        """The bytes that each process sends if the all-reduces go in rings, as large ones do."""
        return 16 * self.numbers * (world - 1) / world


def cost(name: str, params: nn.Module | Iterable[Sequence[int]], world: int) -> Cost:
    """The communication of one step under FSDP2.

    Args:
        name: a recipe with its defaults, or one of `PARTS`.
        params: a model, which may be on the meta device, or the shapes of its matrices and vectors.
        world: the number of processes that each tensor is split over; under HSDP, those of one copy.

    Raises:
        UnknownNameError: there is no formula for this name.
        ParameterError: a shape is neither a matrix nor a vector.

    >>> from gradchain._dist import cost as collectives
    >>> collectives.cost("adams", torch.nn.Linear(1024, 4096, device="meta"), 512)
    Cost(collectives=2, numbers=1025)
    """
    rounds = {**RECIPES, **PARTS}
    if name not in rounds:
        raise UnknownNameError(f"there is no formula for {name!r}. {nearest(name, rounds)}")
    shapes = [p.shape for p in params.parameters()] if isinstance(params, nn.Module) else list(params)
    for shape in shapes:
        if len(shape) not in (1, 2):
            raise ParameterError(f"shape {tuple(shape)}: the formulas are for matrices and vectors. Pass those.")
    sizes = [_reduced(each, shapes) for each in rounds[name]] if world > 1 else []
    collectives = numbers = 0
    for sums, maxima in sizes:
        apart = maxima * world > totals.FEW
        collectives += (sums > 0 or (maxima > 0 and not apart)) + apart
        numbers += sums + (maxima if apart else maxima * world)
    return Cost(collectives, numbers)


def _reduced(each: Round, shapes: Iterable[Sequence[int]]) -> tuple[int, int]:
    """The sums and the maxima of a round."""
    matrix, vector, once = each
    found = [_value(once, (1,)), *(_value(matrix if len(shape) == 2 else vector, shape) for shape in shapes)]
    return sum(sums for sums, _ in found), sum(maxima for _, maxima in found)


def _value(formula: str, shape: Sequence[int]) -> tuple[int, int]:
    """The value of a formula for a tensor, as sums and maxima."""
    elements = math.prod(shape)
    a, b = near_square(elements)
    if not formula or ("a + b" in formula and b == 1):  # what has no factors is kept dense
        return 0, 0
    names = {"N": elements, "C": elements // shape[0], "B": math.ceil(elements / 2048), "a": a, "b": b, "w": _words}
    value = int(eval(formula.removeprefix("max "), {"__builtins__": {}}, names))
    return (0, value) if formula.startswith("max ") else (value, 0)


def _words(bits: int) -> int:
    """The words that bits are packed in."""
    return math.ceil(bits / (8 * word_dtype(bits).itemsize))


def table(rounds: dict[str, tuple[Round, ...]]) -> str:
    """The formulas, a row for each chain, the rounds divided by semicolons.

    >>> from gradchain._dist import cost as collectives
    >>> print(collectives.table({"adams": collectives.RECIPES["adams"]}))
    chain  rounds  each matrix  each vector  once
    -----  ------  -----------  -----------  ----
    adams  2       C; 1
    """
    rows = [
        [name, str(len(held)), *("; ".join(each[place] or "-" for each in held) for place in range(3))]
        for name, held in rounds.items()
    ]
    return aligned(
        ["chain", "rounds", "each matrix", "each vector", "once"],
        [[cell if cell.strip("-; ") else "" for cell in row] for row in rows],
    )
