from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from gradchain._core.reduce import Totals, run_locally
from gradchain.transforms.power_iteration import skew, skew_size, start_vector, two_sided
from tests.transforms.steps import close, directions, optimizer_of, step, tensor

LR = gc.scale_by_learning_rate(1.0)
MATRICES = [(4, 24), (24, 4), (5, 1), (1, 5), (4, 3, 3, 3)]


def scaled(
    grads: list[torch.Tensor], role: str | None = None, start: dict[str, torch.Tensor] | None = None, **options: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What is subtracted in the last of some steps, and the vectors after it."""
    theta = torch.zeros_like(grads[0])
    optimizer = optimizer_of(gc.chain(gc.scale_update(**options), LR), theta, role=role)
    if start is not None:  # a loaded state is not made anew
        saved = optimizer.state_dict()
        saved["state"][0] |= {f"scale_update.{name}": vector for name, vector in start.items()}
        optimizer.load_state_dict(saved)
    param = optimizer.param_groups[0]["params"][0]
    for grad in grads:
        with torch.no_grad():
            param.zero_()
        (after,) = step(optimizer, grad)
    state = {key.removeprefix("scale_update."): value for key, value in optimizer.state[param].items()}
    return -after, {key: value for key, value in state.items() if key != "step"}


def direction(shape: tuple[int, ...], seed: int = 0, size: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def spectral_norm(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(x, 2)


# Vectors.


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [("max", [0.75, -1.0]), ("l2", [0.6, -0.8]), ("rms", [0.6 * math.sqrt(2), -0.8 * math.sqrt(2)])],
)
def test_vectors_by_hand(vectors: str, expected: list[float]) -> None:
    chain = gc.chain(gc.scale_update(vectors=vectors), LR)
    for u in directions(chain, grads=[[3.0, -4.0], [3e-9, -4e-9]]):
        close(u, expected)


def test_scalars_are_vectors() -> None:
    close(directions(gc.scale_update(), LR, grads=[-7.0])[0], -1.0)


def test_the_floor_of_vectors() -> None:
    close(directions(gc.scale_update(), LR, grads=[[1e-15, -2e-15]])[0], [1e-3, -2e-3])


@pytest.mark.parametrize("role", ["dora_scale", "vector"])
@pytest.mark.parametrize("power", ["two_sided", "one_sided"])
def test_roles_that_make_a_vector_of_any_shape(role: str, power: str) -> None:
    # Quirk N4: the published code raises KeyError for `is_vector` on a matrix.
    u, vectors = scaled([tensor([[1.0, -2.0], [0.0, 4.0]])], role, power=power)
    close(u, [[0.25, -0.5], [0.0, 1.0]])
    assert not vectors


# Matrices.


def oracle_turn(old: np.ndarray, image: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(image)
    return image / max(norm, 1e-8) if norm >= 1e-6 else old


def oracle_step(M: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    b = oracle_turn(b, M.T @ a)
    a = oracle_turn(a, M @ b)
    return float(a @ M @ b), a, b


def unit(size: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(size)
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize("role", [None, "lora_A", "lora_B", "elsewhere"])
@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-9])  # above the floor, at it, and below the threshold for the vectors
def test_two_steps_against_numpy(shape: tuple[int, ...], role: str | None, size: float) -> None:
    m, n = shape[0], math.prod(shape[1:])
    a, b = unit(m, 1), unit(n, 2)
    start = {"spectral_u": torch.from_numpy(a), "spectral_v": torch.from_numpy(b)}
    grads = [direction(shape, seed, size) for seed in (3, 4)]
    u, vectors = scaled(grads, role, start)
    target = 1.0 if role == "lora_A" else math.sqrt(m / n)
    for grad in grads:
        sigma, a, b = oracle_step(grad.reshape(m, n).numpy(), a, b)
        expected = grad * (target / max(sigma, 1 / (math.sqrt(m) + math.sqrt(n))))
    torch.testing.assert_close(u, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(vectors["spectral_u"], torch.from_numpy(a), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(vectors["spectral_v"], torch.from_numpy(b), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize("power", ["two_sided", "one_sided", "one_sided_absolute"])
def test_the_spectral_norm_is_attained(shape: tuple[int, ...], power: str) -> None:
    for role in (None, "lora_A"):
        u, vectors = scaled([direction(shape)] * 200, role, power=power)
        target = 1.0 if role == "lora_A" and power == "two_sided" else math.sqrt(shape[0] / math.prod(shape[1:]))
        assert float(spectral_norm(u.flatten(1))) == pytest.approx(target, rel=1e-6)
        assert set(vectors) == ({"spectral_u", "spectral_v"} if power == "two_sided" else {"spectral_v"})


def test_sigma_is_estimated_from_below() -> None:
    # Early steps are too long, and get shorter from step to step for a direction that stays.
    grad = direction((16, 12))
    norms = [float(spectral_norm(scaled([grad] * steps)[0])) for steps in (1, 2, 4, 8, 100)]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > 1.1 * math.sqrt(16 / 12)


@pytest.mark.parametrize("power", ["two_sided", "one_sided"])
@pytest.mark.parametrize(("shape", "role"), [((8, 16), None), ((4, 24), "lora_A"), ((3, 6), "oft"), ((7,), None)])
def test_the_size_of_the_direction_does_not_matter_above_the_floor(
    shape: tuple[int, ...], role: str | None, power: str
) -> None:
    expected, _ = scaled([direction(shape)] * 2, role, power=power)
    for factor in (8.0, 1e6):
        torch.testing.assert_close(
            scaled([factor * direction(shape)] * 2, role, power=power)[0], expected, rtol=1e-12, atol=1e-12
        )


def test_below_the_floor_directions_shrink() -> None:
    # Quirk N11: the floor is absolute.
    grad = direction((9, 4), size=1e-4)
    u, _ = scaled([grad])
    torch.testing.assert_close(u, grad * math.sqrt(9 / 4) * (3 + 2), rtol=1e-12, atol=0.0)


def test_a_direction_of_zero_keeps_the_vectors() -> None:
    zero = torch.zeros(3, 6, dtype=torch.float64)
    for role in (None, "oft"):
        for power in ("two_sided", "one_sided", "one_sided_absolute"):
            start = scaled([zero], role, power=power)[1]
            u, vectors = scaled([zero] * 3, role, power=power)
            assert torch.equal(u, zero)
            assert vectors
            assert all(torch.equal(vectors[name], start[name]) for name in start)
            for vector in vectors.values():
                torch.testing.assert_close(
                    vector.norm(dim=-1), torch.ones(vector.shape[:-1], dtype=torch.float64), rtol=1e-6, atol=0
                )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3), (0, 2, 3)], ids=str)
@pytest.mark.parametrize("role", [None, "lora_A", "vector"])
@pytest.mark.parametrize("options", [{}, {"power": "one_sided", "vectors": "rms", "blocks": "l2"}], ids=str)
def test_empty_tensors(shape: tuple[int, ...], role: str | None, options: dict[str, str]) -> None:
    assert scaled([torch.zeros(shape)] * 2, role, **options)[0].shape == shape


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3, 1), (0, 0)], ids=str)
@pytest.mark.parametrize("blocks", ["spectral", "l2", "rms"])
def test_blocks_that_are_empty_or_of_one_number(shape: tuple[int, ...], blocks: str) -> None:
    u, _ = scaled([torch.ones(shape)] * 2, "oft", blocks=blocks)
    assert u.shape == shape
    assert u.isfinite().all()


# One vector instead of two (2.4).


@pytest.mark.parametrize("power", ["one_sided", "one_sided_absolute"])
def test_one_sided_against_numpy(power: str) -> None:
    for shape in ((4, 24), (16, 12)):
        b = unit(shape[1], 5)
        grads = [direction(shape, seed) for seed in (1, 2)]
        u, vectors = scaled(grads, "lora_A", {"spectral_v": torch.from_numpy(b)}, power=power)
        for grad in grads:
            M = grad.numpy()
            w = M.T @ (M @ b)
            b = w / np.linalg.norm(w)
        expected = grads[-1] * (math.sqrt(shape[0] / shape[1]) / np.linalg.norm(M @ b))
        torch.testing.assert_close(u, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(vectors["spectral_v"], torch.from_numpy(b), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [1e-3, 1e-8])
def test_small_directions_with_one_vector(size: float) -> None:
    # Quirk M8: the published threshold is absolute, so small directions keep the random vector for ever.
    grad = direction((8, 16), size=size)
    start = {"spectral_v": torch.from_numpy(unit(16, 5))}
    u, vectors = scaled([grad] * 200, start=start, power="one_sided")
    assert float(spectral_norm(u)) == pytest.approx(math.sqrt(0.5), rel=1e-6)
    assert not torch.equal(vectors["spectral_v"], start["spectral_v"])
    too_long, kept = scaled([grad] * 200, start=start, power="one_sided_absolute")
    assert float(spectral_norm(too_long)) > 1.5 * math.sqrt(0.5)
    assert torch.equal(kept["spectral_v"], start["spectral_v"])


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_the_published_threshold(size: float) -> None:
    grad = torch.diag(tensor([math.sqrt(size), 0.0]))
    start = {"spectral_v": tensor([0.8, 0.6])}  # w = (0.8 size, 0)
    _, vectors = scaled([grad], start=start, power="one_sided_absolute")
    close(vectors["spectral_v"], [1.0, 0.0] if 0.8 * size >= 0.5 else [0.8, 0.6])


# Skew-symmetric blocks.


@pytest.mark.parametrize(("elements", "size"), [(0, 1), (1, 2), (3, 3), (6, 4), (10, 5), (496, 32), (523776, 1024)])
def test_the_size_of_a_block(elements: int, size: int) -> None:
    assert skew_size(elements) == size


def test_a_block_by_hand() -> None:
    close(
        skew(tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]), 4)[0],
        [[0.0, 1.0, 2.0, 3.0], [-1.0, 0.0, 4.0, 5.0], [-2.0, -4.0, 0.0, 6.0], [-3.0, -5.0, -6.0, 0.0]],
    )


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-9])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_blocks_against_numpy(size: float, factor: float) -> None:
    grads = [direction((3, 10), seed, size) for seed in (1, 2)]
    a, b = ([unit(5, seed + row) for row in range(3)] for seed in (10, 20))
    start = {"spectral_u": torch.tensor(np.stack(a)), "spectral_v": torch.tensor(np.stack(b))}
    u, vectors = scaled(grads, "oft", start, oft_scale_factor=factor)
    expected = torch.empty(3, 10, dtype=torch.float64)
    for grad in grads:
        for row in range(3):
            S = np.zeros((5, 5))
            S[np.triu_indices(5, 1)] = grad[row].numpy()
            sigma, a[row], b[row] = oracle_step(S - S.T, a[row], b[row])
            expected[row] = grad[row] * (0.5 * factor / max(sigma, 1 / (2 * math.sqrt(5))))
    torch.testing.assert_close(u, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(vectors["spectral_u"], torch.tensor(np.stack(a)), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(vectors["spectral_v"], torch.tensor(np.stack(b)), rtol=1e-12, atol=1e-14)


def test_the_spectral_norm_of_each_block_is_attained() -> None:
    u, _ = scaled([direction((4, 15))] * 500, "oft", oft_scale_factor=0.8)
    for block in skew(u, 6):
        assert float(spectral_norm(block)) == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize(("blocks", "expected"), [("l2", math.sqrt(4 / 8)), ("rms", math.sqrt(6))])
def test_blocks_by_the_norm_of_their_rows(blocks: str, expected: float) -> None:
    u, vectors = scaled([direction((3, 6)), direction((3, 6), 1, 1e-6)], "oft", blocks=blocks)
    torch.testing.assert_close(u.norm(dim=1), torch.full((3,), expected, dtype=torch.float64))
    assert not vectors


def test_blocks_must_be_triangles() -> None:
    with pytest.raises(gc.OptionError, match=r"scale_update: role 'oft'.*\(3, 7\).*size 4 they would have 6"):
        scaled([torch.ones(3, 7)], "oft")


# First vectors.


def test_first_vectors_depend_on_nothing_else() -> None:
    chain = gc.chain(gc.scale_update(), LR)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = chain.init([torch.ones(8, 16), torch.zeros(8, 16)])["slots"]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second = one.values()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = gc.chain(gc.scale_update(seed=1), LR).init(torch.ones(8, 16))["slots"][""]
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_first_vectors_are_gaussian_and_of_length_one() -> None:
    device = torch.device("cpu")
    many = start_vector((4000, 5), "spectral_u", 0, device)
    torch.testing.assert_close(many.norm(dim=1), torch.ones(4000))
    chance = 5 * math.sqrt(2 * 4 / (5**2 * 7) / 4000)  # five deviations of a mean of 4000 squares on a sphere
    torch.testing.assert_close(many.T @ many / 4000, torch.eye(5) / 5, rtol=0, atol=chance)  # no direction is preferred
    long = start_vector((20000,), "spectral_u", 0, device) * math.sqrt(20000)
    moments = [float((long**k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.1)
    assert float((long * start_vector((20000,), "spectral_v", 0, device)).sum()) < 5  # about a standard Gaussian


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)]
)
def test_vectors_are_kept_in_single_precision_at_least(dtype: torch.dtype, kept: torch.dtype) -> None:
    grad = direction((8, 16)).to(dtype)
    u, vectors = scaled([grad] * 100)
    assert {vector.dtype for vector in vectors.values()} == {kept}
    wide, _ = scaled([grad.to(torch.float64)] * 100)
    torch.testing.assert_close(u.to(torch.float64), wide, rtol=torch.finfo(dtype).eps + 1e-6, atol=0.0)


def test_start_vectors_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gradchain.transforms.power_iteration.start_vector", lambda shape, *_: torch.eye(*shape[-1:])[0]
    )
    slots = gc.chain(gc.scale_update(), LR).init(torch.ones(2, 3))["slots"][""]
    close(slots["scale_update.spectral_u"], [1.0, 0.0])
    close(slots["scale_update.spectral_v"], [1.0, 0.0, 0.0])


def test_rows_may_live_apart() -> None:
    # What crosses the rows is asked for as sums of the parts, so both parts come to the whole's numbers.
    M, a, b = direction((8, 6)).float(), torch.ones(8) / 8**0.5, torch.ones(6) / 6**0.5
    sigma, new_a, new_b = run_locally(two_sided(M, a, b))
    parts = [two_sided(M[rows], a[rows], b) for rows in (slice(0, 3), slice(3, 8))]
    first = [next(part) for part in parts]
    second = [part.send(total(first)) for part in parts]
    results = []
    for part in parts:
        with pytest.raises(StopIteration) as stop:
            part.send(total(second))
        results.append(stop.value.value)
    assert all(torch.equal(result[0], sigma) and torch.equal(result[2], new_b) for result in results)
    assert torch.equal(torch.cat([result[1] for result in results]), new_a)


def total(requests: list[Any]) -> Totals:
    """What all parts are answered: sums in double precision."""
    partials = [request.partials for request in requests]
    assert {value.dtype for partial in partials for value in partial.values()} == {torch.float64}
    return Totals(**{name: sum(partial[name] for partial in partials) for name in partials[0]})
