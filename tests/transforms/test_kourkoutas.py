from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, optimizer_of, run, slot, step, tensor

LR = gc.scale_by_learning_rate(0.0)  # the gradients are given: nothing need move


def written_out(
    norms: Any, high: float, low: float = 0.9, alpha: float = 0.95, tiny: float = 1e-9, k: int = 0, switch: bool = False
) -> np.ndarray:
    """The decay rate of each step, given the norm of each step's gradient."""
    nu, rho, found = np.zeros_like(norms[0]), np.zeros_like(norms[0]), []
    for tau, norm in enumerate(norms):
        rho = alpha * rho + (1 - alpha) * nu
        raw = nu / (rho + tiny)
        star = high - (high - low) * raw / (1 + raw)
        w = float(tau >= k) if switch else min(1.0, tau / k) if k else 1.0
        found.append((1 - w) * high + w * star)
        nu = norm
    return np.stack(found)


def chain_of(high: float = 0.99, storage: str = "param", **options: Any) -> gc.Chain:
    stages = gc.second_moment(high, bias_correction=False, storage=storage), gc.divide(1e-8), LR
    return gc.chain(gc.kourkoutas_beta(**options), *stages)


def rates(optimizer: gc.Optimizer, steps: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """For each step and parameter the decay rate in use."""
    found: list[list[torch.Tensor]] = []
    for grads in steps:
        step(optimizer, *grads)
        params = optimizer.param_groups[0]["params"]
        found.append([optimizer.state[p]["kourkoutas_beta.beta2"].clone() for p in params])
    return found


def gradients(*shapes: tuple[int, ...], steps: int = 8, dtype: torch.dtype = torch.float64) -> list[list[torch.Tensor]]:
    """Normal gradients, one in three of them a spike."""
    generator = torch.Generator().manual_seed(0)
    return [
        [
            (10.0 if t % 3 == 2 else 1.0) * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for shape in shapes
        ]
        for t in range(steps)
    ]


def zeros(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.zeros(shape, dtype=dtype) for shape in shapes]


def test_by_hand() -> None:
    # At step 2 the average holds a tenth of the only norm, so the ratio is 10 and the squash 10/11.
    (_, _), state = run(chain_of(0.99, beta2_min=0.44, ema_alpha=0.9, tiny_spike=1e-30), grads=[[3.0, 4.0], [0.0, 0.0]])
    close(slot(state, "kourkoutas_beta.beta2"), 0.49)
    close(slot(state, "kourkoutas_beta.grad_ema"), 0.5)
    close(slot(state, "kourkoutas_beta.grad_sq"), 0.0)
    close(slot(state, "second_moment.exp_avg_sq"), [0.49 * 0.09, 0.49 * 0.16])  # the first step used 0.99


def test_the_direction_passes() -> None:
    grads = [g.tolist() for (g,) in gradients((3, 2))]
    rest = gc.second_moment(0.5), gc.atan2_scale()
    plain, narrow, far = (
        torch.stack(run(*first, *rest, grads=grads)[0])
        for first in ((), (gc.kourkoutas_beta(0.499999),), (gc.kourkoutas_beta(0.3),))
    )
    torch.testing.assert_close(narrow, plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(far, plain, rtol=1e-2)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"beta2_min": 0.5, "ema_alpha": 0.8},
    {"tiny_spike": 0.1},
    {"k_warmup_steps": 5},
    {"k_warmup_steps": 2.5},
    {"k_warmup_steps": 3, "warm_in": "switch"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_written_out(options: dict[str, Any]) -> None:
    shapes = [(), (7,), (4, 6), (2, 3, 4)]
    grads = gradients(*shapes)
    found = rates(optimizer_of(chain_of(**options), *zeros(*shapes)), grads)
    short = {"beta2_min": "low", "ema_alpha": "alpha", "tiny_spike": "tiny", "k_warmup_steps": "k"}
    known = {short[key]: value for key, value in options.items() if key in short}
    for index in range(len(shapes)):
        norms = [float(step[index].norm()) for step in grads]
        expected = written_out(norms, 0.99, switch="warm_in" in options, **known)
        close(torch.stack([rate[index] for rate in found]), expected, rtol=1e-12)


def test_parameters_of_one_shape_are_a_layer() -> None:
    shapes = [(4, 6), (4, 6), (6, 4)]
    grads = gradients(*shapes)
    for layers in ("shape", "tensor"):
        found = rates(optimizer_of(chain_of(layers=layers), *zeros(*shapes)), grads)
        norms = np.array([[float(g.norm()) for g in step] for step in grads])
        if layers == "shape":
            norms[:, 0] = norms[:, 1] = np.hypot(norms[:, 0], norms[:, 1])
        for index in range(3):
            close(torch.stack([rate[index] for rate in found]), written_out(norms[:, index], 0.99), rtol=1e-12)


@pytest.mark.parametrize(
    ("role", "shape", "axes"),
    [
        ("lora_A", (4, 6), (1,)),
        ("oft", (3, 10), (1,)),
        ("lora_A", (4, 3, 2, 2), (1, 2, 3)),
        ("lora_B", (6, 4), (0,)),
        ("lora_B", (6, 4, 1, 1), (0,)),
        ("dora_scale", (6, 1), (0, 1)),
        ("lora_A", (6,), (0,)),
        ("lora_B", (6,), (0,)),
        ("lora_A", (), ()),
        ("vector", (6, 4), (0, 1)),
        ("head", (6, 4), (0, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("layers", ["shape", "tensor"])
def test_ranks_and_blocks(role: str, shape: tuple[int, ...], axes: tuple[int, ...], layers: str) -> None:
    grads = gradients(shape, shape)
    found = rates(optimizer_of(chain_of(layers=layers), *zeros(shape, shape), role=role), grads)
    norms = np.array([[g.square().sum(axes, keepdim=len(axes) < len(shape)).sqrt().numpy() for g in s] for s in grads])
    if layers == "shape" and role in ("vector", "head"):  # adapters are layers of their own, other roles are not
        norms = np.broadcast_to(np.sqrt((norms**2).sum(1, keepdims=True)), norms.shape)
    for index in range(2):
        rate = torch.stack([rate[index] for rate in found])
        close(rate, written_out(norms[:, index], 0.99), rtol=1e-12)


def test_the_second_moment_averages_by_rank() -> None:
    grads = gradients((4, 6), steps=4)
    optimizer = optimizer_of(chain_of(0.99), *zeros((4, 6)), role="lora_A")
    v = torch.zeros(4, 6, dtype=torch.float64)
    for (g,), (beta2,) in zip(grads, rates(optimizer, grads)):
        v = beta2 * v + (1 - beta2) * g.square()
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["second_moment.exp_avg_sq"], v)


def test_adopt_averages_with_it() -> None:
    stages = (gc.kourkoutas_beta(0.3, 0.9), gc.adopt(0.5), gc.divide())
    _, state = run(*stages, grads=[[1.0], [2.0], [0.0]])
    first, second, third = written_out([1.0, 2.0, 0.0], 0.5, 0.3, 0.9)
    assert first == 0.5
    close(slot(state, "adopt.exp_avg_sq"), [third * (second * 1 + (1 - second) * 4)], rtol=1e-12)


def test_half_precision_keeps_its_rates() -> None:
    # In bfloat16 0.999 is 1, and the sum of 4096 squares of 1 would stay at 256.
    params = zeros((64, 64), dtype=torch.bfloat16)
    grads = [[torch.ones(64, 64, dtype=torch.bfloat16)] for _ in range(4)]
    optimizer = optimizer_of(chain_of(0.999, storage="fp32"), *params)
    expected = written_out([64.0] * 4, 0.999)
    rate = torch.stack([rate for (rate,) in rates(optimizer, grads)])
    assert rate.dtype == torch.float32
    close(rate, expected, rtol=1e-6)
    (state,) = optimizer.state.values()
    v = 0.0
    for beta2 in expected:
        v = beta2 * v + (1 - beta2)
    close(state["second_moment.exp_avg_sq"][0, 0].double(), v, rtol=2e-2)


def test_zero_gradients_are_calm() -> None:
    grads = [[tensor([x] * 3)] for x in (0.0, 0.0, 1.0, 0.0, 0.0)]
    rate = torch.stack([rate for (rate,) in rates(optimizer_of(chain_of(), *zeros((3,))), grads)])
    close(rate, written_out([0, 0, 3**0.5, 0, 0], 0.99))


def test_a_resumed_run_goes_on() -> None:
    # Quirk N10: the original does not save its accumulator, and takes one step at the upper end.
    shapes = [(4, 6), (4, 6), (5,)]
    grads = gradients(*shapes)
    optimizer = optimizer_of(chain_of(), *zeros(*shapes))
    rates(optimizer, grads[:4])
    resumed = optimizer_of(chain_of(), *zeros(*shapes))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ours, theirs in zip(rates(resumed, grads[4:]), rates(optimizer, grads[4:]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_group_without_it_averages_as_always() -> None:
    params = [torch.nn.Parameter(p) for p in zeros((3,), (3,))]
    groups = [{"params": params[:1], "disable": ["kourkoutas_beta"]}, {"params": params[1:]}]
    optimizer = gc.Optimizer(groups, chain_of(0.5, beta2_min=0.1), compile=False)
    for p in params:
        p.grad = torch.ones(3, dtype=torch.float64)
    for _ in range(2):
        optimizer.step()
    plain, other = (optimizer.state[p]["second_moment.exp_avg_sq"] for p in params)
    close(plain, [0.75] * 3)
    assert (other > 0.8).all()


def test_rates_cannot_cross() -> None:
    with pytest.raises(gc.OptionError, match=r"beta2_min = 0\.9 is not below betas\[1\] = 0\.9"):
        optimizer_of(chain_of(0.9, beta2_min=0.9), tensor([0.0]))
    optimizer = optimizer_of(chain_of(0.9, beta2_min=0.8), tensor([0.0]))
    optimizer.param_groups[0]["betas"] = (None, 0.7)
    with pytest.raises(gc.OptionError, match="beta2_min"):
        step(optimizer, tensor([1.0]))


def test_it_needs_a_reader() -> None:
    with pytest.raises(gc.ChainError, match="provides 'beta2'"):
        gc.chain(gc.first_moment(), gc.kourkoutas_beta(), LR)
    with pytest.raises(gc.ChainError, match="beta2"):
        gc.chain(gc.second_moment(), gc.kourkoutas_beta(), gc.divide(1e-8), LR)
