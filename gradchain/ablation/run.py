"""One run: one chain, one seed, trained to the end and measured."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import random
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from gradchain import __version__
from gradchain._chain.chain import Chain
from gradchain.ablation.errors import StudyError
from gradchain.ablation.maker import Maker
from gradchain.ablation.trial import Pruned, Trainable, Training, Trial, as_number
from gradchain.errors import ConfigError

CURVE_POINTS = 400
"""Points of a curve that are kept; of longer ones, means over windows."""

_PROCESS = uuid.uuid4().hex


@dataclass(frozen=True)
class Settings:
    """What all runs of a study have in common."""

    training: Trainable
    budget: int | None = None
    compile: bool = False

    def described(self) -> dict[str, Any]:
        """Describe the settings as plain data. Returns: values by name."""
        training = self.training
        return {"task": training.name, "budget": self.budget, "compile": self.compile, **training.facts()}


@dataclass(frozen=True)
class Run:
    """The results of a run. A number that is not finite is `None`."""

    key: str
    arm: str
    seed: int
    settings: dict[str, Any]
    metrics: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    curves: dict[str, list[list[float]]] = field(default_factory=dict[str, list[list[float]]])
    hyperparameters: dict[str, Any] = field(default_factory=dict[str, Any])
    diverged: bool = False
    failed: str | None = None
    """The error that ended it."""
    pruned: bool = False
    steps: int = 0
    seconds: float = 0.0
    """Of the whole training."""
    step_seconds: float = 0.0
    """Of an optimizer step, the median."""
    state_bytes: int = 0
    change: float | None = None
    """Root mean square of the change of all parameters in a step, the geometric mean of a few early steps."""
    weights: str = ""
    advice: list[str] = field(default_factory=list[str])

    @property
    def lr(self) -> float | None:
        lr = self.hyperparameters.get("lr")
        return lr if isinstance(lr, (int, float)) else None


def run_key(chain: Chain, settings: Settings, seed: int) -> str:
    """A fingerprint of everything that decides the outcome: the same key means the same run."""
    training = settings.training
    trained_by = [_source_of(training.function)] if isinstance(training, Training) else []
    facts = (_described(chain), _code(chain), trained_by, sorted(settings.described().items()), training.summary, seed)
    return hashlib.sha256(repr((*facts, __version__, torch.__version__)).encode()).hexdigest()[:16]


def _described(chain: Chain) -> str:
    try:
        return repr(chain.to_config())
    except ConfigError:  # a label function without a registered name
        return repr(chain)


def _code(chain: Chain) -> list[str]:
    """The source of the files that define the stages, so that results of an edited stage are not reused."""
    return [_source_of(cls) for cls in sorted({type(stage) for stage in chain}, key=lambda cls: cls.__name__)]


def _source_of(thing: Any) -> str:
    module = inspect.getmodule(thing)
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest() if module else f"{_PROCESS}-{id(thing)}"
    except (OSError, TypeError):  # defined in a notebook or a shell: good for this process only
        return f"{_PROCESS}-{id(thing)}"


@contextlib.contextmanager
def _surroundings(seed: int, threads: int | None) -> Generator[None, None, None]:
    """Seeded generators and a number of threads, both given back."""
    before, python = torch.get_num_threads(), random.getstate()
    numpy = sys.modules.get("numpy")
    theirs = numpy.random.get_state() if numpy else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed % 2**32)
        if threads:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            random.setstate(python)
            if numpy:
                numpy.random.set_state(theirs)


def train(
    chain: Chain,
    settings: Settings,
    seed: int,
    arm: str,
    key: str = "",
    prune: Callable[[float, str, float], bool] | None = None,
) -> Run:
    """Train with a chain. What goes wrong in the training is part of the result.

    Raises: StudyError: the training never asked for an optimizer, never stepped it, had no gradient, or returned no numbers.
    """
    maker, training = Maker(chain, settings.compile), settings.training
    failed: str | None = None
    pruned = False
    returned: Any = None
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="gradchain-") as folder,
        warnings.catch_warnings(record=True) as caught,
        _surroundings(seed, training.threads),
    ):
        trial = Trial(seed, arm, settings.budget, Path(folder), prune=prune)
        warnings.simplefilter("always")
        try:
            returned = training.train(maker, trial)
        except Pruned:
            pruned = True
        except (StudyError, ImportError):  # what is missing is no result
            raise
        except Exception as error:
            failed = f"{type(error).__name__}: {str(error)[:300]}"
        metrics = {} if failed or pruned else _metrics(training, returned)
    if not failed and not pruned:
        maker.check(training.name)
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return Run(
        key=key or run_key(chain, settings, seed),
        arm=arm,
        seed=seed,
        settings=settings.described(),
        metrics=finite,
        curves={name: _thinned(points) for name, points in trial.curves.items()},
        hyperparameters=_plain(chain.hyperparameters),
        diverged=None in finite.values(),
        failed=failed,
        pruned=pruned,
        seconds=time.perf_counter() - start,
        advice=list(dict.fromkeys(str(warning.message) for warning in caught)),
        **maker.measured(),
    )


def _metrics(training: Trainable, returned: Any) -> dict[str, float]:
    """What the training returned, by name; each metric must be among it, and the reported curves for times to target."""
    named = returned if isinstance(returned, Mapping) else {training.metrics[0].name: returned}
    if returned is None:
        raise StudyError(f"{training.name} returned nothing; return a number, or a dict of numbers by name.")
    numbers = {str(name): as_number(str(name), value) for name, value in named.items()}
    missing = [metric.name for metric in training.metrics if metric.target is None and metric.name not in numbers]
    if missing:
        raise StudyError(
            f"{training.name} returned {', '.join(numbers) or 'no numbers'}, without {', '.join(missing)}."
        )
    return numbers


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters as they go through JSON."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if isinstance(value, (int, float, str, bool, tuple, type(None)))
    }


def _thinned(points: list[tuple[float, float]]) -> list[list[float]]:
    """The finite points of a curve, in windows `[last step, mean]` if there are many."""
    finite = [point for point in points if math.isfinite(point[1])]
    width = max(1, math.ceil(len(finite) / CURVE_POINTS))
    windows = [finite[start : start + width] for start in range(0, len(finite), width)]
    return [[window[-1][0], float(f"{fmean(value for _, value in window):.7g}")] for window in windows]
