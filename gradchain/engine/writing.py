"""The one place that writes parameters and their state: eagerly, in blocks, or into the trace of a kernel.

What is to be written is checked first, so that a step is written as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from gradchain.errors import ChainError, ParameterError, StateError

if TYPE_CHECKING:
    from gradchain.engine.work import Work

Target: TypeAlias = "torch.Tensor | list[torch.Tensor]"
"""A tensor; or several that are filled, one after another, with the elements of one value."""


def overwrite(targets: Sequence[Target], values: Sequence[torch.Tensor]) -> None:
    """Write each value into its target: all of them, or none if one does not fit.

    A stage may hand on what it was given, such as the old parameter as a slot: values that live in the memory of a target
    are copied before the first write.

    Raises:
        ChainError: a value differs from its target in shape or device.
    """
    for target, value in zip(targets, values, strict=True):
        _check_fit(target, value)
    written = {memory_of(target) for target in targets if isinstance(target, torch.Tensor)}
    apart = [_copied(value) if memory_of(value) in written else value for value in values]
    for target, value in zip(targets, apart):
        if isinstance(target, torch.Tensor):
            target.copy_(value)
        else:
            torch._foreach_copy_(target, value.split([x.numel() for x in target]))  # pyright: ignore


def _check_fit(target: Target, value: torch.Tensor) -> None:
    if isinstance(target, torch.Tensor):
        first, wanted = target, target.shape
    else:
        first, wanted = target[0], torch.Size((sum(x.numel() for x in target),))
    if value.shape != wanted or value.device != first.device:
        raise ChainError(
            f"the step made a tensor of shape {tuple(value.shape)} on {value.device} for one of shape {tuple(wanted)} on "
            f"{first.device}; nothing was written. A stage must keep the shape and the device of what it is given."
        )


def _copied(value: torch.Tensor) -> torch.Tensor:
    """A copy that stays one when compiled: inductor (2.13) drops a `clone` of an input that is overwritten later."""
    return torch.where(value == value, value, value)


def memory_of(tensor: torch.Tensor) -> int:
    """What tensors that share memory have in common; also tells fake tensors apart."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


# Whether a step can be written at all.


def check_targets(works: Sequence[Work], memory: dict[str, Any]) -> None:
    """Raise unless all that a step writes can be written, and lives in memory of its own.

    `memory` remembers the places that were good at the last step.

    Raises:
        ParameterError, StateError: a parameter or a slot is an inference tensor, has elements that share memory, or
            shares memory with another parameter or slot.
    """
    # Whoever puts another tensor into a state gives its parameter a new seat.
    owners = [(id(work.seat), work.owner.data_ptr(), work.owner.stride()) for work in works]
    places = (torch.is_inference_mode_enabled(), owners)
    if memory.get("places") == places:
        return
    spans: list[tuple[int, int, Work, str | None, torch.Tensor]] = []
    for work in works:
        for slot, tensor in _targets(work):
            if (fault := unwritable(tensor)) is not None:
                raise _error(work, slot, f"cannot be written: {fault}")
            spans.append((*_span(tensor), work, slot, tensor))
    _check_apart(spans)
    memory["places"] = places


def _targets(work: Work) -> Iterable[tuple[str | None, torch.Tensor]]:
    """The parameter, and its slots by name."""
    yield None, work.owner
    for slot, tensor in work.state.items():
        if slot != "step" and isinstance(tensor, torch.Tensor):
            yield slot, tensor


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


def _check_apart(spans: list[tuple[int, int, Work, str | None, torch.Tensor]]) -> None:
    """Raise if two of the tensors share memory. Strided ones that interlock without touching are let pass."""
    held = sorted((span for span in spans if span[1] > span[0]), key=lambda span: span[:2])
    for (_, end, _, _, one), (start, _, work, slot, other) in pairwise(held):
        alike = start == one.data_ptr() and one.stride() == other.stride()
        if start < end and (alike or (_dense(one) and _dense(other))):
            raise _error(
                work,
                slot,
                f"shares memory with another tensor of shape {tuple(one.shape)} that is stepped or kept as state: each "
                "would undo what is written to the other. Pass the shared tensor once, or clone it",
            )


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The memory from the first to the last element; nothing of tensors without any."""
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _dense(tensor: torch.Tensor) -> bool:
    return torch._prims_common.is_non_overlapping_and_dense_or_false(tensor)  # pyright: ignore


def _error(work: Work, slot: str | None, fault: str) -> ParameterError | StateError:
    what = f"parameter {work.seat.name or '(unnamed)'} of shape {tuple(work.owner.shape)}"
    if slot is None:
        return ParameterError(f"{what} {fault}. Nothing was written.")
    return StateError(f"{what}: its slot {slot} {fault}. Nothing was written.")
