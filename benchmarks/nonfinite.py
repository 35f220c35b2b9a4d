"""What `nonfinite="skip"` costs: `python -m benchmarks.nonfinite`.

Gradients are read once more before the step. That is compared with the step alone, for some recipes, and with a whole
training step (forward, backward, optimizer) of a small transformer. Sides take turns; medians of paired ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import gradchain
from benchmarks.shapes import LISTS

ROUNDS, WARMUP = 21, 4
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def makers(recipe: str) -> dict[str, Make]:
    def make(params: list[nn.Parameter], **options: str) -> torch.optim.Optimizer:
        return gradchain.optimizer(recipe, params, compile=True, **options)  # type: ignore[arg-type]

    return {
        "propagate": make,
        "model": lambda params: make(params, nonfinite="skip"),
        "parameter": lambda params: make(params, nonfinite="skip", nonfinite_scope="parameter"),
    }


def quartiles(base: list[float], other: list[float]) -> str:
    low, middle, high = statistics.quantiles([b / a for a, b in zip(base, other)], n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def steps(recipe: str, shapes: list[tuple[int, ...]]) -> list[str]:
    """The optimizer's step alone: milliseconds under `propagate`, ratios under `skip`."""
    sides = {}
    for label, make in makers(recipe).items():
        params = [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]
        sides[label] = (params, make(params), [])
    pool = [[torch.randn(shape) for shape in shapes] for _ in range(2)]
    for number in range(WARMUP + ROUNDS):
        for params, optimizer, seconds in sides.values():
            for param, one, other in zip(params, *pool):
                param.grad = torch.add(one, other, alpha=number % 3)
            begun = time.perf_counter()
            optimizer.step()
            if number >= WARMUP:
                seconds.append(time.perf_counter() - begun)
    base, model, parameter = (seconds for _, _, seconds in sides.values())
    return [f"{1e3 * statistics.median(base):.1f}", quartiles(base, model), quartiles(base, parameter)]


def training(batch: int = 8, length: int = 64, width: int = 256) -> list[str]:
    """A training step of a transformer of four layers."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
    sides = {}
    for label, make in makers("adamw").items():
        model = nn.Sequential(nn.Embedding(256, width), nn.TransformerEncoder(layer, 4), nn.Linear(width, 256))
        sides[label] = (model, make(list(model.parameters())), [])
    tokens = torch.randint(256, (batch, length))
    for number in range(WARMUP + ROUNDS):
        for model, optimizer, seconds in sides.values():
            begun = time.perf_counter()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
            if number >= WARMUP:
                seconds.append(time.perf_counter() - begun)
    base, model_wide, parameter = (seconds for _, _, seconds in sides.values())
    return [f"{1e3 * statistics.median(base):.1f}", quartiles(base, model_wide), quartiles(base, parameter)]


def main() -> None:
    table = Table("what", "ms", "skip / propagate, model", "skip / propagate, parameter")
    table.add_row(f"adamw, a whole training step of {8 * 64} tokens", *training())
    for recipe, name in (("adamw", "resnet50"), ("adamw", "small"), ("rose", "resnet50"), ("adams", "resnet50")):
        table.add_row(f"{recipe}, the optimizer's step, {name}", *steps(recipe, list(LISTS[name])))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
