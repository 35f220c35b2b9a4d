"""The numbers of a step as tensors, so that a kernel takes them as it takes gradients."""

from __future__ import annotations

import functools
from typing import Any

import torch

from gradchain._chain.program import Numbers
from gradchain._engine.work import Work


class ScalarArgs:
    """The numbers of one step as tensors: parameters that share numbers share a tensor."""

    def __init__(self) -> None:
        self._packed: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._patterns: dict[int, tuple[Any, ...]] = {}

    def of(self, work: Work) -> torch.Tensor:
        if work.pack is not None:
            return work.pack
        key = (id(work.numbers), work.owner.device)
        if key not in self._packed:
            self._packed[key] = pack(work.numbers, key[1])
        return self._packed[key]

    def pattern(self, numbers: Numbers) -> tuple[Any, ...]:
        """The pattern of some numbers, found once a step."""
        known = self._patterns.get(id(numbers))
        if known is None:
            known = self._patterns[id(numbers)] = _interned(pattern_of(numbers))
        return known


def pattern_of(numbers: Numbers) -> tuple[tuple[tuple[str, bool], ...], ...]:
    """The names of the numbers, and which of them are `None`: what a kernel depends on."""
    return tuple(tuple((name, value is None) for name, value in stage.items()) for stage in numbers)


@functools.lru_cache(maxsize=4096)
def _interned(pattern: tuple[Any, ...]) -> tuple[Any, ...]:
    """One object for equal patterns, so that they are compared by identity."""
    return pattern


def pack(numbers: Numbers, device: torch.device) -> torch.Tensor:
    """The numbers in double precision, as one vector on the device."""
    present = [value for stage in numbers for value in stage.values() if value is not None]
    if any(isinstance(number, torch.Tensor) for number in present):
        return torch.stack(
            [torch.as_tensor(number, dtype=torch.float64, device=device).reshape(()) for number in present]
        )
    return torch.tensor(present, dtype=torch.float64).to(device, non_blocking=True)
