"""Numbers by hand, and trajectories against the formulas in float64 numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from gradchain.transforms.agreement import KEEPS_SIGNS, keeps_signs
from tests.laws.cases import TRANSFORMS
from tests.transforms.steps import Array, close, compare, directions, run, slot

RAW = gc.first_moment(0.5, bias_correction=False)


def moments(grads: list[Array], beta: float) -> list[Array]:
    """The average after each step, not corrected for its bias."""
    m, found = np.zeros_like(grads[0]), []
    for g in grads:
        m = beta * m + (1 - beta) * g
        found.append(m)
    return found


# Grams.


def test_grams() -> None:
    u, state = run(RAW, gc.grams(), grads=[[4.0, 4.0, 4.0], [-2.0, 2.0, 0.0]])
    close(u[0], [2.0, 2.0, 2.0])
    close(u[1], [-0.0, 2.0, 0.0])  # |m| = 0, 2, 1
    close(slot(state, "first_moment.exp_avg"), [0.0, 2.0, 1.0])  # with its own signs


def test_grams_is_its_formula() -> None:
    compare(
        [gc.first_moment(0.9, bias_correction=False), gc.grams()],
        lambda grads: [np.sign(g) * np.abs(m) for g, m in zip(grads, moments(grads, 0.9))],
    )


# Cautious.


def test_cautious() -> None:
    u, state = run(RAW, gc.cautious(), grads=[[4.0, 4.0, 4.0, -4.0], [-1.0, 2.0, 0.0, -4.0]])
    close(u[0], [2.0, 2.0, 2.0, -2.0])
    close(u[1], [0.0, 4.0, 0.0, -6.0])  # half of m = (0.5, 2, 1, -3) agrees
    close(slot(state, "first_moment.exp_avg"), [0.5, 2.0, 1.0, -3.0])


def test_cautious_is_its_formula() -> None:
    def expected(grads: list[Array]) -> list[Array]:
        masks = [(m * g > 0).astype(float) for g, m in zip(grads, moments(grads, 0.9))]
        return [m * k / max(k.mean(), 0.4) for k, m in zip(masks, moments(grads, 0.9))]

    compare([gc.first_moment(0.9, bias_correction=False), gc.cautious(0.4)], expected)


def test_the_floor_bounds_what_little_agreement_is_worth() -> None:
    grads = [[4.0] + [4.0] * 99, [4.0] + [-1.0] * 99]  # 1 in 100 agrees
    close(directions(RAW, gc.cautious(), grads=grads)[1], [300.0] + [0.0] * 99)
    close(directions(RAW, gc.cautious(0.5), grads=grads)[1], [6.0] + [0.0] * 99)


def test_small_numbers_agree_too() -> None:
    # Their product, 1e-10, is zero in float16.
    chain = gc.chain(RAW, gc.cautious())
    g = torch.full((2,), 1e-5, dtype=torch.float16)
    update, _ = chain.update(g, chain.init(g), torch.zeros_like(g))
    assert (update < 0).all()


# Nesterov.


def test_nesterov() -> None:
    u, state = run(RAW, gc.nesterov(0.75), grads=[[4.0], [-8.0]])
    close(torch.stack(u), [[0.75 * 2 + 0.25 * 4], [0.75 * -3 + 0.25 * -8]])
    close(slot(state, "first_moment.exp_avg"), [-3.0])


@pytest.mark.parametrize(
    ("moment", "q"),
    [
        (gc.first_moment(0.8, bias_correction=False), 0.8),
        (gc.first_moment(0.8, bias_correction=False).rename(beta="momentum"), 0.8),
        (gc.lion_interpolate(0.8, 0.8), 0.8),
    ],
)
def test_the_coefficient_follows_the_momentum(moment: gc.Stage, q: float) -> None:
    compare(
        [moment, gc.nesterov()],
        lambda grads: [q * m + (1 - q) * g for g, m in zip(grads, moments(grads, 0.8))],
    )


def test_the_coefficient_follows_a_group() -> None:
    stages = gc.first_moment(0.8, bias_correction=False), gc.nesterov()
    close(directions(*stages, grads=[[4.0]], betas=(0.5,))[0], [0.5 * 2 + 0.5 * 4])
    close(directions(*stages, grads=[[4.0]], betas=(0.5,), nesterov_coef=1.0)[0], [2.0])
    close(directions(gc.heavy_ball(0.5), gc.nesterov(), grads=[[4.0], [2.0]])[1], [0.5 * 4 + 0.5 * 2])


def test_the_bias_of_the_mixture_can_be_corrected() -> None:
    (u,) = directions(RAW, gc.nesterov(), gc.debias(0.5), grads=[[4.0]])
    close(u, [(0.5 * 2 + 0.5 * 4) / 0.5])


def test_nesterov_scaled_by_the_last_momentum() -> None:
    def expected(grads: list[Array]) -> list[Array]:
        signs = [np.sign(g) for g in grads]
        ms = moments(signs, 0.9)
        before = [np.zeros_like(ms[0]), *ms[:-1]]
        return [0.6 * m + 0.4 * np.abs(old) * s for s, m, old in zip(signs, ms, before)]

    compare([gc.sign(), gc.first_moment(0.9, bias_correction=False), gc.nesterov(0.6, scaled=True)], expected)


def test_normalised_gradients_are_mixed_in_normalised() -> None:
    # Quirk N2: the published Adopt mixes the raw gradient into an average of normalised ones.
    stages = gc.clip_by_value(1.0), RAW, gc.nesterov(0.75)
    close(directions(*stages, grads=[[400.0]])[0], [0.75 * 0.5 + 0.25])


# AdEMAMix.


def slow_mixture(grads: list[Array], beta: float, beta3: float, weights: list[float]) -> list[Array]:
    return [m + a * s for m, s, a in zip(moments(grads, beta), moments(grads, beta3), weights)]


def test_ademamix_is_its_formula() -> None:
    stages: list[gc.Stage] = [gc.first_moment(0.9, bias_correction=False), gc.ademamix(0.99, 4.0)]
    compare(stages, lambda grads: slow_mixture(grads, 0.9, 0.99, [4.0] * 6))


@pytest.mark.parametrize(
    ("t_alpha", "weights"),
    [(4.0, [1, 2, 3, 4, 4, 4]), (2.5, [1.6, 3.2, 4, 4, 4, 4]), (1.0, [4] * 6), (8.0, [0.5, 1, 1.5, 2, 2.5, 3])],
)
def test_the_weight_of_the_slow_average_grows(t_alpha: float, weights: list[float]) -> None:
    stages: list[gc.Stage] = [gc.first_moment(0.9, bias_correction=False), gc.ademamix(0.99, 4.0, t_alpha)]
    compare(stages, lambda grads: slow_mixture(grads, 0.9, 0.99, weights))


def test_ademamix_averages_the_gradient_and_not_the_momentum() -> None:
    u, state = run(RAW, gc.grams(), gc.ademamix(0.75, 2.0), grads=[[4.0], [-2.0]])
    close(slot(state, "ademamix.exp_avg_slow"), [0.75 * 1 - 0.5])
    close(u[1], [0.0 + 2 * 0.25])


def test_ademamix_alone_adds_to_the_gradient() -> None:
    u = directions(gc.ademamix(0.75, 2.0), grads=[[4.0], [-2.0]])
    close(torch.stack(u), [[4 + 2 * 1.0], [-2 + 2 * 0.25]])


def test_ademamix_goes_by_the_names_of_its_presets() -> None:
    chain = gc.chain(gc.first_moment(), gc.ademamix(t_alpha=100), gc.scale_by_learning_rate())
    assert chain.hyperparameters == {
        "betas": (0.9,), "beta3_ema": 0.9999, "alpha": 5.0, "t_alpha": 100, "lr": 1e-3,
    }  # fmt: skip


# Their places.


@pytest.mark.parametrize("stage", [gc.grams(), gc.nesterov(0.9)], ids=lambda s: s.address)
def test_a_momentum_must_come_first(stage: gc.Stage) -> None:
    for before in ([], [gc.track_first_moment()], [gc.second_moment(), gc.divide()]):
        with pytest.raises(gc.ChainError, match=rf"{stage.address} compares .* before {stage.address}"):
            gc.chain(*before, stage)
    for before in ([gc.first_moment()], [gc.heavy_ball()], [gc.lion_interpolate()], [gc.ademamix()]):
        assert stage.address in gc.chain(*before, stage).names
    assert gc.chain(gc.first_moment(), stage).dependents("first_moment") == (stage.address,)


INERT: list[list[gc.Stage]] = [
    [],
    [gc.promote("fp32")],
    [gc.track_first_moment()],
    [gc.second_moment(), gc.divide()],
    [gc.range_normalize(), gc.divide()],
    [gc.clip_by_global_norm(), gc.sign(), gc.decoupled_decay()],
]


@pytest.mark.parametrize("before", INERT, ids=lambda stages: "-".join(stage.address for stage in stages))
def test_cautious_where_no_sign_can_differ_is_an_error(before: list[gc.Stage]) -> None:
    with pytest.raises(gc.ChainError, match=r"cautious compares the signs .* no stage before it changes any"):
        gc.chain(*before, gc.cautious())


def test_cautious_compares_any_direction_with_the_raw_gradient() -> None:
    # Less its mean of 2: -1, -1, 2; the signs are then -, -, +, and those of the gradient +, +, +.
    rows = gc.chain(gc.centralize(), gc.sign())
    close(directions(rows, grads=[[[1.0, 1.0, 4.0]]])[0], [[-1.0, -1.0, 1.0]])
    close(directions(rows, gc.cautious(), grads=[[[1.0, 1.0, 4.0]]])[0], [[0.0, 0.0, 3.0]])
    # Across weights of 1 and 1, the gradient 4, 1 leaves 1.5, -1.5.
    close(directions(gc.orthograd(), gc.cautious(), grads=[[4.0, 1.0]], param=[1.0, 1.0])[0][1], 0.0)


def test_cautious_after_a_momentum_compares_with_what_that_averages() -> None:
    # Centralised gradients -1, -1, 2, and then 0, 0, 0: nothing agrees, though the raw gradient is positive.
    u = directions(gc.centralize(), gc.first_moment(0.5), gc.cautious(), grads=[[[1.0, 1.0, 4.0]], [[2.0, 2.0, 2.0]]])
    close(u[1], [[0.0, 0.0, 0.0]])


def test_signs_are_kept_by_those_that_are_said_to() -> None:
    assert {*gc.transforms.__all__} >= KEEPS_SIGNS
    grad = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    for name in KEEPS_SIGNS:
        chain, zeros = TRANSFORMS[name].chain, torch.zeros(8, 16)  # which do not decay
        if not all(map(keeps_signs, chain)):
            continue
        moved = chain.update(grad, chain.init(zeros), zeros)[0]
        assert ((-moved).sign() * grad.sign() >= 0).all(), name


@pytest.mark.parametrize("stage", [gc.nesterov(), gc.ademamix()], ids=lambda s: s.address)
def test_divided_and_undivided_do_not_mix(stage: gc.Stage) -> None:
    adam = [gc.first_moment(), gc.second_moment(), gc.divide()]
    with pytest.raises(gc.ChainError, match=rf"divide has divided .* Put {stage.address} before divide"):
        gc.chain(*adam, stage)
    gc.chain(*adam[:2], stage, adam[2])
    gc.chain(*adam[1:], adam[0], stage)  # what is averaged has been divided itself


def test_a_coefficient_must_come_from_somewhere() -> None:
    moment = gc.first_moment().rename(beta="memory")
    with pytest.raises(gc.ChainError, match=r"nesterov.coef is None, .* Pass coef"):
        gc.chain(moment, gc.nesterov())
    gc.chain(moment, gc.nesterov(0.9))
    gc.chain(moment, gc.nesterov().rename(beta="memory"))


def test_a_scaled_nesterov_needs_an_average_to_read() -> None:
    with pytest.raises(gc.ChainError, match="exp_avg"):
        gc.chain(gc.sign(), gc.heavy_ball(), gc.nesterov(scaled=True))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (gc.cautious, {"floor": 0.0}),
        (gc.cautious, {"floor": 1.5}),
        (gc.nesterov, {"coef": -0.1}),
        (gc.nesterov, {"coef": 1.1}),
        (gc.ademamix, {"beta3": 1.0}),
        (gc.ademamix, {"alpha": -1.0}),
        (gc.ademamix, {"t_alpha": 0.0}),
    ],
)
def test_ranges(make: Callable[..., Any], options: dict[str, float]) -> None:
    with pytest.raises(gc.OptionError, match=next(iter(options))):
        make(**options)
