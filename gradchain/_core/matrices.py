"""Requests for whole matrices, and their answers where the matrices are whole.

Matrices that are computed in the same way and have the same shape are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from typing_extensions import Self

from gradchain._core.reduce import Request, Totals
from gradchain._core.shard import Shard
from gradchain.errors import ChainError, OptionError, shown

Function = Callable[..., Any]
"""From whole tensors to tensors of the same shapes, in the same order."""

Results: TypeAlias = "dict[int, Sequence[torch.Tensor]]"
"""Tensors for each request, by its number."""


@dataclass(frozen=True)
class MatrixRequest(Request):
    """Tensors that are needed whole: those in `split` have the parameter's rows, the others are the same everywhere."""

    function: Function | None = None
    split: tuple[str, ...] = ()
    batched: bool = False
    shard: Shard | None = None

    def within(self, shard: Shard) -> Self:
        return self if shard.group is None else replace(self, group=shard.group, shard=shard)

    def answer(self, totals: Totals) -> Any:
        tensors = tuple(vars(totals).values())
        return tensors[0] if len(tensors) == 1 else tensors

    def local_totals(self) -> Totals:
        """The answer where nobody is asked. Of a sharded matrix nothing is computed: the shapes are right, and no more."""
        if self.group is None:
            return self.named(self.applied(list(self.partials.values())))
        if self.function is not None:
            return self.named(list(self.partials.values()))
        return self.named([x.new_zeros(self.whole_shape(name)) for name, x in self.partials.items()])

    def named(self, tensors: Sequence[torch.Tensor]) -> Totals:
        return Totals(**dict(zip(self.partials, tensors, strict=True)))

    def applied(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """What the function makes of the whole tensors, or of stacks of them, in their dtypes."""
        if self.function is None:
            return tensors
        made: Any = self.function(*tensors)
        results: Sequence[Any] = made if isinstance(made, (tuple, list)) else [made]
        shapes = [tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__ for x in results]
        if shapes != [tuple(x.shape) for x in tensors]:
            raise ChainError(
                f"whole_matrix: {shown(self.function)} was given tensors of the shapes "
                f"{[tuple(x.shape) for x in tensors]} and returned {shapes}. Return one tensor for each, in the same order "
                "and of the same shape; one that does not change as it is."
            )
        return [x.to(like.dtype) for x, like in zip(results, tensors)]

    @property
    def row_bytes(self) -> int:
        """The bytes of all rows of the tensors that are split."""
        return sum(self.whole_shape(name).numel() * self.partials[name].element_size() for name in self.split)

    @property
    def cost(self) -> int:
        """The work that a matrix makes for its owner, in multiplications of one product with its transpose."""
        m, n = self.whole_shape(self.split[0])[-2:]
        return self.whole_shape(self.split[0]).numel() * min(m, n)

    def whole_shape(self, name: str) -> torch.Size:
        here = self.partials[name].shape
        return here if self.shard is None or name not in self.split else torch.Size((self.shard.shape[0], *here[1:]))

    def rows(self, world: int) -> list[int]:
        """The rows of each process, as `torch.chunk` deals them out."""
        assert self.shard is not None
        total = self.shard.shape[0]
        chunk = -(-total // world)
        return [min(chunk, max(0, total - rank * chunk)) for rank in range(world)]


def whole_matrix(
    *rows: torch.Tensor,
    function: Function | None = None,
    same: Iterable[torch.Tensor | float] = (),
    batched: bool = False,
) -> MatrixRequest:
    r"""Ask for a whole matrix, of which this process may hold some rows.

    Without a `function`, every process gets the whole matrix, and a direction of the whole shape is cut to the rows that
    are here. With one, it runs once, in the process that owns the matrix, and every process gets its own rows of the
    result: two all-to-alls for all matrices of a step together, or for each part of very many bytes. Unsharded there is no
    communication.

    Args:
        rows: tensors with a row for each row of the parameter here, of two axes or more, such as `x.flatten(1)`.
        function: gets the whole tensors, then those of `same`; returns as many, of the same shapes. It may depend on
            static options of the stage; numbers that change from step to step go into `same`.
        same: tensors or numbers that all processes have alike, such as a preconditioner of the columns.
        batched: whether `function` takes stacks, with one more axis in front. Then equal shapes go through equal functions
            in one call; so let it be a frozen dataclass with `__call__`, or a function of the module.

    Returns: a request for the tensor, or for a tuple of them if there are several.
    Raises: OptionError: a tensor has fewer than two axes.

    >>> class orthogonal(gradchain.Stage):
    ...     def update(self, update, ctx):
    ...         M = yield gradchain.whole_matrix(update.value)
    ...         U, _, Vh = torch.linalg.svd(M.float(), full_matrices=False)
    ...         return update.replace(value=(U @ Vh).to(M.dtype))
    """
    if not rows or any(x.ndim < 2 for x in rows):
        shapes = ", ".join(str(tuple(x.shape)) for x in rows) or "none"
        raise OptionError(
            f"whole_matrix takes tensors of two axes or more, one row for each row of the parameter; got: {shapes}. Route "
            "vectors elsewhere with partition(...); fold more axes with x.flatten(1)."
        )
    numbers = [x if isinstance(x, torch.Tensor) else _number(x, rows[0]) for x in same]
    names = tuple(f"rows{place}" for place in range(len(rows)))
    partials = {**dict(zip(names, rows)), **{f"same{place}": x for place, x in enumerate(numbers)}}
    return MatrixRequest("matrix", partials, function=function, split=names, batched=batched)


def _number(x: float, like: torch.Tensor) -> torch.Tensor:
    return torch.full((), x, dtype=torch.float64 if like.device.type != "mps" else torch.float32, device=like.device)


SMALL = 1 << 16
"""The most elements of a matrix that is stacked on a CPU, where stacking larger ones costs more than it saves."""


def _worth_stacking(x: torch.Tensor) -> bool:
    return x.device.type != "cpu" or x.numel() <= SMALL


def compute(asked: Mapping[int, MatrixRequest], wholes: Results) -> Results:
    """The results of some requests on their whole tensors; those that are alike in one call."""
    alike: dict[Any, list[int]] = {}
    for number, request in asked.items():
        layouts = tuple((x.shape, x.dtype, x.device) for x in wholes[number])
        alike.setdefault((request.function, layouts) if request.batched else number, []).append(number)
    made: Results = {}
    for numbers in alike.values():
        request = asked[numbers[0]]
        if not request.batched or not _worth_stacking(wholes[numbers[0]][0]):
            made |= {number: asked[number].applied(wholes[number]) for number in numbers}
            continue
        stacks = request.applied([torch.stack(each) for each in zip(*(wholes[number] for number in numbers))])
        made |= {number: [stack[place] for stack in stacks] for place, number in enumerate(numbers)}
    return made
