"""What runs in each process: ZeRO-1 against one optimizer for all parameters."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed as dist

import gradchain
from gradchain import Chain
from tests.distributed.sharded import differences, stepped
from tests.laws.cases import CASES
from tests.laws.running import build, gradients, tensors

SHAPES = [(7, 6), (5, 4, 3), (1,), (6,), (33, 65)]


def zero(chain: Chain, held: list[Any], **options: Any) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns of its own deprecations

    make = functools.partial(build_inner, chain=chain, partition_of=held, **options)
    return ZeroRedundancyOptimizer(held, optimizer_class=make)


def build_inner(params: Any, chain: Chain, **options: Any) -> gradchain.Optimizer:
    return build(params, chain, compile=False, **options)


def nbytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(x.nbytes for state in optimizer.state.values() for x in state.values() if x.ndim)


def equals(names: Sequence[str], shapes: Sequence[Sequence[int]] = SHAPES, dtype: str = "float32") -> list[str]:
    """Six steps; in the middle the state goes through a consolidated checkpoint into another optimizer."""
    warnings.simplefilter("ignore")
    shapes = [tuple(shape) for shape in shapes]
    found: list[str] = []
    kind = getattr(torch, dtype)
    for name in names:
        chain, grads = CASES[name].chain, gradients(6, shapes, kind)
        plain, reference = stepped(chain, tensors(1, shapes, kind), grads)
        held = [torch.nn.Parameter(p) for p in tensors(1, shapes, kind)]
        optimizer = zero(chain, held)
        for number, step in enumerate(grads):
            if number == 3:
                optimizer = reloaded(optimizer, chain, held)
            for param, grad in zip(held, step, strict=True):
                param.grad = grad.clone()
            optimizer.step()
        for shape, ours, theirs in zip(shapes, held, plain, strict=True):
            if text := differences(ours, theirs, True):
                found.append(f"{name} {shape}: {text}")
        if dist.get_world_size() > 1 and nbytes(reference) and not nbytes(optimizer.optim) < nbytes(reference):
            found.append(f"{name}: as many bytes of state as one process has alone")
        found += into_plain(name, optimizer, reference, chain, held)
    return found


def reloaded(optimizer: Any, chain: Chain, held: list[Any]) -> Any:
    """A new optimizer with the state of an old one, as it comes from a file."""
    optimizer.consolidate_state_dict(to=0)
    saved = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(saved, src=0)
    file = io.BytesIO()
    torch.save(saved[0], file)
    file.seek(0)
    fresh = zero(chain, held)
    fresh.load_state_dict(torch.load(file, weights_only=False))
    return fresh


def into_plain(name: str, optimizer: Any, reference: gradchain.Optimizer, chain: Chain, held: list[Any]) -> list[str]:
    """A consolidated state in an optimizer that holds all parameters."""
    optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() != 0:
        return []
    alone = build([torch.nn.Parameter(p.detach().clone()) for p in held], chain, compile=False)
    alone.load_state_dict(optimizer.state_dict())
    found: list[str] = []
    theirs = reference.param_groups[0]["params"]
    for ours, other in zip(alone.param_groups[0]["params"], theirs, strict=True):
        for key, slot in reference.state[other].items():
            if text := differences(alone.state[ours][key], slot, True):
                found.append(f"{name} {tuple(ours.shape)} {key} in a plain optimizer: {text}")
    return found


def telemetry_of_the_whole_model() -> list[Any]:
    """Each process records its own parameters; all together, when they are asked, those of one process alone."""
    warnings.simplefilter("ignore")
    chain, grads = CASES["gyro-adam:now"].chain, gradients(3, SHAPES)
    alone = [torch.nn.Parameter(p) for p in tensors(1, SHAPES)]
    held = [torch.nn.Parameter(p) for p in tensors(1, SHAPES)]
    reference = build(alone, chain, compile=False, telemetry=True)
    optimizer = zero(chain, held, telemetry=True)
    for step in grads:
        for ours, theirs, grad in zip(held, alone, step, strict=True):
            ours.grad, theirs.grad = grad.clone(), grad.clone()
        optimizer.step()
        reference.step()
    expected, own = reference.telemetry(), optimizer.optim.telemetry(gather=False)
    whole = optimizer.optim.telemetry(gather=True)
    found = [key for key in expected if abs(expected[key] - whole[key]) > 1e-6 * abs(expected[key])]
    found += [] if own["valid_cosines"] < whole["valid_cosines"] else ["this process has all the parameters"]
    return found + refused("telemetry", "gather=True", optimizer.optim.telemetry)


def refused(what: str, says: str, action: Callable[[], Any]) -> list[str]:
    try:
        action()
    except gradchain.OptionError as error:
        return [] if says in str(error) else [f"{what} does not say {says!r}: {error}"]
    return [f"{what} is not refused"]


def wrong_uses() -> list[str]:
    """What would be silently wrong."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    warnings.simplefilter("ignore")
    found: list[str] = []
    for name, works in [("adamw", True), ("clip_by_global_norm", False), ("stochastic_sign", False)]:
        chain = CASES[name].chain
        held = [torch.nn.Parameter(p) for p in tensors(1, SHAPES)]
        copies = [copy.deepcopy(zero(chain, held).optim), pickle.loads(pickle.dumps(zero(chain, held).optim))]
        for twin in [*copies, copy.deepcopy(copies[0])]:
            for param in twin.param_groups[0]["params"]:
                param.grad = torch.ones_like(param)
            if works:
                twin.step()
            else:
                found += refused(f"a copy with {name}", "partition_of is not copied", twin.step)
        make = functools.partial(build_inner, chain=chain)
        if name != "clip_by_global_norm":
            ZeroRedundancyOptimizer(held, optimizer_class=make)
        else:
            values = [param.detach().clone() for param in held]
            untold = ZeroRedundancyOptimizer(held, optimizer_class=make)
            for param in held:
                param.grad = torch.ones_like(param)
            found += refused("ZeRO without partition_of", "clip_by_global_norm needs all", untold.step)
            found += [] if all(map(torch.equal, values, held)) else ["a step that was refused has written"]
            build(held, chain).step()  # no ZeRO
    return found


def foreign_checkpoints() -> list[str]:
    """The consolidated state of another chain: ZeRO loads it without asking."""
    found: list[str] = []
    for before, after in [
        ("adamw", "lion"),
        ("lion", "adamw"),
        ("sgd", "adamw"),
        ("first_moment/int8", "first_moment"),
    ]:
        held = [torch.nn.Parameter(p) for p in tensors(1, SHAPES)]
        optimizer = zero(CASES[before].chain, held)
        for param in held:
            param.grad = torch.ones_like(param)
        optimizer.step()
        values = [param.detach().clone() for param in held]
        other = reloaded(optimizer, CASES[after].chain, held)
        try:
            other.step()
        except gradchain.StateError as error:
            found += [] if "does not belong to this chain, by its slots" in str(error) else [str(error)]
        else:
            found += [f"{before} in {after} is not refused"]
        found += [] if all(map(torch.equal, values, held)) else [f"{before} in {after} made a step"]
    return found
