"""Step time of our chains against torch.optim and against tensor-by-tensor references, interleaved in one process.

    python -m benchmarks.step_time

Every pair is timed in alternation, so that what else the machine does hits both alike; the ratio is the median of the
paired ratios. The unfused references follow the published structure of each step: one tensor at a time, no compiler.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import gradchain

Step = Callable[[], object]
Make = Callable[[list[torch.nn.Parameter]], Step]

SHAPES = {
    "gpt2-like, 15M": [(5000, 512)] + 4 * [(1536, 512), (1536,), (512, 512), (512,), (2048, 512), (512, 2048), (512,)],
    "200 of 32x32": 200 * [(32, 32)],
}


def parameters(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = 0.01 * torch.randn(param.shape, generator=generator)
    return params


def ours(recipe: str, **options: object) -> Make:
    return lambda params: gradchain.optimizer(recipe, params, lr=1e-4, **options).step  # type: ignore[arg-type]


def torch_adamw(**options: bool) -> Make:
    return lambda params: torch.optim.AdamW(params, lr=1e-4, **options).step


def unfused_rose(dtype: torch.dtype) -> Make:
    """Rose 1.0.0 as published: each tensor promoted, centralized, ranged, gated, divided, written back."""

    def make(params: list[torch.nn.Parameter]) -> Step:
        @torch.no_grad()
        def step() -> None:
            for param in params:
                g, p = param.grad.to(dtype), param.to(dtype)  # type: ignore[union-attr]
                p.mul_(1 - 1e-4 * 1e-4)
                if g.ndim < 2:
                    divisor = g.max() - g.min() + 1
                else:
                    axes = tuple(range(1, g.ndim))
                    g = g - g.mean(dim=axes, keepdim=True)
                    ranges = g.amax(dim=axes, keepdim=True) - g.amin(dim=axes, keepdim=True)
                    mean = ranges.mean()
                    divisor = torch.lerp(mean, ranges, mean / (mean + ranges.std(unbiased=False)))
                param.copy_(p.addcdiv_(g, divisor.expand_as(g), value=-1e-4))

        return step

    return make


PAIRS: list[tuple[str, Make, str, Make]] = [
    ("adamw compiled", ours("adamw", compile=True), "torch AdamW(fused)", torch_adamw(fused=True)),
    ("adamw eager", ours("adamw", compile=False), "torch AdamW(for-loop)", torch_adamw(foreach=False)),
    (
        "rose fp32 compiled",
        ours("rose", compile=True, compute_dtype="fp32"),
        "unfused Rose fp32",
        unfused_rose(torch.float32),
    ),
    ("rose compiled", ours("rose", compile=True), "unfused Rose fp64", unfused_rose(torch.float64)),
]


def timed(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(left: Step, right: Step, rounds: int = 15) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of the paired ratios."""
    for _ in range(3):
        left(), right()
    pairs = [(timed(left), timed(right)) for _ in range(rounds)]
    lefts, rights = zip(*pairs)
    ratios = [a / b for a, b in pairs]
    return 1e3 * statistics.median(lefts), 1e3 * statistics.median(rights), statistics.median(ratios)


def main() -> None:
    table = Table(title=f"step time, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for column in ("parameters", "ours", "peer", "ours ms", "peer ms", "ratio"):
        table.add_column(column, justify="right" if "ms" in column or column == "ratio" else "left")
    for name, shapes in SHAPES.items():
        for label, make, peer, make_peer in PAIRS:
            a, b, ratio = compare(make(parameters(shapes)), make_peer(parameters(shapes)))
            table.add_row(name, label, peer, f"{a:.2f}", f"{b:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
