"""The state of a parameter before its first step, in the form in which an optimizer keeps it."""

from __future__ import annotations

import torch

from gradchain._chain.program import Program, Starting, State
from gradchain._chain.slots import owned
from gradchain._core.autocast import no_autocast
from gradchain._core.shard import Shard, distributed, is_distributed, local_of
from gradchain._core.totals import reduce_requests
from gradchain.errors import ChainError


@torch.no_grad()
def initial_state(program: Program, param: torch.Tensor, name: str = "") -> State:
    """The slots of a parameter. Of a DTensor, those with a row for each of its rows are DTensors of the same placement.

    All others are the same in all processes. Statistics of a sharded parameter (the scale of an anchor) cost a collective
    for each, so all processes must make their states together.
    """
    shard = Shard.of(param, name)
    with no_autocast():
        here = _answered(program, program.start(local_of(param).detach(), shard, name))
    if shard.group is None:
        return {key: owned(slot) for key, slot in here.items()}
    plan = program.plan(shard.shape, param.dtype)
    state: State = {}
    for key, slot in here.items():
        shape, split = plan.get(key, (None, False))
        wanted = None if shape is None else shard.piece(shape) if split else shape
        if slot.shape != wanted or here.keys() != plan.keys():
            raise ChainError(
                f"{key.partition('.')[0]}: slot {key} of parameter {name or '(unnamed)'} has shape {tuple(slot.shape)} for "
                f"{tuple(shard.here)}, the rows here of {tuple(shard.shape)}, and {_described(shape)} for the whole. If it "
                "has one row for each row of the parameter, declare it with per_row=True.",
                stage=key.partition(".")[0],
            )
        state[key] = distributed(owned(slot), shape, param) if split and shape is not None else owned(slot)
    return state


def _described(shape: torch.Size | None) -> str:
    return "is not there" if shape is None else f"shape {tuple(shape)}"


def _answered(program: Program, starting: Starting) -> State:
    """The state that a generator makes, its requests answered one by one."""
    try:
        asked = next(starting)
        while True:
            (totals,) = reduce_requests([(program, asked)]) or (None,)
            assert totals is not None  # a state asks about its own tensor
            asked = starting.send(totals)
    except StopIteration as stop:
        return stop.value


def expected(program: Program, param: torch.Tensor) -> State:
    """Tensors of the shapes, dtypes and placements of a parameter's state, with undefined values; no collective."""
    if not is_distributed(param):
        return program.init(param.detach())
    shard, plan = Shard.of(param), program.plan(torch.Size(param.shape), param.dtype)
    whole = program.init(torch.empty(param.shape, dtype=param.dtype, device="meta"))
    device = local_of(param).device
    state: State = {}
    for key, slot in whole.items():
        split = plan[key][1] and shard.group is not None
        shape = shard.piece(slot.shape) if split else slot.shape
        local = torch.empty(shape, dtype=slot.dtype, device=device)
        state[key] = distributed(local, slot.shape, param) if split else local
    return state
