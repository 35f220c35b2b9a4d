"""What each stage of a chain costs: the bytes that it keeps and moves in a step, and the totals that it asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gradchain._chain.elements import Composed
from gradchain._chain.functional import routed
from gradchain._chain.program import Outcome, Program, State
from gradchain._chain.tracing.watched import usual_numbers
from gradchain._core.autocast import no_autocast
from gradchain._core.text import aligned
from gradchain._core.untraced import untraced
from gradchain.roles import Rule

HEADER = ("stage", "parameters", "state bytes", "bytes moved", "reductions")
BASE = "parameter and gradient"

STEP = 3
"""The step that is counted: all are alike."""


@dataclass(frozen=True)
class StageCost:
    """What a stage costs in a step of all parameters.

    Attributes:
        stage: its address.
        parameters: how many parameters pass through it.
        state_bytes: what it keeps.
        moved_bytes: what it reads and writes beyond the gradient and the parameter, if all is fused.
        reductions: the totals that it asks for: one for each tensor, or one for all.
    """

    stage: str
    parameters: int
    state_bytes: int
    moved_bytes: int
    reductions: int


@dataclass(frozen=True)
class ChainCost:
    """The cost of a chain, stage by stage. `print(cost)` shows a table.

    Attributes:
        stages: a row for each stage.
        parameters: how many parameters are stepped.
        base_bytes: what any step moves: the gradient and the parameter are read, and the parameter is written.
    """

    stages: tuple[StageCost, ...]
    parameters: int
    base_bytes: int

    @property
    def state_bytes(self) -> int:
        """What all stages keep; as `chain.state_bytes` counts it."""
        return sum(row.state_bytes for row in self.stages)

    @property
    def moved_bytes(self) -> int:
        """What a step moves, if all is fused."""
        return self.base_bytes + sum(row.moved_bytes for row in self.stages)

    @property
    def reductions(self) -> int:
        """The totals that a step computes."""
        return sum(row.reductions for row in self.stages)

    def __str__(self) -> str:
        base = StageCost(BASE, self.parameters, 0, self.base_bytes, 0)
        total = StageCost("total", self.parameters, self.state_bytes, self.moved_bytes, self.reductions)
        return aligned(HEADER, [_cells(row) for row in (base, *self.stages, total)])


def _cells(row: StageCost) -> tuple[str, ...]:
    numbers = (row.parameters, row.state_bytes, row.moved_bytes, row.reductions)
    return (row.stage, *(f"{number:,}" for number in numbers))


@dataclass
class _Single:
    """One step of one parameter: for each stage the bytes kept and moved, the totals for it alone, and those for several."""

    kept: Counter[str] = field(default_factory=Counter[str])
    moved: Counter[str] = field(default_factory=Counter[str])
    own: Counter[str] = field(default_factory=Counter[str])
    joint: set[tuple[str, Any, int]] = field(default_factory=set[tuple[str, Any, int]])


@untraced
def cost_of(chain: Composed, params: Any, role: Rule) -> ChainCost:
    rows = routed(chain, params, role)
    alike = Counter((program, param.shape, param.dtype) for program, param in rows)
    total, acting, joint = _Single(), Counter[str](), set[tuple[str, Any, int]]()
    with torch.no_grad(), no_autocast():
        for key, times in alike.items():
            single = _single(*key)
            acting.update(dict.fromkeys(key[0].addresses, times))
            for whole, part in ((total.kept, single.kept), (total.moved, single.moved), (total.own, single.own)):
                whole.update({stage: times * count for stage, count in part.items()})
            joint |= single.joint
    several = Counter(stage for stage, _, _ in joint)
    stages = tuple(
        StageCost(name, acting[name], total.kept[name], total.moved[name], total.own[name] + several[name])
        for name in chain.names
    )
    return ChainCost(stages, len(rows), sum(3 * param.numel() * param.element_size() for _, param in rows))


def _single(program: Program, shape: torch.Size, dtype: torch.dtype) -> _Single:
    """A step on the meta device: nothing is filled, and its requests are counted."""
    found = _Single()
    param = torch.empty(shape, dtype=dtype, device="meta")
    state = program.init(param)
    found.kept.update(_bytes_by_stage(state))
    found.moved.update(found.kept)
    running = program.run(
        param,
        torch.empty_like(param),
        state,
        usual_numbers(program, (STEP,))[STEP],
        noise_key=torch.empty((), dtype=torch.int32, device="meta"),
    )
    outcome = _counted(running, found, param.numel() * param.element_size())
    found.moved.update(_bytes_by_stage(outcome.state))
    return found


def _counted(running: Any, found: _Single, size: int) -> Outcome:
    """The outcome of a step whose requests are answered by their own partials."""
    try:
        where, request = next(running)
        while True:
            stage = where.partition(".")[0]  # of a slot that is being stored as well
            if not request.joint:
                found.own[stage] += 1
            else:
                found.joint.add((stage, request.label, sum(stage == known for known, _, _ in found.joint)))
            found.moved[stage] += size
            where, request = running.send(request.local_totals())
    except StopIteration as stop:
        return stop.value


def _bytes_by_stage(state: Mapping[str, torch.Tensor] | State) -> Counter[str]:
    sizes = Counter[str]()
    for key, slot in state.items():
        sizes[key.partition(".")[0]] += slot.numel() * slot.element_size()
    return sizes
