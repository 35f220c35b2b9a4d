"""Weights of 24 bits rounded stochastically or to nearest, against float64 ones: `python -m benchmarks.rounding`.

Adam on a quadratic with noisy gradients; how far the weights went on the way of the float64 run, and how far they are from
its end, in lengths of that way.
"""

from __future__ import annotations

import torch

from gradchain._core.fp24 import join_fp24, split_fp24
from gradchain._core.noise import parameter_key, random_bits

SIZE, STEPS, DECAY = 4096, 4000, 0.1
CASES = ((1e-3, 1.0), (1e-5, 1.0), (3e-6, 1.0), (1e-6, 1.0), (1e-5, 100.0))
"""Learning rates, and the size of the noise in a gradient."""


def rounded(value: torch.Tensor, mode: str, step: int) -> torch.Tensor:
    """A float64 value as it is kept."""
    if mode == "float64":
        return value
    if mode == "float32":
        return value.float().double()
    noise = random_bits(value, torch.tensor(parameter_key(step, 0), dtype=torch.int32), 0)
    noise = noise if mode == "stochastic" else torch.full_like(noise, 128)
    return join_fp24(*split_fp24(value.float(), noise)).double()


def trained(mode: str, lr: float, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights before and after."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> torch.Tensor:
        return torch.randn(SIZE, generator=generator).double()

    start = weight = normal().bfloat16().double()
    target, mean, square = normal(), torch.zeros(SIZE).double(), torch.zeros(SIZE).double()
    for step in range(1, STEPS + 1):
        grad = weight - target + noise * normal()
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad.square()
        direction = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        weight = rounded(weight - lr * DECAY * weight - lr * direction, mode, step)
    return start, weight


def main() -> None:
    torch.set_num_threads(1)
    for lr, noise in CASES:
        start, wanted = trained("float64", lr, noise)
        way, said = wanted - start, list[str]()
        for mode in ("float32", "stochastic", "nearest"):
            weight = trained(mode, lr, noise)[1]
            went = float((weight - start) @ way / (way @ way))
            said.append(f"{mode} {went:.3f} (off by {float((weight - wanted).norm() / way.norm()):.4f})")
        print(f"lr {lr:g}, noise {noise:g}: {'; '.join(said)}", flush=True)


if __name__ == "__main__":
    main()
