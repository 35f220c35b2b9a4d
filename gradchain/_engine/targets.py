"""Whether a step can be written at all: its targets are checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch

from gradchain._engine.param_step import ParamStep
from gradchain._engine.writing import unwritable
from gradchain.errors import ParameterError, StateError


def check_targets(due: Sequence[ParamStep], known: object) -> object:
    """Raise unless all that a step writes can be written, and lives in memory of its own.

    Returns the places that were checked; as `known`, they are not checked again at the next step.

    Raises:
        ParameterError, StateError: a parameter or a slot is an inference tensor, has elements that share memory, or
            shares memory with another parameter or slot.
    """
    # Whoever puts another tensor into a state gives its parameter a new record.
    owners = [(id(item.record), item.owner.data_ptr(), item.owner.stride()) for item in due]
    places = (torch.is_inference_mode_enabled(), owners)
    if known == places:
        return places
    spans: list[tuple[int, int, ParamStep, str | None, torch.Tensor]] = []
    for item in due:
        for slot, tensor in _targets(item):
            if (fault := unwritable(tensor)) is not None:
                raise _error(item, slot, f"cannot be written: {fault}")
            spans.append((*_span(tensor), item, slot, tensor))
    _check_apart(spans)
    return places


def _targets(item: ParamStep) -> Iterable[tuple[str | None, torch.Tensor]]:
    """The parameter, and its slots by name."""
    yield None, item.owner
    for slot, tensor in item.state.items():
        if slot != "step" and isinstance(tensor, torch.Tensor):
            yield slot, tensor


def _check_apart(spans: list[tuple[int, int, ParamStep, str | None, torch.Tensor]]) -> None:
    """Raise if two of the tensors share memory. Strided ones that interlock without touching are let pass."""
    held = sorted((span for span in spans if span[1] > span[0]), key=lambda span: span[:2])
    for (_, end, _, _, one), (start, _, item, slot, other) in pairwise(held):
        alike = start == one.data_ptr() and one.stride() == other.stride()
        if start < end and (alike or (_dense(one) and _dense(other))):
            raise _error(
                item,
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


def _error(item: ParamStep, slot: str | None, fault: str) -> ParameterError | StateError:
    what = f"parameter {item.record.name or '(unnamed)'} of shape {tuple(item.owner.shape)}"
    if slot is None:
        return ParameterError(f"{what} {fault}. Nothing was written.")
    return StateError(f"{what}: its slot {slot} {fault}. Nothing was written.")
