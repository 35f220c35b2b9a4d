from __future__ import annotations

import math

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, run, slot


def test_the_distance_from_the_momentum_is_averaged() -> None:
    # m = 1 then 2.5 - 0.5 * ...: 0.5 * 2 = 1, then 0.5 + 0.5 * 4 = 2.5; s = 0.5 * 1 = 0.5, then 0.25 + 0.5 * 2.25 = 1.375
    stages = gc.first_moment(0.5), gc.belief_moment(0.5, 0.0), gc.divide()
    u, state = run(*stages, grads=[[2.0], [4.0]])
    close(torch.cat(u), [2.0 / math.sqrt(0.5 / 0.5), (2.5 / 0.75) / math.sqrt(1.375 / 0.75)])
    close(slot(state, "belief_moment.exp_avg_var"), [1.375])


def test_eps_is_added_in_the_average_at_every_step() -> None:
    _, state = run(gc.first_moment(0.0), gc.belief_moment(0.5, 0.125), gc.divide(0.125), grads=[[2.0], [4.0]])
    close(slot(state, "belief_moment.exp_avg_var"), [0.125 * 0.5 + 0.125])  # the momentum is the gradient


def test_gradients_as_expected_make_long_steps() -> None:
    expected = directions(gc.recipe("adabelief", lr=1.0), grads=[[1.0]] * 50)[-1]
    surprising = directions(gc.recipe("adabelief", lr=1.0), grads=[[1.0], [-1.0]] * 25)[-1]
    assert expected > 3 > 0.5 > surprising.abs()


def test_a_chain_without_a_momentum_is_an_error() -> None:
    with pytest.raises(gc.ChainError, match=r"belief_moment needs slot 'exp_avg'.*first_moment"):
        gc.chain(gc.belief_moment(), gc.divide())
