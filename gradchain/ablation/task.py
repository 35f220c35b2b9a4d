"""Tasks of data: a data set and a network, both fixed by a seed, and the loop that trains one on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from gradchain._chain.named import find_place, is_place
from gradchain._chain.registry import find
from gradchain.ablation.errors import StudyError
from gradchain.ablation.trial import MakeOptimizer, Metric, Training, Trial, seen
from gradchain.errors import kind_of, shown

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}

# Streams of random numbers that must not depend on each other: each seed gets one of each.
_SPLIT, _WEIGHTS, _ORDER = range(3)

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of the network's outputs and the targets, both for all examples: a number."""


@dataclass(frozen=True)
class Part:
    """Inputs of shape (examples, ...) and their targets, of shape (examples, ...): classes, or values."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, rows: torch.Tensor) -> Part:
        """Select examples. Returns: those rows."""
        return Part(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True)
class Split:
    """Three disjoint parts of a data set."""

    train: Part
    validation: Part
    test: Part


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The fraction of examples whose class has the largest output. Returns: a number."""
    return (outputs.argmax(dim=1) == targets).double().mean()


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of classes. Returns: a number."""
    return nn.functional.cross_entropy(outputs, targets)


def batches(size: int, batch_size: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    """Draw batches, epoch after epoch, the same for every arm with this seed. Returns: the rows of each batch."""
    generator = _generator(seed, _ORDER)
    for _ in range(epochs):
        yield from torch.randperm(size, generator=generator).split(batch_size)


@dataclass(frozen=True)
class Task:
    """A network to be trained on data.

    Args:
        name: for the command line and the results file.
        summary: one line for the report.
        data: returns all inputs and targets.
        network: returns a new network; it is seeded from outside.
        epochs, batch_size: used unless a study says otherwise.
        loss: of outputs and targets, as a mean over examples; cross-entropy.
        measures: further numbers by name, of outputs and targets of the test part. With `"loss"`, its loss, and
            `"validation_loss"` they are what a run returns.
        metrics: which of them count; the first decides.
        schedule: the multiple of the learning rate, given the fraction of all steps that are done; constant if not given.
        batches: yields the rows of each batch, given the examples, the batch size, the epochs and the seed.
        dtype: of the network, `"fp32"`, `"bf16"` or `"fp64"`.
        margin: a difference of the first metric that does not matter, unless a study says otherwise (in points, if that is a
            fraction).

    Raises: StudyError: a dtype or a metric that there is not.
    """

    name: str
    summary: str
    data: Callable[[], Part]
    network: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    loss: Measure = cross_entropy
    measures: Mapping[str, Measure] = field(default_factory=lambda: {"accuracy": accuracy})
    metrics: tuple[Metric, ...] = (Metric("loss"), Metric("accuracy", "max", percent=True))
    schedule: Callable[[float], float] | None = None
    batches: Callable[[int, int, int, int], Iterator[torch.Tensor]] = batches
    dtype: str = "fp32"
    margin: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StudyError(f"dtype = {shown(self.dtype)} is not one of {', '.join(DTYPES)}. Pass one of these.")
        known = {*self.measures, "loss", "validation_loss"}
        for metric in self.metrics:
            if metric.target is None and metric.name not in known:
                raise StudyError(
                    f"task {self.name}: the metric {shown(metric.name)} is not measured; there are "
                    f"{', '.join(sorted(known))}. Add it to measures."
                )

    @property
    def budget(self) -> int:
        return self.epochs

    @property
    def unit(self) -> str:
        return "epochs"

    @property
    def tune_on(self) -> Metric:
        return Metric("validation_loss")

    @property
    def threads(self) -> int:
        """The networks are small: more threads gain nothing, and their number changes the last bits of results."""
        return 1

    def facts(self) -> dict[str, Any]:
        """What decides a run besides the chain, the seed and the epochs. Returns: values by name."""
        return {"batch_size": self.batch_size, "dtype": self.dtype}

    def split(self, seed: int) -> Split:
        """Split the data: 60 % to train, 15 % to choose hyperparameters, 25 % to test. Returns: the three parts."""
        everything = self.data()
        order = torch.randperm(len(everything), generator=_generator(seed, _SPLIT))
        first, second = round(0.6 * len(order)), round(0.75 * len(order))
        train, validation, test = order[:first], order[first:second], order[second:]
        return Split(everything.at(train), everything.at(validation), everything.at(test))

    def build(self, seed: int) -> nn.Module:
        """Build the network with the initial weights of a seed; the global random state stays. Returns: the network."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mixed(seed, _WEIGHTS))
            return self.network().to(DTYPES[self.dtype])

    def train(self, make_optimizer: MakeOptimizer, trial: Trial) -> dict[str, float]:
        """Train the network for the trial's epochs. Returns: the numbers of the run."""
        split, model = self.split(trial.seed), self.build(trial.seed)
        optimizer = make_optimizer(model)
        epochs = trial.budget or self.epochs
        scheduler = self._scheduler(optimizer, len(split.train), epochs)
        steps = max(1, math.ceil(len(split.train) / self.batch_size))
        for step, rows in enumerate(self.batches(len(split.train), self.batch_size, epochs, trial.seed), 1):
            loss = self._loss(model, split.train.at(rows))
            value = loss.item()
            trial.report(step, training_loss=value)
            if not math.isfinite(value):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            if step % steps == 0:
                trial.report(step, validation_loss=self._evaluated(model, split.validation, optimizer)["loss"])
        found = self._evaluated(model, split.test, optimizer)
        return {**found, "validation_loss": self._evaluated(model, split.validation, optimizer)["loss"]}

    def _scheduler(self, optimizer: torch.optim.Optimizer, examples: int, epochs: int) -> Any:
        if self.schedule is None:
            return None
        schedule, total = self.schedule, epochs * math.ceil(examples / self.batch_size)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / total))

    def _loss(self, model: nn.Module, part: Part) -> torch.Tensor:
        return self.loss(self._outputs(model, part), part.targets)

    def _outputs(self, model: nn.Module, part: Part) -> torch.Tensor:
        """In fp32 at least."""
        outputs = model(part.inputs.to(DTYPES[self.dtype]) if part.inputs.is_floating_point() else part.inputs)
        return outputs.float() if self.dtype == "bf16" else outputs

    @torch.no_grad()
    def _evaluated(self, model: nn.Module, part: Part, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        training = model.training
        with seen(optimizer):
            outputs = self._outputs(model.eval(), part)
        model.train(training)
        measured = {name: float(measure(outputs, part.targets)) for name, measure in self.measures.items()}
        return {**measured, "loss": float(self.loss(outputs, part.targets))}


def _mixed(seed: int, stream: int) -> int:
    return 1000 * seed + stream


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mixed(seed, stream))


# By name.

AnyTask = TypeVar("AnyTask", Task, Training)

_tasks: dict[str, Task | Training] = {}


def register_task(task: AnyTask) -> AnyTask:
    """Register a task by its name. Returns: the task."""
    _tasks[task.name] = task
    return task


def find_task(name: str) -> Task | Training:
    """Look up a task by its name, or by where it is: `module:name`. Returns: the task.

    Raises: StudyError: no such task.
    """
    if isinstance(name, str) and is_place(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = find_place(name)
        if not isinstance(found, (Task, Training)):
            raise StudyError(f"{name} is {kind_of(found)}; name a gradchain.ablation.Task.")
        return found
    return find("task", name, _tasks)


def tasks() -> tuple[str, ...]:
    """List the tasks. Returns: their names, sorted."""
    return tuple(sorted(_tasks))


def with_settings(
    task: Task | Training, *, epochs: int | None, batch_size: int | None, dtype: str | None, budget: int | None
) -> Task | Training:
    """A task with other settings.

    Raises: StudyError: it is a function, which decides for itself.
    """
    asked = {"epochs": epochs, "batch_size": batch_size, "dtype": dtype}
    given = {name: value for name, value in asked.items() if value is not None}
    if isinstance(task, Training):
        if given:
            raise StudyError(
                f"{', '.join(given)}: the training {task.name} decides for itself. Leave it out; budget is passed on."
            )
        return task if budget is None else replace(task, budget=budget)
    if budget is not None and epochs is not None:
        raise StudyError(f"budget = {budget} and epochs = {epochs} are the same for the task {task.name}; pass one.")
    return replace(task, **({"epochs": budget} if budget is not None else {}), **given)
