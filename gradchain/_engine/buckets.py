"""Which parameters share a call: small tensors several together, large ones alone, and the same groups again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradchain._engine.layouts import SMALL_ELEMENTS, line_of
from gradchain._engine.param_step import ParamStep

TENSORS_PER_CALL = 16
ELEMENTS_PER_CALL = 1 << 24
"""A call takes no more than these, so that what it makes in between stays small; a larger tensor goes alone."""

LAUNCHED_ELEMENTS = 1 << 22
"""Tensors of at most so many elements are stepped several to a call where the host only launches kernels: on a GPU of 3 TB/s
the arithmetic of AdamW for one of them takes 40 microseconds, which is what its own call would take on the host."""

BESIDE = 1 << 19
"""With so many elements of large tensors for each small one, a CPU steps the small ones one to a call: by the kernel of the
large ones, or by one for each shape. A call takes 20 microseconds, less than 5 % of what the elements take; a kernel that
takes sixteen small ones takes 4 s to compile, or 15 where there are noise or totals."""

FEW_SHAPES = 4
"""So many shapes of small tensors at most have kernels of their own."""

Works = Sequence[ParamStep]


def buckets(due: Works) -> list[list[ParamStep]]:
    """Works of one program and device that share a call: small tensors several together, large ones alone."""
    small: dict[Any, list[ParamStep]] = {}
    result: list[list[ParamStep]] = []
    for item in due:
        few = SMALL_ELEMENTS if item.owner.device.type == "cpu" else LAUNCHED_ELEMENTS
        changing = item.program.takes_turns  # who is due with whom changes all the time
        if item.owner.numel() > few or changing or _has_codes(item):
            result.append([item])
        else:
            alike = (item.program.structure, item.owner.device, item.index is None, item.keep is None)
            small.setdefault(alike, []).append(item)
    large = sum(call[0].owner.numel() for call in result)
    for members in small.values():
        alone = _beside(members, large)
        result += [[item] for item in alone]
        apart = set(map(id, alone))
        if together := [item for item in members if id(item) not in apart]:
            result += filled(together)
    return result


def _beside(members: Works, large: int) -> list[ParamStep]:
    """The small tensors that are stepped one to a call beside so many elements of large ones."""
    if large < BESIDE or members[0].owner.device.type != "cpu":
        return []
    in_lines = [item for item in members if line_of(item, small=True)]
    for item in in_lines:
        item.beside = large >= BESIDE * len(in_lines)
    if large >= BESIDE * len(members) and len({item.owner.shape for item in members}) <= FEW_SHAPES:
        return list(members)
    return [item for item in in_lines if item.beside]


def _has_codes(item: ParamStep) -> bool:
    """Whether it has state in bytes, and a CPU steps it.

    The kernel of a vector of such codes takes seconds to compile, so that it had better serve all vectors of its length; a
    call takes microseconds.
    """
    state = item.state
    return item.owner.device.type == "cpu" and any(state[key].dtype.itemsize == 1 for key in item.program.keys(state))


def filled(members: Works) -> list[list[ParamStep]]:
    """Small tensors in calls, in order or, if that takes fewer kernels, by the blocks that a model repeats."""
    one = _in_order(members)
    if len(one) < 3:
        return one
    shapes = [item.owner.shape for item in members]
    other = _by_period(members, *repeating(shapes, TENSORS_PER_CALL))
    return min(one, other, key=lambda calls: len({tuple(item.owner.shape for item in call) for call in calls}))


def _in_order(members: Works) -> list[list[ParamStep]]:
    """As many to a call as it takes."""
    calls: list[list[ParamStep]] = [[]]
    elements = 0
    for item in members:
        if len(calls[-1]) == TENSORS_PER_CALL or elements + item.owner.numel() > ELEMENTS_PER_CALL:
            calls.append([])
            elements = 0
        calls[-1].append(item)
        elements += item.owner.numel()
    last = [item for call in calls[-2:] for item in call]
    if len(last) <= TENSORS_PER_CALL * 3 // 2 and _elements(last) <= ELEMENTS_PER_CALL:
        calls[-2:] = [last]  # a few that remain do without a kernel of their own
    return calls


def _by_period(members: Works, start: int, stop: int, period: int) -> list[list[ParamStep]]:
    """Whole periods to a call, or equal parts of each; what stands before and behind them last."""
    count = TENSORS_PER_CALL // period
    while count and _elements(members[start : start + count * period]) > ELEMENTS_PER_CALL:
        count -= 1
    size = max(count, 1) * period
    stop -= (stop - start) % size
    whole = [members[place : place + size] for place in range(start, stop, size)]
    calls = [list(call) for call in whole] if count else [part for call in whole for part in _in_order(call)]
    rest = [*members[:start], *members[stop:]]
    return [*calls, *(_in_order(rest) if rest else ())]


def repeating(shapes: Sequence[torch.Size], most: int) -> tuple[int, int, int]:
    """The longest run that repeats itself: where it starts and stops, and its period, `most` at most."""
    found = (0, 0, 1)
    for period in range(1, min(most, len(shapes)) + 1):
        start = 0
        for place in range(len(shapes) - period + 1):
            if place + period == len(shapes) or shapes[place] != shapes[place + period]:
                if place > start and place + period - start > found[1] - found[0]:
                    found = (start, place + period, period)
                start = place + 1
    return found


def _elements(members: Works) -> int:
    return sum(item.owner.numel() for item in members)
