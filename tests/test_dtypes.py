"""Every recipe in every dtype: a step in half precision is the float32 step, rounded where it is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

import gradchain
from gradchain import Chain, chain
from gradchain import transforms as t
from tests.laws.cases import RECIPES
from tests.laws.running import build

SHAPES = [(8, 6), (12,), (2, 3, 4)]
STEPS = 4
RATE = 2.0**-6

Tensors = list[torch.Tensor]


def randn(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def steady(size: float) -> list[Tensors]:
    """Gradients of one size, none near 0 and none that turns: no sign hangs on a rounding error."""
    base = [x.sign() * (x.abs() + 0.3) * size for x in randn(1)]
    return [[b * (1 + 0.2 * torch.tanh(x)) for b, x in zip(base, randn(2 + step))] for step in range(STEPS)]


def ordinary() -> Tensors:
    return [x / 8 for x in randn(0)]


def nothing() -> Tensors:
    return [torch.zeros(shape) for shape in SHAPES]


def balanced() -> Tensors:
    """Rows that cancel: the columns of each matrix sum to exactly 0."""
    halves = [x.to(torch.bfloat16).float() / 8 for x in randn(0)]
    return [torch.cat([x[: len(x) // 2], -x[: len(x) // 2]]) if len(x) > 1 else x for x in halves]


GRADIENTS = {"1e-4": 1e-4, "10": 10.0, "tiny": 1e-6, "large": 1e3, "zero": 0.0}
STARTS: dict[str, Callable[[], Tensors]] = {"ordinary": ordinary, "zero": nothing, "balanced": balanced}
SOME = [("ordinary", "1e-4"), ("ordinary", "10"), ("ordinary", "zero"), ("zero", "tiny"), ("balanced", "large")]
"""Every start and every size."""
SCALED = {name: case.chain for name, case in RECIPES.items() if ":" not in name}


class dtypes_plain_adam(gradchain.Stage):
    """As a user would write it: it squares in whatever dtype it is given."""

    lr: float = gradchain.hyper(default=RATE)

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        return {"m": gradchain.Slot(), "v": gradchain.Slot()}

    def scalars(self, step: float) -> dict[str, float]:
        return {"one": 1 - 0.9**step, "two": 1 - 0.999**step}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> object:
        g = ctx.gradient
        m, v = 0.9 * ctx.read("m") + 0.1 * g, 0.999 * ctx.read("v") + 0.001 * g * g
        return update.replace(value=self.lr * (m / ctx["one"]) / ((v / ctx["two"]).sqrt() + 1e-12)), {"m": m, "v": v}


CHAINS: dict[str, Chain] = {**SCALED, "a user's": chain(dtypes_plain_adam())}


def moved(made: Chain, start: Tensors, grads: list[Tensors], dtype: torch.dtype, **options: object) -> Tensors:
    """How far each parameter went, in units that no dtype rounds."""
    params = [torch.nn.Parameter(x.to(dtype, copy=True)) for x in start]
    optimizer = build(params, made, **options)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = grad.to(dtype)
        optimizer.step()
    return [param.detach().double() - x.to(dtype).double() for param, x in zip(params, start, strict=True)]


def rounded(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return [x.to(dtype).float() for x in tensors]


def spacing(start: Tensors, dtype: torch.dtype) -> list[float]:
    """What rounding the parameter at each step may add up to, for all of its elements."""
    eps = torch.finfo(dtype).eps
    return [STEPS * eps * (float(x.norm()) + RATE * x.numel() ** 0.5) for x in start]


SITUATIONS = [
    *((dtype, *pair) for dtype in (torch.float64, torch.bfloat16, torch.float16) for pair in SOME),
    *(  # of float16, whose range is small, `make check` has all
        pytest.param(torch.float16, *pair, marks=pytest.mark.slow)
        for pair in itertools.product(STARTS, GRADIENTS)
        if pair not in SOME
    ),
]


@pytest.mark.parametrize(("dtype", "begin", "size"), SITUATIONS, ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_a_step_is_the_float32_step(name: str, dtype: torch.dtype, begin: str, size: str) -> None:
    if name in ("soap", "shampoo"):
        pytest.skip("eigenvectors of nearly equal eigenvalues turn with the last bit of a gradient")
    narrow = torch.float32 if dtype == torch.float64 else dtype
    start, grads = rounded(STARTS[begin](), narrow), [rounded(g, narrow) for g in steady(GRADIENTS[size])]
    ours = moved(CHAINS[name], start, grads, dtype, compile=False)
    wanted = moved(CHAINS[name], start, grads, torch.float32, compile=False)
    for got, expected, slack in zip(ours, wanted, spacing(start, narrow), strict=True):
        assert got.isfinite().all()
        error = float((got - expected).norm())
        assert error <= 0.05 * float(expected.norm()) + slack, f"off by {error:.2g} of {float(expected.norm()):.2g}"


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", ["adamw", "adam-atan2", "gyro-adam", "adams", "a user's"])
def test_float16_traced_is_float16_eager(name: str) -> None:
    start, grads = balanced(), steady(1e-4)
    traced, eager = (moved(CHAINS[name], start, grads, torch.float16, compile=compile) for compile in (True, False))
    for one, other in zip(traced, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2**-12)


def test_float16_parameters_keep_no_squares_in_float16() -> None:
    params = [torch.nn.Parameter(x.half()) for x in ordinary()]
    optimizer = build(params, CHAINS["a user's"], compile=False)
    kept = {key: x.dtype for state in optimizer.state.values() for key, x in state.items() if x.is_floating_point()}
    assert set(kept) >= {"dtypes_plain_adam.m", "dtypes_plain_adam.v"}
    assert torch.float16 not in kept.values()


def test_float16_masters_are_kept_and_followed() -> None:
    """The master is compared with the parameter as it is stored, not as it is computed."""
    start = torch.ones(4, dtype=torch.float16)
    param = torch.nn.Parameter(start.clone())
    optimizer = gradchain.Optimizer(
        [param], chain(t.master_weights(), t.scale_by_learning_rate(2.0**-14)), compile=False
    )
    for _ in range(3):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert torch.equal(param, start), "each step is too short for float16"
    assert optimizer.state[param]["master_weights.master_param"].tolist() == [1 - 3 * 2.0**-14] * 4
