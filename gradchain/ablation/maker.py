"""The maker of optimizers that a training gets, and what it sees of them."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from gradchain._chain.chain import Chain
from gradchain._optim.optimizer import Optimizer
from gradchain.ablation.errors import StudyError

WATCHED = (1, 2, 5, 10, 20, 50, 100)
"""The steps of which the change of the parameters is measured."""


class Maker:
    """Makes the optimizers of a run, and watches them: whether there are gradients, how long steps take, how far they go."""

    def __init__(self, chain: Chain, compile: bool) -> None:
        self.chain, self.compile = chain, compile
        self.made: list[Optimizer] = []
        self.seconds: list[float] = []
        self.changes: list[float] = []
        self.state_bytes = 0
        self.fed = False
        """Whether any gradient that is not 0 has been seen."""
        self._before: list[torch.Tensor] | None = None
        self._start = 0.0

    def __call__(self, model: nn.Module | Iterable[Any], **options: Any) -> Optimizer:
        options.setdefault("compile", self.compile)
        optimizer = Optimizer(model, self.chain, **options)
        self.state_bytes += self.chain.state_bytes(model if isinstance(model, nn.Module) else [*parameters(optimizer)])
        optimizer.register_step_pre_hook(self._about_to_step)
        optimizer.register_step_post_hook(self._stepped)
        self.made.append(optimizer)
        return optimizer

    def _about_to_step(self, optimizer: Any, *_: Any) -> None:
        if not self.fed:
            self.fed = any(p.grad is not None and bool(p.grad.any()) for p in parameters(optimizer))
        step = len(self.seconds) + 1
        self._before = [p.detach().clone() for p in parameters(optimizer)] if step in WATCHED else None
        self._start = time.perf_counter()

    def _stepped(self, optimizer: Any, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        if self._before is not None:
            self.changes.append(_rms(parameters(optimizer), self._before))
            self._before = None

    def check(self, name: str) -> None:
        """Raises: StudyError: the optimizer was never made, never stepped, or never had a gradient."""
        if not self.made:
            raise StudyError(
                f"{name} has not called make_optimizer, so its arms are all the same. Build the optimizer with "
                "make_optimizer(model)."
            )
        if not self.seconds:
            raise StudyError(f"{name} has not stepped the optimizer that make_optimizer returned.")
        if not self.fed:
            raise StudyError(
                f"{name}: no gradient has arrived in {len(self.seconds)} steps: they are all None or 0. Check that the loss "
                "depends on the parameters given to make_optimizer, and that backward() comes before step()."
            )

    def measured(self) -> dict[str, Any]:
        """What there is to say of the steps. Returns: fields of a `Run`."""
        finite = [math.log(change) for change in self.changes if 0 < change < math.inf]
        return {
            "steps": len(self.seconds),
            "step_seconds": median(self.seconds) if self.seconds else 0.0,
            "state_bytes": self.state_bytes,
            "change": math.exp(fmean(finite)) if finite else None,
            "weights": digest(p for optimizer in self.made for p in parameters(optimizer)),
        }


def parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _rms(after: Iterable[torch.Tensor], before: Iterable[torch.Tensor]) -> float:
    squares, count = 0.0, 0
    for now, then in zip(after, before):
        squares += (now.detach().double() - then.double()).square().sum().item()
        count += now.numel()
    return math.sqrt(squares / count) if count else 0.0


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """A fingerprint of tensors, bit by bit."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
