"""GYRO's synthetic benchmark: Rosenbrock's valley and the narrow ravine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from gradchain._chain.chain import Chain
from gradchain._chain.recipes import load_chain
from gradchain._optim.optimizer import Optimizer
from gradchain.ablation.builtin.synthetic import MAX_NORM, ravine, rosenbrock
from gradchain.ablation.reproducing.results import Claim, Reproduction, register
from gradchain.ablation.reproducing.runs import trained

SUMMARY = "final losses of SGD, Adam, AdamW and GYRO on two valleys"
SOURCE = "README of gyro_optimizer (sunderflowres-stack), examples/synthetic_benchmark.py"
PUBLISHED = {
    "rosenbrock": {"SGD": "0.003560", "Adam": "0.000225", "AdamW": "0.000227", "GYRO": "0.000225"},
    "ravine": {"SGD": "1.065446", "Adam": "~0", "AdamW": "~0", "GYRO": "~0"},
}


def chains(task: str) -> dict[str, Chain]:
    """The published settings; momentum of SGD 0.9, decay of AdamW 1e-4. Returns: chains by the published names."""
    lr = 1e-3 if task == "rosenbrock" else 1e-2
    return {
        "SGD": load_chain("sgd", {"lr": 1e-4 if task == "rosenbrock" else 1e-2, "momentum": 0.9}),
        "Adam": load_chain("adamw", {"lr": lr, "weight_decay": 0.0}),
        "AdamW": load_chain("adamw", {"lr": lr, "weight_decay": 1e-4}),
        "GYRO": load_chain("gyro-adam", {"lr": lr}),
    }


@register("gyro-synthetic", SUMMARY, seeds=1)
def gyro_synthetic(seeds: int, tell: Callable[[str], None]) -> Reproduction:
    """All eight published figures; nothing is random in them, so one seed is all."""
    rows: list[Claim] = []
    for task, published in PUBLISHED.items():
        for name, chain in chains(task).items():
            tell(f"{task}, {name}")
            rows.append(compared(task, name, published[name], trained(task, chain, seed=0).metrics["loss"] or 0.0))
            if (task, name) == ("rosenbrock", "AdamW"):
                rows[-1:] = decayed(rows[-1], chain, tell)
            elif (task, name) == ("ravine", "SGD"):
                rows.append(unclipped(chain, tell))
    return Reproduction(
        "gyro-synthetic",
        SUMMARY,
        SOURCE,
        "the published functions, starting points, learning rates, clipping and steps (5000 and 3000), on the CPU",
        tuple(rows),
    )


def compared(task: str, name: str, published: str, loss: float) -> Claim:
    """To the digits given. Returns: the claim."""
    ours = f"{loss:.6f}"
    agrees = loss < 1e-6 if published == "~0" else ours == published
    return Claim(f"{task}, {name}", published, ours, agrees)


def decayed(found: Claim, chain: Chain, tell: Callable[[str], None]) -> list[Claim]:
    """Why the last digit of AdamW is another. Returns: the claim with the reason, and torch's own figure."""
    start = torch.tensor([-1.0, 1.0])
    tell("rosenbrock, AdamW of torch")
    by_torch = by_hand(rosenbrock, start, lambda x: torch.optim.AdamW([x], lr=1e-3, weight_decay=1e-4), 5000)
    tell("rosenbrock, AdamW in double precision")
    exact = by_hand(rosenbrock, start.double(), lambda x: Optimizer([x], chain), 5000)
    reason = (
        "rounding. torch multiplies by 1 - lr * weight_decay = 1 - 1e-7, which is 1 - 1.19e-7 in single precision, a fifth "
        f"more decay than asked for; gradchain loses less. In double precision it is {exact:.7f}."
    )
    return [
        Claim(found.what, found.published, found.ours, found.agrees, reason),
        Claim(
            "rosenbrock, torch.optim.AdamW", found.published, f"{by_torch:.6f}", f"{by_torch:.6f}" == found.published
        ),
    ]


def unclipped(chain: Chain, tell: Callable[[str], None]) -> Claim:
    """What SGD does in the ravine when its gradients are left alone. Returns: a claim."""
    tell("ravine, SGD without clipping")
    loss = by_hand(ravine, torch.tensor([2.0, 2.0]), lambda x: Optimizer([x], chain), 3000, max_norm=math.inf)
    reason = (
        "the clipping to norm 10 keeps SGD with momentum swinging across the ravine for ever (1.065446 is one point of that "
        "swing). With the gradients left as they are, the same SGD reaches the minimum; the geometry is not what stops it."
    )
    return Claim("ravine: SGD fails to converge", "yes", f"not if unclipped: {loss:.6f}", loss > 1e-6, reason)


def by_hand(
    function: Callable[[torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    make: Callable[[nn.Parameter], torch.optim.Optimizer],
    steps: int,
    max_norm: float = MAX_NORM,
) -> float:
    """Go down a valley with any optimizer, in any precision. Returns: the loss before the last step."""
    x = nn.Parameter(start.clone())
    optimizer, value = make(x), math.nan
    for _ in range(steps):
        optimizer.zero_grad()
        loss = function(x)
        value = loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_([x], max_norm)
        optimizer.step()
    return value
