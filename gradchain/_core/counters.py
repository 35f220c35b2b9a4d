"""Step counters: each parameter has its own, and those of a group lie side by side, so that one addition raises them all.

They are int64: exact, and there is one on every device. float32, which older checkpoints have, stands still at 2^24.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import torch

COUNTER = torch.int64

_VERSION = attrgetter("_version")


def counter_of(state: dict[str, Any], device: torch.device | None = None) -> torch.Tensor:
    """The counter in a state. One that others have put there is made exact: a number, or a float of an old checkpoint."""
    counter = state["step"]
    if not isinstance(counter, torch.Tensor):
        counter = state["step"] = torch.tensor(int(counter), dtype=COUNTER, device=device)
    elif counter.dtype != COUNTER or counter.ndim != 0:
        counter = state["step"] = counter.to(COUNTER).reshape(())
    return counter


def place_together(states: Iterable[dict[str, Any]]) -> None:
    """Put the counters of these states that are on one device next to each other in memory; their values stay."""
    by_device: dict[torch.device, list[dict[str, Any]]] = {}
    for state in states:
        by_device.setdefault(counter_of(state).device, []).append(state)
    for held in by_device.values():
        for state, counter in zip(held, torch.stack([state["step"] for state in held]).unbind()):
            state["step"] = counter


class Counters:
    """The counters of the parameters that a step is for."""

    def __init__(self, counters: Sequence[torch.Tensor]) -> None:
        self.alone: list[torch.Tensor] = []
        homes: dict[int, tuple[torch.Tensor, list[int]]] = {}
        for counter in counters:
            home = counter._base  # pyright: ignore[reportPrivateUsage]
            if home is None:
                self.alone.append(counter)
            else:
                homes.setdefault(id(home), (home, []))[1].append(int(counter.storage_offset()))
        self.homes = [(home, _raise_by(home, places)) for home, places in homes.values()]
        self._written = [*(home for home, _ in self.homes), *self.alone]

    def raise_all(self) -> list[int]:
        """Add one to each; returns their `versions`."""
        for home, by in self.homes:
            home.add_(by)
        if self.alone:
            torch._foreach_add_(self.alone, 1)  # pyright: ignore
        return list(map(_VERSION, self._written))

    def versions(self) -> list[int]:
        """How often the counters have been written to, by anyone."""
        return list(map(_VERSION, self._written))


def _raise_by(home: torch.Tensor, places: Sequence[int]) -> torch.Tensor | int:
    """What to add to a home: one, to the counters that stand at these places."""
    if len(places) == home.numel():
        return 1
    by = torch.zeros_like(home)
    by[list(places)] = 1
    return by
