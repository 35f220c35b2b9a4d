"""Tasks: a small data set and a small network, both fixed by a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from gradchain._chain.named import find_place, is_place
from gradchain._chain.registry import find
from gradchain.ablation.errors import StudyError, extra
from gradchain.errors import kind_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}

# Streams of random numbers that must not depend on each other: each seed gets one of each.
_SPLIT, _WEIGHTS, _ORDER = range(3)


@dataclass(frozen=True)
class Part:
    """Inputs of shape (examples, ...) and their classes, of shape (examples,)."""

    inputs: torch.Tensor
    classes: torch.Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, rows: torch.Tensor) -> Part:
        """Select examples. Returns: those rows."""
        return Part(self.inputs[rows], self.classes[rows])


@dataclass(frozen=True)
class Split:
    """Three disjoint parts of a data set."""

    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Task:
    """A classification problem.

    Args:
        name: for the command line and the results file.
        summary: one line for the report.
        data: returns all inputs and classes.
        network: returns a new network; it is seeded from outside.
        epochs, batch_size: used unless a study says otherwise.
    """

    name: str
    summary: str
    data: Callable[[], Part]
    network: Callable[[], nn.Module]
    epochs: int
    batch_size: int

    def split(self, seed: int) -> Split:
        """Split the data: 60 % to train, 15 % to choose learning rates, 25 % to test. Returns: the three parts."""
        everything = self.data()
        order = torch.randperm(len(everything), generator=_generator(seed, _SPLIT))
        first, second = round(0.6 * len(order)), round(0.75 * len(order))
        train, validation, test = order[:first], order[first:second], order[second:]
        return Split(everything.at(train), everything.at(validation), everything.at(test))

    def build(self, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Build the network with the initial weights of a seed; the global random state stays. Returns: the network."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mixed(seed, _WEIGHTS))
            return self.network().to(dtype)


def batches(size: int, batch_size: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    """Draw batches, epoch after epoch, the same for every arm with this seed. Returns: the rows of each batch."""
    generator = _generator(seed, _ORDER)
    for _ in range(epochs):
        yield from torch.randperm(size, generator=generator).split(batch_size)


def _mixed(seed: int, stream: int) -> int:
    return 1000 * seed + stream


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mixed(seed, stream))


# Ours.

_tasks: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Register a task by its name. Returns: the task."""
    _tasks[task.name] = task
    return task


def find_task(name: str) -> Task:
    """Look up a task by its name, or by where it is: `module:name`. Returns: the task.

    Raises: StudyError: no such task.
    """
    if isinstance(name, str) and is_place(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = find_place(name)
        if not isinstance(found, Task):
            raise StudyError(f"{name} is {kind_of(found)}; name a gradchain.ablation.Task.")
        return found
    return find("task", name, _tasks)


def tasks() -> tuple[str, ...]:
    """List the tasks. Returns: their names, sorted."""
    return tuple(sorted(_tasks))


def _digits() -> Part:
    loaded = extra("sklearn.datasets").load_digits()
    return Part(torch.tensor(loaded.data, dtype=torch.float32) / 16, torch.tensor(loaded.target))


def _digit_images() -> Part:
    flat = _digits()
    return Part(flat.inputs.reshape(-1, 1, 8, 8), flat.classes)


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
    )
)
