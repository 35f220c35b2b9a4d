"""Steps compute what is written: autocast, which a training loop may have on around them, is off inside."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

KINDS = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "maia")
"""The devices that have an autocast."""


def no_autocast() -> AbstractContextManager[object]:
    """A context in which autocast is off on every device. Where it is off already, this costs next to nothing.

    A matrix product under autocast is one in half precision: of the same parameters, gradients and state, a step would
    make something else by where it was called.
    """
    if not _anywhere():
        return _UNCHANGED
    stack = contextlib.ExitStack()
    for kind in filter(torch.is_autocast_enabled, KINDS):
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


def _on_any_device() -> bool:
    return any(map(torch.is_autocast_enabled, KINDS))


_anywhere = getattr(torch._C, "_is_any_autocast_enabled", _on_any_device)  # pyright: ignore
_UNCHANGED = contextlib.nullcontext()
