"""The state of a parameter when it is added, before its first step, and after others have written to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from gradchain._chain.program import Program
from gradchain._core import ages
from gradchain._core.counters import COUNTER, counter_of
from gradchain._dist.initial import expected, initial_state
from gradchain._optim.state import check_counted, check_held
from gradchain._optim.train_value import check_train_values
from gradchain.errors import OptionError, StateError


@torch.inference_mode(False)  # what is made in inference mode could not be written outside
@torch.no_grad()
def first_state(program: Program, param: torch.Tensor, name: str, capturable: bool) -> dict[str, Any]:
    """The counter and the slots of a parameter before its first step."""
    device = param.device if capturable else None
    return {"step": torch.zeros((), dtype=COUNTER, device=device), **initial_state(program, param, name)}


class Stateful(NamedTuple):
    """A parameter that has state."""

    param: torch.Tensor
    name: str
    role: str | None
    program: Program
    route: Program
    """Its program if no stage is switched off."""


def renew_state(
    state: dict[str, Any], of: Stateful, fresh: torch.Tensor | None, capturable: bool, edited: bool
) -> None:
    """Make a state anew before its first step, and complete it afterwards where something is missing.

    Args:
        fresh: the counter of the state that the parameter was given when it was added, until its first step.
        edited: the parameter's settings are what they were: if its state is not, others have written to it.

    Raises:
        StateError, OptionError: the state cannot be one of this chain.
    """
    param, name, role, program, route = of
    check_counted(state, name)
    check_train_values(state)
    # Where only the device knows the count, a state that was not replaced is taken for one before its first step.
    if "step" not in state or (fresh is state["step"] and (capturable or float(state["step"]) == 0)):
        counter = state.get("step")
        state.clear()
        state.update(first_state(program, param, name, capturable))
        state["step"] = state["step"] if counter is None else counter
        return
    wanted = expected(program, param)
    if edited:
        check_held(state, wanted, name)
    # ZeRO loads without asking us, and moves numbers to the CPU.
    state.update({k: state[k].to(param.device) for k in wanted if k in state and state[k].device != param.device})
    if fresh is not None:
        _check_slots(state, expected(route, param).keys(), param, name, wanted)
    new = {key.partition(".")[0] for key in wanted.keys() - state.keys()}
    if new:  # a stage may have been switched on since
        kept = {key: x for key, x in state.items() if key.partition(".")[0] not in new or key not in wanted}
        state.update({**initial_state(program, param, name), **kept})
    owners = [at for at, _ in route.owners.values()]
    ages.turn(state, counter_of(state), owners, program.addresses, new)
    for slot, value in wanted.items():
        if state[slot].shape != value.shape:
            raise OptionError(
                f"parameter {name or '(unnamed)'}: slot {slot} has shape {tuple(state[slot].shape)}, and under role "
                f"{role!r} it would be {tuple(value.shape)}. A role cannot change in mid-run: make a new "
                "optimizer."
            )


def _check_slots(
    state: Mapping[str, Any], known: Any, param: torch.Tensor, name: str, wanted: Mapping[str, Any]
) -> None:
    """Raise unless a state that was put here by others, as ZeRO does when it loads, belongs to this chain."""
    held = {key for key in state if key != "step" and not ages.is_age(key)}
    if foreign := sorted({*(held - known), *(wanted.keys() - held)}):
        raise StateError(
            f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)}: the loaded state does not belong to this "
            f"chain, by its slots {', '.join(foreign)}. Build the same chain. (ZeroRedundancyOptimizer loads "
            "without asking the optimizer; load_state_dict of gradchain.Optimizer explains the differences.)"
        )
