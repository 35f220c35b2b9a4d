"""Two claims of "In search of Adam's secret sauce" (Orvieto and Gower, 2025), with small transformers of characters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import load_chain
from gradchain.ablation.builtin import charlm
from gradchain.ablation.reproducing.results import Claim, Reproduction, register
from gradchain.ablation.reproducing.runs import trained
from gradchain.ablation.statistics import paired_difference
from gradchain.ablation.trial import TUNING_SEEDS

SOURCE = "Orvieto and Gower, In search of Adam's secret sauce, arXiv:2505.21829"
SCALE = (
    "the task charlm (2 layers of width 64, Python's documentation, 8 x 64 characters a step) instead of 160 million "
    "parameters on SlimPajama; weight decay 0.1, no clipping; perplexities are per character, theirs per token"
)
BETA = 0.95
DECAY = 0.1
PUBLISHED = {"Adam": 21.86, "Signum": 23.23, "SGD": 53.62}
"""Validation perplexities, table 1."""

NEAR = 0.3 / 21.86
"""Of the perplexity: as near to the best as equal betas came, figure 3."""


def adam(lr: float, betas: tuple[float, float] = (BETA, BETA)) -> Chain:
    """Adam with decoupled decay. Returns: the chain."""
    return load_chain("adamw", {"lr": lr, "betas": betas, "weight_decay": DECAY})


def signum(lr: float) -> Chain:
    """The sign of the momentum, with decoupled decay. Returns: the chain."""
    return chain(t.first_moment(BETA), t.sign(), t.decoupled_decay(DECAY), t.scale_by_learning_rate(lr))


def sgd(lr: float) -> Chain:
    """SGD with the same momentum. Returns: the chain."""
    return chain(t.first_moment(BETA), t.scale_by_learning_rate(lr))


RATES: Mapping[str, tuple[Callable[[float], Chain], tuple[float, ...]]] = {
    "Adam": (adam, (2e-3, 4e-3, 8e-3)),
    "Signum": (signum, (2.5e-4, 5e-4, 1e-3, 2e-3)),
    "SGD": (sgd, (0.3, 1.0, 3.0, 10.0)),
}


def losses(make: Chain, seeds: int, steps: int, part: str = "loss") -> list[float]:
    """The loss of each seed, in nats per character; infinite if it diverged. Returns: them."""
    found = [trained("charlm", make, seed, steps).metrics.get(part) for seed in range(seeds)]
    return [math.inf if value is None else value for value in found]


def tuned(name: str, steps: int, tell: Callable[[str], None]) -> Chain:
    """The learning rate with the lowest validation loss on a seed that no result is of. Returns: the chain."""
    make, rates = RATES[name]
    best = (math.inf, make(rates[0]))
    for lr in rates:
        tell(f"{name}, lr {lr:g}, tuning")
        found = trained("charlm", make(lr), TUNING_SEEDS, steps).metrics.get("validation_loss")
        best = min(best, (math.inf if found is None else found, make(lr)), key=lambda pair: pair[0])
    return best[1]


# The gap of Signum.

SMALLER = (
    "agrees if our 95 % interval over seeds is above 0. The paper has a smaller gap with shorter sequences (0.7 with 512 "
    "tokens instead of 2048); ours have 64 characters, in a few hundred steps. That it does not show here is no evidence "
    "against it."
)
GAP = "Signum closes most of the gap between SGD and Adam, and not all of it"


@register("signum-gap", GAP, seeds=3)
def signum_gap(seeds: int, tell: Callable[[str], None], steps: int = charlm.STEPS) -> Reproduction:
    """Adam, Signum and SGD, each at its best learning rate; and Adam with three quarters of the steps."""
    best = {name: tuned(name, steps, tell) for name in RATES}
    found: dict[str, list[float]] = {}
    for name, tuned_chain in best.items():
        tell(f"{name}, {seeds} seeds")
        found[name] = losses(tuned_chain, seeds, steps)
    tell("Adam, with three quarters of the steps")
    shorter = losses(best["Adam"], seeds, 3 * steps // 4)
    rates = ", ".join(f"{name} {found_chain.hyperparameters['lr']:g}" for name, found_chain in best.items())
    setting = f"{SCALE}. {steps} steps, {seeds} seeds; of a few learning rates each, the best on another seed: {rates}"
    perplexities = {name: [math.exp(loss) for loss in values] for name, values in found.items()}
    rows = gap_rows(perplexities, [math.exp(loss) for loss in shorter])
    return Reproduction("signum-gap", GAP, SOURCE, setting, rows)


def gap_rows(runs: Mapping[str, Sequence[float]], shorter: Sequence[float]) -> tuple[Claim, ...]:
    """The order, the gap, what is closed of it, and what it costs, of the perplexities of all seeds. Returns: the claims."""

    def closed(perplexity: Mapping[str, float]) -> float:
        return (perplexity["SGD"] - perplexity["Signum"]) / (perplexity["SGD"] - perplexity["Adam"])

    def listed(perplexity: Mapping[str, float]) -> str:
        return " < ".join(f"{name} {perplexity[name]:.2f}" for name in sorted(perplexity, key=perplexity.__getitem__))

    ours = {name: fmean(values) for name, values in runs.items()}
    order = [sorted(perplexity, key=perplexity.__getitem__) for perplexity in (PUBLISHED, ours)]
    gap = paired_difference(runs["Signum"], runs["Adam"])
    interval = "" if gap.low is None or gap.high is None else f" [{gap.low:+.2f}, {gap.high:+.2f}]"
    return (
        Claim("perplexities", listed(PUBLISHED), listed(ours), order[0] == order[1], "what counts is the order."),
        Claim(
            "Signum less Adam",
            f"{PUBLISHED['Signum'] - PUBLISHED['Adam']:+.2f}",
            f"{gap.mean:+.2f}{interval}",
            (gap.mean if gap.low is None else gap.low) > 0,
            SMALLER,
        ),
        Claim(
            "of the gap, Signum closes",
            f"{closed(PUBLISHED):.0%}",
            f"{closed(ours):.0%}",
            abs(closed(ours) - closed(PUBLISHED)) <= 0.05,
            "agrees if within 5 points; over 100 % is beyond Adam. It depends on how badly SGD does.",
        ),
        Claim(
            "Adam with 3/4 of the steps",
            "is as good as Signum",
            f"{fmean(shorter):.2f}, Signum {ours['Signum']:.2f}",
            fmean(shorter) <= ours["Signum"],
            "agrees if it is at least as good as Signum with all of them.",
        ),
    )


# Equal betas.

EQUAL = "Adam with beta1 = beta2 is nearly as good as with the best beta2"
FIRST, SECOND = (0.9, 0.95, 0.975), (0.9, 0.95, 0.975, 0.9875, 0.999)
EQUAL_STEPS, EQUAL_RATES = 300, (4e-3, 8e-3)

Grid = Mapping[tuple[float, float], float]
"""Perplexities by betas."""


@register("beta1-equals-beta2", EQUAL, seeds=2)
def equal_betas(seeds: int, tell: Callable[[str], None], steps: int = EQUAL_STEPS) -> Reproduction:
    """A grid of betas, at the better of two learning rates each."""
    grid: dict[tuple[float, float], float] = {}
    for first in FIRST:
        for second in SECOND:
            tell(f"betas {first:g}, {second:g}")
            found = (losses(adam(lr, (first, second)), seeds, steps, "validation_loss") for lr in EQUAL_RATES)
            grid[first, second] = math.exp(min(map(fmean, found)))
    rates = " and ".join(f"{lr:g}" for lr in EQUAL_RATES)
    setting = f"{SCALE}. {steps} steps, {seeds} seeds, the better of the learning rates {rates} for each pair of betas"
    return Reproduction("beta1-equals-beta2", EQUAL, SOURCE, setting, grid_rows(grid))


def grid_rows(grid: Grid) -> tuple[Claim, ...]:
    """For each beta1, the best beta2 and how far equal betas are from it. Returns: the claims."""
    rows: list[Claim] = []
    bests: list[float] = []
    for first in dict.fromkeys(first for first, _ in grid):
        row = {second: perplexity for (one, second), perplexity in grid.items() if one == first}
        best = min(row, key=row.__getitem__)
        away = row[first] / row[best] - 1
        bests.append(best)
        shown = ", ".join(f"{second:g}: {perplexity:.2f}" for second, perplexity in row.items())
        rows.append(
            Claim(
                f"beta1 = {first:g}: equal betas, above the best",
                f"<= {NEAR:.1%}",
                f"{away:.1%}",
                away <= NEAR,
                f"perplexities by beta2: {shown}. {NEAR:.1%} are the paper's 0.3 of 21.86. Differences of a percent are "
                "within what few seeds and few steps leave open.",
            )
        )
    ours = ", ".join(f"{best:g}" for best in bests)
    reason = "of a few seeds; neighbours in the grid differ by little."
    return (*rows, Claim("the best beta2 grows with beta1", "yes", ours, bests == sorted(bests), reason))
