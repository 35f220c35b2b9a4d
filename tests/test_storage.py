"""Storages: which dtype a slot is kept in, how many bytes that is, and that bfloat16 storage loses nothing on average."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import gradchain as gc
from gradchain import transforms
from gradchain.storage import STORAGES

LR = gc.scale_by_learning_rate(0.1)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Every stage with a `storage` field, in a chain.
CHAINS: dict[str, Callable[[str], gc.Chain]] = {
    "first_moment": lambda s: gc.chain(gc.first_moment(storage=s), LR),
    "track_first_moment": lambda s: gc.chain(gc.track_first_moment(storage=s), LR),
    "second_moment": lambda s: gc.chain(gc.second_moment(storage=s), gc.divide(1e-8), LR),
    "heavy_ball": lambda s: gc.chain(gc.heavy_ball(storage=s), LR),
    "lion_interpolate": lambda s: gc.chain(gc.lion_interpolate(storage=s), LR),
}
over_chains = pytest.mark.parametrize("stage", CHAINS)
over_storages = pytest.mark.parametrize("storage", STORAGES)


def kept_as(storage: str, dtype: torch.dtype) -> torch.dtype:
    return {"param": dtype, "fp32": torch.float32, "bf16": torch.bfloat16}[storage]


def test_every_stage_with_a_storage_is_here() -> None:
    exported = [getattr(transforms, name) for name in transforms.__all__]
    assert {cls.__name__ for cls in exported if "storage" in {f.name for f in cls.fields()}} == set(CHAINS)


@over_chains
@over_storages
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slots_are_kept_as_declared(stage: str, storage: str, dtype: torch.dtype) -> None:
    chain = CHAINS[stage](storage)
    (slot,) = chain[stage].slots
    param = torch.nn.Parameter(torch.ones(3, 5, dtype=dtype))
    optimizer = gc.Optimizer([param], chain, compile=False)
    for _ in range(2):
        param.grad = torch.full_like(param, 0.5)
        kept = optimizer.state[param][f"{stage}.{slot}"]
        assert kept.dtype == kept_as(storage, dtype)
        assert kept.shape == param.shape
        optimizer.step()
    assert optimizer.state[param][f"{stage}.{slot}"] is kept
    assert kept.any()
    assert param.dtype == dtype


@over_chains
@over_storages
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (7,), (0, 3), (4, 3, 3, 3)], ids=str)
def test_state_bytes_are_exact(stage: str, storage: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    chain = CHAINS[stage](storage)
    elements = math.prod(shape)
    expected = elements * kept_as(storage, dtype).itemsize
    assert chain.state_bytes([torch.empty(shape, dtype=dtype, device="meta")]) == expected
    param = torch.ones(shape, dtype=dtype)
    assert chain.state_bytes(param) == expected
    held = chain.init(param)["slots"][""]
    assert sum(slot.numel() * slot.element_size() for slot in held.values()) == expected


def test_state_bytes_of_recipes_by_hand() -> None:
    params = {
        "matrix": torch.empty(8, 16, dtype=torch.bfloat16, device="meta"),
        "bias": torch.empty(16, device="meta"),
        "batch": torch.empty(2, 6, 10, device="meta"),
    }
    elements, wide_elements = 128 + 16 + 120, 16 + 120
    assert gc.recipe("rose").state_bytes(params) == 0
    assert gc.recipe("sgd").state_bytes(params) == 0
    assert gc.recipe("adamw").state_bytes(params) == 2 * (128 * 2 + wide_elements * 4)
    assert gc.recipe("lion").state_bytes(params) == 128 * 2 + wide_elements * 4
    small = gc.recipe("adamw").with_options(**{"first_moment.storage": "bf16", "second_moment.storage": "bf16"})
    assert small.state_bytes(params) == 2 * elements * 2
    # Adams: moments as wide as the master, a float32 master for bfloat16, u (no last axis) and sigma (no last two).
    spectral = (8 + 1) * 2 + (2 * 6 + 2) * 4
    assert gc.recipe("adams").state_bytes(params) == 2 * 4 * elements + 128 * 4 + spectral


def test_state_bytes_allocate_nothing() -> None:
    module = torch.nn.Linear(1 << 20, 1 << 20, device="meta")  # 4 TB
    elements = (1 << 40) + (1 << 20)
    assert gc.recipe("adamw").state_bytes(module) == 2 * 4 * elements
    assert gc.recipe("adamw").state_bytes(module.parameters()) == 2 * 4 * elements


def test_small_slots_keep_their_own_dtype() -> None:
    # `u` and `sigma` have not the parameter's shape; a storage is for slots that do.
    slots = gc.chain(gc.spectral_decay(), LR).init(torch.ones(3, 4, dtype=torch.bfloat16))["slots"][""]
    assert {name: slot.dtype for name, slot in slots.items()} == {
        "spectral_decay.u": torch.bfloat16,
        "spectral_decay.sigma": torch.bfloat16,
    }


@over_chains
def test_wide_storage_makes_narrow_parameters_step_as_wide_ones(stage: str) -> None:
    # With fp32 slots, the average of bfloat16 gradients does not stall: after t steps of a constant gradient of 1,
    # it is 1 - beta**t for an average.
    chain = gc.chain(gc.promote("fp32"), *CHAINS[stage]("fp32").elements)
    wide, narrow = torch.ones(64), torch.ones(64, dtype=torch.bfloat16)
    states = [chain.init(p) for p in (wide, narrow)]
    for step in range(30):
        gradient = torch.linspace(0.5, 1.5, 64).roll(step).to(torch.bfloat16)
        _, states[0] = chain.update(gradient.to(torch.float32), states[0], wide)
        _, states[1] = chain.update(gradient, states[1], narrow)
    (name,) = states[0]["slots"][""]
    torch.testing.assert_close(states[1]["slots"][""][name], states[0]["slots"][""][name], rtol=1e-6, atol=1e-7)


def test_bf16_storage_is_unbiased() -> None:
    # An average of a constant gradient: v = 1 - 0.999**t. In plain bfloat16 it stalls where the increment is below
    # half of the spacing; rounded stochastically its mean over many elements follows the exact value.
    n, steps = 1 << 14, 400
    chain = gc.chain(gc.track_first_moment(0.999, storage="bf16"), LR)
    param, ones = torch.zeros(n), torch.ones(n)
    state = chain.init(param)
    for _ in range(steps):
        _, state = chain.update(ones, state, param)
    kept = state["slots"][""]["track_first_moment.exp_avg"]
    exact = 1 - 0.999**steps
    # Each step adds a variance of at most a quarter of the spacing squared (2**-10 below 0.25, 2**-9 above).
    error_of_mean = math.sqrt(steps * (2**-9) ** 2 / 4 / n)
    assert kept.dtype == torch.bfloat16
    assert float(kept.double().mean()) == pytest.approx(exact, abs=5 * error_of_mean)
    stalled = torch.zeros(n, dtype=torch.bfloat16)
    for _ in range(steps):
        stalled = (stalled.float() * 0.999 + 0.001).to(torch.bfloat16)
    assert abs(float(stalled.double().mean()) - exact) > 50 * error_of_mean


def test_bf16_second_moment_is_never_negative() -> None:
    chain = gc.chain(gc.second_moment(0.99, storage="bf16"), gc.divide(1e-8), LR)
    param = torch.zeros(4096)
    state = chain.init(param)
    for step in range(50):
        _, state = chain.update(torch.full((4096,), 1e-3 if step < 5 else 0.0), state, param)
        assert (state["slots"][""]["second_moment.exp_avg_sq"] >= 0).all()


def test_noise_differs_between_slots_and_steps() -> None:
    def rounded(name: str, steps: int) -> torch.Tensor:
        chain = gc.chain(gc.track_first_moment(0.0, storage="bf16", name=name), LR)
        param, gradient = torch.zeros(4096), torch.full((4096,), 1 + 2**-8)
        state = chain.init(param)
        for _ in range(steps):
            _, state = chain.update(gradient, state, param)
        return state["slots"][""][f"{name}.exp_avg"]

    reference = rounded("a", 1)
    assert torch.equal(reference, rounded("a", 1))
    for other in (rounded("b", 1), rounded("a", 2)):
        agreeing = float((reference == other).double().mean())
        assert abs(agreeing - 0.5) < 5 * 0.5 / math.sqrt(4096)
