"""Slots that are kept in few bits, while a large tensor is stepped with wider ones: packed once, and not by every tile."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.program import Program, State
from gradchain._chain.slots import as_kept, kept, noise_for, parts_of
from gradchain._core.shard import Shard
from gradchain.storage import STORAGES, SlotView
from gradchain.storage.base import PackedStorage

WIDE = {
    name: next(wider for wider, other in STORAGES.items() if other == storage.wide)
    for name, storage in STORAGES.items()
    if isinstance(storage, PackedStorage)
}
"""For each storage that packs the parts of another, the name of that one."""


@functools.lru_cache(maxsize=4096)
def widened(program: Program) -> Program | None:
    """The same program with wider slots where it has packed ones; `None` if it might not make the same step."""
    if program.third_party:  # their stages may look at the option
        return None
    stages: list[tuple[str, Any]] = []
    for address, stage in program.stages:
        wider = WIDE.get(getattr(stage, "storage", ""))
        if wider is not None and not stage.slots_only:
            return None
        stages.append((address, stage if wider is None else dataclasses.replace(stage, storage=wider)))
    return Program.of(tuple(stages), program.role)


def unpacked(program: Program, state: State, param: torch.Tensor) -> State:
    """The state of a whole parameter with wider slots."""
    found = dict(state)
    for key, storage, view, parts in _packed_slots(program, state, param):
        for name in parts.values():
            del found[name]
        found |= {
            f"{key}.{part}": x for part, x in storage.unpack({p: state[at] for p, at in parts.items()}, view).items()
        }
    return found


def packed(program: Program, state: State, wide: State, param: torch.Tensor, noise_key: torch.Tensor) -> State:
    """The tensors that wider slots, after a step, are kept as; `state` is the one before it."""
    found: State = {}
    nothing = param.new_empty(0)
    ctx = Context(nothing, nothing, {}, program.role)
    ctx.noise_key = noise_key
    for key, storage, view, parts in _packed_slots(program, state, param):
        address, _, slot = key.rpartition(".")
        ctx.enter(address, {}, ())
        here = {part: wide[at] for part, at in parts_of(key, wide).items()}
        made = storage.pack(here, view, functools.partial(noise_for, ctx, slot, None))
        found |= {parts[part]: as_kept(x, state[parts[part]]) for part, x in made.items()}
    return found


def _packed_slots(
    program: Program, state: State, param: torch.Tensor
) -> list[tuple[str, PackedStorage, SlotView, dict[str, str]]]:
    """The slots that are kept packed: their names, how, of what, and the names of their parts."""
    shard = Shard.whole(param.shape)
    return [
        (key, slot.kept_as, kept(slot, param, shard), parts)
        for key, slot in ((program.key(name), slot) for name, (_, slot) in program.owners.items())
        if isinstance(slot.kept_as, PackedStorage) and key not in state and (parts := parts_of(key, state))
    ]
