"""The part of an optimizer that shows parameters at another point than the one that they are trained at."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import nn

from gradchain._chain.chain import Chain
from gradchain._chain.evaluation import TRAIN_MODE, TRAIN_PARAM, has_point, is_train_param, point_of, seen_at
from gradchain._core.autocast import no_autocast
from gradchain._core.shard import Shard, local_of
from gradchain._core.untraced import untraced
from gradchain._engine.param_step import ParamRecord
from gradchain._engine.writing import overwrite, unwritable
from gradchain._optim.routing import parameter_names
from gradchain._optim.table import StepInfo
from gradchain._optim.train_value import NOT_NOW, as_slot
from gradchain._optim.watched import Watched
from gradchain.errors import OptionError, ParameterError

Kept: TypeAlias = "tuple[torch.Tensor, dict[str, Any], str]"
"""A parameter, its state, and what the value that training goes on from is called there."""


def modes(chain: Chain) -> dict[str, bool]:
    """What a group of this chain says of the mode: nothing, where there is one mode."""
    return {TRAIN_MODE: True} if has_point(chain) else {}


class Evaluated(Watched):
    """What can be in two modes, if a stage of its chain is an `EvaluationPoint`."""

    _evaluating: bool = False

    def eval(self) -> None:
        """Put the parameters where they are to be seen outside training, such as at their average.

        Call it before you evaluate or save the model, and `train()` before you go on. Without a stage such as
        `schedule_free`, `average_weights` or `lookahead` this does nothing. What training goes on from is kept in the state,
        which takes one more tensor for each parameter. Parameters that have taken no step stay as they are.

        Raises: ParameterError: a parameter cannot be written. On an error nothing has changed.

        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = gradchain.optimizer("schedule-free-sgd", [weight], lr=0.5)
        >>> for _ in range(2):
        ...     weight.grad = torch.ones(2)
        ...     optimizer.step()
        >>> optimizer.eval()  # the mean of 0.5 and 0
        >>> weight.tolist()
        [0.25, 0.25]
        >>> optimizer.train()
        """
        if has_point(self.chain):
            self._turn_to_eval()

    @untraced
    @torch.inference_mode(False)
    @torch.no_grad()
    def _turn_to_eval(self) -> None:
        moved: list[Kept] = []
        try:
            with no_autocast():
                self._show(moved)
        except BaseException:
            _bring_back(moved)
            raise
        self._turn(evaluating=True)

    def train(self) -> None:
        """Bring back the values that training goes on from, bit for bit, after `eval()`. In train mode it does nothing."""
        if has_point(self.chain):
            self._turn_to_train()

    @untraced
    @torch.inference_mode(False)
    @torch.no_grad()
    def _turn_to_train(self) -> None:
        held = ((param, self.state.get(param, {})) for param in self._parameters())
        found = [(param, state, key) for param, state in held for key in state if is_train_param(key)]
        _bring_back(found)
        if found or self._evaluating:
            self._turn(evaluating=False)

    def _show(self, moved: list[Kept]) -> None:
        """Put all parameters where they are to be seen, but for those that are there, and note what was kept of them.

        Of those that have taken no step the value is kept too: as room to load one into.
        """
        self._table.sync(self.param_groups)
        info = StepInfo(self.state, self._partition, self.capturable)
        for group, known in zip(self.param_groups, self._table.groups):
            for position, (param, settings) in enumerate(zip(known.params, known.settings)):
                state, name = self.state.get(param, {}), parameter_names(group)[position]
                if not state or any(map(is_train_param, state)):
                    continue
                address = point_of(self._table.program(param, settings, name))
                if address is None:
                    continue
                value = None
                if int(state["step"]) > 0:
                    value = self._seen(self._table.record(param, settings, group, position, info), group)
                key = f"{address}.{TRAIN_PARAM}"
                state[key] = as_slot(local_of(param).detach().clone(), param, Shard.of(param))
                moved.append((param, state, key))
                if value is not None:
                    overwrite([local_of(param)], [value])

    def _seen(self, record: ParamRecord, group: dict[str, Any]) -> torch.Tensor:
        """The value at which a parameter is to be seen."""
        here = local_of(record.param)
        if (fault := unwritable(here)) is not None:
            raise ParameterError(f"parameter {record.name or '(unnamed)'} cannot be written: {fault}.")
        state = {key: local_of(value) for key, value in record.state.items()}
        numbers = record.program.numbers(self.chain.bindings, group, int(record.state["step"]), record.ages)
        return seen_at(record.program, here.detach(), state, numbers, record.shard)

    def _turn(self, evaluating: bool) -> None:
        """Note the mode that the optimizer is in now."""
        self._evaluating = evaluating
        self._replay_plan = None
        for group in self.param_groups:
            group[TRAIN_MODE] = not evaluating
        _reshard(self._model())

    def _check_mode(self) -> None:
        """Raise `OptionError` for a step in eval mode."""
        if self._evaluating:
            raise OptionError(NOT_NOW)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        mode = {TRAIN_MODE: not self._evaluating} if has_point(self.chain) else {}
        super().add_param_group({**param_group, **mode})

    # Saving.

    def _install(self, groups: list[dict[str, Any]], states: dict[torch.Tensor, dict[str, Any]]) -> None:
        super()._install(groups, states)
        self._evaluating = any(is_train_param(key) for state in states.values() for key in state)
        for group in groups if has_point(self.chain) else ():
            group[TRAIN_MODE] = not self._evaluating

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_evaluating": self._evaluating}

    # Forgetting it.

    _watched_model: weakref.ref[nn.Module] | None = None

    def _model(self) -> nn.Module | None:
        """The module that the optimizer was given, if it was given one and that is still there."""
        return None if self._watched_model is None else self._watched_model()

    def _remind(self, params: object) -> None:
        """Watch for a module that is evaluated while its parameters are not where they are to be seen."""
        if isinstance(params, nn.Module) and has_point(self.chain):
            self._watched_model = weakref.ref(params)
            reminder = Reminder(self)
            reminder.handle = params.register_forward_pre_hook(reminder)
            weakref.finalize(self, reminder.handle.remove).atexit = False

    def _forgotten(self) -> bool:
        """Whether there is a step that `eval()` has not been called after."""
        return not self._evaluating and any(
            state and param not in self._table.fresh for param, state in self.state.items()
        )


def _bring_back(kept: Iterable[Kept]) -> None:
    """Bring back what was replaced; a parameter that has taken no step was not."""
    for param, state, key in kept:
        if int(state["step"]) > 0:
            here = local_of(param)
            overwrite([here], [local_of(state[key]).to(here.device)])
        del state[key]


class Reminder:
    """A forward pre-hook that warns, once, of a module in eval mode whose optimizer is in train mode."""

    handle: Any = None

    def __init__(self, optimizer: Evaluated) -> None:
        self._optimizer = weakref.ref(optimizer)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if module.training or torch.compiler.is_compiling():
            return
        optimizer = self._optimizer()
        if optimizer is not None and optimizer._forgotten():  # pyright: ignore[reportPrivateUsage]
            self.handle.remove()
            warnings.warn(
                "the model is in eval mode, and its optimizer in train mode: what it computes is not what was trained to be "
                "seen. Call optimizer.eval() where you call model.eval(), and optimizer.train() where you call "
                "model.train(). If you train in eval mode, ignore this.",
                UserWarning,
                stacklevel=4,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """In a copy of the module, a hook that hands on its arguments: the copy has no optimizer."""
        return getattr, ({}, "get")


def _reshard(model: nn.Module | None) -> None:
    """Drop what `fully_shard` has gathered for a forward pass: the next one would go by it, and not by what was written."""
    for part in () if model is None else model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(part).__mro__):
            part.reshard()  # type: ignore[operator]
