from __future__ import annotations

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, optimizer_of, step, tensor

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
    chain = gc.chain(gc.decoupled_decay(0.5, schedule=True), LR)
    with pytest.raises(gc.OptionError, match="reference_lr is needed"):
        chain.update(ZERO, chain.init(ZERO), ZERO)


@pytest.mark.parametrize("reference", [0.0, -1.0])
def test_a_reference_must_be_positive(reference: float) -> None:
    with pytest.raises(gc.OptionError, match="reference_lr"):
        gc.decoupled_decay(0.5, schedule=True, reference_lr=reference)  # quirk R4
    chain = gc.chain(gc.decoupled_decay(0.5, schedule=True), LR)
    param = torch.nn.Parameter(tensor(THETA))
    optimizer = gc.Optimizer([{"params": [param], "max_lr": reference}], chain, compile=False)
    with pytest.raises(gc.OptionError, match="reference_lr"):
        step(optimizer, ZERO)


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
    decay = gc.decoupled_decay(0.5).expose(gate="momentum")
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
