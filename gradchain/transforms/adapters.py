"""The ranks and blocks of adapters, which some transforms treat one by one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, TypeAlias

import torch

from gradchain._core.reduce import Request, Totals, tensor_partials, whole_tensor
from gradchain.ops import finite, narrowed

ADAPTERS = ("lora_A", "lora_B", "dora_scale", "oft")
"""The roles of parameters that belong to an adapter."""

Part: TypeAlias = Literal["whole", "rows", "columns"]
"""The parts of a parameter that are treated one by one: the whole, each row (first axis), or each column across rows."""


def ranks_of(role: str | None, ndim: int) -> Part:
    """Which axis holds the ranks of a LoRA factor or the blocks of OFT; tensors without rows are one part.

    >>> from gradchain.transforms.adapters import ranks_of
    >>> ranks_of("lora_A", 2), ranks_of("lora_B", 2), ranks_of("dora_scale", 2), ranks_of("oft", 1)
    ('rows', 'columns', 'whole', 'whole')
    """
    if ndim < 2:
        return "whole"
    return "rows" if role in ("lora_A", "oft") else "columns" if role == "lora_B" else "whole"


def shape_of(part: Part, shape: torch.Size) -> tuple[int, ...]:
    """The shape of one number for each part; it broadcasts against the parameter."""
    if part == "whole":
        return ()
    return (shape[0], *(1 for _ in shape[1:])) if part == "rows" else (1, *shape[1:])


def numel_of(part: Part, shape: torch.Size) -> int:
    """The number of elements of each part."""
    return shape.numel() if part == "whole" else shape[1:].numel() if part == "rows" else shape[0]


def sums(part: Part, **values: torch.Tensor) -> Generator[Request, Totals, Totals]:
    """Sum elementwise `values` over each part: `totals = yield from sums(...)`, of the shape `shape_of(part, ...)`.

    Rows are never split; sums over columns or the whole may need other processes. Infinite squares are clamped first.
    """
    values = {name: finite(value) for name, value in values.items()}
    if part == "whole":
        return (yield whole_tensor(**values))
    if part == "rows":
        return Totals(**{n: finite(v.sum(tuple(range(1, v.ndim)), keepdim=True)) for n, v in values.items()})
    totals = yield tensor_partials(**{n: v.sum(0, keepdim=True, dtype=torch.float64) for n, v in values.items()})
    return Totals(**{name: narrowed(total, values[name].dtype) for name, total in vars(totals).items()})
