from __future__ import annotations

import gradchain as gc
from tests.transforms.steps import close, directions


def test_sign() -> None:
    (u,) = directions(gc.sign(), grads=[[3.0, -0.1, 0.0, -0.0]])
    close(u, [1.0, -1.0, 0.0, 0.0])


def test_learning_rate() -> None:
    (u,) = directions(gc.scale_by_learning_rate(0.25), grads=[[4.0, -2.0]])
    close(u, [1.0, -0.5])


def test_learning_rate_may_change_at_every_step() -> None:
    (u,) = directions(gc.scale_by_learning_rate(0.25), grads=[[4.0, -2.0]], lr=0.5)
    close(u, [2.0, -1.0])


def test_learning_rate_zero_stands_still() -> None:
    (u,) = directions(gc.scale_by_learning_rate(0.0), grads=[[4.0, -2.0]])
    close(u, [0.0, 0.0])
