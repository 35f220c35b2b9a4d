"""What runs in each process: parameters split into rows against the same parameters in one piece."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import gradchain
from gradchain import Chain
from gradchain._core import exchange, totals
from gradchain._engine.replay import ReplayPlan
from tests.laws.cases import CASES, LR, of_matrices
from tests.laws.running import build, gradients, tensors
from tests.test_whole_matrix import centred, solve

Shape = tuple[int, ...]
SHAPES: list[Shape] = [(7, 6), (4, 4, 3), (1,), (1, 4), (5,), (4, 1), (33, 65), (3, 2, 2, 2), ()]
"""Even, uneven and empty shards; more than a block of int8; a scalar, which cannot be split."""

USUAL = totals.FEW, exchange.PART
ROUNDED = ("low_rank", "spectral_decay")
"""Stages whose last bits depend on where an element stands: products of matrices."""


def mesh_of(layout: str) -> DeviceMesh:
    """`"fsdp"`: all processes share each tensor; `"hsdp"`: two by two."""
    if layout == "hsdp":
        return init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("shard",))


def split(tensor: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """A tensor split into rows; a scalar as it is."""
    if tensor.ndim == 0:
        return tensor.clone()
    return distribute_tensor(tensor, mesh, [*[Replicate()] * (mesh.ndim - 1), Shard(0)], src_data_rank=None)


def whole(tensor: Any) -> Any:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Counter:
    """Counts the collectives of gradchain, the numbers in all-reduces, and the bytes that this process exchanges."""

    def __enter__(self) -> Counter:
        self.count, self.numbers, self.bytes = 0, 0, 0
        self._originals = dist.all_reduce, dist.all_to_all_single

        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.count, self.numbers = self.count + 1, self.numbers + tensor.numel()
            return self._originals[0](tensor, *args, **kwargs)

        def exchanged(output: torch.Tensor, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.count, self.bytes = self.count + 1, self.bytes + input.nbytes
            return self._originals[1](output, input, *args, **kwargs)

        dist.all_reduce, dist.all_to_all_single = counted, exchanged
        return self

    def __exit__(self, *args: object) -> None:
        dist.all_reduce, dist.all_to_all_single = self._originals


def stepped(
    chain: Chain,
    params: Sequence[torch.Tensor],
    grads: Sequence[Sequence[torch.Tensor]],
    compile: bool = False,
) -> tuple[list[torch.nn.Parameter], gradchain.Optimizer]:
    """The parameters after an optimizer's steps with given gradients."""
    held = [torch.nn.Parameter(p) for p in params]
    optimizer = build(held, chain, compile=compile)
    for step in grads:
        for param, grad in zip(held, step, strict=True):
            param.grad = grad
        optimizer.step()
    return held, optimizer


def is_exact(chain: Chain) -> bool:
    """Whether sharded and whole runs should agree bit for bit."""
    return not any(type(stage).__name__ in ROUNDED for stage in chain)


def differences(ours: Any, theirs: Any, exact: bool, start: torch.Tensor | None = None) -> str:
    """How a sharded tensor differs from the one in one piece; empty if it does not.

    Unless it has to be exact, by 1e-6: of the largest element, or, of a parameter with a known start, of the largest move,
    and one rounding of the parameter itself, which a small move cannot hide.
    """
    left, right = whole(ours), whole(theirs)
    if left.shape != right.shape or left.dtype != right.dtype:
        return f"{tuple(left.shape)} {left.dtype} for {tuple(right.shape)} {right.dtype}"
    left, right = left.detach().to(torch.float64), right.detach().to(torch.float64)
    if torch.equal(left, right):
        return ""
    error, unit = (left - right).abs(), right.abs().max()
    if start is not None:
        unit = (right - start).abs().max()
        error = (error - 2**-23 * right.abs()).clamp(min=0)
    off = (error.max() / unit.clamp(min=1e-30)).item()
    return "" if not exact and off < 1e-6 else f"off by {off:.1e}"


def compare(
    name: str,
    chain: Chain,
    mesh: DeviceMesh,
    dtype: torch.dtype,
    steps: int = 4,
    compile: bool = False,
    shapes: Sequence[Shape] = SHAPES,
) -> dict[str, Any]:
    """A chain on sharded parameters against the same on whole ones."""
    params, grads = tensors(1, shapes, dtype), gradients(steps, shapes, dtype)
    plain, reference = stepped(chain, [p.clone() for p in params], [[g.clone() for g in step] for step in grads])
    began = time.perf_counter()
    cut = [[split(g, mesh) for g in step] for step in grads]
    with Counter() as counter:
        held, optimizer = stepped(chain, [split(p, mesh) for p in params], cut[:-1], compile)
        before, numbers = counter.count, counter.numbers
        for param, grad in zip(held, cut[-1], strict=True):
            param.grad = grad
        optimizer.step()
        a_step, numbers = counter.count - before, counter.numbers - numbers
    exact = is_exact(chain) and not compile
    found: list[str] = []
    starts = tensors(1, shapes, dtype)  # those above may have been stepped in place
    for shape, ours, theirs, start in zip(shapes, held, plain, starts, strict=True):
        if text := differences(ours, theirs, exact, start):
            found.append(f"{name} {shape}: {text}")
        for key, slot in reference.state[theirs].items():
            if text := differences(optimizer.state[ours][key], slot, exact):
                found.append(f"{name} {shape} {key}: {text}")
    for key in chain.bindings.shared:
        ours, theirs = optimizer.param_groups[0][key[2]], reference.param_groups[0][key[2]]
        if text := differences(ours, theirs, False):
            found.append(f"{name} {key[2]}: {text}")
    return {
        "name": name,
        "found": found,
        "collectives": a_step,
        "numbers": numbers,
        "usual": (totals.FEW, exchange.PART) == USUAL,
        "seconds": time.perf_counter() - began,
    }


def cases(
    layout: str,
    names: Sequence[str] | None = None,
    dtype: str = "float32",
    compile: bool = False,
    few: int = USUAL[0],
    part: int = USUAL[1],
) -> list[dict[str, Any]]:
    """The cases of the laws. `few` is the number of maxima that still go along with the sums, `part` are the bytes of a part
    of the matrices."""
    totals.FEW, exchange.PART = few, part
    mesh = mesh_of(layout)
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", gradchain.errors.CompileWarning)
    chosen = CASES if names is None else {name: CASES[name] for name in names}
    return [compare(name, case.chain, mesh, getattr(torch, dtype), compile=compile) for name, case in chosen.items()]


def own_stages(part: int = USUAL[1], parts: int = 1) -> list[str]:
    """Stages of one's own that ask for whole matrices, in both forms; some are square, as their slots are. What is computed
    goes to its owners and back in so many parts."""
    mesh, found = mesh_of("fsdp"), []
    exchange.PART = part
    warnings.simplefilter("ignore")
    for stage, collectives in ((centred(), 1), (solve(), 2 * parts), (solve(batched=True), 2 * parts)):
        chain = gradchain.chain(of_matrices(stage), LR)
        made = compare(repr(stage), chain, mesh, torch.float32, shapes=[*SHAPES, (7, 6), (6, 6), (2, 2)])
        found += made["found"]
        if made["collectives"] != collectives:
            found.append(f"{stage}: {made['collectives']} collectives")
    return found


def replays() -> dict[str, int]:
    """How many of six steps of AdamW on split parameters are replays of the step before, eagerly and compiled."""
    count: list[int] = []
    original = ReplayPlan.run
    ReplayPlan.run = lambda *args: count.append(1) or original(*args)  # type: ignore[method-assign]
    mesh, found = mesh_of("fsdp"), {}
    shapes = [(7, 6), (1,), (6,)]
    for compile in (False, True):
        count.clear()
        grads = [[split(g, mesh) for g in step] for step in gradients(6, shapes)]
        stepped(gradchain.recipe("adamw"), [split(p, mesh) for p in tensors(1, shapes)], grads, compile)
        found["compiled" if compile else "eager"] = len(count)
    ReplayPlan.run = original  # type: ignore[method-assign]
    return found
