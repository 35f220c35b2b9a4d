"""Trainings for studies that several processes share; `python -m tests.ablation_training FOLDER` runs one."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
from torch import nn

from gradchain import ablation


def line(make_optimizer, trial):
    """Least squares, slow enough to be killed at."""
    generator = torch.Generator().manual_seed(trial.seed)
    inputs = torch.randn(32, 4, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [2.0], [3.0], [4.0]]) + torch.randn(32, 1, generator=generator)
    model = nn.Linear(4, 1)
    optimizer = make_optimizer(model)
    for step in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        trial.report(step + 1, loss=loss)
        time.sleep(0.005)
    return loss


def killer(make_optimizer, trial):
    """Takes its process down, in one of its runs."""
    if trial.seed == 1 and trial.arm != "full":
        os.kill(os.getpid(), signal.SIGKILL)
    return line(make_optimizer, trial)


def study(folder, **asked) -> ablation.Study:
    return ablation.ablate(
        "adamw", **{"train": line, "seeds": 3, "tune": 3, "baseline": "lion", "out": folder, **asked}
    )


if __name__ == "__main__":
    print(study(sys.argv[1]).resumed, flush=True)
