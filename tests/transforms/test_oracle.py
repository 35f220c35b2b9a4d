"""Float64 trajectories of the recipes against the numpy oracles.

Tolerance 1e-9: both sides compute in float64, and only the order of operations differs.

* Rose's `cv_trust_gate` finds its variance as a difference of means (one pass), which costs up to half of the digits
  where all ranges are nearly equal; the gate's effect on the step is then as small, so the result keeps 1e-9.
* GYRO is run with the relative residual gate on both sides (quirk G1): without it, one-element tensors are projected
  onto rounding errors and no two implementations agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradchain
from tests import oracle

SHAPES = [(), (1,), (7,), (1, 1), (4, 1), (1, 4), (8, 16), (4, 3, 3, 3), (2, 4, 3)]
STEPS = 8


def fraction(low: float = 0.0, high: float = 1.0) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False).map(lambda x: round(x, 3))


BETAS = st.tuples(fraction(0, 0.95), fraction(0, 0.999))
DECAY = st.sampled_from([0.0, 1e-2, 0.3])
EPS = st.sampled_from([1e-8, 1e-3])

# recipe, oracle, options of both, options of the recipe alone
CASES: dict[str, tuple[str, type, dict[str, st.SearchStrategy[Any]], dict[str, Any]]] = {
    "rose": (
        "rose",
        oracle.Rose,
        {
            "weight_decay": st.sampled_from([None, 0.0, 1e-4, 0.5, 2.0]),
            "wd_schedule": st.sampled_from([False, True, 0.02]),
            "centralize": st.booleans(),
            "stabilize": st.booleans(),
        },
        {},
    ),
    "rose-1.0.2": (
        "rose-1.0.2",
        lambda **options: oracle.Rose(revised=True, **options),  # type: ignore[dict-item]
        {
            "weight_decay": st.sampled_from([None, 0.0, 1e-4, 0.5, 2.0]),
            "wd_schedule": st.sampled_from([False, True, 0.02]),
            "centralize": st.booleans(),
            "stabilize": st.just(True),  # off: a rounded mean decides the branch (quirk R11)
        },
        {},
    ),
    "gyro-adam": (
        "gyro-adam",
        oracle.GyroAdam,
        {
            "betas": BETAS,
            "weight_decay": DECAY,
            "theta_base": fraction(0, 0.3),
            "proj_factor": fraction(),
            "warmup_steps": st.sampled_from([None, 0, 1, 5]),
            "eps": st.sampled_from([1e-8, 1e-2]),
            "residual_rtol": st.sampled_from([1e-6, 1e-3]),
        },
        {},
    ),
    "gyro-sgd": (
        "gyro-sgd",
        oracle.GyroSGD,
        {
            "momentum": fraction(0, 0.95),
            "theta_base": fraction(0, 0.3),
            "proj_factor": fraction(),
            "warmup_steps": st.sampled_from([None, 0, 1, 5]),
            "residual_rtol": st.sampled_from([1e-6, 1e-3]),
        },
        {},
    ),
    "adams": (
        "adams",
        oracle.Adams,
        {
            "betas": BETAS,
            "weight_decay": st.sampled_from([0.0, 0.1, 1.0]),
            "scalar_vector_weight_decay": DECAY,
            "hat_inside": st.booleans(),
            "independent_vector_decay": st.booleans(),
            "restart": st.booleans(),
        },
        {"master_dtype": "fp64"},
    ),
    "adamw": (
        "adamw",
        oracle.AdamW,
        {"betas": BETAS, "weight_decay": DECAY, "eps": st.just(1e-8), "amsgrad": st.booleans()},
        {},
    ),
    "adam-atan2": (
        "adam-atan2",
        oracle.AdamAtan2,
        {"betas": BETAS, "weight_decay": DECAY, "a": fraction(0.5, 2), "b": fraction(0.5, 2)},
        {},
    ),
    "mars-adamw": (
        "mars-adamw",
        oracle.MARS,
        {"betas": BETAS, "weight_decay": DECAY, "eps": EPS, "gamma": fraction()},
        {},
    ),
    "adabelief": ("adabelief", oracle.AdaBelief, {"betas": BETAS, "weight_decay": DECAY, "eps": EPS}, {}),
    "laprop": ("laprop", oracle.LaProp, {"betas": BETAS, "weight_decay": DECAY, "eps": EPS}, {}),
    "stable-adamw": ("stable-adamw", oracle.StableAdamW, {"betas": BETAS, "weight_decay": DECAY, "eps": EPS}, {}),
    "radam": (
        "radam",
        oracle.RAdam,
        {
            # Away from where rho is 5, so that both sides rectify from the same step on.
            "betas": st.tuples(fraction(0, 0.95), st.sampled_from([0.3, 0.7, 0.9, 0.95, 0.999])),
            "weight_decay": DECAY,
            "eps": st.sampled_from([1e-8, 1e-2]),
            "decoupled_weight_decay": st.booleans(),
        },
        {},
    ),
    "nadam": (
        "nadam",
        oracle.NAdam,
        {
            "betas": BETAS,
            "weight_decay": DECAY,
            "momentum_decay": fraction(),
            "decoupled_weight_decay": st.booleans(),
        },
        {},
    ),
    "sgd": (
        "sgd",
        oracle.SGD,
        {
            "momentum": fraction(0.01, 0.95),  # the other two mean nothing without any
            "dampening": fraction(),
            "weight_decay": DECAY,
            "nesterov": st.booleans(),
        },
        {},
    ),
    "lion": ("lion", oracle.Lion, {"betas": BETAS, "weight_decay": DECAY}, {}),
}


def problem(seed: int) -> tuple[list[np.ndarray], list[list[np.ndarray]], list[float]]:
    """Parameters, gradients that turn against the last ones now and then, and a moving learning rate."""
    rng = np.random.default_rng(seed)
    params = [rng.normal(size=shape) for shape in SHAPES]
    grads: list[list[np.ndarray]] = []
    for step in range(STEPS):
        flip = -1 if step % 3 == 2 else 1
        fresh = [rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3) for shape in SHAPES]
        grads.append([0.3 * f + flip * (grads[-1][i] if grads else f) for i, f in enumerate(fresh)])
    return params, grads, [0.02 / (1 + step / 5) for step in range(STEPS)]


def ours(chain: gradchain.Chain, seed: int) -> list[list[np.ndarray]]:
    start, grads, lrs = problem(seed)
    params = [torch.nn.Parameter(torch.from_numpy(np.array(p))) for p in start]
    optimizer = gradchain.Optimizer(params, chain, compile=False)
    trajectory = []
    for gradients, lr in zip(grads, lrs):
        optimizer.param_groups[0]["lr"] = lr
        for param, gradient in zip(params, gradients):
            param.grad = torch.from_numpy(np.array(gradient))
        optimizer.step()
        trajectory.append([param.detach().numpy().copy() for param in params])
    return trajectory


def expected(make: Callable[[], Any], seed: int) -> list[list[np.ndarray]]:
    params, grads, lrs = problem(seed)
    solver = make()
    states: list[dict[str, Any]] = [{} for _ in params]
    trajectory = []
    for gradients, lr in zip(grads, lrs):
        params = [solver.step(p, g, state, lr) for p, g, state in zip(params, gradients, states)]
        trajectory.append(params)
    return trajectory


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*(removes the whole gradient|does not decay)")
@settings(max_examples=12, derandomize=True, deadline=None)
@given(data=st.data())
def test_trajectory(case: str, data: st.DataObject) -> None:
    recipe, make, strategies, extra = CASES[case]
    options = data.draw(st.fixed_dictionaries(strategies))
    seed = data.draw(st.integers(0, 1000))
    chain = gradchain.recipe(recipe, lr=0.05, **options, **extra)
    reference = {"reference_lr": 0.05} if options.get("wd_schedule") is True else {}
    theirs = expected(lambda: make(**options, **reference), seed)
    for step, (got, wanted) in enumerate(zip(ours(chain, seed), theirs), start=1):
        for shape, a, b in zip(SHAPES, got, wanted):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11, err_msg=f"step {step}, shape {shape}")
