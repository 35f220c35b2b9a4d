from __future__ import annotations

import math

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions

ADAM = gc.second_moment(0.5), gc.clip_by_scale(), gc.divide()


def test_a_gradient_that_outgrows_its_scale_makes_a_shorter_step() -> None:
    # v = 1, then (0.25 + 0.5 * 16) / 0.75 = 11: r = sqrt(mean of 16 / 11 and 0), which is below 1; with one element above.
    u = directions(*ADAM, grads=[[1.0], [4.0]])
    close(torch.cat(u), [1.0, 1.0])  # 4 / sqrt(11) over r, which is the same
    two = directions(*ADAM, grads=[[1.0, 1.0], [4.0, 0.0]])[1]
    close(two, [4 / math.sqrt(11), 0.0])


def test_the_decay_is_shortened_as_well() -> None:
    stages = *ADAM, gc.decoupled_decay(0.5), gc.scale_by_learning_rate(0.1)
    r = math.sqrt(16 / 11)
    moved = directions(*stages, grads=[[1.0], [4.0]], param=[3.0])[1]
    close(moved, [0.1 * (4 / math.sqrt(11)) / r + 0.1 * 0.5 * 3.0 / r])


def test_the_bound_may_be_another() -> None:
    u = directions(gc.second_moment(0.5), gc.clip_by_scale(0.25), gc.divide(), grads=[[2.0]])
    close(u[0], [0.25])


def test_the_gradient_and_not_the_momentum_is_measured() -> None:
    stages = gc.first_moment(0.9, bias_correction=False), gc.second_moment(0.5), gc.clip_by_scale(0.5), gc.divide()
    close(directions(*stages, grads=[[2.0]])[0], [0.1 * 0.5])


def test_eps_is_the_least_scale() -> None:
    # |g| = 0.1 over eps = 0.2 is 0.5, and no reason to clip; without the floor it would be 1 > 0.75.
    u = directions(gc.second_moment(0.5), gc.clip_by_scale(0.75), gc.divide(0.2), grads=[[0.1]])
    close(u[0], [0.1 / 0.3])


def test_no_gradients_make_no_steps() -> None:
    assert directions(*ADAM, grads=[[0.0, 0.0]])[0].tolist() == [0.0, 0.0]


def test_it_needs_a_scale() -> None:
    with pytest.raises(gc.ChainError, match="clip_by_scale"):
        gc.chain(gc.first_moment(), gc.clip_by_scale())
