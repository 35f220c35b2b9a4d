from __future__ import annotations

import math

import gradchain as gc
from tests.transforms.steps import close, directions

SQUARE = gc.second_moment(0.0, bias_correction=False)  # the pending scale is |g|


def test_divide() -> None:
    (u,) = directions(SQUARE, gc.divide(1.0), grads=[[3.0, -1.0, 0.0]])
    close(u, [3 / 4, -1 / 2, 0.0])


def test_divide_by_exactly_zero_passes() -> None:
    # All slices of a constant matrix have range 0 (quirk R12): the raw gradient, however large.
    (u,) = directions(gc.range_normalize(), gc.divide(), grads=[[[5.0, 5.0], [1e6, 1e6]]])
    close(u, [[5.0, 5.0], [1e6, 1e6]])


def test_divide_eps_belongs_to_the_divisor() -> None:
    (u,) = directions(gc.range_normalize(), gc.divide(0.5), grads=[[[5.0, 5.0], [1.0, 0.5]]])
    close(u, [[10.0, 10.0], [1.0, 0.5]])


def test_atan2() -> None:
    (u,) = directions(SQUARE, gc.atan2_scale(), grads=[[3.0, -1e-30, 0.0]])
    close(u, [math.pi / 4, -math.pi / 4, 0.0])  # atan2(x, |x|); blind to units; atan2(0, 0) = 0


def test_atan2_a_and_b() -> None:
    (u,) = directions(SQUARE, gc.atan2_scale(a=2.0, b=0.5), grads=[[3.0, -2.0]])
    close(u, [2 * math.atan(2), -2 * math.atan(2)])


def test_atan2_is_bounded_where_the_scale_vanishes() -> None:
    # The moment of an old gradient over a second moment that has decayed to nothing.
    stages = (gc.first_moment(0.9, bias_correction=False), gc.second_moment(0.0), gc.atan2_scale(a=1.5))
    _, u = directions(*stages, grads=[[7.0], [0.0]])
    close(u, [1.5 * math.pi / 2])


def test_atan2_of_slices() -> None:
    (u,) = directions(gc.range_normalize(), gc.atan2_scale(), grads=[[[1.0, 3.0], [0.0, -1.0]]])
    close(u, [[math.atan(1 / 2), math.atan(3 / 2)], [0.0, -math.pi / 4]])


def test_adam_atan2_takes_steps_of_the_learning_rate() -> None:
    chain = gc.recipe("adam-atan2", lr=0.1, weight_decay=0.0, a=4 / math.pi)
    for u in directions(chain, grads=[[5.0]] * 3):
        close(u, [0.1])
