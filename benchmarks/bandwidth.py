"""The memory bandwidth of this machine, and what it allows a step at best."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ELEMENTS = {"cpu": 1 << 26, "cuda": 1 << 28}
"""Far more than any cache holds."""

ROUNDS = 12


def triad(device: str, rehearse: bool = False) -> dict[str, float]:
    """Bytes a second of `a = b`, `a = b + s * c` and `a += s * c`: the best of some rounds, as STREAM has it.

    What an optimizer writes it has read before, so the last is its limit: writing to `a` without reading it makes most
    processors read it all the same, uncounted. `rehearse`: over a few elements.
    """
    a, b, c = (torch.rand(1 << 10 if rehearse else ELEMENTS[device], device=device) for _ in range(3))
    size = a.numel() * a.element_size()
    return {
        "copy": 2 * size / best(lambda: a.copy_(b), device),
        "triad": 3 * size / best(lambda: torch.add(b, c, alpha=0.5, out=a), device),
        "triad_in_place": 3 * size / best(lambda: a.add_(c, alpha=1e-3), device),
    }


def best(call: Callable[[], object], device: str) -> float:
    seconds = []
    for _ in range(ROUNDS):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def must_move(parameter_bytes: int, state: int, again: int) -> int:
    """Read parameter, gradient and state, write parameter and state; `again` as in a pair."""
    return (3 + again) * parameter_bytes + 2 * state
