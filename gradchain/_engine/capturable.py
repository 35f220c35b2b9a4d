"""Steps that never look at the host: counters on the device, and the numbers of a step found there.

So a step can be captured in a CUDA graph and replayed: each replay raises the counters, and everything that depends on the
step count follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradchain._chain.bindings import Bindings
from gradchain._core.ages import ages_of
from gradchain._core.noise import parameter_key_tensor, parameter_salt
from gradchain._engine.param_step import ParamStep
from gradchain.ops import widest


def number(due: Sequence[ParamStep], bindings: Bindings) -> None:
    """Give each its numbers and its noise key: at once for all that have a group, a program and a device in common."""
    alike: dict[Any, list[ParamStep]] = {}
    for item in due:
        late = tuple(address for address, _ in ages_of(item.state))
        key = (id(item.group), id(item.program), item.owner.device, item.index is None, late)
        alike.setdefault(key, []).append(item)
    for members in alike.values():
        first = members[0]
        steps = torch.stack([item.state["step"] for item in members]) + 1
        wide = widest(steps.device)
        missed = zip(*(ages_of(item.state) for item in members))
        ages = tuple((stage[0][0], torch.stack([count for _, count in stage]).to(wide)) for stage in missed)
        turn = torch.stack([_turn(item) for item in members]) if first.program.takes_turns else 0
        numbers = first.program.numbers(bindings, first.group, steps.to(wide), ages, turn)
        present = [_for_each(x, steps.to(wide)) for stage in numbers for x in stage.values() if x is not None]
        rows = torch.stack(present, 1) if present else steps.new_empty((len(members), 0), dtype=wide)
        for item, row in zip(members, rows.unbind()):
            values = iter(row.unbind())
            named = ({name: None if x is None else next(values) for name, x in stage.items()} for stage in numbers)
            item.numbers, item.pack = tuple(named), row
        if first.index is not None:
            salts = torch.stack([_salt(item) for item in members])
            for item, key in zip(members, parameter_key_tensor(steps, salts).unbind()):
                item.noise_key = key


def _for_each(value: Any, like: torch.Tensor) -> torch.Tensor:
    """A number for each parameter; from the host it comes as the argument of a kernel, not as a copy."""
    if isinstance(value, torch.Tensor):
        return value.to(like.device, like.dtype).expand_as(like)
    return torch.full_like(like, value)


def _turn(item: ParamStep) -> torch.Tensor:
    """The place of the parameter among all, on its device."""
    record = item.record
    if record.turn_there is None:
        record.turn_there = torch.full((), record.turn, dtype=torch.int64, device=item.owner.device)
    return record.turn_there


def _salt(item: ParamStep) -> torch.Tensor:
    """The parameter's part of the noise key, on its device."""
    record = item.record
    if record.salt is None:
        record.salt = torch.full((), parameter_salt(item.index or 0), dtype=torch.int32, device=item.owner.device)
    return record.salt
