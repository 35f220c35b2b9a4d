"""What an optimizer will do with each parameter, as a table."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch

from gradchain._chain.program import Program
from gradchain._core.text import aligned, shape_text

HEADER = ("parameter", "shape", "role", "route", "state bytes")


class Route(NamedTuple):
    """A parameter and the stages that it goes through."""

    name: str
    param: torch.Tensor
    program: Program


def routing_table(routes: Iterable[Route]) -> str:
    """A row for each trainable parameter; then each route, a row of stages, by its number."""
    numbers: dict[tuple[str, ...], int] = {}
    rows: list[tuple[str, ...]] = []
    total = frozen = 0
    for name, param, program in routes:
        if not param.requires_grad:
            frozen += 1
            continue
        addresses = tuple(address for address, _ in program.stages)
        number = numbers.setdefault(addresses, len(numbers) + 1)
        size = program_bytes(program, param.shape, param.dtype)
        total += size
        rows.append((name or "(unnamed)", shape_text(param.shape), program.role or "", str(number), f"{size:,}"))
    lines = [aligned(HEADER, [*rows, ("total", "", "", "", f"{total:,}")]), ""]
    lines += [f"route {number}: {', '.join(addresses)}" for addresses, number in numbers.items()]
    lines += [f"frozen and not stepped: {frozen}"] if frozen else []
    return "\n".join(lines)


@functools.lru_cache(maxsize=4096)
def program_bytes(program: Program, shape: torch.Size, dtype: torch.dtype) -> int:
    """The bytes of state that a program keeps for a parameter, without allocating any."""
    slots = program.init(torch.empty(shape, dtype=dtype, device="meta"))
    return sum(slot.numel() * slot.element_size() for slot in slots.values())
