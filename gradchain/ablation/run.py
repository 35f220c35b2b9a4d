"""One run: one chain, one seed, trained to the end and measured."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import time
import uuid
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from gradchain import __version__
from gradchain._chain.chain import Chain
from gradchain._optim.optimizer import Optimizer
from gradchain.ablation.task import DTYPES, Part, Task, batches
from gradchain.errors import ConfigError

CURVE_POINTS = 60
THREADS = 1  # the networks are small: more threads gain nothing, and their number changes the last bits of results

_PROCESS = uuid.uuid4().hex


@dataclass(frozen=True)
class Settings:
    """What all runs of a study have in common."""

    task: Task
    epochs: int
    batch_size: int
    dtype: str = "fp32"
    compile: bool = False

    def described(self) -> dict[str, Any]:
        """Describe the settings as plain data. Returns: values by name."""
        return {**vars(self), "task": self.task.name}


@dataclass(frozen=True)
class Run:
    """The results of a run. A loss that is not finite is `None`."""

    key: str
    arm: str
    seed: int
    lr: float | None
    settings: dict[str, Any]
    test_accuracy: float
    test_loss: float | None
    validation_loss: float | None
    diverged: bool
    steps: int
    step_seconds: float
    state_bytes: int
    curve: list[list[float]]
    weights: str
    advice: list[str]


def run_key(chain: Chain, settings: Settings, seed: int) -> str:
    """A fingerprint of everything that decides the outcome: the same key means the same run."""
    facts = (_described(chain), _code(chain), sorted(settings.described().items()), settings.task.summary, seed)
    return hashlib.sha256(repr((*facts, __version__, torch.__version__)).encode()).hexdigest()[:16]


def _described(chain: Chain) -> str:
    try:
        return repr(chain.to_config())
    except ConfigError:  # a label function without a registered name
        return repr(chain)


def _code(chain: Chain) -> list[str]:
    """The source of the files that define the stages, so that results of an edited stage are not reused."""
    return [_source_of(cls) for cls in sorted({type(stage) for stage in chain}, key=lambda cls: cls.__name__)]


def _source_of(cls: type) -> str:
    module = inspect.getmodule(cls)
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest() if module else f"{_PROCESS}-{id(cls)}"
    except (OSError, TypeError):  # defined in a notebook or a shell: good for this process only
        return f"{_PROCESS}-{id(cls)}"


@contextlib.contextmanager
def _threads(count: int) -> Generator[None, None, None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_threads(THREADS)
def train(chain: Chain, settings: Settings, seed: int, arm: str) -> Run:
    """Train the task's network. Data, initial weights and batches depend on the seed alone."""
    dtype = DTYPES[settings.dtype]
    split = settings.task.split(seed)
    model = settings.task.build(seed, dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = Optimizer(model, chain, compile=settings.compile)
    losses, seconds = _fit(model, optimizer, split.train, settings, seed)
    validation_loss, _ = _evaluate(model, split.validation, dtype)
    test_loss, test_accuracy = _evaluate(model, split.test, dtype)
    return Run(
        key=run_key(chain, settings, seed),
        arm=arm,
        seed=seed,
        lr=chain.hyperparameters.get("lr"),
        settings=settings.described(),
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        validation_loss=validation_loss,
        diverged=test_loss is None or not math.isfinite(losses[-1]),
        steps=len(seconds),
        step_seconds=median(seconds) if seconds else 0.0,
        state_bytes=chain.state_bytes(model),
        curve=_thinned([loss for loss in losses if math.isfinite(loss)]),
        weights=digest(model),
        advice=[str(warning.message) for warning in caught],
    )


def _fit(
    model: nn.Module, optimizer: Optimizer, part: Part, settings: Settings, seed: int
) -> tuple[list[float], list[float]]:
    """The loss before each step, and the seconds of each optimizer step. Ends early if the loss is not finite."""
    losses: list[float] = []
    seconds: list[float] = []
    for rows in batches(len(part), settings.batch_size, settings.epochs, seed):
        loss = _loss(model, part.at(rows), DTYPES[settings.dtype])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        start = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return losses, seconds


def _loss(model: nn.Module, part: Part, dtype: torch.dtype) -> torch.Tensor:
    return nn.functional.cross_entropy(model(part.inputs.to(dtype)).float(), part.classes)


@torch.no_grad()
def _evaluate(model: nn.Module, part: Part, dtype: torch.dtype) -> tuple[float | None, float]:
    """Mean loss and accuracy."""
    scores = model(part.inputs.to(dtype)).float()
    loss = nn.functional.cross_entropy(scores, part.classes).item()
    accuracy = (scores.argmax(dim=1) == part.classes).double().mean().item()
    return loss if math.isfinite(loss) else None, accuracy


def _thinned(losses: list[float]) -> list[list[float]]:
    """The loss curve as few points `[step, mean loss of the steps up to it]`."""
    width = max(1, math.ceil(len(losses) / CURVE_POINTS))
    windows = [losses[start : start + width] for start in range(0, len(losses), width)]
    return [[min((i + 1) * width, len(losses)), round(fmean(window), 6)] for i, window in enumerate(windows)]


def digest(model: nn.Module) -> str:
    """A fingerprint of all weights, bit by bit."""
    total = hashlib.sha256()
    for param in model.parameters():
        total.update(param.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
