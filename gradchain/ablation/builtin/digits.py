"""Handwritten digits of scikit-learn."""

from __future__ import annotations

import torch
from torch import nn

from gradchain.ablation.errors import extra
from gradchain.ablation.task import Part, Task, register_task


def _digits() -> Part:
    loaded = extra("sklearn.datasets").load_digits()
    return Part(torch.tensor(loaded.data, dtype=torch.float32) / 16, torch.tensor(loaded.target))


def _digit_images() -> Part:
    flat = _digits()
    return Part(flat.inputs.reshape(-1, 1, 8, 8), flat.targets)


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


register_task(
    Task(
        "digits",
        "1797 images of handwritten digits (8 x 8), perceptron 64-128-128-10",
        data=_digits,
        network=_perceptron,
        epochs=30,
        batch_size=32,
        margin=0.01,
    )
)
register_task(
    Task(
        "digits-conv",
        "1797 images of handwritten digits (8 x 8), two convolutions and a linear layer",
        data=_digit_images,
        network=_convolutions,
        epochs=40,
        batch_size=32,
        margin=0.01,
    )
)
