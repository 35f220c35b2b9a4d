"""What telemetry measures of a step: sums over elements, of what each stage is given and of what it makes of that.

They are computed beside the step, from values that it hands on, and change nothing in it. Reports make RMS values, cosines
and fractions of them once they are added up over parameters and processes.
"""

from __future__ import annotations

import dataclasses

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.program import Running
from gradchain._chain.stage import Slots
from gradchain._core.reduce import accumulate
from gradchain._core.update import Update
from gradchain._engine.param_step import StepInputs
from gradchain.ops import widest

COUNT, GRADIENT, PARAM, CHANGE = "/count", "/gradient", "/param", "/change"
"""Of a parameter: its elements, and the squares of its gradient, of its old value and of its change."""

OUT, BOTH, ALONG, FLIPS, DECAY = "~out", "~both", "~along", "~flips", "~decay"
"""Of a stage: squares of what it makes, its product with what it was given and with the gradient, signs that differ, and
squares of the decay that it adds."""


def told(recorded: Recorded) -> Recorded:
    """What is recorded for telemetry: all but the totals that the step itself is after."""
    return {key: x for key, x in recorded.items() if key[1] != "total"}


def measured(task: StepInputs) -> Running:
    """A step in progress whose outcome also records what telemetry measures."""
    meter = Meter(task)
    outcome = yield from task.start(meter.see, observe=True)
    return dataclasses.replace(outcome, recorded={**outcome.recorded, **meter.read(outcome.param)})


class Meter:
    """Looks on while the stages work on one parameter."""

    def __init__(self, task: StepInputs) -> None:
        self.task = task
        self.gradient = self.direction = _widest(task.gradient)
        self.square = self.along = self.start = accumulate(self.gradient * self.gradient)
        self.last: Update | None = None
        self.sums: Recorded = {}

    def see(self, address: str, update: Update, slots: Slots) -> None:
        """Take in what a stage made."""
        known, last = self.square, self.last
        if last is not None and update.value is last.value and update.scale is last.scale:
            both, flips = known, torch.zeros_like(known)
        else:
            direction = _direction(update)
            product = direction * self.direction
            both, flips = accumulate(product), accumulate(product < 0)
            self.square, self.along = accumulate(direction * direction), accumulate(direction * self.gradient)
            self.direction = direction
        sums = {OUT: self.square, BOTH: both, ALONG: self.along, FLIPS: flips}
        if update.decay is not None and (last is None or update.decay is not last.decay):
            before = None if last is None else last.decay
            decay = _widest(update.decay if before is None else update.decay - before)
            sums[DECAY] = accumulate(decay * decay)
        self.sums |= {(f"{address}/{name}", "rows"): value for name, value in sums.items()}
        self.last = update

    def read(self, new_param: torch.Tensor) -> Recorded:
        """The sums over this parameter, or over those rows of it that are here."""
        old = _widest(self.task.param)
        change = _widest(new_param) - old
        count = self.start.new_full((), self.task.param.numel())
        squares = {GRADIENT: self.start, PARAM: accumulate(old * old), CHANGE: accumulate(change * change)}
        sums: Recorded = {(name, "rows"): value for name, value in {COUNT: count, **squares}.items()}
        sums |= self.sums
        if (keep := self.task.keep) is not None:
            sums = {name: torch.where(keep, value, torch.zeros_like(value)) for name, value in sums.items()}
        return sums


def _direction(update: Update) -> torch.Tensor:
    """The direction with its pending scale divided out; 0 where that is 0."""
    value = _widest(update.value)
    if update.scale is None:
        return value
    scale = _widest(update.scale)
    return torch.where(
        scale == 0, torch.zeros_like(value), value / torch.where(scale == 0, torch.ones_like(scale), scale)
    )


def _widest(x: torch.Tensor) -> torch.Tensor:
    """In double precision, in which squares of any gradient neither overflow nor vanish."""
    return x.to(widest(x.device))
