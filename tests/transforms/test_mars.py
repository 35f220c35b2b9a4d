from __future__ import annotations

import torch

import gradchain as gc
from tests.transforms.steps import close, directions, run, slot


def test_the_change_of_the_gradient_is_added() -> None:
    # 0.5 * 0.8 / 0.2 = 2 times the change; there is none before the second step.
    u, state = run(gc.mars(0.5, 0.8), grads=[[3.0], [5.0], [4.0]])
    close(torch.cat(u), [3.0, 9.0, 2.0])
    close(slot(state, "mars.prev_grad"), [4.0])


def test_the_approximate_first_step_takes_the_gradient_before_it_for_zero() -> None:
    close(torch.cat(directions(gc.mars(0.5, 0.8, initial="zero"), grads=[[3.0], [5.0]])), [9.0, 9.0])
    # Muon_adv: 0.025 * 0.95 / 0.05
    close(directions(gc.mars(initial="zero"), grads=[[2.0]])[0], [2.0 * 1.475])


def test_what_came_in_is_kept_and_not_what_was_clipped_or_corrected() -> None:
    u = directions(gc.mars(0.5, 0.8), gc.clip_by_norm(1.0), grads=[[3.0, 4.0], [3.0, 4.0], [0.0, 4.0]])
    close(torch.stack(u), [[0.6, 0.8], [0.6, 0.8], [-6 / 52**0.5, 4 / 52**0.5]])


def test_the_moments_after_it_average_the_corrected_gradient() -> None:
    u = directions(gc.mars(0.5, 0.8), gc.first_moment(0.0), gc.second_moment(0.0), gc.divide(), grads=[[3.0], [1.0]])
    close(torch.cat(u), [1.0, -1.0])


def test_without_gamma_it_is_adamw() -> None:
    options = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.1}
    grads = [[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2]]
    mars = directions(gc.recipe("mars-adamw", gamma=0.0, **options), grads=grads, param=[1.0, 2.0])
    adamw = directions(gc.recipe("adamw", **options), grads=grads, param=[1.0, 2.0])
    close(torch.stack(mars), torch.stack(adamw).tolist())


def test_beta_goes_by_the_name_that_the_momentum_has() -> None:
    chain = gc.chain(gc.mars(beta=0.9).rename(beta="momentum"), gc.heavy_ball(0.9), gc.scale_by_learning_rate(0.1))
    assert chain.hyperparameters["momentum"] == 0.9
    assert chain.hyperparameters["mars_gamma"] == 0.025
