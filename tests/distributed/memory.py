"""What runs in a process of its own: the memory that a step of a deep model takes."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import gradchain
from tests.distributed.sharded import mesh_of

LAYERS, WIDTH = 12, 1536
LAYER = 4 * WIDTH * WIDTH
"""The bytes of a layer's gradients."""


def deep(width: int = WIDTH) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(LAYERS)])


def status(entry: str) -> int:
    """An entry of this process' status, in bytes."""
    found = re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def resident(in_backward: bool) -> float:
    """By how many layers' gradients the peak of resident memory grows in a step."""
    model = deep()
    optimizer = gradchain.optimizer("sgd", model.parameters(), lr=1e-3, compile=False)
    x = torch.ones(1, WIDTH)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = status("VmRSS")
    hooks = gradchain.step_in_backward(optimizer) if in_backward else None
    model(x).sum().backward()
    if hooks is None:
        optimizer.step()
    return (status("VmHWM") - before) / LAYER


def live(in_backward: bool) -> float:
    """The most bytes of gradients that are alive in a backward pass under FSDP2, in layers' gradients here."""
    width = 60
    model, mesh = deep(width), mesh_of("fsdp")
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = gradchain.optimizer("sgd", model.parameters(), lr=1e-3, compile=False)
    largest = 0

    def measure(param: torch.Tensor) -> None:
        nonlocal largest
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        largest = max(largest, sum(grad.to_local().nbytes for grad in grads))

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(measure)
    hooks = gradchain.step_in_backward(optimizer) if in_backward else None
    model(torch.ones(1, width)).sum().backward()
    if hooks is not None:
        hooks.remove()
    return largest * dist.get_world_size() / (4 * width * width)
