"""The random bits and stochastic rounding: golden files bit for bit, statistics, independence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import gradchain
from gradchain._core.noise import mix, mix_bits, parameter_key, random_bits, round_to_bf16, salt_of
from tests.parity.replay import run

SR = Path(__file__).parent / "golden" / "sr"
SEEDED = sorted(path.stem for path in SR.glob("rose-1.*_gen_*.pt"))
N = 1 << 16
SIGMAS = 5  # the bits are a fixed hash, so a bound that holds once holds always


def bits_of(step: int = 1, index: int = 0, purpose: str = "p", seed: int = 0, n: int = N) -> torch.Tensor:
    key = torch.tensor(parameter_key(step, index), dtype=torch.int32)
    return random_bits(torch.empty(n), key, salt_of(purpose, seed))


def uniform(bits: torch.Tensor) -> torch.Tensor:
    """The bits as numbers of mean 0 and variance 1."""
    return (bits.to(torch.float64) + 0.5) / 2**32 * math.sqrt(12)


def correlation(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((uniform(left) * uniform(right)).mean()) * math.sqrt(len(left))


# Golden files.


def test_rounding_table_bit_for_bit() -> None:
    case = torch.load(SR / "rose-bf16-sr-stat.pt", weights_only=True)
    for noise, expected in zip(case["noise"], case["rounded"], strict=True):
        ours = round_to_bf16(case["inputs"], noise)
        assert torch.equal(ours.view(torch.int16), expected.view(torch.int16))


def test_probability_of_going_away_from_zero_is_the_dropped_fraction() -> None:
    case = torch.load(SR / "rose-bf16-sr-stat.pt", weights_only=True)
    every_noise = torch.arange(1 << 16, dtype=torch.int32)
    for value, toward, away, p in zip(case["inputs"], case["toward_zero"], case["away"], case["p_away"], strict=True):
        rounded = round_to_bf16(value.expand(1 << 16), every_noise)
        went = rounded == away if toward != away else torch.zeros(1 << 16, dtype=torch.bool)
        assert went.double().mean() == p
        assert ((rounded == away) | (rounded == toward)).all()


class generator_round(gradchain.stochastic_round):
    """Rounds with noise from `GENERATORS[seed]`, drawn as the published Rose does."""

    def write(self, new_param: torch.Tensor, ctx: gradchain.Context) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        noise = torch.empty(new_param.shape, dtype=torch.int32)
        noise.random_(0, 65536, generator=GENERATORS[self.seed])
        return round_to_bf16(new_param, noise), {}


GENERATORS: dict[int, torch.Generator] = {}


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_runs_bit_for_bit(name: str) -> None:
    case = torch.load(SR / f"{name}.pt", weights_only=True)
    case["hyperparameters"]["bf16_sr"] = True  # the case says "generator"
    seed = case["generator_seed"]
    GENERATORS[seed] = torch.Generator().manual_seed(seed)
    snapshots = run(case, edit=lambda chain: chain.replace("stochastic_round", generator_round(seed))).snapshots
    assert snapshots.keys() == case["snapshots"].keys()
    for step, expected in case["snapshots"].items():
        for ours, theirs in zip(snapshots[step], expected, strict=True):
            assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16)), step


def test_all_six_seeded_runs_are_there() -> None:
    assert len(SEEDED) == 6


# Rounding.


def test_representable_values_never_move() -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    kept = every[~every.isnan()]
    for noise in (0, 0xFFFF):
        rounded = round_to_bf16(kept.to(torch.float32), torch.full(kept.shape, noise, dtype=torch.int32))
        assert torch.equal(rounded.view(torch.int16), kept.view(torch.int16))  # signed zeros and infinities too


def test_nan_and_infinity_survive_any_noise() -> None:
    odd = torch.tensor([0x7FFFFFFF, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)  # NaNs of all payloads
    noise = torch.full((3,), 0xFFFF, dtype=torch.int32)
    assert round_to_bf16(odd, noise).isnan().all()
    infinite = torch.tensor([math.inf, -math.inf])
    assert torch.equal(round_to_bf16(infinite, noise[:2]), infinite.to(torch.bfloat16))


def test_only_the_low_bits_of_the_noise_count() -> None:
    values = torch.linspace(-3, 3, 1001)
    noise = bits_of(n=1001)
    assert torch.equal(round_to_bf16(values, noise), round_to_bf16(values, noise & 0xFFFF))


def test_rounding_with_our_bits_is_unbiased() -> None:
    value = torch.full((N,), 1 + 0.3 * 2**-7)  # 0.3 of the way from 1 to the next bfloat16
    up = (round_to_bf16(value, bits_of()) > 1).double().mean()
    assert abs(float(up) - 0.3) < SIGMAS * math.sqrt(0.3 * 0.7 / N)


# Statistics of the bits.


@pytest.mark.parametrize("key", [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1000, 77, 0), (1, 0, 5)])
def test_every_bit_is_fair(key: tuple[int, int, int]) -> None:
    step, index, seed = key
    bits = bits_of(step, index, seed=seed)
    for place in range(32):
        ones = float(((bits >> place) & 1).sum())
        assert abs(ones - N / 2) < SIGMAS * math.sqrt(N) / 2, place


@pytest.mark.parametrize("low", [0, 8, 16, 24])
def test_bytes_are_uniform(low: int) -> None:
    counts = torch.bincount((bits_of() >> low) & 0xFF, minlength=256).double()
    chi_square = float(((counts - N / 256).square() / (N / 256)).sum())
    assert abs(chi_square - 255) < SIGMAS * math.sqrt(2 * 255)


def test_neighbouring_elements_are_independent() -> None:
    bits = bits_of()
    for lag in (1, 2, 3, 7, 64, 256, 1024):
        assert abs(correlation(bits[:-lag], bits[lag:])) < SIGMAS, lag


@pytest.mark.parametrize(
    "other",
    [{"step": 2}, {"step": 3}, {"step": 129}, {"index": 1}, {"index": 2}, {"purpose": "q"}, {"seed": 1}, {"seed": 2}],
    ids=str,
)
def test_steps_parameters_purposes_and_seeds_are_independent(other: dict[str, int]) -> None:
    reference, another = bits_of(), bits_of(**other)
    assert abs(correlation(reference, another)) < SIGMAS
    assert int((reference == another).sum()) <= 2  # about N / 2**32 by chance
    low = ((reference ^ another) & 0xFFFF).double()  # what rounding uses
    assert abs(float(low.mean()) - 32767.5) < SIGMAS * 65536 / math.sqrt(12 * N)


def test_one_element_over_many_steps_is_uniform() -> None:
    steps = torch.tensor([int(bits_of(step=step, n=1)) for step in range(1, 4097)])
    assert abs(float(uniform(steps).mean())) * math.sqrt(4096) < SIGMAS
    assert abs(correlation(steps[:-1], steps[1:])) < SIGMAS


def test_keys_of_steps_and_parameters_do_not_collide() -> None:
    keys = {parameter_key(step, index) for step in range(1, 301) for index in range(100)}
    assert len(keys) > 30_000 - 5  # 30000 of 2**32: 0.1 collisions by chance


def test_the_hash_is_the_same_on_tensors_and_on_integers() -> None:
    numbers = [0, 1, 2, 12345, (1 << 31) - 1]
    hashed = mix_bits(torch.tensor(numbers, dtype=torch.int32))
    assert [int(value) & 0xFFFFFFFF for value in hashed] == [mix(number) for number in numbers]


def test_bits_are_the_same_in_every_release() -> None:
    # Resuming a run with a newer release must draw the same noise. Computed with Python integers from the docstring.
    assert mix(1) == 1753845952
    assert mix(2) == 3507691905
    bits = bits_of(step=3, index=2, purpose="stage/", seed=7, n=3)
    assert bits.tolist() == [366899505, 148343736, 1100621202]


# In an optimizer.


class show_bits(gradchain.Stage):
    """Moves each element by minus its random bits."""

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> gradchain.Update:
        return update.replace(value=-ctx.random_bits().to(ctx.dtype))


def drawn(compile: bool, shapes: list[tuple[int, ...]], steps: int = 2) -> list[torch.Tensor]:
    """The bits of the last step."""
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    optimizer = gradchain.Optimizer(params, gradchain.chain(show_bits()), compile=compile)
    for _ in range(steps):
        for param in params:
            param.data.zero_()
            param.grad = torch.zeros_like(param)
        optimizer.step()
    return [param.detach().clone() for param in params]


def test_eager_and_compiled_draw_the_same_bits() -> None:
    shapes = [(), (7,), (2, 3, 5)]  # kernels with noise take seconds each to compile
    for eager, compiled in zip(drawn(False, shapes), drawn(True, shapes), strict=True):
        assert torch.equal(eager, compiled)


def test_optimizer_and_functions_draw_the_same_bits() -> None:
    shapes = [(), (7,), (2, 3, 5)]
    chain = gradchain.chain(show_bits())
    params = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    state = chain.init(params)
    for _ in range(3):
        updates, state = chain.update(params, state, params)
    for bits, drawn_bits in zip(updates, drawn(False, shapes, steps=3), strict=True):
        assert torch.equal(bits, drawn_bits)


def test_an_element_has_the_same_bits_in_any_shape_and_layout() -> None:
    flat, square = drawn(False, [(36,)])[0], drawn(False, [(6, 6)])[0]
    assert torch.equal(flat.view(6, 6), square)
    param = torch.nn.Parameter(torch.zeros(6, 6, dtype=torch.float64).t())
    param.grad = torch.zeros_like(param)
    optimizer = gradchain.Optimizer([param], gradchain.chain(show_bits()), compile=False)
    optimizer.step()
    assert torch.equal(param.detach(), drawn(False, [(6, 6)], steps=1)[0])


def rounded_run(torch_seed: int, *, seed: int = 0, disturb: bool = False) -> torch.Tensor:
    torch.manual_seed(torch_seed)
    param = torch.nn.Parameter(torch.linspace(-2, 2, 64).view(8, 8).to(torch.bfloat16))
    chain = gradchain.recipe("rose", lr=1e-2, seed=seed)
    optimizer = gradchain.Optimizer([param], chain, compile=False)
    other = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.bfloat16))
    bystander = gradchain.Optimizer([other], chain, compile=False)
    for step in range(5):
        param.grad = torch.linspace(-1, 1, 64).view(8, 8).roll(step).to(torch.bfloat16)
        optimizer.step()
        if disturb:
            torch.rand(step + 1)
            other.grad = torch.randn(8, 8).to(torch.bfloat16)
            bystander.step()
    return param.detach()


def test_noise_depends_on_the_seed_alone() -> None:
    reference = rounded_run(0)
    assert torch.equal(rounded_run(1), reference)
    assert torch.equal(rounded_run(2, disturb=True), reference)
    assert not torch.equal(rounded_run(0, seed=1), reference)


def test_a_step_draws_nothing_from_torch() -> None:
    param = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    param.grad = torch.ones_like(param)
    optimizer = gradchain.Optimizer([param], gradchain.recipe("rose"), compile=False)
    before = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_small_steps_are_not_lost() -> None:
    # Each step is 1/40 of the spacing of bfloat16 at 1: nearest rounding stays at 1, the stochastic mean moves on.
    spacing = 2**-7
    chain = gradchain.chain(
        gradchain.promote("fp32"),
        gradchain.scale_by_learning_rate(spacing / 40),
        gradchain.stochastic_round(),
    )
    results = {}
    for name, used in (("stochastic", chain), ("nearest", chain.without("stochastic_round"))):
        param = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
        optimizer = gradchain.Optimizer([param], used, compile=False)
        for _ in range(40):
            param.grad = -torch.ones_like(param)
            optimizer.step()
        results[name] = float(param.detach().double().mean())
    assert results["nearest"] == 1
    assert results["stochastic"] == pytest.approx(1 + spacing, abs=SIGMAS * spacing / math.sqrt(1000))
