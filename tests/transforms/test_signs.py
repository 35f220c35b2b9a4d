"""Numbers by hand, and trajectories against the formulas in float64 numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from tests.transforms.steps import Array, close, compare, directions, sequence, slot, tensor

LR = gc.scale_by_learning_rate(1.0)


def with_role(chain: gc.Chain, role: str | None, grads: list[Array], param: Array | None = None) -> list[Array]:
    """What is subtracted from a parameter with a role, which stays where it is."""
    start = torch.zeros(grads[0].shape).double() if param is None else torch.from_numpy(param)
    held = torch.nn.Parameter(start.clone())
    optimizer = gc.Optimizer([{"params": [held], "role": role}], chain, compile=False)
    subtracted: list[Array] = []
    for g in grads:
        held.grad = torch.from_numpy(g.copy())
        optimizer.step()
        subtracted.append((start - held.detach()).numpy())
        held.data.copy_(start)
    return subtracted


# Lion-K.


def test_lion_k_by_hand() -> None:
    g = [3.0, -4.0, 0.0, 0.0]
    close(directions(gc.lion_k(), grads=[g])[0], [1.0, -1.0, 0.0, 0.0])
    close(directions(gc.lion_k(2), grads=[g])[0], [2 * 0.6, -2 * 0.8, 0.0, 0.0])
    close(directions(gc.lion_k(3), grads=[g])[0], [2 * 9 / math.hypot(9, 16), -2 * 16 / math.hypot(9, 16), 0.0, 0.0])


@pytest.mark.parametrize("kappa", [1.2, 1.5, 2.0, 3.0])
def test_lion_k_is_its_formula(kappa: float) -> None:
    def expected(grads: list[Array]) -> list[Array]:
        ys = [np.sign(g) * np.abs(g) ** (kappa - 1) for g in grads]
        return [math.sqrt(y.size) * y / max(math.sqrt(float(np.sum(y * y))), 1e-12) for y in ys]

    compare([gc.lion_k(kappa)], expected)


def test_kappa_by_the_number_of_axes() -> None:
    auto = gc.lion_k(3.0, auto=True)
    for shape in [(), (3,), (2, 3), (2, 3, 4), (2, 3, 1, 1), (2, 1, 2, 1, 2)]:
        g = sequence(shape, 1)[0].tolist()
        kappa = 2.0 if len(shape) >= 4 else 1.0
        assert torch.equal(directions(auto, grads=[g])[0], directions(gc.lion_k(kappa), grads=[g])[0])


def test_small_directions_shrink() -> None:
    close(directions(gc.lion_k(2), grads=[[3e-13, 4e-13]])[0], [math.sqrt(2) * 0.3, math.sqrt(2) * 0.4])


def test_zeros_have_a_slope_under_any_kappa() -> None:
    chain = gc.chain(gc.lion_k(1.5))
    g = tensor([1.0, 0.0]).requires_grad_()
    chain.update(g, chain.init(g.detach()), torch.zeros(2).double())[0].sum().backward()
    assert g.grad is not None
    assert g.grad.isfinite().all()


@pytest.mark.parametrize("kappa", [0.5, math.inf, math.nan, True, "2", None])
def test_what_kappa_may_be(kappa: Any) -> None:
    with pytest.raises(gc.OptionError, match=r"lion_k.kappa"):
        gc.lion_k(kappa)


# Stochastic signs.


def expectation(u: Array) -> Array:
    y = u.reshape(u.shape[0], -1)
    y = y / np.maximum(np.abs(y).max(axis=1, keepdims=True), 1e-12)
    y = y / np.maximum(np.abs(y).max(axis=0, keepdims=True), 1e-12)
    return y.reshape(u.shape)


def test_stochastic_signs_are_unbiased() -> None:
    steps, copies = 100, 40  # side by side, where none is the largest of another's row or column
    for shape in [(4, 6), (3, 2, 2)]:
        g = sequence(shape, 1)[0]
        wide = np.concatenate([g] * copies, axis=-1).tolist()
        u = torch.stack(directions(gc.stochastic_sign(), grads=[wide] * steps)).numpy()
        assert set(np.unique(u)) <= {-1.0, 0.0, 1.0}
        mean = u.reshape(steps, *shape[:-1], copies, shape[-1]).mean(axis=(0, -2))
        # Six standard errors of a mean of signs.
        np.testing.assert_allclose(mean, expectation(g), atol=6 / math.sqrt(steps * copies))


def test_the_largest_of_each_column_is_certain() -> None:
    g = np.array([[4.0, -1.0, 2.0], [-6.0, 3.0, -3.0]])
    certain = np.abs(expectation(g)) == 1
    for u in directions(gc.stochastic_sign(), grads=[g.tolist()] * 100):
        assert (u.numpy()[certain] == np.sign(g)[certain]).all()


def test_nothing_becomes_nothing() -> None:
    zeros = [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    for u in directions(gc.stochastic_sign(), grads=[zeros] * 20):
        close(u, zeros)


def test_seeds_draw_apart_and_repeat_themselves() -> None:
    g = [sequence((8, 16), 1)[0].tolist()] * 3
    first, again, other = (directions(gc.stochastic_sign(seed), grads=g) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("role", ["dora_scale", "vector"])
def test_vectors_get_plain_signs(role: str) -> None:
    chain = gc.chain(gc.stochastic_sign(), LR)
    g = sequence((8, 16), 2)
    for u, wanted in zip(with_role(chain, role, g), g):
        np.testing.assert_array_equal(u, np.sign(wanted))
    assert any((u != np.sign(wanted)).any() for u, wanted in zip(with_role(chain, None, g), g))
    for shape in [(), (7,)]:
        v = sequence(shape, 1)[0]
        np.testing.assert_array_equal(directions(gc.stochastic_sign(), grads=[v.tolist()])[0].numpy(), np.sign(v))


# Freeze on flip.


def test_a_flipped_element_is_frozen_once() -> None:
    grads = [[1.0, 1.0, -1.0, 0.0], [2.0, -2.0, 0.0, 1.0], [3.0, -3.0, 3.0, 0.0]]
    u = directions(gc.freeze_on_flip(), grads=grads)
    close(u[0], grads[0])
    close(u[1], [2.0, 0.0, 0.0, 0.0])  # 0 is as good as negative
    close(u[2], [3.0, -3.0, 0.0, 0.0])


def frozen(zs: list[Array], watched: list[Array], first: Array) -> list[Array]:
    before, found = first > 0, []
    for z, w in zip(zs, watched):
        found.append(np.where((w > 0) == before, z, 0.0))
        before = w > 0
    return found


def lion(grads: list[Array], beta1: float, beta2: float) -> tuple[list[Array], list[Array]]:
    """Lion's directions and momenta."""
    m, cs, ms = np.zeros_like(grads[0]), [], []
    for g in grads:
        cs.append(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
        ms.append(m)
    return cs, ms


def test_freeze_watches_the_direction() -> None:
    def expected(grads: list[Array]) -> list[Array]:
        c, _ = lion(grads, 0.9, 0.7)
        return frozen(c, c, grads[0])

    compare([gc.lion_interpolate(0.9, 0.7), gc.freeze_on_flip()], expected)


def test_freeze_watches_the_momentum() -> None:
    def expected(grads: list[Array]) -> list[Array]:
        c, m = lion(grads, 0.9, 0.7)
        return frozen(c, m, grads[0])

    compare([gc.lion_interpolate(0.9, 0.7), gc.freeze_on_flip("momentum")], expected)


def test_freeze_watches_a_heavy_ball() -> None:
    u = directions(gc.heavy_ball(0.5), gc.freeze_on_flip("momentum"), grads=[[4.0, 4.0], [-1.0, -3.0], [1.0, -1.0]])
    close(torch.stack(u), [[4.0, 4.0], [1.0, 0.0], [1.5, -1.5]])


def test_the_first_signs_are_those_of_the_raw_gradient() -> None:
    flip = gc.stateless(flipped)()
    for stages in ([flip, gc.freeze_on_flip()], [flip, gc.first_moment(0.0), gc.freeze_on_flip("momentum")]):
        u = directions(*stages, grads=[[1.0, -1.0], [1.0, -1.0]])
        close(torch.stack(u), [[0.0, 0.0], [-1.0, 1.0]])


def flipped(value: torch.Tensor) -> torch.Tensor:
    return -value


@pytest.mark.parametrize(("shape", "size"), [((), 1), ((7,), 1), ((64,), 8), ((8, 32), 32), ((1000, 3), 1000)])
def test_signs_take_a_bit_each(shape: tuple[int, ...], size: int) -> None:
    state = gc.chain(gc.freeze_on_flip()).init(torch.zeros(shape))
    prev_sign = slot(state, "freeze_on_flip.prev_sign")
    assert prev_sign.numel() * prev_sign.itemsize == size


def test_freezing_by_momentum_needs_one_and_keeps_nothing() -> None:
    with pytest.raises(gc.ChainError, match="watches the signs of a momentum"):
        gc.chain(gc.freeze_on_flip("momentum"))
    with pytest.raises(gc.ChainError, match="freeze_on_flip"):
        gc.chain(gc.freeze_on_flip("momentum"), gc.first_moment())
    gc.chain(gc.freeze_on_flip(), gc.first_moment())  # the gradient may be frozen before it is averaged
    assert gc.freeze_on_flip("momentum").known_slots == {}
    with pytest.raises(gc.OptionError, match="watch"):
        gc.freeze_on_flip("gradient")


# Projected adaptivity.


def sizes(u: Array, norm: str, role: str | None = None) -> Array:
    a = np.abs(u)
    if norm == "total":
        return a.sum()
    if norm == "mean" or u.ndim < 2:
        return a.mean()
    rows = a.mean(axis=tuple(range(1, u.ndim)), keepdims=True)
    if norm == "row" or role in ("lora_A", "oft"):
        return rows
    columns = a.mean(axis=0, keepdims=True)
    if role == "lora_B":
        return columns
    if role in ("dora_scale", "vector") and norm == "auto":
        return a.mean()
    return rows * columns / (1 if norm == "auto_squared" else a.mean())


NORMS = ["total", "mean", "row", "auto", "auto_squared"]
ROLES = [None, "lora_A", "lora_B", "dora_scale", "oft", "vector", "head"]


@pytest.mark.parametrize("norm", NORMS)
def test_projected_adaptivity_is_its_formula(norm: str) -> None:
    compare(
        [gc.projected_adaptivity(norm)],
        lambda grads: [np.sign(g) * sizes(g, norm) for g in grads],
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("shape", [(6, 4), (7,), (4, 3, 2, 2)], ids=str)
def test_roles_choose_what_is_averaged_and_decays_follow(shape: tuple[int, ...], role: str | None, norm: str) -> None:
    chain = gc.chain(gc.projected_adaptivity(norm), LR, gc.decoupled_decay(0.1))
    (g, theta) = sequence(shape, 2)
    size = sizes(g, norm, role)
    (u,) = with_role(chain, role, [g], theta)
    np.testing.assert_allclose(u, np.sign(g) * size + 0.1 * size * theta, rtol=1e-12)


def test_the_outer_product_has_the_unit_of_the_direction() -> None:
    # Quirk M3: the published one is quadratic.
    g = sequence((4, 6), 1)[0]
    for norm, factor in (("auto", 10.0), ("auto_squared", 100.0)):
        once, louder = (directions(gc.projected_adaptivity(norm), grads=[x.tolist()])[0] for x in (g, 10 * g))
        close(louder, (factor * once).tolist())


@pytest.mark.parametrize("norm", NORMS)
def test_tiny_directions_keep_their_size(norm: str) -> None:
    g = torch.full((4, 6), 1e-30)
    chain = gc.chain(gc.projected_adaptivity(norm))
    u = -chain.update(g, chain.init(g), torch.zeros_like(g))[0]
    wanted = {"total": 24e-30, "auto_squared": 0.0}.get(norm, 1e-30)
    torch.testing.assert_close(u, torch.full_like(g, wanted), rtol=1e-5, atol=0)


def test_an_unknown_norm() -> None:
    with pytest.raises(gc.OptionError, match="norm"):
        gc.projected_adaptivity("columns")


# Signal against noise.


def test_snr_is_its_formula() -> None:
    def expected(grads: list[Array]) -> list[Array]:
        m, found = np.zeros_like(grads[0]), []
        for g in grads:
            E = np.sqrt(np.maximum(1 - m**2, 1e-30))
            m = 0.8 * m + 0.2 * np.sign(g)
            found.append(4 / math.pi * np.arctan2(m, E))
        return found

    compare([gc.sign(), gc.first_moment(0.8, bias_correction=False), gc.snr_precondition()], expected)


def test_certain_signs_make_the_longest_steps() -> None:
    # The average is 1 from the first step on, so its spread is 0 from the second.
    stages = gc.sign(), gc.first_moment(0.0), gc.snr_precondition(1.0)
    u = directions(*stages, grads=[[2.0, -2.0, 0.0]] * 2)
    close(u[0], [math.pi / 4, -math.pi / 4, 0.0])
    close(u[1], [math.pi / 2, -math.pi / 2, 0.0])


def test_averages_beyond_one_count_as_certain() -> None:
    u = directions(gc.first_moment(0.5, bias_correction=False), gc.snr_precondition(1.0), grads=[[8.0], [8.0]])
    close(u[1], [math.pi / 2])


def test_snr_needs_an_average() -> None:
    with pytest.raises(gc.ChainError, match="exp_avg"):
        gc.chain(gc.sign(), gc.snr_precondition())
    with pytest.raises(gc.OptionError, match=r"snr_precondition\.a"):
        gc.snr_precondition(0.0)


# Every stage here, in half precision and without a gradient.

STAGES: dict[str, list[gc.Stage]] = {
    "lion_k": [gc.lion_k(1.5)],
    "stochastic_sign": [gc.stochastic_sign()],
    "freeze_on_flip": [gc.freeze_on_flip()],
    "projected_adaptivity": [gc.projected_adaptivity("auto")],
    "snr_precondition": [gc.first_moment(0.9), gc.snr_precondition()],
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES.keys())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_row_without_a_gradient_stays(stages: list[gc.Stage], dtype: torch.dtype) -> None:
    g = torch.from_numpy(sequence((4, 6), 1)[0]).to(dtype)
    g[1] = 0
    chain = gc.chain(*stages)
    update, _ = chain.update(g, chain.init(g), torch.zeros_like(g))
    assert update.isfinite().all()
    assert (update[1] == 0).all()
    assert (update[[0, 2, 3]] != 0).all()
