"""Loading a state dict: what fits is taken over in its own dtype, and what does not is explained."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gradchain._chain.evaluation import TRAIN_MODE, point_of
from gradchain._chain.program import Program
from gradchain._core import ages
from gradchain._core.ages import is_age
from gradchain._core.counters import COUNTER
from gradchain._core.fields import DTYPES
from gradchain._core.shard import take
from gradchain._dist.initial import expected, initial_state
from gradchain._optim.routing import Routing, Settings, parameter_names
from gradchain._optim.saved import Saved, described, fault_of_count, shown_few
from gradchain._optim.train_value import fit_train_value, split_train_value
from gradchain.errors import GradchainError, StateError, kind_of

SHOWN, WIDTH = 20, 500
"""How many lines of a report an error shows, and how many characters of each."""


@dataclass
class LoadReport:
    """What a load did, as `parameter: stage.slot` lines."""

    kept: list[str] = field(default_factory=list)
    reset: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    another_chain: bool = False
    """Whether stages differ: then so do their hyperparameters, and need not be listed."""

    def __str__(self) -> str:
        lines = list(self.differences)
        lines += [f"reset (not in the state dict): {item}" for item in self.reset]
        lines += [f"dropped (no such slot here): {item}" for item in self.dropped]
        return "\n".join([f"{len(self.kept)} slots kept", *lines])

    @property
    def clean(self) -> bool:
        return not (self.reset or self.dropped or self.differences)


def fit_slots(
    saved: Mapping[str, Any],
    wanted: Mapping[str, torch.Tensor],
    make: Callable[[], Mapping[str, torch.Tensor]],
    parameter: str,
    report: LoadReport,
    own: bool,
) -> dict[str, Any]:
    """The state of one parameter: saved slots where they fit, fresh ones where they are missing.

    `wanted` are tensors of the right form, `make` gives those before the first step. What a stage keeps is taken over as a
    whole or not at all: what starts afresh is counted afresh, and so is what does not fit. Every slot keeps the dtype that
    it was saved in if its storage still uses that dtype.
    """
    result: dict[str, Any] = {}
    initial: Mapping[str, torch.Tensor] = {}
    held = _whole_slots(saved)
    anew: dict[str, None] = {}
    for slot, names in _whole_slots(wanted).items():
        foreign = set(held.get(slot, ())) - set(names)  # the parts of another storage
        wrong = [name for name in names if name in saved and not _fits(saved[name], wanted[name])]
        report.differences += [
            f"{parameter}: slot {name} is {described(saved[name])} in the state dict, and {described(wanted[name])} here"
            for name in wrong
        ]
        if wrong or foreign or any(other not in saved for other in names):
            anew[slot[0]] = None
    for names in _whole_slots(wanted).values():
        for name in names:
            fresh = wanted[name]
            if name.partition(".")[0] in anew:
                initial = initial or make()
                result[name] = initial[name]
                report.reset.append(f"{parameter}: {name}")
                continue
            if saved[name].dtype != fresh.dtype:
                report.differences.append(f"{parameter}: slot {name} was {saved[name].dtype}, is kept as {fresh.dtype}")
            result[name] = take(fresh, saved[name])
            report.kept.append(f"{parameter}: {name}")
    guests = {slot: copy.deepcopy(value) for slot, value in saved.items() if own and is_guest(slot)}
    result |= guests
    report.dropped += [
        f"{parameter}: {slot}"
        for slot in saved
        if slot not in wanted and slot not in guests and slot != "step" and not is_age(slot)
    ]
    step = int(saved.get("step", 0))
    kept = [stage for stage, *_ in _whole_slots(wanted) if stage not in anew]
    result |= ages.loaded(saved, kept, anew, step, parameter)
    result["step"] = torch.tensor(step, dtype=COUNTER)
    return result


def is_guest(slot: str) -> bool:
    """Whether a wrapper of optimizers, such as lookahead, keeps this beside our slots, which are all `stage.slot`."""
    return slot != "step" and "." not in slot and not is_age(slot)


def _whole_slots(names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """The names of the parts of each slot: `stage.slot`, or `stage.slot.part`."""
    slots: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        slots.setdefault(tuple(name.split(".")[:2]), []).append(name)
    return slots


def _fits(value: Any, fresh: torch.Tensor) -> bool:
    """Whether a saved tensor can be taken for a fresh one: numbers for numbers, codes for the same codes."""
    if not isinstance(value, torch.Tensor) or value.shape != fresh.shape:
        return False
    if value.layout != torch.strided or value.is_nested or value.is_quantized or (value.is_meta and not fresh.is_meta):
        return False
    return value.dtype == fresh.dtype or {value.dtype, fresh.dtype} <= set(DTYPES.values())


def fit_states(
    routing: Routing, saved_dict: Saved, groups: Sequence[Mapping[str, Any]], report: LoadReport
) -> dict[torch.Tensor, dict[str, Any]]:
    """The saved state of each parameter, in the form that its stages keep it."""
    states: dict[torch.Tensor, dict[str, Any]] = {}
    for number, (old, group) in enumerate(zip(saved_dict.groups, groups)):
        rows = zip(old["params"], group["params"], parameter_names(group), Settings.each(group))
        for position, (index, param, name, (disable, role)) in enumerate(rows):
            what = name or f"parameter {position} of group {number}"
            if (saved := saved_dict.states.get(index)) is None:
                continue
            program = routing.variant(disable).route(name, param, role)
            wanted = expected(program, param)
            # A stage that was switched off in mid-run left its slots behind; they are kept for its return.
            idle = expected(routing.chain.route(name, param, role), param) if disable else {}
            wanted |= {slot: value for slot, value in idle.items() if slot in saved and slot not in wanted}
            full = routing.chain.route(name, param, role) if disable else program
            make = functools.partial(_initial, (full, program), param, name)
            slots = saved if point_of(full) is None else split_train_value(saved)
            states[param] = fit_slots(slots, wanted, make, what, report, saved_dict.chain is not None)
            fault = fit_train_value(saved, states[param], (full, param), old.get(TRAIN_MODE) is False, what)
            report.differences += [] if fault is None else [fault]
    return states


def _initial(programs: Iterable[Program], param: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """The state of a parameter before its first step under some programs, the last one first."""
    state: dict[str, torch.Tensor] = {}
    for program in programs:
        state |= initial_state(program, param, name)
    return state


def check_counted(state: object, name: str) -> None:
    """Raise `StateError` if a state that someone has written to is none, or has no count of steps that could be one."""
    what = f"the state of parameter {name or '(unnamed)'}"
    if not isinstance(state, dict):
        raise StateError(f"{what} is a dict, not {kind_of(state)}. Nothing was written.")
    if "step" not in state and any("." in str(key) for key in state):  # pyright: ignore
        raise StateError(
            f"{what} has lost its 'step', its count of steps. Put it back, or empty the state to start it afresh. Nothing "
            "was written."
        )
    count: Any = state.get("step", 0)  # pyright: ignore[reportUnknownMemberType]
    if isinstance(count, torch.Tensor) and count.device.type != "cpu":
        return  # nobody can tell without waiting
    if (fault := fault_of_count(count)) is not None:
        raise StateError(f"the 'step' in {what} {fault}. Nothing was written.")


def check_held(state: Mapping[str, Any], wanted: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise `StateError` if someone has put something into a state that its slots cannot be."""
    for slot, fresh in wanted.items():
        if slot in state and not _fits(state[slot], fresh):
            raise StateError(
                f"the state of parameter {name or '(unnamed)'}: slot {slot} is {described(state[slot])}, and has to be "
                f"{described(fresh)}. Put the tensor back, or delete the slot to start it afresh. Nothing was written."
            )


@contextlib.contextmanager
def explained() -> Generator[None]:
    """Turns whatever else goes wrong with a state dict into a `StateError`."""
    try:
        yield
    except StateError:
        raise
    except GradchainError as error:
        raise StateError(f"{error} Nothing was loaded.") from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        raise StateError(
            f"the state dict is damaged, and cannot be read ({type(error).__name__}: {error}). Nothing was loaded."
        ) from error


def check_whole(saved: Saved) -> None:
    """Raise if a state dict cannot be taken over as it is, whatever the chain."""
    if saved.faults:
        origin = (
            ""
            if saved.chain is not None
            else " It names no chain: another optimizer than gradchain's may have saved it."
        )
        raise StateError(
            f"the state dict is not whole: {shown_few(saved.faults, str)}. Nothing was loaded.{origin} Pass strict=False to "
            "keep what can be used."
        )


def check_clean(report: LoadReport, saved: Saved) -> None:
    """Raise unless everything was taken over as it is."""
    if not report.clean:
        origin = "" if saved.chain is not None else "It names no chain: another optimizer than gradchain's saved it.\n"
        lines = [line if len(line) <= WIDTH else f"{line[:WIDTH]}..." for line in str(report).splitlines()]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"... and {len(lines) - SHOWN} more"]
        raise StateError(
            f"the state dict does not belong to this chain; nothing was loaded.\n{origin}" + "\n".join(lines) + "\n"
            "Build the same chain, or pass strict=False to keep what fits."
        )
