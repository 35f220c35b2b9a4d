"""Two tables of scikit-learn: a regression and a classification, both small and of real measurements."""

from __future__ import annotations

import torch
from torch import nn

from gradchain.ablation.errors import extra
from gradchain.ablation.task import Part, Task, register_task
from gradchain.ablation.trial import Metric


def standardised(values: torch.Tensor) -> torch.Tensor:
    """Each column less its mean, over its standard deviation. Returns: the table in single precision."""
    return ((values - values.mean(0)) / values.std(0)).float()


def diabetes() -> Part:
    """442 patients: ten measurements, and how the disease has progressed a year later. Returns: them, standardised."""
    loaded = extra("sklearn.datasets").load_diabetes(scaled=False)
    return Part(standardised(torch.tensor(loaded.data)), standardised(torch.tensor(loaded.target)))


def breast_cancer() -> Part:
    """569 tumours: thirty measurements, and whether they are benign. Returns: them, the measurements standardised."""
    loaded = extra("sklearn.datasets").load_breast_cancer()
    return Part(standardised(torch.tensor(loaded.data)), torch.tensor(loaded.target))


def mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean squared error of outputs `(examples, 1)`. Returns: a number."""
    return nn.functional.mse_loss(outputs.squeeze(1), targets)


def rmse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The root of the mean squared error. Returns: a number, in the targets' standard deviations."""
    return mse(outputs, targets).sqrt()


def r2(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The fraction of the targets' variance that is explained. Returns: a number of at most 1."""
    return 1 - mse(outputs, targets) / targets.var(correction=0)


def _regression() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))


def _classification() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


register_task(
    Task(
        "diabetes",
        "progression of diabetes in 442 patients (10 measurements), perceptron 10-32-32-1",
        data=diabetes,
        network=_regression,
        epochs=40,
        batch_size=32,
        loss=mse,
        measures={"rmse": rmse, "r2": r2},
        metrics=(Metric("rmse"), Metric("r2", "max")),
    )
)
register_task(
    Task(
        "breast-cancer",
        "569 breast tumours, malignant or benign (30 measurements), perceptron 30-32-32-2",
        data=breast_cancer,
        network=_classification,
        epochs=20,
        batch_size=32,
        metrics=(Metric("loss"), Metric("accuracy", "max", percent=True)),
    )
)
