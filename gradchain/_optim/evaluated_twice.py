"""The part of an optimizer that evaluates a closure: once, or at a second point too if a stage needs the gradient there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gradchain._chain.extra_evaluation import displaced, extra_of
from gradchain._chain.lockstep import run_lockstep
from gradchain._core.autocast import no_autocast
from gradchain._engine.writing import overwrite
from gradchain._optim.evaluation import Evaluated
from gradchain._optim.table import StepInfo
from gradchain.errors import OptionError, kind_of, shown

Closure = Callable[[], Any]


class EvaluatedTwice(Evaluated):
    """Evaluates closures."""

    @functools.cached_property
    def _extra(self) -> str | None:
        """The first stage that needs another evaluation, if any does."""
        return extra_of(self.chain)

    def _evaluate(self, closure: Closure | None) -> Any:
        """Evaluate a closure, if there is one, so that gradients are those to step by. Returns: its loss.

        Raises: OptionError: it is none, or there is none and a stage needs one.
        """
        extra = self._extra
        if closure is not None and not callable(closure):
            raise OptionError(
                f"closure = {shown(closure)} is {kind_of(closure)}; pass a function that returns the loss."
            )
        if closure is None:
            if extra is not None:
                raise OptionError(
                    f"{extra} takes the gradient at a second point, so a step has to evaluate the loss: call "
                    "optimizer.step(closure), where closure() clears the gradients, computes the loss, calls backward() and "
                    f"returns the loss. Or remove {extra}. Nothing was written."
                )
            return None
        with torch.enable_grad():
            loss = closure()
        if extra is not None:
            self._evaluate_displaced(closure)
        return loss

    def _evaluate_displaced(self, closure: Closure) -> None:
        """Evaluate a closure at the displaced point, and bring the parameters back bit for bit."""
        with torch.no_grad(), no_autocast():
            self._table.sync(self.param_groups)
            due = self._table.due(self.param_groups, StepInfo(self.state, self._partition, self.capturable))
            tasks = [item.task for item in due]
            runs = [
                displaced(x.program, x.param, x.gradient, item.state, x.numbers, item.record.shard)
                for item, x in zip(due, tasks)
            ]
            points = run_lockstep([item.program for item in due], runs, self._partition.totals)
            params = [task.param for task in tasks]
            kept = [param.clone() for param in params]
        try:
            with torch.no_grad():
                overwrite(params, [point.param for point in points])
            with torch.enable_grad():
                closure()
        finally:
            with torch.no_grad():
                overwrite(params, kept)
