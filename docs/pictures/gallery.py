"""Draws the gallery: for each transform, two paths down the same bowl, without it and with it.

python docs/pictures/gallery.py [NAME ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import torch

mpl.use("agg")

from matplotlib import pyplot as plt
from PIL import Image

import gradchain
from effects import EFFECTS, Effect

FOLDER = Path(__file__).parents[1] / "assets" / "gallery"
MINIMUM = torch.tensor([0.9, -0.3])
BLUE, GREY = "#0b5cad", "#7d7d7d"  # one is darker than the other, so that they differ in grey too
LOW, HIGH = (-2.1, -1.6), (1.8, 1.6)


def path(effect: Effect, stages: object) -> torch.Tensor:
    """Where the points are after each step: (steps + 1, rows, 2)."""
    generator = torch.Generator().manual_seed(5)
    start = torch.tensor(effect.start, dtype=effect.dtype)
    w = torch.nn.Parameter(start.clone())
    chain = gradchain.chain(*stages)  # type: ignore[misc]
    optimizer = gradchain.Optimizer([w], chain)
    if effect.hessian and "divide_by_hessian" in chain.names:
        gradchain.give_hessian(optimizer, [torch.tensor(effect.curve).expand_as(w)])
    curve, seen = torch.tensor(effect.curve), [w.detach().float().clone()]
    for step in range(1, effect.steps + 1):
        gradient = curve * (w.detach().float() - MINIMUM)
        gradient = gradient + effect.noise * torch.randn(gradient.shape, generator=generator)
        w.grad = (gradient * (10.0 if step == effect.spike else 1.0)).to(effect.dtype)
        optimizer.step()
        seen.append(w.detach().float().clone())
    return torch.stack(seen)


def draw(name: str, effect: Effect) -> None:
    figure, axes = plt.subplots(figsize=(2.4, 2.0), dpi=200)
    x, y = torch.linspace(LOW[0], HIGH[0], 120), torch.linspace(LOW[1], HIGH[1], 120)
    height = effect.curve[0] * (x[None] - MINIMUM[0]) ** 2 + effect.curve[1] * (y[:, None] - MINIMUM[1]) ** 2
    levels = (torch.linspace(0.25, height.max().sqrt().item(), 8) ** 2).tolist()
    axes.contour(x, y, height, levels=levels, colors="#d5d9de", linewidths=0.7)
    axes.plot(*MINIMUM, marker="x", color="#444444", markersize=4, markeredgewidth=0.9)
    axes.plot(0, 0, marker="+", color="#9aa0a6", markersize=5, markeredgewidth=0.8)
    few = effect.steps <= 60
    for stages, colour, style, dot, face in (
        (effect.with_it, BLUE, "solid", "o", BLUE),
        (effect.without, GREY, (0, (3, 2)), "o", "white"),
    ):
        points = path(effect, stages)
        for row in points.unbind(1):
            axes.plot(*row.T, color=colour, linestyle=style, linewidth=1.2, marker=dot if few else None, markersize=2.6,
                      markerfacecolor=face, markeredgewidth=0.7, clip_on=True)  # fmt: skip
    for corner in effect.start:
        axes.plot(*corner, marker="s", color="#222222", markersize=3.6)
    axes.set(xlim=(LOW[0], HIGH[0]), ylim=(LOW[1], HIGH[1]), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#d5d9de")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    target = FOLDER / f"{name}.png"
    figure.savefig(target, metadata={"Software": None})
    plt.close(figure)
    Image.open(target).convert("RGB").quantize(24).save(target, optimize=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or EFFECTS:
        draw(name, EFFECTS[name])
