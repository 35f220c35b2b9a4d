"""What a program does to a parameter: whether it mixes elements, draws noise, asks for totals, and what it records.

A chain that mixes no elements runs in batches, one that draws noise is given some, and one that asks about all parameters
cannot step one alone. Stages do not declare this: it is observed while they step small tensors.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gradchain._chain.declare import ParamInfo
from gradchain._chain.elements import Composed, routes
from gradchain._chain.extra_evaluation import ExtraEvaluation
from gradchain._chain.mixins import SharedNumbers
from gradchain._chain.program import Numbers, Program
from gradchain._chain.stage import Stage
from gradchain._chain.tracing.apart import apart
from gradchain._chain.tracing.claims import check_storages
from gradchain._chain.tracing.joined import compare
from gradchain._chain.tracing.watch import NOISE, Branched, Deeds, Fault
from gradchain._chain.tracing.watched import Watching, as_tensors, usual_numbers
from gradchain.roles import ROLES

SIDE = 4
"""The longest side of a small tensor."""

FEW = 1 << 12
"""Larger parameters are traced without values, where a small tensor is not enough."""


@dataclass(frozen=True)
class Traits:
    """What a program does to parameters of a dtype and a shape."""

    mixed: Mapping[str, str]
    """Why stages are not elementwise, by address."""
    placed: Mapping[str, str]
    """Why the bits of an element may depend on its place, by address of the stage."""
    packed: Mapping[str, str]
    """Why storages are not elementwise, by `stage.slot`."""
    draws: bool
    """Whether a stage or a storage draws random bits."""
    joint: tuple[str, ...]
    """The stages that ask for totals over several parameters."""
    records: tuple[str, ...]
    """The names that are passed to `ctx.record`."""
    own: bool = False
    """Whether they may differ for another shape of the same rank."""
    numeric: bool = False
    """Whether they may differ for other values of the hyperparameters."""
    recorders: Mapping[str, str] = field(default_factory=dict[str, str])
    """The stage that records each name."""

    @property
    def elementwise(self) -> bool:
        """Whether output[i] depends on input[i] alone."""
        return not self.mixed

    @property
    def exact(self) -> bool:
        """Whether output[i] depends, bit for bit, on input[i] alone, wherever it stands: tensors may be cut and joined."""
        return not (self.mixed or self.placed or self.packed)

    @property
    def in_order(self) -> bool:
        """The same but for noise, which an element gets by its place: tensors may take any shape that keeps the order."""
        return not (self.mixed or self.placed) and all(why == NOISE for why in self.packed.values())


_known: dict[Any, Traits] = {}
"""What has been traced, by structure, dtype and rank; if that does not decide it, by shape, and by program."""


def traits_of(program: Program, param: torch.Tensor) -> Traits:
    """What a program does to a parameter. `ChainError` if a stage breaks a rule, or a storage's declaration is false."""
    key = (param.dtype, param.shape)
    known: Traits | None = program.traced.get(key)
    if known is None:
        known = program.traced[key] = _traits_for(program, *key)
    return known


@torch._disable_dynamo  # type: ignore[misc]
def _traits_for(program: Program, dtype: torch.dtype, shape: torch.Size) -> Traits:
    like = (program.structure, program.pattern, dtype, len(shape))
    if (known := _known.get(like)) is not None:
        return known
    blind = _of_any_rank(program, dtype, shape)
    if blind is not None and (known := _known.get(blind)) is not None:
        return known
    small = torch.Size(min(max(size, 1), SIDE) for size in shape)
    known = _remembered((*like, small), program, lambda: _examined(program, dtype, small))
    if not known.own:
        _known[like] = known
        if blind is not None:
            _known[blind] = known
    elif small != shape:
        return _remembered((*like, shape), program, lambda: _widened(known, program, dtype, shape))
    return known


def _of_any_rank(program: Program, dtype: torch.dtype, shape: torch.Size) -> Any:
    """What to remember the traits by for all ranks but 0, if none of the stages looks at a shape; if there is such a thing.

    That is so of gradchain's own stages, as tests hold. Another's might call what does something else for another rank
    without a look at it, such as `movedim(1, -1)`.
    """
    own = not program.third_party and all(type(x).__module__.startswith("gradchain.") for x in program.storages)
    if not own or not shape:
        return None
    p = ParamInfo(shape, dtype, torch.device("cpu"), program.role)
    try:
        slots = [(at, *item) for at, stage in program.stages for item in stage.slots_of(p).items()]
    except Exception:  # it wants another shape; the step will say so
        return None
    if any(slot.shape is not None for _, _, slot in slots):
        return None
    return (program.structure, program.pattern, dtype, tuple((at, name) for at, name, _ in slots))


def _remembered(key: Any, program: Program, make: Callable[[], Traits]) -> Traits:
    known = _known.get(key) or _known.get((key, program))
    if known is None:
        if len(_known) > 1 << 14:
            _known.clear()
        with apart():
            known = make()
        _known[(key, program) if known.numeric else key] = known
    return known


def reaching_out(chain: Composed, params: Iterable[torch.Tensor]) -> str | None:
    """The first stage, on any route of these parameters, whose work on one depends on others; the same in all processes."""
    if (address := sharing(chain.addressed)) is not None:
        return address
    kinds = dict.fromkeys((param.dtype, param.shape) for param in params)
    for route, role in itertools.product(routes(chain.elements), (None, *ROLES)):
        program = Program.of(tuple(route), role)
        for dtype, shape in kinds:
            if joint := _traits_for(program, dtype, shape).joint:
                return joint[0]
    return None


def sharing(stages: Iterable[tuple[str, Stage]]) -> str | None:
    """The first stage that computes numbers for all parameters, or takes their gradient at another point."""
    return next((at for at, stage in stages if isinstance(stage, (SharedNumbers, ExtraEvaluation))), None)


# The examination.


def _examined(program: Program, dtype: torch.dtype, small: torch.Size) -> Traits:
    """The traits for a small tensor."""
    try:
        numbers = usual_numbers(program)
        watching = Watching(program, dtype).run(small, numbers)
    except Fault:
        raise
    except Exception as error:  # it wants another shape than a small one; if not, the step will say so
        return _unknown(program, error)
    deeds, watch, drawn = watching.deeds, watching.watch, watching.watch.drawn
    drawn = _try_tensors(program, dtype, small, numbers[2], deeds) or drawn
    if not any(deed.mixes or deed.shapes for deed in deeds.values()):
        compare(program, dtype, len(small), numbers[2], deeds)
    check_storages(program, watch.storages)
    if "variants" not in program.traced:
        program.traced["variants"] = tuple(_variants(program))
    for other in program.traced["variants"]:
        more = _quietly(other, dtype, small)
        drawn = drawn or more.draws
        for address in more.joint:
            deeds[address].asks = deeds[address].asks or "under other options"
    return _traits(program, deeds, watch.storages, drawn)


def _traits(program: Program, deeds: Mapping[str, Deeds], storages: Mapping[str, Deeds], drawn: bool) -> Traits:
    mixed: dict[str, str] = {}
    placed = {address: deed.place for address, deed in deeds.items() if deed.place}
    packed = {
        key: why
        for key, deed in storages.items()
        if (why := deed.mixes or deed.shapes or deed.place or (NOISE if deed.draws else None))
    }
    records: dict[str, str] = {}
    for address, _ in program.stages:
        deed = deeds[address]
        numeric = "its update looks at the value of a hyperparameter" if deed.numeric else None
        if reason := deed.mixes or deed.shapes or numeric:
            mixed[address] = reason
        records |= dict.fromkeys(deed.records, address)
    joint = tuple(address for address, _ in program.stages if deeds[address].asks)
    branches = any(deed.numeric for deed in deeds.values())
    own = branches or any(deed.shapes for deed in (*deeds.values(), *storages.values()))
    return Traits(mixed, placed, packed, drawn or branches, joint, tuple(records), own, branches, records)


def _unknown(program: Program, error: Exception) -> Traits:
    """The traits of a program that cannot be traced: nothing is joined, and noise is provided."""
    reason = f"it could not be traced ({type(error).__name__}: {error})"
    nothing = {address: Deeds(mixes=reason, shapes=reason, numeric=True) for address, _ in program.stages}
    return _traits(program, nothing, {}, True)


def _widened(known: Traits, program: Program, dtype: torch.dtype, shape: torch.Size) -> Traits:
    """Traits that depend on the shape: those of a small tensor and of this shape together."""
    device = "cpu" if shape.numel() <= FEW else "meta"
    try:
        watching = Watching(program, dtype, device).run(shape, usual_numbers(program))
    except Fault:
        raise
    except Exception:
        return known
    check_storages(program, watching.watch.storages)
    wide = _traits(program, watching.deeds, watching.watch.storages, watching.watch.drawn)
    if not any("could not be traced" in why for why in known.mixed.values()):
        joint = tuple(at for at, _ in program.stages if at in (*known.joint, *wide.joint))
        recorders = {**known.recorders, **wide.recorders}
        draws = known.draws or wide.draws
        return dataclasses.replace(known, draws=draws, joint=joint, records=tuple(recorders), recorders=recorders)
    return dataclasses.replace(wide, mixed=known.mixed, own=True, numeric=True)


def _try_tensors(
    program: Program, dtype: torch.dtype, small: torch.Size, numbers: Numbers, deeds: Mapping[str, Deeds]
) -> bool:
    """Run a stage with tensors for hyperparameters, to see whether it branches on them. Returns whether it draws noise."""
    watching = Watching(program, dtype)
    watching.watch.tensor_numbers = True
    try:
        watching.run(small, {2: as_tensors(numbers)})
    except (Branched, Exception):
        at_work = watching.watch.last.partition(".")[0] or program.stages[0][0]
        deeds[at_work].numeric = True
    return watching.watch.drawn


def _quietly(program: Program, dtype: torch.dtype, small: torch.Size) -> Traits:
    """The traits of a program that may never run: its errors are ignored."""
    try:
        watching = Watching(program, dtype).run(small, usual_numbers(program, (2,)))
    except Exception:
        return Traits({}, {}, {}, False, (), ())
    return _traits(program, watching.deeds, watching.watch.storages, watching.watch.drawn)


def _variants(program: Program) -> Iterator[Program]:
    """The program with each optional number present or absent, as a group may set it later."""
    for place, (address, stage) in enumerate(program.stages):
        for name, spec in stage.live_fields().items():
            if not spec.optional or spec.follows:
                continue
            for value in (None,) if getattr(stage, name) is not None else (0.5, 2.0, -0.5):
                try:
                    other = dataclasses.replace(stage, **{name: value})
                except Exception:
                    continue
                yield Program.of(
                    (*program.stages[:place], (address, other), *program.stages[place + 1 :]), program.role
                )
                break
