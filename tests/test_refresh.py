"""What is computed every so many steps: when it is due, for a step that the host counts and for one that the device does."""

from __future__ import annotations

import pytest
import torch

import gradchain


@pytest.mark.parametrize("every", [1, 2, 7])
def test_the_first_step_is_due_and_each_that_many_later(every: int) -> None:
    for step in range(1, 30):
        expected = step % every == 1 % every
        assert gradchain.refresh_due(step, every) == (1.0 if expected else None)
        on_device = gradchain.refresh_due(torch.tensor(float(step)), every)
        assert on_device.shape == ()
        assert on_device == float(expected)


def test_the_device_is_not_asked() -> None:
    assert gradchain.refresh_due(torch.empty((), device="meta"), 3).is_meta
