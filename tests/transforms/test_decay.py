from __future__ import annotations

import math

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, optimizer_of, run, slot, step, tensor

LR = gc.scale_by_learning_rate(0.1)
ZERO = tensor([0.0, 0.0])
THETA = [2.0, -4.0]


def test_add_decayed_weights_goes_into_the_gradient() -> None:
    (u,) = directions(gc.add_decayed_weights(0.5), gc.sign(), grads=[[0.5, 0.5]], param=THETA)
    close(u, [1.0, -1.0])  # sign of 1.5 and -1.5


def test_decoupled_decay_passes_by_the_direction() -> None:
    (u,) = directions(gc.decoupled_decay(0.5), gc.sign(), LR, grads=[[0.5, 0.5]], param=THETA)
    close(u, [0.1 + 0.1 * 0.5 * 2, 0.1 - 0.1 * 0.5 * 4])


@pytest.mark.parametrize("before", [True, False])
def test_decoupled_decay_may_stand_anywhere(before: bool) -> None:
    decay = gc.decoupled_decay(0.5)
    stages = (decay, LR) if before else (LR, decay)
    (u,) = directions(*stages, grads=[[1.0, 1.0]], param=THETA)
    close(u, [0.1 + 0.1, 0.1 - 0.2])


def test_decays_add_up() -> None:
    stages = (gc.decoupled_decay(0.5), gc.decoupled_decay(0.25, name="more"), LR)
    (u,) = directions(*stages, grads=[[0.0, 0.0]], param=THETA)
    close(u, [0.1 * 0.75 * 2, -0.1 * 0.75 * 4])


def test_schedule_decays_by_the_ratio_to_the_reference() -> None:
    decay = gc.decoupled_decay(0.5, schedule=True, reference_lr=0.4)
    (u,) = directions(decay, LR, grads=[[0.0, 0.0]], param=THETA)
    close(u, [0.25 * 0.5 * 2, -0.25 * 0.5 * 4])


@pytest.mark.parametrize(
    ("extra", "reference"),
    [({}, 0.1), ({"initial_lr": 0.2}, 0.2), ({"max_lr": 0.4}, 0.4), ({"initial_lr": 0.2, "max_lr": 0.4}, 0.4)],
    ids=str,
)
def test_schedule_finds_its_reference(extra: dict[str, float], reference: float) -> None:
    # max_lr, else initial_lr, else the lr that the optimizer was built with (quirk R1: not that of the first step).
    chain = gc.chain(gc.decoupled_decay(0.5, schedule=True), LR)
    param = torch.nn.Parameter(tensor(THETA))
    optimizer = gc.Optimizer([{"params": [param], **extra}], chain, compile=False)
    optimizer.param_groups[0]["lr"] = 0.05
    (after,) = step(optimizer, ZERO)
    close(after, [theta * (1 - 0.05 / reference * 0.5) for theta in THETA])


def test_a_step_writes_no_initial_lr_into_the_group() -> None:
    # Quirk R2: the published Rose does, and later schedulers inherit it.
    for wd_schedule in (False, True):
        optimizer = optimizer_of(gc.recipe("rose", wd_schedule=wd_schedule), tensor(THETA))
        step(optimizer, ZERO)
        assert "initial_lr" not in optimizer.param_groups[0]


def test_schedule_without_any_reference_is_an_error() -> None:
    # The chain's own learning rate is one, unless it is 0.
    chain = gc.chain(gc.decoupled_decay(0.5, schedule=True), gc.scale_by_learning_rate(0.0))
    with pytest.raises(gc.OptionError, match="reference_lr is needed"):
        chain.update(ZERO, chain.init(ZERO), ZERO, lr=0.1)


@pytest.mark.parametrize("reference", [0.0, -1.0])
def test_a_reference_must_be_positive(reference: float) -> None:
    with pytest.raises(gc.OptionError, match="reference_lr"):
        gc.decoupled_decay(0.5, schedule=True, reference_lr=reference)  # quirk R4
    chain = gc.chain(gc.decoupled_decay(0.5, schedule=True), LR)
    param = torch.nn.Parameter(tensor(THETA))
    with pytest.raises(gc.OptionError, match=r"group 0: .*reference_lr"):
        gc.Optimizer([{"params": [param], "max_lr": reference}], chain, compile=False)


def test_an_integer_reference_is_a_number() -> None:
    # Quirk R4: the published Rose takes wd_schedule=1 for True.
    chain = gc.recipe("rose", lr=0.5, wd_schedule=1, weight_decay=0.5)
    optimizer = optimizer_of(chain, tensor(THETA))
    optimizer.param_groups[0]["lr"] = 0.25
    (after,) = step(optimizer, ZERO)
    close(after, [theta * (1 - 0.25 / 1 * 0.5) for theta in THETA])


def test_clamp_wipes_but_never_flips() -> None:
    # Quirk R5: kappa * lambda >= 1 sets the parameter to 0.
    for clamp, left in ((True, 0.0), (False, -0.5)):
        decay = gc.decoupled_decay(15.0, clamp=clamp)
        (u,) = directions(decay, LR, grads=[[0.0, 0.0]], param=THETA)
        close(tensor(THETA) - u, [left * theta for theta in THETA])


def test_clamp_leaves_weaker_decays_alone() -> None:
    (u,) = directions(gc.decoupled_decay(9.0, clamp=True), LR, grads=[[0.0, 0.0]], param=THETA)
    close(tensor(THETA) - u, [0.1 * theta for theta in THETA])


def test_the_gate_is_another_hyperparameter() -> None:
    decay = gc.decoupled_decay(0.5).rename(gate="momentum")
    for momentum, expected in ((0.0, [0.0, 0.0]), (0.9, [0.1, -0.2])):
        (u,) = directions(decay, gc.heavy_ball(momentum), LR, grads=[[0.0, 0.0]], param=THETA)
        close(u, expected)


@pytest.mark.parametrize("independent", [False, True])
def test_adams_gates_vector_decay(independent: bool) -> None:
    # Quirk A3: weight_decay = 0 also stops the decay of vectors.
    options = {"lr": 0.1, "scalar_vector_weight_decay": 0.5, "master_dtype": "fp64"}
    for weight_decay in (0.0, 0.3):
        chain = gc.recipe("adams", weight_decay=weight_decay, independent_vector_decay=independent, **options)
        (u,) = directions(chain, grads=[[0.0, 0.0]], param=THETA)
        on = independent or weight_decay
        close(u, [0.1, -0.2] if on else [0.0, 0.0])


def test_groups_have_their_own_decay() -> None:
    params = [torch.nn.Parameter(tensor(THETA)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0, "lr": 0.3}]
    optimizer = gc.Optimizer(groups, gc.chain(gc.decoupled_decay(0.5), LR), compile=False)
    first, second = step(optimizer, ZERO, ZERO)
    close(first, [theta * 0.95 for theta in THETA])
    close(second, THETA)


def test_decay_works_on_the_promoted_parameter() -> None:
    # In bfloat16 one per cent of a spacing is lost; added up in a master it is not.
    chain = gc.chain(gc.master_weights(), gc.decoupled_decay(0.01), LR)
    optimizer = optimizer_of(chain, torch.ones(1, dtype=torch.bfloat16))
    for _ in range(50):
        (after,) = step(optimizer, torch.zeros(1, dtype=torch.bfloat16))
    assert float(after) == pytest.approx(0.999**50, rel=2**-8)
    assert float(after) != 1


# By fan-in, and free of the learning rate.


@pytest.mark.parametrize(("shape", "fan_in"), [((), 1), ((3,), 1), ((2, 4), 4), ((4, 3, 2, 2), 12), ((5, 1), 1)])
def test_fan_in_is_all_axes_but_the_first(shape: tuple[int, ...], fan_in: int) -> None:
    theta = torch.full(shape, 2.0).tolist()
    (u,) = directions(gc.decoupled_decay(0.5, fan_in=True), LR, grads=[torch.zeros(shape).tolist()], param=theta)
    close(u, torch.full(shape, 0.1 * 0.5 * 2 / fan_in, dtype=torch.float64).tolist())


def test_schedule_frees_the_decay_from_the_learning_rate() -> None:
    # adv_optm's true decoupling, eta / eta_0: what counts is the ratio to the rate that the optimizer was built with.
    for lr in (0.1, 0.003):
        stages = gc.decoupled_decay(0.5, schedule=True), gc.scale_by_learning_rate(lr)
        optimizer = optimizer_of(gc.chain(*stages), tensor(THETA))
        optimizer.param_groups[0]["lr"] = lr / 2
        (after,) = step(optimizer, ZERO)
        close(after, [0.75 * theta for theta in THETA])


# Geometric decay.


def test_geometric_decay_pulls_all_elements_alike() -> None:
    (u,) = directions(gc.geometric_decay(0.5), LR, grads=[[0.0] * 4], param=[3.0, -1.0, 0.0, 1.0])
    pull = 0.1 * 0.5 * math.sqrt(11 / 4)
    close(u, [pull, -pull, 0.0, pull])


def test_geometric_decay_by_the_certainty_of_the_momentum() -> None:
    # The momentum before the second step is 0.5 * sign: (0.5, 0, 0.5).
    stages = gc.sign(), gc.first_moment(0.5, bias_correction=False), gc.scale_by_learning_rate(0.0)
    decay = gc.geometric_decay(0.5, schedule=True, reference_lr=1.0, snr=True)
    theta, grads = [3.0, -1.0, 0.0], [[1.0, 0.0, 1.0], [1.0, 1.0, -1.0]]
    _, u = directions(*stages, decay, grads=grads, param=theta, lr=1e-9)
    w = [math.atan2(1, math.sqrt(0.75)), -math.atan2(1, 1), 0.0]
    length = math.hypot(*w)
    rest = directions(*stages, grads=grads, param=theta, lr=1e-9)[1]
    close((u - rest) / 1e-9, [0.5 * x * math.sqrt(10) / length for x in w], rtol=1e-6)


def test_geometric_decay_of_zeros_is_nothing() -> None:
    stages = gc.sign(), gc.first_moment(0.5, bias_correction=False), LR, gc.geometric_decay(0.5, snr=True)
    (u,) = directions(*stages, grads=[[0.0, 0.0]])
    close(u, [0.0, 0.0])


def test_snr_needs_a_momentum() -> None:
    for stage in (gc.geometric_decay(snr=True), gc.centered_decay(geometric=True, snr=True)):
        with pytest.raises(gc.ChainError, match="exp_avg"):
            gc.chain(LR, stage)
    gc.chain(gc.geometric_decay(), gc.first_moment(), LR)  # which otherwise may come later
    with pytest.raises(gc.OptionError, match="geometric=True"):
        gc.centered_decay(snr=True)


# Centered decay.


def moved(*stages: gc.Stage, role: str | None = None) -> torch.Tensor:
    """What a step with gradient 0 takes from a parameter that was anchored at THETA and has moved by (1, -2) since."""
    group = {"params": [torch.nn.Parameter(tensor(THETA))], "role": role}
    optimizer = gc.Optimizer([group], gc.chain(*stages), compile=False)
    step(optimizer, ZERO)
    (param,) = optimizer.param_groups[0]["params"]
    with torch.no_grad():
        param.copy_(tensor([3.0, -6.0]))
    before = param.detach().clone()
    (after,) = step(optimizer, ZERO)
    return before - after


@pytest.mark.parametrize("anchor", gc.storage.ANCHORS)
def test_centered_decay_pulls_back_to_the_start(anchor: str) -> None:
    # 2 and -4 are exact in every anchor.
    close(moved(LR, gc.centered_decay(0.5, anchor=anchor)), [0.05, -0.1], rtol=1e-6)


def test_centered_decay_has_the_strengths_of_the_ordinary_one() -> None:
    close(moved(LR, gc.centered_decay(0.5, schedule=True, reference_lr=0.4)), [0.125, -0.25])
    close(moved(LR, gc.centered_decay(99.0, clamp=True)), [1.0, -2.0])  # all the way back, and no farther
    chain = gc.chain(gc.decoupled_decay(0.1), LR, gc.centered_decay(0.2))
    assert chain.hyperparameters == {"weight_decay": 0.1, "lr": 0.1, "centered_wd": 0.2}


def test_centered_decay_sees_what_earlier_decays_leave() -> None:
    # Quirk C5. The ordinary decay here takes a tenth, so the second sees (2.7, -5.4).
    close(moved(gc.decoupled_decay(1.0), LR, gc.centered_decay(0.5)), [0.3 + 0.05 * 0.7, -0.6 - 0.05 * 1.4])
    close(moved(gc.centered_decay(0.5), gc.decoupled_decay(1.0), LR), [0.3 + 0.05, -0.6 - 0.1])


@pytest.mark.parametrize("first", [False, True])
def test_geometric_centered_decay(first: bool) -> None:
    # Quirk N14: it needs no ordinary decay beside it. Nor does it see one: targets are of the parameter before any.
    ordinary = [gc.geometric_decay(1.0)] if first else []
    pull = 0.05 * math.sqrt(5 / 2)
    other = 0.1 * math.sqrt(45 / 2) if first else 0.0
    # The first step already moves the parameter if there is another decay, but the second starts from (3, -6).
    close(moved(*ordinary, LR, gc.centered_decay(0.5, geometric=True)), [other + pull, -other - pull])


@pytest.mark.parametrize("role", ["lora_A", "lora_B", "oft", "dora_scale", "vector", None])
def test_adapters_have_no_anchor(role: str | None) -> None:
    anchored = role not in ("lora_A", "lora_B", "oft")
    close(moved(LR, gc.centered_decay(0.5), role=role), [0.05, -0.1] if anchored else [0.0, 0.0])
    close(moved(LR, gc.centered_decay(0.5, adapters=True), role=role), [0.05, -0.1])
    state = gc.chain(LR, gc.centered_decay()).route("", ZERO, role).init(ZERO)
    assert bool(state) == anchored


def test_the_anchor_is_not_written() -> None:
    _, state = run(LR, gc.centered_decay(0.5), grads=[[1.0, 1.0]] * 3, param=THETA)
    close(slot(state, "centered_decay.anchor_param"), THETA)


# Cautious and Fisher decay.


def test_cautious_decay_masks_what_disagrees_with_the_update() -> None:
    grads, theta = [[1.0, -1.0, 0.0, 1.0]], [2.0, 2.0, 2.0, -2.0]
    stages = LR, gc.cautious_decay(), gc.decoupled_decay(0.5)
    (u,) = directions(*stages, grads=grads, param=theta)
    close(u, [0.1 + 0.1, -0.1, 0.1, 0.1])  # an update of 0 agrees with all


def test_cautious_decay_leaves_earlier_decays_alone() -> None:
    grads, theta = [[-1.0, -1.0]], [2.0, -2.0]
    stages = gc.decoupled_decay(0.5), LR, gc.cautious_decay(), gc.decoupled_decay(0.5, name="more")
    (u,) = directions(*stages, grads=grads, param=theta)
    close(u, [-0.1 + 0.1, -0.1 - 0.2])


def test_cautious_decay_compares_each_with_its_own_target() -> None:
    # The anchor is (2, -4); from (3, -6) both point outwards, from (1, -6) the first points inwards.
    for start, kept in (([3.0, -6.0], [True, False]), ([1.0, -6.0], [False, False])):
        chain = gc.chain(LR, gc.cautious_decay(), gc.centered_decay(0.5))
        theta = tensor(start)
        updates, _ = chain.update(tensor([1.0, 1.0]), chain.init(tensor(THETA)), theta)
        pulled = [0.05 * (x - a) if k else 0.0 for x, a, k in zip(start, THETA, kept)]
        close(-updates, [0.1 + x for x in pulled])


@pytest.mark.parametrize("stage", [gc.cautious_decay(), gc.fisher_decay()], ids=repr)
def test_steering_needs_something_to_steer(stage: gc.Stage) -> None:
    scaled = (gc.second_moment(), stage, gc.divide(), LR)
    with pytest.raises(gc.ChainError, match="steers the decay"):
        gc.chain(gc.decoupled_decay(), *scaled)
    gc.chain(*scaled, gc.decoupled_decay())


def test_fisher_decay_needs_a_scale() -> None:
    with pytest.raises(gc.ChainError, match="pending scale"):
        gc.chain(gc.fisher_decay(), LR, gc.decoupled_decay())


def weights(
    *stages: gc.Stage, fisher: gc.Stage, grads: list[float], theta: list[float], **hyper: float
) -> torch.Tensor:
    """The factors of the decay: what `fisher` makes of it over what it is without."""
    ends = LR, gc.decoupled_decay(0.5)
    (plain,) = directions(*stages, *ends, grads=[grads], param=[0.0] * len(grads), **hyper)
    (u,) = directions(stages[0], fisher, *stages[1:], *ends, grads=[grads], param=theta, **hyper)
    return (u - plain) / (0.05 * tensor(theta))


MOMENT = gc.second_moment(0.9)  # at the first step D = |g|


def test_fisher_decay_by_rms() -> None:
    # f = 1 / (D + eps) = (2, 0.5, 1): rms(theta f) = sqrt((16 + 1 + 1) / 3).
    f, rms = [2.0, 0.5, 1.0], math.sqrt(6)
    found = weights(MOMENT, gc.divide(0.1), fisher=gc.fisher_decay(), grads=[0.4, -1.9, 0.9], theta=[2.0, -2.0, 1.0])
    close(found, [x / rms for x in f], rtol=1e-9)
    small = weights(MOMENT, gc.divide(0.1), fisher=gc.fisher_decay(), grads=[0.4, -1.9, 0.9], theta=[0.2, -0.2, 0.1])
    close(small, f, rtol=1e-9)  # an rms below 1 blows nothing up


def test_fisher_decay_by_arctangent() -> None:
    stages = MOMENT, gc.divide(0.1)
    found = weights(*stages, fisher=gc.fisher_decay("atan2"), grads=[1.0, -2.0, 0.0], theta=[2.0, -2.0, 1.0])
    close(found, [4 / math.pi * math.atan2(1, d) for d in (1.0, 2.0, 0.0)], rtol=1e-9)


@pytest.mark.parametrize(
    ("resolve", "eps"),
    [
        (gc.divide(0.25), 0.25),
        (gc.divide(None), 0.5),
        (gc.divide(None, n_layers=4.0), 0.125),
        (gc.atan2_scale(), 0.5),
    ],
    ids=repr,
)
def test_fisher_decay_takes_the_eps_of_the_chain(resolve: gc.Stage, eps: float) -> None:
    theta = [0.01] * 4
    found = weights(MOMENT, resolve, fisher=gc.fisher_decay(), grads=[1.0] * 4, theta=theta)
    close(found, [1 / (1 + eps)] * 4, rtol=1e-9)


def test_fisher_decay_of_dead_elements_is_bounded() -> None:
    for eps in (0.0, 1e-8):
        for dtype in (torch.float16, torch.float32):
            chain = gc.chain(MOMENT, gc.fisher_decay(), gc.divide(eps), LR, gc.decoupled_decay(0.5))
            optimizer = optimizer_of(chain, torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=dtype))
            (after,) = step(optimizer, torch.tensor([0.0, 0.0, 0.0, 0.5], dtype=dtype))
            assert after.isfinite().all()
            assert (after[:3] >= 0).all()
