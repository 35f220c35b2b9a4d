"""What runs in each process: gradients that are not finite in a few rows, which one process holds."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch

import gradchain
from tests.distributed.sharded import differences, mesh_of, split
from tests.laws.cases import CASES
from tests.laws.running import gradients, tensors

SHAPES = [(7, 6), (5, 4, 3), (1,), (6,), ()]
BAD = {1: [(0, -1)], 3: [(1, 0), (3, 5)]}
"""Which elements are NaN, in which steps: `(parameter, flat place)`."""


def spoiled(steps: int = 5) -> list[list[torch.Tensor]]:
    grads = gradients(steps, SHAPES, torch.float32)
    for step, places in BAD.items():
        for param, place in places:
            grads[step][param].view(-1)[place] = float("nan")
    return grads


def run(
    params: Sequence[torch.Tensor], grads: Sequence[Sequence[torch.Tensor]], make: Any
) -> tuple[list[torch.nn.Parameter], Any]:
    held = [torch.nn.Parameter(param) for param in params]
    optimizer = make(held)
    for step in grads:
        for param, grad in zip(held, step, strict=True):
            param.grad = grad
        optimizer.step()
    return held, optimizer


def maker(name: str, scope: str, on_device: bool = False) -> Any:
    return functools.partial(
        gradchain.Optimizer, chain=CASES[name].chain, nonfinite="skip", nonfinite_scope=scope, compile=False,
        capturable=on_device,
    )  # fmt: skip


def sharded(names: Sequence[str], layout: str = "fsdp") -> list[str]:
    """Processes decide alike, and as one process does that has all rows."""
    warnings.simplefilter("ignore")
    mesh, found = mesh_of(layout), []
    for name in names:
        for scope, on_device in (("model", False), ("parameter", False), ("model", True), ("parameter", True)):
            make = maker(name, scope, on_device)
            plain, reference = run(tensors(1, SHAPES, torch.float32), spoiled(), make)
            parts = [split(param, mesh) for param in tensors(1, SHAPES, torch.float32)]
            held, optimizer = run(parts, [[split(grad, mesh) for grad in step] for step in spoiled()], make)
            for shape, ours, theirs in zip(SHAPES, held, plain, strict=True):
                pairs = [(ours, theirs), *((optimizer.state[ours][k], x) for k, x in reference.state[theirs].items())]
                found += [f"{name} {scope} {on_device} {shape}: {t}" for p in pairs if (t := differences(*p, True))]
            if optimizer.nonfinite_report() != reference.nonfinite_report():
                found.append(f"{name} {scope}: {optimizer.nonfinite_report()}")
            if optimizer.nonfinite_report().steps != len(BAD):
                found.append(f"{name} {scope}: {optimizer.nonfinite_report()}")
    return found


def errors(layout: str = "fsdp") -> list[str]:
    """All processes raise, and nothing is written."""
    mesh = mesh_of(layout)
    held = [torch.nn.Parameter(split(param, mesh)) for param in tensors(1, SHAPES, torch.float32)]
    optimizer = gradchain.optimizer("adamw", held, nonfinite="error", compile=False)
    for param, grad in zip(held, spoiled()[1], strict=True):
        param.grad = split(grad, mesh)
    try:
        optimizer.step()
    except gradchain.GradientError as error:
        unmoved = zip(held, tensors(1, SHAPES, torch.float32), strict=True)
        wrong = [text for param, start in unmoved if (text := differences(param, start, True))]
        return wrong if "parameter 0 of group 0" in str(error) else [str(error)]
    return ["no error"]


def zero(names: Sequence[str]) -> list[str]:
    """One decision for all parameters, or one for each, wherever they are stepped."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns of its own deprecations

    warnings.simplefilter("ignore")
    found: list[str] = []
    for name in names:
        for scope in ("model", "parameter"):
            plain, _ = run(tensors(1, SHAPES, torch.float32), spoiled(), maker(name, scope))
            held = [torch.nn.Parameter(param) for param in tensors(1, SHAPES, torch.float32)]
            inner = functools.partial(maker(name, scope), partition_of=held)
            optimizer = ZeroRedundancyOptimizer(held, optimizer_class=inner)
            for step in spoiled():
                for param, grad in zip(held, step, strict=True):
                    param.grad = grad
                optimizer.step()
            found += [
                f"{name} {scope}: {t}" for a, b in zip(held, plain, strict=True) if (t := differences(a, b, True))
            ]
            if scope == "model" and optimizer.optim.nonfinite_report().steps != len(BAD):
                found.append(f"{name} {scope}: {optimizer.optim.nonfinite_report()}")
    try:
        ZeroRedundancyOptimizer(held, optimizer_class=maker("adamw", "model")).step()
        found.append("a partition that nobody told of was not refused")
    except gradchain.OptionError as error:
        found += [] if "partition_of=model" in str(error) else [str(error)]
    return found
