"""Prodigy: the step size that it finds, against the equations, and where it keeps it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc

STEPS = 8
OPTIONS: list[dict[str, Any]] = [
    {},
    {"d_coef": 0.5, "growth_rate": 1.3},
    {"beta3": 0.8, "safeguard_warmup": True},
    {"d_limiter": True},
    {"slice_p": 3},
    {"prodigy_steps": 3},
]


def chain(**options: Any) -> gc.Chain:
    return gc.chain(
        gc.prodigy(**{"d0": 1e-2, "slice_p": 1, **options}),
        gc.first_moment(0.9, bias_correction=False),
        gc.second_moment(0.99, bias_correction=False),
        gc.divide(1e-3),
        gc.scale_by_learning_rate(1.0),
        gc.decoupled_decay(0.01),
    )


def start() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(4, 5), (7,), ()]]


def gradient(p: Any, step: int) -> Any:
    """Of a bowl around 3, with a ripple: it points one way for long, so that d grows."""
    return (p - 3.0) + 0.1 * math.cos(step)


def rate(step: int) -> float:
    return 1.0 if step < 5 else 0.5


def oracle(
    d0: float = 1e-2, d_coef: float = 1.0, growth_rate: float = math.inf, beta3: float | None = None,
    prodigy_steps: int = 0, safeguard_warmup: bool = False, d_limiter: bool = False, slice_p: int = 1,
) -> tuple[list[Any], list[float]]:  # fmt: skip
    """The equations, in numpy."""
    params = [p.numpy().copy() for p in start()]
    origin = [p.copy() for p in params]
    s, m, v = ([np.zeros_like(p) for p in params] for _ in range(3))
    d = d_max = d0
    numerator, found, b3 = 0.0, [], 0.99**0.5 if beta3 is None else beta3
    for step in range(STEPS):
        lr = d * rate(step)
        travelled, weight = 0.0, 0.0
        for i, p in enumerate(params):
            g = gradient(p, step)
            part = (slice(None, None, slice_p),)
            flat, moved = g.reshape(-1)[part], (origin[i] - p).reshape(-1)[part]
            travelled += d / d0 * lr * float(flat @ moved)
            kept = b3 * s[i].reshape(-1)[part] + d / d0 * (d if safeguard_warmup else lr) * flat
            s[i].reshape(-1)[part] = kept
            weight += float(np.abs(kept).sum())
            m[i] = 0.9 * m[i] + 0.1 * d * g
            v[i] = 0.99 * v[i] + 0.01 * (d * g) ** 2
            params[i] = p - lr * 0.01 * p - lr * m[i] / (np.sqrt(v[i]) + d * 1e-3)
        if prodigy_steps and step >= prodigy_steps:
            found.append(d)
            continue
        numerator = b3 * numerator + travelled
        estimate = d_coef * numerator / weight
        estimate = min(estimate, 2**0.25 * d) if d_limiter else estimate
        d, d_max = max(d, estimate) if d == d0 else d, max(d_max, estimate)
        d = min(d_max, d * growth_rate)
        found.append(d)
    return params, found


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_follows_the_equations(options: dict[str, Any]) -> None:
    params = [torch.nn.Parameter(p) for p in start()]
    optimizer = gc.Optimizer(params, chain(**options), compile=False)
    found: list[float] = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate(step)
        for p in params:
            p.grad = gradient(p.detach(), step)
        optimizer.step()
        found.append(float(optimizer.param_groups[0]["d"]))
    expected, d = oracle(**options)
    assert found == pytest.approx(d, rel=1e-6)  # s is kept in float32
    assert max(d) > 1.1e-2  # else there is nothing to see
    for ours, theirs in zip(params, expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-6)


def test_every_option_shows() -> None:
    results = [oracle(**options)[1] for options in OPTIONS]
    assert len({tuple(result) for result in results}) == len(OPTIONS)


def run(optimizer: gc.Optimizer, steps: range) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = gradient(p.detach(), step)
        optimizer.step()


def test_all_groups_share_d() -> None:
    params = [torch.nn.Parameter(p) for p in start()]
    whole = gc.Optimizer([torch.nn.Parameter(p) for p in start()], chain(), compile=False)
    groups = gc.Optimizer([{"params": params[:1]}, {"params": params[1:]}], chain(), compile=False)
    for optimizer in (whole, groups):
        run(optimizer, range(STEPS))
    first, second = groups.param_groups
    assert first["d"] == second["d"] == whole.param_groups[0]["d"]
    late = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    groups.add_param_group({"params": [late]})
    assert groups.param_groups[2]["d"] == first["d"]


def test_a_parameter_without_gradient_gets_the_new_d() -> None:
    params = [torch.nn.Parameter(p) for p in start()]
    optimizer = gc.Optimizer(params, chain(), compile=False)
    run(optimizer, range(2))
    params[0].grad = None
    optimizer.step()
    assert float(optimizer.param_groups[0]["k"]) == 3.0
    assert float(optimizer.param_groups[0]["d"]) > 1e-2


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_d_survives_saving_and_copying(compile: bool) -> None:
    straight = gc.Optimizer([torch.nn.Parameter(p) for p in start()], chain(), compile=compile)
    run(straight, range(STEPS))
    half = gc.Optimizer([torch.nn.Parameter(p) for p in start()], chain(), compile=compile)
    run(half, range(4))
    saved = copy.deepcopy(half.state_dict())
    copied = copy.deepcopy(half)
    resumed = gc.Optimizer(
        [torch.nn.Parameter(p.detach().clone()) for p in half.param_groups[0]["params"]], chain(), compile=compile
    )
    resumed.load_state_dict(saved)
    for optimizer in (half, copied, resumed):
        run(optimizer, range(4, STEPS))
        assert torch.equal(optimizer.param_groups[0]["d"], straight.param_groups[0]["d"])
        for ours, theirs in zip(optimizer.param_groups[0]["params"], straight.param_groups[0]["params"], strict=True):
            assert torch.equal(ours, theirs)


def test_the_functions_keep_d_in_their_state() -> None:
    params = [torch.nn.Parameter(p) for p in start()]
    optimizer = gc.Optimizer(params, chain(), compile=False)
    run(optimizer, range(STEPS))
    values, state = start(), chain().init(start())
    for step in range(STEPS):
        updates, state = chain().update([gradient(p, step) for p in values], state, values)
        values = gc.apply_updates(values, updates)
    assert float(state["shared"]["d"]) == pytest.approx(float(optimizer.param_groups[0]["d"]), rel=1e-9)
    for ours, theirs in zip(values, params, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


def test_zero_gradients_leave_d_alone() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = gc.Optimizer([p], chain(), compile=False)
    for _ in range(3):
        p.grad = torch.zeros(3)
        optimizer.step()
    assert float(optimizer.param_groups[0]["d"]) == 1e-2
    assert p.isfinite().all()


def test_what_it_needs() -> None:
    with pytest.raises(gc.ChainError, match=r"betas\[1\]"):
        gc.chain(gc.prodigy(), gc.sign(), gc.scale_by_learning_rate())
    gc.chain(gc.prodigy(beta3=0.9), gc.sign(), gc.scale_by_learning_rate())
    with pytest.raises(gc.OptionError, match="d0 = 0"):
        gc.prodigy(0.0)
    with pytest.raises(gc.OptionError, match="slice_p"):
        gc.prodigy(slice_p=0)
