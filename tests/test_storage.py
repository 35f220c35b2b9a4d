"""Storages: which dtype a slot is kept in, how many bytes that is, and that bfloat16 storage loses nothing on average."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradchain as gc
from gradchain import transforms
from gradchain._chain import slots
from gradchain._chain.tracing.watched import usual_numbers
from gradchain._core.noise import parameter_key, random_bits
from gradchain._core.reduce import run_locally
from gradchain._core.shard import HERE, Shard
from gradchain.storage import STORAGES, SlotView, Storage, near_square
from gradchain.storage.signs import pack, unpack

LR = gc.scale_by_learning_rate(0.1)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Every stage with a `storage` field, in a chain.
CHAINS: dict[str, Callable[[str], gc.Chain]] = {
    "first_moment": lambda s: gc.chain(gc.first_moment(storage=s), LR),
    "track_first_moment": lambda s: gc.chain(gc.track_first_moment(storage=s), LR),
    "second_moment": lambda s: gc.chain(gc.second_moment(storage=s), gc.divide(1e-8), LR),
    "heavy_ball": lambda s: gc.chain(gc.heavy_ball(storage=s), LR),
    "lion_interpolate": lambda s: gc.chain(gc.lion_interpolate(storage=s), LR),
    "adopt": lambda s: gc.chain(gc.adopt(storage=s), gc.divide(1e-8), LR),
    "ademamix": lambda s: gc.chain(gc.ademamix(storage=s), LR),
    "mars": lambda s: gc.chain(gc.mars(storage=s), LR),
}
over_chains = pytest.mark.parametrize("stage", CHAINS)
over_storages = pytest.mark.parametrize("storage", STORAGES)


DENSE = ("param", "fp32", "bf16")
over_dense = pytest.mark.parametrize("storage", DENSE)


def kept_as(storage: str, dtype: torch.dtype) -> torch.dtype:
    known = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return known.get(storage, torch.float32 if dtype == torch.float16 else dtype)


def bytes_of(storage: str, shape: tuple[int, ...], dtype: torch.dtype, signed: bool) -> int:
    """The bytes of one slot, counted by hand."""
    elements = math.prod(shape)
    if storage == "fp16":
        return 2 * elements + 4
    if storage == "int8":
        return elements + 4 * math.ceil(elements / 2048)
    if storage.startswith("factored"):
        sides = FACTORS[shape] if len(shape) > 1 or storage != "factored" else None
        if sides is None:
            return 4 * elements
        rows, columns = shape[0], math.prod(shape[1:])
        if storage == "factored_compact":  # bfloat16, or one byte and a scale for each factor
            return 2 * sum(sides) + rows * math.ceil(columns / 8) if signed else sum(sides) + 2 * 4
        return 4 * sum(sides) + signed * rows * math.ceil(columns / 8)
    return elements * kept_as(storage, dtype).itemsize


FACTORS: dict[tuple[int, ...], tuple[int, int] | None] = {(): None, (7,): None, (0, 3): None, (4, 3, 3, 3): (12, 9)}
"""The nearly square shapes; `None` where there is no better one than a single column."""


def test_every_stage_with_a_storage_is_here() -> None:
    exported = [getattr(transforms, name) for name in transforms.__all__]
    beside = {"belief_moment", "nadam_momentum", "soap"}  # there are slots without a storage beside theirs
    assert {cls.__name__ for cls in exported if "storage" in {f.name for f in cls.fields()}} == {*CHAINS, *beside}


@over_chains
@over_dense
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slots_are_kept_as_declared(stage: str, storage: str, dtype: torch.dtype) -> None:
    chain = CHAINS[stage](storage)
    (slot,) = chain[stage].known_slots
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
def test_state_bytes_are_exact(stage: str, storage: str) -> None:
    chain = CHAINS[stage](storage)
    slots = chain[stage].known_slots.values()
    for shape, dtype in itertools.product(FACTORS, DTYPES):
        expected = sum(bytes_of(storage, shape, dtype, not slot.nonnegative) for slot in slots)
        assert chain.state_bytes([torch.empty(shape, dtype=dtype, device="meta")]) == expected, (shape, dtype)
        param = torch.ones(shape, dtype=dtype)
        assert chain.state_bytes(param) == expected, (shape, dtype)
        held = chain.route("", param).init(param)
        assert sum(slot.numel() * slot.element_size() for slot in held.values()) == expected, (shape, dtype)


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


# Each storage by itself: store, then load.


def kept_and_read(storage: str, dense: torch.Tensor, signed: bool, step: int = 1) -> torch.Tensor:
    kept = SlotView(dense.shape, dense.dtype, signed)
    key = torch.tensor(parameter_key(step, 0), dtype=torch.int32)
    parts = run_locally(
        STORAGES[storage].store(dense, kept, lambda like=dense, part="": random_bits(like, key, 7 + len(part)))
    )
    return STORAGES[storage].load(parts, kept).reshape(kept.shape)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "nonnegative"])
@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_rounding_is_right_on_average(storage: str, signed: bool) -> None:
    # For each element the mean error over many draws, in units of its standard error: a normal deviate. Elements that
    # are moved too rarely for that, or never, are left out.
    steps = 1500
    dense = torch.randn(4200, generator=torch.Generator().manual_seed(1))  # blocks of 2048, and a shorter one
    dense = dense if signed else dense.square()
    errors = torch.stack([(kept_and_read(storage, dense, signed, t) - dense).double() for t in range(steps)])
    spread = errors.std(0)
    moved = [(errors > 0).double().mean(0), (errors < 0).double().mean(0)]
    often = torch.minimum(*moved) > 0.02
    z = (errors.mean(0) / (spread / math.sqrt(steps)))[often]
    assert len(z) > 3000
    assert abs(float(z.mean())) < 5 / math.sqrt(len(z))
    assert float(z.std()) == pytest.approx(1, abs=0.1)
    assert float(z.abs().max()) < 5.5


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0])
def test_constant_tensors_are_kept_exactly(storage: str, value: float) -> None:
    for shape in [(4, 6), (7,), (), (3000,), (0, 3)]:
        dense = torch.full(shape, value)
        torch.testing.assert_close(kept_and_read(storage, dense, value != 1.0).float(), dense, rtol=1e-6, atol=0)


@pytest.mark.parametrize("storage", [name for name, storage in STORAGES.items() if storage.keeps_zero])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "nonnegative"])
def test_zeros_that_are_not_encoded_are_those_that_are(storage: str, signed: bool) -> None:
    for shape in [(4, 6), (7,), (), (3000,), (2048, 2), (0, 3)]:
        dense = torch.zeros(shape)
        slot = gc.Slot(nonnegative=not signed, storage=storage)
        given = "slot", slot, dense, dense, Shard.whole(dense.shape)
        encoded = run_locally(slots.stored(*given, functools.partial(slots.no_bits, dense)))
        first = slots.first_stored(*given)
        assert first.keys() == encoded.keys()
        for key, part in encoded.items():
            assert part.dtype == first[key].dtype
            assert torch.equal(part, first[key])


def test_int8_keeps_small_elements_of_what_is_divided_by() -> None:
    # With evenly spaced codes, all below 1/255 of the largest would mostly become 0, and a division by their root 1/eps.
    dense = torch.logspace(0, -8, 500)
    assert (kept_and_read("int8", dense, signed=False) > 0).all()


def test_fp16_keeps_small_elements_of_what_is_never_negative() -> None:
    dense = torch.logspace(0, -12, 100)
    torch.testing.assert_close(kept_and_read("fp16", dense, signed=False), dense, rtol=0.07, atol=0)


def test_fp16_has_no_range_to_leave() -> None:
    for size in (1e-30, 1e-8, 1.0, 1e30):
        dense = size * torch.linspace(-1, 1, 64)
        torch.testing.assert_close(kept_and_read("fp16", dense, signed=True), dense, rtol=2**-10, atol=0)


@pytest.mark.parametrize("shape", [(8, 16), (4, 3, 3, 3), (9, 4), (2, 3, 320), (5, 257), (30,)], ids=str)
def test_factored_is_the_product_of_sums(shape: tuple[int, ...]) -> None:
    dense = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    dense.view(-1)[3] = 0.0
    a, b = near_square(dense.numel())
    sizes = dense.double().abs().view(a, b)
    expected = torch.outer(sizes.sum(1), sizes.sum(0) / sizes.sum()).view(shape)
    torch.testing.assert_close(
        kept_and_read("factored_vectors", dense.abs(), signed=False).double(), expected, rtol=1e-6, atol=0
    )
    signed = kept_and_read("factored_vectors", dense, signed=True).double()
    torch.testing.assert_close(signed, torch.where(dense > 0, expected, -expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "nonnegative"])
def test_compact_factors_are_the_factors_on_average(signed: bool) -> None:
    dense = torch.randn((24, 40), generator=torch.Generator().manual_seed(2))
    dense = dense if signed else dense.square()
    exact = kept_and_read("factored_vectors", dense, signed).double()
    draws = torch.stack([kept_and_read("factored_compact", dense, signed, step).double() for step in range(600)])
    # Row and column are rounded apart from each other, so their product is right on average too.
    moved = draws.std(0) > 0  # the product of the two largest never moves
    error = ((draws.mean(0) - exact) / (draws.std(0) / math.sqrt(600)))[moved]
    assert len(error) > 900
    assert float(error.abs().max()) < 5.5
    assert float((draws[0] / exact - 1).abs().max()) < (0.02 if signed else 0.25)


def test_factored_keeps_what_has_rank_one() -> None:
    dense = torch.outer(torch.randn(12), torch.randn(10))
    torch.testing.assert_close(kept_and_read("factored", dense, signed=True), dense, rtol=1e-5, atol=0)


@pytest.mark.parametrize("columns", [1, 7, 8, 31, 32, 33, 96, 255, 256, 300])
def test_signs_are_packed_without_loss(columns: int) -> None:
    bits = torch.rand(5, columns, generator=torch.Generator().manual_seed(columns)) > 0.5
    words = pack(bits)
    assert words.shape[0] == 5
    assert torch.equal(unpack(words, columns), bits)
    assert torch.equal(pack(bits[2:4]), words[2:4])  # row by row, so that it can be split by rows
    assert words.numel() * words.element_size() <= 5 * (columns / 8 + 4)


class keeps_three(gc.Stage):
    """Keeps the direction three times: two slots share their noise, the third has its own."""

    def slots(self, p: Any) -> Any:
        return {name: gc.Slot(storage="bf16") for name in "abc"}

    def update(self, update: Any, ctx: Any) -> Any:
        return update, dict.fromkeys("abc", update.value)


def test_noise_differs_between_slots_and_steps() -> None:
    def rounded(steps: int) -> list[torch.Tensor]:
        chain = gc.chain(keeps_three(), LR)
        param, gradient = torch.zeros(4096), torch.full((4096,), 1 + 2**-8)
        state = chain.init(param)
        for _ in range(steps):
            _, state = chain.update(gradient, state, param)
        return [state["slots"][""][f"keeps_three.{name}"] for name in "abc"]

    first = rounded(1)
    assert all(map(torch.equal, first, rounded(1)))
    for one, other in itertools.combinations([*first, *rounded(2)], 2):
        agreeing = float((one == other).double().mean())
        assert abs(agreeing - 0.5) < 5 * 0.5 / math.sqrt(4096)


def test_factors_of_two_slots_are_added_up_at_one_time() -> None:
    """Of a tensor in parts; of a whole one they need not be, and are stored where they are made."""
    moments = [gc.first_moment(storage="factored"), gc.second_moment(storage="factored")]
    param, grad = torch.randn(4, 6), torch.randn(4, 6)
    program = gc.chain(*moments, gc.divide(1e-8), LR).route("", param)
    state = program.init(param)
    numbers = usual_numbers(program, (1,))[1]
    made: list[dict[str, torch.Tensor]] = []
    for shard, times in ((Shard.whole(param.shape), 2), (Shard(param.shape, 0, 4, HERE), 1)):
        running = program.run(param, grad, state, numbers, shard=shard)
        asked = 0
        try:
            _, request = next(running)
            while True:
                asked += 1
                _, request = running.send(request.local_totals())
        except StopIteration as stop:
            made.append(stop.value.state)
        assert asked == times
    assert made[0].keys() == made[1].keys() == state.keys()
    assert all(torch.equal(made[0][key], made[1][key]) for key in state)


@dataclasses.dataclass(frozen=True)
class Largest(Storage):
    """Asks for a maximum, and says that it asks for sums."""

    asks_together = True

    def store(self, dense: torch.Tensor, kept: SlotView, bits: Any) -> Any:
        totals = yield gc.whole_tensor_max(largest=dense)
        return {"data": dense, "largest": totals.largest}

    def load(self, parts: Any, kept: SlotView) -> torch.Tensor:
        return parts["data"]


class Kept(gc.Stage):
    """Keeps the direction."""

    def slots(self, p: Any) -> dict[str, gc.Slot]:
        return {"kept": gc.Slot(storage=Largest())}

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        return update, {"kept": update.value}


def test_a_storage_that_asks_together_has_to_ask_for_sums() -> None:
    param = torch.randn(4, 6)
    program = gc.chain(Kept(), LR).route("", param)
    state, numbers = program.init(param), usual_numbers(program, (1,))[1]
    running = program.run(param, param, state, numbers, shard=Shard(param.shape, 0, 4, HERE))
    with pytest.raises(gc.ChainError, match=r"Kept.kept: its storage declares asks_together"):
        next(running)
