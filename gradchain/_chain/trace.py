"""How a chain turns one gradient into one change of a parameter, stage by stage."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain import functional
from gradchain._chain.context import Recorded
from gradchain._chain.elements import Composed
from gradchain._chain.functional import ChainState, difference
from gradchain._chain.program import Program
from gradchain._chain.stage import Slots
from gradchain._chain.tracing import traits_of
from gradchain._chain.waterfall import draw
from gradchain._core.text import aligned
from gradchain._core.untraced import untraced
from gradchain._core.update import Update
from gradchain.errors import OptionError, kind_of
from gradchain.ops import widest

GRADIENT, PARAMETER = "gradient", "parameter"
HEADER = ("stage", "rms", "moved", "cosine", "flips", "recorded")


@dataclass(frozen=True, eq=False)
class TraceRow:
    """What a parameter would change by if the chain ended here. Numbers are NaN where there is nothing to compare with.

    Attributes:
        stage: the address of the stage; `gradient` in the first row, `parameter` in the last.
        value: the change: less the direction, with its pending scale divided out, and less the decay so far. In the last
            row it is what the parameter does change by, bit for bit: new less old, in float32 for a half-precision one.
        rms: of `value`.
        moved: how far `value` is from that of the row before, relative to it: RMS of the difference over RMS of that.
        cosine: between `value` and less the gradient, which is steepest descent.
        flips: the fraction of elements whose sign is opposite to that in the row before.
        pending: whether a scale is pending after this stage.
        recorded: what the stage recorded for telemetry.
    """

    stage: str
    value: torch.Tensor
    rms: float
    moved: float
    cosine: float
    flips: float
    pending: bool
    recorded: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Trace:
    """The way of one gradient to the change of its parameter. `print(trace)` shows a table, `trace.plot(path)` draws it.

    Attributes:
        title: the parameter and the step.
        rows: the gradient, each stage, and the parameter.
    """

    title: str
    rows: tuple[TraceRow, ...]

    @property
    def change(self) -> torch.Tensor:
        """What the parameter changes by."""
        return self.rows[-1].value

    def __getitem__(self, stage: str) -> TraceRow:
        """The row of a stage."""
        found = {row.stage: row for row in self.rows}
        if stage not in found:
            raise OptionError(f"the trace has no stage {stage!r}. It has: {', '.join(found)}.")
        return found[stage]

    def __str__(self) -> str:
        return f"{self.title}\n\n{aligned(HEADER, [_cells(row) for row in self.rows])}"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the RMS of each row as a bar, and its cosine to the gradient as a point. The ending says the format.

        Raises: ModuleNotFoundError: matplotlib is not installed.
        """
        draw(path, self.title, [(row.stage, row.rms, row.cosine, row.flips) for row in self.rows])


def _cells(row: TraceRow) -> tuple[str, ...]:
    numbers = (f"{row.rms:.3g}", f"{row.moved:.3f}", f"{row.cosine:.3f}", f"{row.flips:.3f}")
    told = [f"{name}={value:.3g}" for name, value in row.recorded.items()]
    pending = ["scale pending"] if row.pending else []
    return (row.stage, *("" if number == "nan" else number for number in numbers), ", ".join([*pending, *told]))


class Tracer:
    """Looks on while the stages work on one parameter; `see` is a witness."""

    def __init__(self, program: Program, param: torch.Tensor, gradient: torch.Tensor) -> None:
        self.program, self.param = program, param.detach()
        self.steepest = -_wide(gradient)
        self.rows = [_row(GRADIENT, -gradient.detach(), None, self.steepest)]

    def see(self, address: str, update: Update, slots: Slots) -> None:
        """Take in what a stage made."""
        value = _divided(update)
        value = -value if update.decay is None else -value - _wide(update.decay)
        row = _row(address, value, self.rows[-1].value, self.steepest)
        self.rows.append(dataclasses.replace(row, pending=update.scale is not None))

    def trace(self, title: str, new_param: torch.Tensor, recorded: Recorded) -> Trace:
        """The trace, once the step is made."""
        last = _row(PARAMETER, difference(new_param.detach(), self.param), self.rows[-1].value, self.steepest)
        told = self._told(recorded)
        rows = [dataclasses.replace(row, recorded=told.get(row.stage, {})) for row in (*self.rows, last)]
        return Trace(title, tuple(rows))

    def _told(self, recorded: Recorded) -> dict[str, dict[str, float]]:
        """What each stage recorded, by its address."""
        recorders = traits_of(self.program, self.param).recorders
        told: dict[str, dict[str, float]] = {}
        for (name, how), value in recorded.items():
            address, slash, short = name.rpartition("/")
            if how != "total":
                stage, short = (address, short) if slash else (recorders.get(name, PARAMETER), name)
                share = max(self.param.numel(), 1) if how not in ("mean", "sum") else 1  # a sum over elements
                told.setdefault(stage, {})[short] = float(value) / share
        return told


def _row(stage: str, value: torch.Tensor, before: torch.Tensor | None, steepest: torch.Tensor) -> TraceRow:
    wide = _wide(value)
    moved = flips = float("nan")
    if before is not None:
        old = _wide(before)
        moved = _ratio(_rms(wide - old), _rms(old))
        flips = float((wide.sign() * old.sign() < 0).to(wide.dtype).mean()) if wide.numel() else float("nan")
    cosine = _ratio(float((wide * steepest).sum()), float(wide.norm() * steepest.norm()))
    return TraceRow(stage, value, _rms(wide), moved, cosine, flips, False, {})


def _divided(update: Update) -> torch.Tensor:
    """The direction with its pending scale divided out; 0 where that is 0. As it is, if none is pending."""
    if update.scale is None:
        return update.value.detach() if update.decay is None else _wide(update.value)
    value, scale = torch.broadcast_tensors(_wide(update.value), _wide(update.scale))
    ones = torch.ones_like(scale)
    return torch.where(scale == 0, torch.zeros_like(value), value / torch.where(scale == 0, ones, scale))


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In double precision, in which no square overflows or vanishes."""
    return x.detach().to(widest(x.device))


def _rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt()) if x.numel() else float("nan")


def _ratio(over: float, under: float) -> float:
    return over / under if under else float("nan")


def title(name: str, param: torch.Tensor, step: object) -> str:
    shape = " x ".join(map(str, param.shape)) or "scalar"
    return f"{name or 'parameter'}, {shape}, {str(param.dtype).removeprefix('torch.')}, step {step}"


@untraced
@torch.no_grad()
def trace(
    chain: Composed, grad: Any, param: Any, state: ChainState | None, hyperparameters: Mapping[str, Any]
) -> Trace:
    for what, tensor in (("grad", grad), ("param", param)):
        if not isinstance(tensor, torch.Tensor):
            raise OptionError(f"{what} is {kind_of(tensor)}; trace takes the gradient and the value of one parameter.")
    state = functional.init(chain, param) if state is None else state
    tracer = Tracer(chain.route("", param), param, grad)
    made = functional.stepped(chain, grad, state, param, hyperparameters, tracer.see)
    (outcome,) = made.outcomes.values()
    (step,) = made.state["step"].values()
    return tracer.trace(title("", param, int(step)), outcome.param, outcome.recorded)
