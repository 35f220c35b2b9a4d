from __future__ import annotations

import math

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, optimizer_of, run, slot, step, tensor

LR = gc.scale_by_learning_rate(1.0)
FIRST, OPPOSED = [1.0, 0.0], [-3.0, 4.0]  # cosine -0.6


def project(*args: float, beta: float = 0.0, **options: float) -> tuple[gc.Stage, ...]:
    """A projection against the last gradient (`beta` 0), active from the start unless told otherwise."""
    if len(args) < 3:
        options["warmup_steps"] = 0
    return gc.momentum_project(*args, **options), gc.track_first_moment(beta)


def test_the_opposing_part_is_turned_away() -> None:
    u, state = run(*project(), grads=[FIRST, OPPOSED])
    close(u[0], FIRST)  # no momentum yet
    close(u[1], [0.0, 5.0])  # the residual (0, 4) at the length of the gradient
    close(slot(state, "track_first_moment.exp_avg"), [0.0, 5.0])  # the average is of what was projected


def test_half_of_the_opposing_part() -> None:
    _, u = directions(*project(0.0, 0.5), grads=[FIRST, OPPOSED])
    length = math.hypot(1.5, 4)
    close(u, [-1.5 * 5 / length, 4 * 5 / length])


@pytest.mark.parametrize(("max_gain", "gain"), [(None, math.sqrt(101)), (4.0, 4.0), (20.0, math.sqrt(101))])
def test_the_gain_can_be_bounded(max_gain: float | None, gain: float) -> None:
    # Quirk G3: what is left of (-10, 1) beside (1, 0) is (0, 1), a tenth of the length.
    chain = gc.chain(gc.momentum_project(max_gain=max_gain), gc.track_first_moment(0.0))
    close(directions(chain, grads=[[1.0, 0.0], [-10.0, 1.0]])[1], [0.0, gain], rtol=1e-6)


def test_proj_factor_zero_changes_nothing_but_counts() -> None:
    optimizer = optimizer_of(gc.chain(*project(0.0, 0.0), LR), tensor([0.0, 0.0]), telemetry=True)
    step(optimizer, tensor(FIRST))
    (before,) = (p.detach().clone() for p in optimizer.param_groups[0]["params"])
    (after,) = step(optimizer, tensor(OPPOSED))
    close(before - after, OPPOSED)
    assert optimizer.telemetry()["projection_rate"] == 1.0  # quirk G2


@pytest.mark.parametrize(("theta", "projected"), [(0.59, True), (0.61, False), (0.0, True)])
def test_threshold(theta: float, projected: bool) -> None:
    _, u = directions(*project(theta), grads=[FIRST, OPPOSED])
    close(u, [0.0, 5.0] if projected else OPPOSED)


def test_threshold_is_strict() -> None:
    _, u = directions(*project(0.5), grads=[[1.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 1.0, 1.0]])  # cosine -1/2 exactly
    close(u, [-1.0, 1.0, 1.0, 1.0])
    _, orthogonal = directions(*project(0.0), grads=[FIRST, [0.0, 2.0]])
    close(orthogonal, [0.0, 2.0])


@pytest.mark.parametrize("warmup", [0, 1, 2, 3])
def test_warmup_is_strict(warmup: int) -> None:
    # With warmup w the first step that may project is w + 1; the gradients alternate from step 2 on.
    grads = [FIRST, OPPOSED, FIRST, OPPOSED]
    for number, (u, g) in enumerate(zip(directions(*project(0.0, 1.0, warmup), grads=grads), grads), start=1):
        if number <= max(warmup, 1):
            close(u, g)
        elif number == warmup + 1:
            assert abs(float(u @ tensor(grads[number - 2]))) < 1e-12


@pytest.mark.parametrize(("horizon", "warmup"), [(0.999, 1000), (0.95, 20), (0.8, 5), (0.6, 2), (0.0, 1), (0.9, 10)])
def test_the_horizon_sets_the_warmup(horizon: float, warmup: int) -> None:
    stage = gc.momentum_project(horizon=horizon)
    values = stage.resolve({"warmup_steps": None, "horizon": horizon}, {})
    assert values["warmup_steps"] == warmup


def test_recipes_tie_the_horizon_to_the_slower_average() -> None:
    grads = [FIRST, FIRST, FIRST, OPPOSED]
    adam = gc.recipe("gyro-adam", lr=1.0)
    sgd = gc.recipe("gyro-sgd", lr=1.0)
    for chain, quick, slow in (
        (adam, {"betas": (0.9, 0.6)}, {"betas": (0.9, 0.8)}),
        (sgd, {"momentum": 0.6}, {"momentum": 0.8}),
    ):
        never = directions(chain, grads=grads, warmup_steps=99, **quick)[-1]
        assert not torch.equal(directions(chain, grads=grads, **quick)[-1], never)  # warmup 2
        unprojected = directions(chain, grads=grads, warmup_steps=99, **slow)[-1]
        assert torch.equal(directions(chain, grads=grads, **slow)[-1], unprojected)  # warmup 5


def test_warmup_is_resolved_in_each_group() -> None:
    # Quirk G9: the published GYRO takes it from the constructor's betas, whatever the group says.
    params = [torch.nn.Parameter(tensor([0.0, 0.0])) for _ in range(2)]
    groups = [{"params": params[:1], "momentum": 0.0}, {"params": params[1:], "momentum": 0.9}]
    optimizer = gc.Optimizer(groups, gc.recipe("gyro-sgd", lr=1.0), compile=False)
    step(optimizer, tensor(FIRST), tensor(FIRST))
    step(optimizer, tensor(OPPOSED), tensor(OPPOSED))
    close(params[0].detach(), [-1.0, -5.0])  # warmup 1
    close(params[1].detach(), [2.0, -4.0])  # warmup 10


def test_steps_are_counted_for_each_parameter() -> None:
    # Quirk G10: one that gets its first gradients later also has its warmup later.
    optimizer = optimizer_of(gc.chain(*project(0.0, 1.0, 2), LR), tensor([0.0, 0.0]), tensor([0.0, 0.0]))
    early, late = optimizer.param_groups[0]["params"]
    for number, g in enumerate([FIRST, OPPOSED, FIRST, OPPOSED]):
        early.grad, late.grad = tensor(g), tensor(g) if number >= 2 else None
        optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in (early, late)] == [4, 2]
    close(late.detach(), [2.0, -4.0])  # two plain steps


# Residuals without a direction of their own (quirk G1).


def scalar_run(value: float, residual_rtol: float, dtype: torch.dtype = torch.float32) -> float:
    chain = gc.chain(*project(residual_rtol=residual_rtol, beta=0.9), LR)
    optimizer = optimizer_of(chain, torch.zeros(1, dtype=dtype))
    step(optimizer, torch.tensor([1.2345 * value], dtype=dtype))
    before = optimizer.param_groups[0]["params"][0].detach().clone()
    (after,) = step(optimizer, torch.tensor([-value], dtype=dtype))
    return float(before - after)


VALUES = [0.3 + 0.017 * k for k in range(200)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scalars_are_never_flipped(dtype: torch.dtype) -> None:
    for value in VALUES:
        assert scalar_run(value, 1e-6, dtype) == pytest.approx(-value, rel=1e-6)


def test_residual_rtol_zero_reproduces_the_flip() -> None:
    stepped = [scalar_run(value, 0.0) for value in VALUES]
    flipped = [u for u, value in zip(stepped, VALUES) if u > 0]
    assert flipped  # rounding errors, blown up to the length of the gradient
    assert all(abs(u) == pytest.approx(value, rel=1e-5) for u, value in zip(stepped, VALUES))


def test_antiparallel_gradients_pass() -> None:
    _, u = directions(*project(), grads=[[0.3, 0.7, -1.1], [-0.6, -1.4, 2.2]])
    close(u, [-0.6, -1.4, 2.2])


def test_residual_rtol_is_relative() -> None:
    # The residual is 0.8 of the gradient.
    for rtol, projected in ((0.79, True), (0.81, False)):
        _, u = directions(*project(residual_rtol=rtol), grads=[FIRST, OPPOSED])
        close(u, [0.0, 5.0] if projected else OPPOSED)


@pytest.mark.parametrize(("eps", "projected"), [(0.9, True), (1.1, False), (4.5, False)])
def test_eps_gates_the_norms(eps: float, projected: bool) -> None:
    # Quirk G4. The momentum has norm 1, the residual 4, the gradient 5.
    _, u = directions(*project(eps=eps), grads=[FIRST, OPPOSED])
    close(u, [0.0, 5.0] if projected else OPPOSED)


@pytest.mark.parametrize(("eps", "projected"), [(3.9, True), (4.1, False), (5.1, False)])
def test_eps_gates_residual_and_gradient(eps: float, projected: bool) -> None:
    _, u = directions(*project(eps=eps), grads=[[7.0, 0.0], OPPOSED])
    close(u, [0.0, 5.0] if projected else OPPOSED)


def test_eps_of_projection_and_denominator_can_be_told_apart() -> None:
    chain = gc.recipe("gyro-adam", warmup_steps=0).with_options(**{"momentum_project.eps": 1e-2})
    assert chain["momentum_project"].eps == 1e-2
    assert chain["divide"].eps == 1e-8
    assert {"momentum_project.eps", "divide.eps"} <= chain.hyperparameters.keys()


def test_nan_reaches_the_parameters() -> None:
    _, u = directions(*project(), grads=[FIRST, [math.nan, 1.0]])
    assert u.isnan().any()


def test_gyro_sgd_steps_by_the_gradient_itself() -> None:
    u = directions(gc.recipe("gyro-sgd", lr=0.5, warmup_steps=0), grads=[FIRST, [2.0, 2.0]])
    close(torch.stack(u), [[0.5, 0.0], [1.0, 1.0]])  # quirk G6: the average only detects


def test_projection_needs_an_average_after_it() -> None:
    for stages in ([gc.momentum_project(), LR], [gc.first_moment(), gc.momentum_project(), LR]):
        with pytest.raises(gc.ChainError, match="exp_avg"):
            gc.chain(*stages)


# Telemetry.


GYRO = ("step", "mean_cos", "projection_rate", "mean_norm_g", "mean_norm_m", "valid_cosines")


def test_telemetry_by_hand() -> None:
    optimizer = optimizer_of(gc.chain(*project(), LR), tensor([0.0, 0.0]), tensor([0.0, 0.0]), telemetry=True)
    assert set(optimizer.telemetry().values()) == {0}
    step(optimizer, tensor(FIRST), tensor([0.0, 0.0]))
    first = optimizer.telemetry()
    expected = {
        "step": 1,
        "mean_cos": 0,
        "projection_rate": 0,
        "mean_norm_g": 0.5,
        "mean_norm_m": 0,
        "valid_cosines": 0,
    }
    assert {key: first[key] for key in expected} == expected
    step(optimizer, tensor(OPPOSED), tensor([3.0, 4.0]))
    second = optimizer.telemetry()
    # Means are over both tensors, also the one that had no momentum yet (quirk G8).
    expected = {"step": 2, "mean_cos": -0.3, "projection_rate": 0.5, "mean_norm_g": 5, "mean_norm_m": 0.5}
    assert {key: second[key] for key in first if key in GYRO} == pytest.approx({**expected, "valid_cosines": 1})


def test_cosines_are_reported_during_warmup() -> None:
    optimizer = optimizer_of(gc.chain(*project(0.0, 1.0, 99), LR), tensor([0.0, 0.0]), telemetry=True)
    for g in (FIRST, OPPOSED):
        step(optimizer, tensor(g))
    report = optimizer.telemetry()
    assert report["mean_cos"] == pytest.approx(-0.6)
    assert report["projection_rate"] == 0
    assert report["valid_cosines"] == 1
