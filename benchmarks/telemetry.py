"""What telemetry and shadows cost: `python -m benchmarks.telemetry`.

Steps of AdamW over the shapes of a small transformer, eager and compiled. Sides take turns; the fastest of some blocks of
ten steps.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import gradchain

BLOCKS, BLOCK, WARMUP = 7, 10, 10
SIDES: dict[str, dict[str, Any]] = {
    "off": {},
    "every step": {"telemetry": True},
    "every tenth": {"telemetry": 10},
    "one shadow": {"shadows": {"lion": gradchain.recipe("lion", lr=1e-4)}},
}


def shapes(width: int, layers: int) -> list[tuple[int, ...]]:
    """Matrices, and as many small vectors."""
    one = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    return [shape for _ in range(layers) for matrix in one for shape in (matrix, (matrix[0],))]


def typical(seconds: list[float]) -> float:
    """Of one step, by the fastest block: others share the machine."""
    return min(sum(seconds[at : at + BLOCK]) for at in range(0, len(seconds), BLOCK)) / BLOCK


def row(width: int, layers: int, compile: bool) -> list[str]:
    sides: dict[str, tuple[list[nn.Parameter], gradchain.Optimizer, list[float]]] = {}
    for label, options in SIDES.items():
        params = [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes(width, layers)]
        sides[label] = (params, gradchain.optimizer("adamw", params, compile=compile, **options), [])
    grads = [torch.randn(shape) for shape in shapes(width, layers)]
    for number in range(WARMUP + BLOCKS * BLOCK):
        for params, optimizer, seconds in sides.values():
            for param, grad in zip(params, grads):
                param.grad = grad
            begun = time.perf_counter()
            optimizer.step()
            if number >= WARMUP:
                seconds.append(time.perf_counter() - begun)
    base = typical(sides["off"][2])
    size = sum(grad.numel() for grad in grads) / 1e6
    ratios = [f"{typical(sides[label][2]) / base:.2f}" for label in SIDES if label != "off"]
    return [f"{size:.1f}M", "compiled" if compile else "eager", f"{1e3 * base:.1f}", *ratios]


def main() -> None:
    table = Table("elements", "step", "off, ms", *(f"{label}, over off" for label in SIDES if label != "off"))
    for width, layers in ((64, 2), (256, 4)):
        for compile in (False, True):
            table.add_row(*row(width, layers, compile))
    Console(width=120).print(table)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
