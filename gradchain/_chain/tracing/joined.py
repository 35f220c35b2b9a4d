"""Compare small tensors one by one and joined in a row: an elementwise program gives both the same bits."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gradchain._chain.program import Numbers, Program
from gradchain._chain.tracing.watch import Deeds
from gradchain._chain.tracing.watched import Watching

PARTS = 6
SIDE = 3
"""Odd, so that the parts begin at different places of a vector register."""

BITWISE = (torch.float32, torch.float64)
"""Dtypes whose bits are compared; narrower ones are rounded differently at the ends of a tensor."""

CLOSE = 1e-3
"""What rounding can do."""


def compare(program: Program, dtype: torch.dtype, rank: int, numbers: Numbers, deeds: Mapping[str, Deeds]) -> None:
    """Note the stages that give joined tensors another result: a second check beside torch's `pointwise` tag."""
    shape = torch.Size((SIDE,) * rank)
    watching = Watching(program, dtype, dense=True)
    params = [watching.values(shape, seed) for seed in range(PARTS)]
    grads = [watching.values(shape, seed + PARTS) for seed in range(PARTS)]
    states = [watching.program.init(param) for param in params]
    if other := next((key for key, slot in states[0].items() if slot.shape != shape), None):
        deed = deeds[other.rpartition(".")[0]]
        deed.place = deed.place or f"slot {other} has another shape than the parameter"
    if other or dtype not in BITWISE or any(deed.draws for deed in deeds.values()):
        return
    made: list[list[torch.Tensor]] = []
    for param, grad, state in zip(params, grads, states):
        outcome = watching.unseen(param, grad, state, numbers)
        made.append([x for _, tensors in watching.watch.made for x in tensors] + [outcome.param])
    state = {key: _joined([state[key] for state in states]) for key in states[0]}
    outcome = watching.unseen(_joined(params), _joined(grads), state, numbers)
    whole = [(at, x) for at, tensors in watching.watch.made for x in tensors]
    whole.append((program.stages[-1][0], outcome.param))
    for number, (address, theirs) in enumerate(whole):
        ours = _joined([parts[number] for parts in made]) if theirs.ndim else made[0][number]
        if _differ(ours, theirs, deeds[address]):
            return  # what comes after it is different because of it


def _differ(ours: torch.Tensor, theirs: torch.Tensor, deed: Deeds) -> bool:
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, CLOSE, 1e-6, equal_nan=True):
        deed.mixing("its update makes something else of a tensor that is joined with others")
    elif not torch.equal(ours.nan_to_num(), theirs.nan_to_num()):
        deed.place = deed.place or "its rounding depends on the place of an element"
    else:
        return False
    return True


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
