"""Takes up the parameters of a new group: what they are is checked, and their state is made."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from gradchain._chain.program import Program
from gradchain._chain.tracing import traits_of
from gradchain._core.counters import place_together
from gradchain._core.shard import Shard, local_of
from gradchain._dist.check_split import check_split
from gradchain._engine.writing import unwritable
from gradchain._optim.first_state import first_state
from gradchain._optim.routing import Settings, parameter_names
from gradchain._optim.table import ParamTable, State
from gradchain.errors import ParameterError


@torch.inference_mode(False)
def register(table: ParamTable, group: dict[str, Any], state: State, capturable: bool) -> None:
    """Check the parameters of a group, make their state, and note them in the table.

    Raises:
        ParameterError: a parameter that needs gradients cannot be written.
        ChainError: a stage does what none may do; then neither state nor table has changed.
    """
    advice: dict[str, None] = {}
    made: dict[torch.Tensor, dict[str, Any]] = {}
    routes: dict[torch.Tensor, tuple[Settings, Program, str]] = {}
    split: set[tuple[Program, torch.Size]] = set()
    for name, param, settings in zip(parameter_names(group), group["params"], Settings.each(group)):
        if param.requires_grad and (fault := unwritable(local_of(param), inference=True)) is not None:
            what = f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)}"
            raise ParameterError(f"{what} cannot be written: {fault}.")
        shard = Shard.of(param, name)
        program = table.program(param, settings, name)
        if shard.group is not None and program.third_party and (program, shard.shape) not in split:
            split.add((program, shard.shape))
            numbers = [program.numbers(table.chain.bindings, group, step) for step in (1, 2)]
            check_split(program, shard.shape, numbers, name)
        if param.requires_grad:
            made[param] = first_state(program, param, name, capturable)
            advice |= dict.fromkeys(f"{name or 'a parameter'}: {text}" for text in program.warnings(param))
        routes[param] = (settings, program, name)
        traits_of(program, param)  # where a stage does what none may do, this says so
    for text in advice:
        warnings.warn(text, UserWarning, stacklevel=6)
    place_together(made.values())
    state.update(made)
    for param, (settings, program, name) in routes.items():
        table.add(param, settings, program, made.get(param, {}), name)
