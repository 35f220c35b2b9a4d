"""Compiled steps with narrow state: in one pass, with nothing as large as a tensor in between, and as eager ones."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import gradchain
from benchmarks.memory import extra_bytes
from gradchain._core.noise import round_to_bf16
from gradchain._engine.inductor import compile_graph, trace

SIDE = 1024
LARGEST = torch.finfo(torch.float32).max / 4


def stepper(storage: str, compile: bool, shape: tuple[int, ...] = (SIDE, 2 * SIDE)) -> gradchain.Optimizer:
    names = ("first_moment.storage", "second_moment.storage")
    chain = gradchain.recipe("adamw", lr=1e-3).with_options(**dict.fromkeys(names, storage))
    param = torch.nn.Parameter(torch.linspace(-1, 1, math.prod(shape)).view(shape))
    return gradchain.Optimizer([param], chain, compile=compile)


def take_steps(optimizer: gradchain.Optimizer, count: int) -> torch.Tensor:
    (param,) = optimizer.param_groups[0]["params"]
    for step in range(count):
        param.grad = (torch.arange(param.numel()) * 0.7 + step).sin().view(param.shape)
        optimizer.step()
    return param.detach()


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "tensors"), [("bf16", 0.05), ("int8", 1.1)])
def test_a_compiled_step_takes_little_memory(storage: str, tensors: float) -> None:
    optimizer = stepper(storage, compile=True)
    take_steps(optimizer, 2)
    (param,) = optimizer.param_groups[0]["params"]
    assert extra_bytes(optimizer.step, "cpu") <= tensors * 4 * param.numel() + (1 << 12)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["bf16", "int8"])
@pytest.mark.parametrize("shape", [(64, 64), (3, 1000), (4096, 8), (5000,)], ids=str)
def test_compiled_state_is_the_eager_state(storage: str, shape: tuple[int, ...]) -> None:
    # Both round by the same noise; only where the last bit of what is rounded differs may a code differ.
    eager, compiled = (stepper(storage, compile, shape) for compile in (False, True))
    torch.testing.assert_close(take_steps(compiled, 3), take_steps(eager, 3), rtol=0, atol=1e-4)
    (mine,), (theirs,) = eager.state.values(), compiled.state.values()
    assert mine.keys() == theirs.keys()
    for name, kept in mine.items():
        assert theirs[name].shape == kept.shape
        assert theirs[name].dtype == kept.dtype
        differing = (theirs[name].double() - kept.double()).abs() > 1e-6 * kept.double().abs()
        assert float(differing.double().mean()) < 2e-3, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(64, 64), (1024, 256), (96, 288), (8, 16, 3, 3), (50, 300), (7, 33), (5000,)], ids=str
)
def test_compiled_signs_are_the_eager_ones(shape: tuple[int, ...]) -> None:
    # Rows of the parameter and of the matrix cross in several ways; nothing is rounded by chance.
    eager, compiled = (stepper("factored_vectors", compile, shape) for compile in (False, True))
    torch.testing.assert_close(take_steps(compiled, 3), take_steps(eager, 3), rtol=0, atol=1e-6)
    (mine,), (theirs,) = eager.state.values(), compiled.state.values()
    signs = [name for name in mine if name.endswith(".sign")]
    assert len(signs) == 1
    assert torch.equal(mine[signs[0]], theirs[signs[0]])


def test_rounding_ends_at_the_largest() -> None:
    values = torch.tensor([math.inf, -math.inf, 3e38, -3e38, 1.0, math.nan, -0.0])
    for noise in (0, 0xFFFF):
        rounded = round_to_bf16(values, torch.full((7,), noise, dtype=torch.int32), LARGEST).float()
        assert rounded[:4].abs().le(LARGEST).all()
        assert torch.equal(rounded[:4].sign(), values[:4].sign())
        assert rounded[4].item() == 1.0
        assert rounded[5].isnan()
        assert rounded[6].signbit()


@pytest.mark.parametrize("count", [32, 100, 1000])
def test_bits_and_places_in_whole_vectors(count: int) -> None:
    # Loops over bfloat16 go in vectors of 32, and end in a part of one.
    def step(kept: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
        places = torch.arange(7, 7 + count, dtype=torch.int32)
        raised = (value.view(torch.int32) + places).view(torch.float32)
        kept.copy_((raised + kept.float()).to(torch.bfloat16))
        return [torch.zeros(())]

    kept, value = torch.linspace(0, 1, count).to(torch.bfloat16), torch.linspace(-2, 2, count)
    expected = kept.clone()
    step(expected, value)
    with warnings.catch_warnings():  # the compiler's own
        warnings.simplefilter("ignore")
        compiled = compile_graph(trace(step, [kept.clone(), value]), [kept.clone(), value])
    compiled(kept, value)
    assert torch.equal(kept, expected)
