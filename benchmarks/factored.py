"""What factored moments cost where gradients are noisy: `python -m benchmarks.factored`.

AdamW with its moments in several storages on quadratics of one curvature whose gradients have Gaussian noise, the same for
all sides. Noise is of one size, or of sizes between 0.01 and 1 placed at random, which no matrix of rank one describes.
Printed is the root mean square distance from the optimum over the last half of the steps, and in brackets its ratio to
that of float32 moments.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import gradchain

STEPS, SHAPE, RATES = 2_000, (64, 64), (1e-2, 1e-3)
SIDES = {
    "both fp32": ("fp32", "fp32"),
    "both int8": ("int8", "int8"),
    "fp32, factored": ("fp32", "factored"),
    "int8, factored": ("int8", "factored"),
    "factored, fp32": ("factored", "fp32"),
    "both factored": ("factored", "factored"),
}
THEIRS = "adv_optm, both factored"


def sizes_of_noise() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.ones(SHAPE), 10 ** (-2 * torch.rand(SHAPE, generator=generator))]


def optimizer(side: str, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    if side == THEIRS:
        adv_optm = importlib.import_module("adv_optm")
        return adv_optm.AdamW_adv(groups, nnmf_factor=True, stochastic_rounding=False)
    first, second = SIDES[side]
    chain = gradchain.recipe("adamw").with_options(**{"first_moment.storage": first, "second_moment.storage": second})
    return gradchain.Optimizer(groups, chain, weight_decay=0.0, compile=False)


def distances(side: str, steps: int) -> list[float]:
    """From the optimum, which is 0 and where they begin: for each rate, noise of one size and of many."""
    noise = sizes_of_noise()
    params = [[nn.Parameter(torch.zeros(SHAPE)) for _ in noise] for _ in RATES]
    stepper = optimizer(side, [{"params": some, "lr": lr} for some, lr in zip(params, RATES)])
    generator = torch.Generator().manual_seed(1)
    squares = torch.zeros(len(RATES), len(noise), dtype=torch.float64)
    for step in range(steps):
        drawn = [size * torch.randn(SHAPE, generator=generator) for size in noise]
        for some in params:
            for param, error in zip(some, drawn):
                param.grad = param.detach() + error
        stepper.step()
        if 2 * step >= steps:
            squares += torch.stack(
                [torch.stack([p.detach().double().square().mean() for p in some]) for some in params]
            )
    return (squares / (steps - steps // 2)).sqrt().flatten().tolist()


def main(steps: int) -> None:
    kinds = [f"{noise}, lr {lr:g}" for lr in RATES for noise in ("one size", "many sizes")]
    table = Table("first moment, second moment", *kinds)
    sides = [*SIDES, *([THEIRS] if importlib.util.find_spec("adv_optm") else [])]
    base: list[float] = []
    for side in sides:
        found = distances(side, steps)
        base = base or found
        table.add_row(side, *(f"{own:.4f} ({own / dense:.2f})" for own, dense in zip(found, base)))
    Console(width=120).print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(STEPS)
