"""Studies that were never run: plausible results of any shape, for tests of what is made of them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradchain
from gradchain.ablation import (
    Arm,
    Contrast,
    Design,
    Metric,
    Result,
    Results,
    Run,
    Settings,
    Training,
    Tuned,
    leave_one_out,
)

ACCURACY = Metric("accuracy", "max", percent=True)
LOSS = Metric("loss")


def noise(*facts: Any) -> random.Random:
    return random.Random(repr(facts))


def made_run(
    arm: str, seed: int, shift: float = 0.0, *, lr: float | None = 1e-3, steps: int = 200, **fields: Any
) -> Run:
    """A run whose accuracy is `0.9 + shift` and noise, and whose curves decay towards it."""
    shared, own = noise(seed).gauss(0, 0.01), noise(arm, seed).gauss(0, 0.002)
    accuracy = min(1.0, 0.9 + shift + shared + own)
    curve = [
        [float(step), round(2.3 * math.exp(-step / 60) + 1.2 - accuracy + noise(arm, seed, step).gauss(0, 0.01), 5)]
        for step in range(1, steps + 1, 4)
    ]
    made = Run(
        key=f"{arm}-{seed}",
        arm=arm,
        seed=seed,
        settings={"task": "made", "budget": 10},
        metrics={"accuracy": accuracy, "loss": 1.2 - accuracy, "validation_loss": 1.21 - accuracy},
        curves={"training_loss": curve, "validation_loss": [point for point in curve if point[0] % 8 == 1]},
        hyperparameters={} if lr is None else {"lr": lr},
        steps=steps,
        seconds=1.5,
        step_seconds=2e-4 * (1 + len(arm) / 40),
        state_bytes=1024 * len(arm),
        change=1e-3,
        weights=f"{arm}-{seed}",
    )
    return replace(made, **fields)


def failed_run(arm: str, seed: int, error: str = "RuntimeError: out of luck") -> Run:
    return made_run(arm, seed, metrics={}, curves={}, failed=error, change=None, steps=3)


def diverged_run(arm: str, seed: int) -> Run:
    run = made_run(arm, seed)
    curves = {name: points[:5] for name, points in run.curves.items()}
    return replace(run, metrics=dict.fromkeys(run.metrics), curves=curves, diverged=True, steps=20)


def training(make_optimizer: Any, trial: Any) -> float:
    """Made up."""
    raise AssertionError("these studies are never run")


def made_study(
    shifts: Mapping[str, float] | None = None,
    *,
    seeds: int = 6,
    metrics: Sequence[Metric] = (ACCURACY, LOSS),
    design: Design | None = None,
    runs: Mapping[str, Sequence[Run]] | None = None,
    trials: Mapping[str, Sequence[Run]] | None = None,
    **fields: Any,
) -> Results:
    """A study of Rose, its arms shifted as told; `runs` replaces those of an arm."""
    design = design or leave_one_out(gradchain.recipe("rose"), ("adamw", gradchain.recipe("adamw")))
    made = {
        arm.label: tuple(
            (runs or {}).get(arm.label)
            or (made_run(arm.label, s, (shifts or {}).get(arm.label, 0.0)) for s in range(seeds))
        )
        for arm in design.arms
    }
    results = tuple(
        Result(arm, arm.chain, made[arm.label], tuple((trials or {}).get(arm.label, ()))) for arm in design.arms
    )
    settings = Settings(Training(training, "made", "Made up", tuple(metrics), 10, "epochs"), 10)
    given = {"looks": (seeds,), "command": "gradchain ablate rose --task made", **fields}
    return Results("rose", settings, tuple(metrics), design, results, **given)


HARMED = {"without centralize": -0.05, "without decoupled_decay": 0.02}


def factorial() -> Results:
    """Two stages of Rose in all combinations, with an interaction."""
    chain = gradchain.recipe("rose")
    arms = [
        Arm("full", chain, "full"),
        Arm("without centralize", chain.without("centralize"), "without", "- centralize"),
        Arm("without decoupled_decay", chain.without("decoupled_decay"), "without", "- decoupled_decay"),
        Arm(
            "without both", chain.without("centralize", "decoupled_decay"), "without", "- centralize, - decoupled_decay"
        ),
    ]
    labels = [arm.label for arm in arms]
    contrasts = tuple(
        Contrast(name, tuple(zip(labels, weights)))
        for name, weights in {
            "centralize": (0.5, -0.5, 0.5, -0.5),
            "decoupled_decay": (0.5, 0.5, -0.5, -0.5),
            "centralize x decoupled_decay": (1.0, -1.0, -1.0, 1.0),
        }.items()
    )
    return made_study({**HARMED, "without both": -0.1}, design=Design(tuple(arms), contrasts, ()))


def tuned(shifts: Mapping[str, float] = HARMED) -> Results:
    """A study with trials; the best learning rate of one arm is the largest that was allowed."""
    study = made_study(shifts, tuned=Tuned(("lr",), 6, 2, (0.1, 10.0)))
    results: list[Result] = []
    for result in study.results:
        own = float(result.arm.chain.hyperparameters["lr"])
        rates = [own * factor for factor in (0.1, 0.3, 1.0, 2.0, 5.0, 10.0)]
        best = rates[-1] if result.arm.label == "without promote (+ stochastic_round)" else rates[3]
        trials = [
            made_run(f"{result.arm.label} {rate:g}", 1_000_000 + seed, -0.02 * abs(math.log(rate / best)), lr=rate)
            for rate in rates
            for seed in range(2)
        ]
        runs = tuple(replace(run, hyperparameters={"lr": best}) for run in result.runs)
        results.append(Result(result.arm, result.arm.chain.with_options(lr=best), runs, tuple(trials)))
    return replace(study, results=tuple(results))


def troubled() -> Results:
    """An arm that always crashes, one that diverges in two of its seeds, one that changes the step, one that ends early."""
    crashed, split = "without centralize", "without cv_trust_gate"
    longer = "without decoupled_decay"
    return made_study(
        {"without promote (+ stochastic_round)": -0.08},
        runs={
            crashed: [failed_run(crashed, seed) for seed in range(6)],
            split: [*(made_run(split, seed) for seed in range(4)), diverged_run(split, 4), diverged_run(split, 5)],
            longer: [made_run(longer, seed, change=4e-3) for seed in range(6)],
            "without promote (+ stochastic_round)": [
                made_run("without promote (+ stochastic_round)", seed, -0.08) for seed in range(4)
            ],
            "without stochastic_round": [
                made_run("without stochastic_round", seed, weights=f"full-{seed}") for seed in range(6)
            ],
        },
        looks=(4, 6),
        planned_looks=3,
    )
