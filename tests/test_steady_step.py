"""A step that is like the last one makes few Python calls: nothing about it is found out again."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
import torch

import gradchain


def calls_of_a_step(count: int, compile: bool) -> Counter[str]:
    """The Python functions, torch's own included, that the sixth step of AdamW calls."""
    params = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(count)]
    optimizer = gradchain.optimizer("adamw", params, compile=compile)
    called: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1

    for step in range(6):
        for param in params:
            param.grad = torch.full_like(param, 0.1 * step)
        if step == 5:
            sys.setprofile(note)
        try:
            optimizer.step()
        finally:
            sys.setprofile(None)
    return called


@pytest.mark.parametrize("compile", [False, True])
def test_a_steady_step_of_one_parameter_takes_fewer_than_100_calls(compile: bool) -> None:
    called = calls_of_a_step(1, compile)
    assert called.total() < 100, called.most_common(20)


def test_a_hundred_parameters_take_hardly_more_calls_than_one() -> None:
    assert calls_of_a_step(100, False).total() < calls_of_a_step(1, False).total() + 20
