"""The one place that writes parameters and their state: eagerly, in batches, or into the trace of a kernel.

What is to be written is checked first, so that a step is written as a whole or not at all. The operations of a tape
(tape.py), which has been tried before, write where this would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TypeAlias

import torch

from gradchain.errors import ChainError

Target: TypeAlias = "torch.Tensor | list[torch.Tensor]"
"""A tensor; or several that are filled, one after another, with the elements of one value."""

_NUMEL = torch.Tensor.numel


def overwrite(targets: Sequence[Target], values: Sequence[torch.Tensor]) -> None:
    """Write each value into its target: all of them, or none if one does not fit.

    A stage may hand on what it was given, such as the old parameter as a slot: values that live in the memory of a target
    are copied before the first write.

    Raises:
        ChainError: a value differs from its target in shape or device.
    """
    written: set[int] = set()
    for target, value in zip(targets, values, strict=True):
        if not isinstance(target, torch.Tensor):
            _check_fit(target[0], value, torch.Size((sum(map(_NUMEL, target)),)))
            continue
        if value.shape != target.shape or value.device != target.device:
            _check_fit(target, value, target.shape)
        written.add(target.untyped_storage()._cdata)  # pyright: ignore[reportPrivateUsage]
    apart: list[torch.Tensor] = []
    for value in values:
        apart.append(_copied(value) if value.untyped_storage()._cdata in written else value)  # pyright: ignore[reportPrivateUsage]
    for target, value in zip(targets, apart):
        if isinstance(target, torch.Tensor):
            target.copy_(value)
        else:
            torch._foreach_copy_(target, value.split(list(map(_NUMEL, target))))  # pyright: ignore


def move(targets: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Copy tensors of equal shapes to where others stand, in one call."""
    torch._foreach_copy_(targets, values)  # pyright: ignore


def _check_fit(first: torch.Tensor, value: torch.Tensor, wanted: torch.Size) -> None:
    if value.shape != wanted or value.device != first.device:
        raise ChainError(
            f"the step made a tensor of shape {tuple(value.shape)} on {value.device} for one of shape {tuple(wanted)} on "
            f"{first.device}; nothing was written. A stage must keep the shape and the device of what it is given."
        )


def _copied(value: torch.Tensor) -> torch.Tensor:
    """A copy that stays one when compiled: inductor (2.13) drops a `clone` of an input that is overwritten later."""
    return torch.where(value == value, value, value)


_STORAGE, _CDATA = torch.Tensor.untyped_storage, attrgetter("_cdata")


def memories_of(tensors: Iterable[torch.Tensor]) -> set[int]:
    """What stands for the memory of some tensors."""
    return set(map(_CDATA, map(_STORAGE, tensors)))


def memory_of(tensor: torch.Tensor) -> int:
    """What tensors that share memory have in common; also tells fake tensors apart."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def unwritable(tensor: torch.Tensor, *, inference: bool | None = None) -> str | None:
    """Why a tensor cannot be written in place, and what to do about it; `None` if it can.

    `inference`: whether it will be written in inference mode; by default whether that is on now.
    """
    inference = torch.is_inference_mode_enabled() if inference is None else inference
    if tensor.is_inference() and not inference:
        return "it was made in torch.inference_mode(); clone it outside, or make it under torch.no_grad()"
    if torch._debug_has_internal_overlap(tensor) == 1:  # pyright: ignore
        return "several of its elements share memory, as expand() leaves them; pass tensor.expand(...).clone()"
    return None
