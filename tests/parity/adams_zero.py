"""What runs in each process: the published Adams_ZeRO on golden problems, and ours next to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

import gradchain
from tests.distributed.sharded import mesh_of, split, whole

GOLDEN = Path(__file__).parents[1] / "golden"

Place = Callable[[torch.Tensor], torch.Tensor]


def load(name: str) -> dict[str, Any]:
    """A golden case without the tensors that the published package refuses: those it cannot divide evenly."""
    case = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    able = [index for index, p in enumerate(case["params0"]) if p.numel() % dist.get_world_size() == 0]
    case["params0"] = [case["params0"][index] for index in able]
    case["grads"] = [[step[index] for index in able] for step in case["grads"]]
    case["snapshots"] = {step: [held[index] for index in able] for step, held in case["snapshots"].items()}
    return case


def published(case: dict[str, Any]) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Adams_ZeRO, which divides the moments over all processes and broadcasts what it steps."""
    from adams import Adams_ZeRO

    params = [nn.Parameter(p.clone()) for p in case["params0"]]
    options = {**case["hyperparameters"], "betas": tuple(case["hyperparameters"]["betas"])}
    options["master_dtype"] = getattr(torch, options["master_dtype"])
    return params, Adams_ZeRO(params, process_group=dist.group.WORLD, **options)


def ours(case: dict[str, Any], place: Place) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    params = [nn.Parameter(place(p.clone())) for p in case["params0"]]
    options = {key: value for key, value in case["hyperparameters"].items() if key != "master_dtype"}
    options["betas"] = tuple(options["betas"])
    return params, gradchain.optimizer("adams", params, compile=False, **options)


def follow(names: list[str]) -> list[str]:
    """Where ours, in copies and sharded, leaves the published trajectory, or that one the golden one of one process."""
    mesh, found = mesh_of("fsdp"), []
    for name in names:
        case = load(name)
        theirs, their_optimizer = published(case)
        copies, copies_optimizer = ours(case, torch.clone)
        rows, rows_optimizer = ours(case, lambda p: split(p, mesh))
        for step, (grads, lr) in enumerate(zip(case["grads"], case["lrs"]), start=1):
            for param, copy, row, grad in zip(theirs, copies, rows, grads, strict=True):
                param.grad = grad / dist.get_world_size()  # the published one adds gradients up (A12); a half is exact
                copy.grad, row.grad = grad.clone(), split(grad, mesh)
            for optimizer in (their_optimizer, copies_optimizer, rows_optimizer):
                optimizer.param_groups[0]["lr"] = lr
                optimizer.step()
            held = {"ours": copies, "ours under FSDP2": rows, "the golden one": case["snapshots"].get(step, theirs)}
            for who, params in held.items():
                found += [f"{name}, step {step}, {who}: {text}" for text in apart(params, theirs, case["tolerance"])]
    return found


def apart(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], tolerance: dict[str, float]) -> list[str]:
    found: list[str] = []
    for left, right in zip(ours, theirs, strict=True):
        left, right = whole(left).detach(), right.detach()
        if not torch.allclose(left, right, **tolerance):
            found.append(f"a tensor {tuple(right.shape)} is off by {float((left - right).abs().max()):.1e}")
    return found
