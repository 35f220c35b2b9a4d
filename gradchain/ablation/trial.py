"""What a study asks of a training, and what it tells it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from gradchain._optim.optimizer import Optimizer
from gradchain.ablation.errors import StudyError
from gradchain.errors import kind_of, shown

Goal = Literal["min", "max"]
GOALS = ("min", "max")

TUNING_SEEDS = 1_000_000
"""Seeds from here on are for choosing hyperparameters; those below it, for results."""


@dataclass(frozen=True)
class Metric:
    """A number that a training returns, and which way is better.

    Args:
        name: as in the dict that the training returns.
        goal: `"min"` or `"max"`.
        percent: a fraction, shown in percent; differences and margins are in points.
        target: if given, the metric is *time to target*: the first step at which the training reported `of` at `target` or
            better. Runs that never get there count as their last step, which makes a difference smaller than it is.
        of: the name of the reported curve, for a `target`; `goal` is then that of the curve.

    Raises: StudyError: a goal that is none, or a target without its curve.
    """

    name: str
    goal: Goal = "min"
    percent: bool = False
    target: float | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise StudyError(f"metric {shown(self.name)}: goal = {shown(self.goal)} is neither 'min' nor 'max'.")
        if (self.target is None) != (self.of is None):
            raise StudyError(f"metric {shown(self.name)}: a target and the curve it is read `of` are given together.")

    @property
    def higher_is_better(self) -> bool:
        return self.goal == "max" and self.target is None

    @property
    def factor(self) -> float:
        """From the number to what is shown."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """What differences and margins are in."""
        return "points" if self.percent else "steps" if self.target is not None else ""


def time_to(of: str, target: float, goal: Goal = "min") -> Metric:
    """Make the metric of how many steps a run takes until its curve `of` reaches a target. Returns: the metric.

    >>> time_to("validation_loss", 1.5).name
    'steps to validation_loss <= 1.5'
    """
    return Metric(f"steps to {of} {'<=' if goal == 'min' else '>='} {target:g}", goal, target=target, of=of)


class Pruned(Exception):
    """Raised by `Trial.report` when a tuning run is not worth finishing. Let it pass."""


@dataclass
class Trial:
    """One run, as its training sees it.

    Args:
        seed: decides data, weights and batches; equal for all arms. The global generators are seeded with it.
        arm: the label of the arm.
        budget: how long to train, in the unit of the training; `None`: as long as it likes.
        folder: an empty folder of this run's own, for checkpoints; it is removed when the run has ended.
    """

    seed: int
    arm: str
    budget: int | None
    folder: Path
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])
    prune: Callable[[float, str, float], bool] | None = None

    def report(self, step: float, **metrics: float | torch.Tensor) -> None:
        """Record points of curves. A tensor is read, which waits for its device.

        Raises: Pruned: this is a tuning run that falls behind.
        """
        for name, value in metrics.items():
            number = as_number(name, value)
            self.curves.setdefault(name, []).append((float(step), number))
            if self.prune is not None and self.prune(step, name, number):
                raise Pruned(f"{name} = {number:g} at step {step:g}")


class MakeOptimizer(Protocol):
    """Makes the optimizer of an arm."""

    def __call__(self, model: torch.nn.Module | Iterable[Any], **options: Any) -> Optimizer:
        """Make it, for a model, parameters or groups; options are those of `gradchain.Optimizer`. Returns: the optimizer."""
        ...


TrainFunction = Callable[[MakeOptimizer, Trial], "Mapping[str, float] | float"]


class Trainable(Protocol):
    """What a study can run: a `Task`, or a `Training` made of a function."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The first is the one that verdicts are on."""
        ...

    @property
    def budget(self) -> int | None: ...
    @property
    def unit(self) -> str:
        """Of the budget: `"steps"`, `"epochs"`."""
        ...

    @property
    def tune_on(self) -> Metric:
        """What hyperparameters are chosen by."""
        ...

    @property
    def threads(self) -> int | None:
        """Of torch, while it trains; `None` leaves them as they are."""
        ...

    def facts(self) -> dict[str, Any]:
        """Whatever else decides the outcome: part of the key under which runs are kept. Returns: plain data by name."""
        ...

    def train(self, make_optimizer: MakeOptimizer, trial: Trial) -> Mapping[str, float] | float:
        """Train. Returns: a number, or numbers by name."""
        ...


@dataclass(frozen=True)
class Training:
    """A training function, with what a study has to know of it.

    Args:
        function: `fn(make_optimizer, trial) -> metrics`: builds a model, makes its optimizer, trains, and returns a number
            or a dict of numbers. It must depend on nothing but `trial.seed` and `trial.budget`.
        name, summary: for reports; by default those of the function.
        metrics: which of the numbers count; the first decides. By default all that it returns, lower being better.
        budget, unit: the default of `trial.budget`.
        chosen_by: the metric that hyperparameters are chosen by; the first, if not given.
        threads: of torch, while it trains.
        margin: a difference of the first metric that does not matter, unless a study says otherwise.
        settings: what else its runs depend on; runs with other settings are other runs.

    Raises: StudyError: the function is none.
    """

    function: TrainFunction
    name: str = ""
    summary: str = ""
    metrics: tuple[Metric, ...] = (Metric("loss"),)
    budget: int | None = None
    unit: str = "steps"
    chosen_by: Metric | None = None
    threads: int | None = None
    margin: float | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise StudyError(
                f"train = {shown(self.function)} is {kind_of(self.function)}; pass a function of make_optimizer and trial."
            )
        said = (getattr(self.function, "__doc__", None) or "").strip().split("\n", 1)[0]
        object.__setattr__(self, "name", self.name or getattr(self.function, "__name__", "training"))
        object.__setattr__(self, "summary", self.summary or said or "a training function")

    @property
    def tune_on(self) -> Metric:
        return self.chosen_by or self.metrics[0]

    def facts(self) -> dict[str, Any]:
        """Say what else decides the outcome. Returns: the settings by name."""
        return dict(self.settings)

    def train(self, make_optimizer: MakeOptimizer, trial: Trial) -> Mapping[str, float] | float:
        """Call the function. Returns: what it returns."""
        return self.function(make_optimizer, trial)


@contextlib.contextmanager
def seen(optimizer: torch.optim.Optimizer) -> Generator[None]:
    """The parameters at the point where an optimizer wants them seen, if that is not where it trains them."""
    turns: list[Callable[[], object]] = [getattr(optimizer, mode, lambda: None) for mode in ("eval", "train")]
    turns[0]()
    try:
        yield
    finally:
        turns[1]()


def as_number(name: str, value: Any) -> float:
    """A reported or returned value as a float.

    Raises: StudyError: it is not a number.
    """
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value.detach())
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(value, (str, bytes, torch.Tensor)):
            return float(value)
    raise StudyError(f"{name} = {shown(value)} is {kind_of(value)}; return and report single numbers.")
