"""A stage under examination, in the smallest chain that holds it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

import torch

from gradchain import transforms as t
from gradchain._chain import shared
from gradchain._chain.chain import Chain, Stages, chain
from gradchain._chain.extra_evaluation import check_single
from gradchain._chain.numbers import Numbers
from gradchain._chain.program import Outcome, Program, State
from gradchain._chain.stage import Stage
from gradchain._core.noise import parameter_key
from gradchain._core.reduce import Request, Totals
from gradchain._optim.optimizer import Optimizer
from gradchain.errors import ChainError, GradchainError, OptionError, shown
from gradchain.testing.law import NotApplicable
from gradchain.testing.runs import SHAPES, Shape, Subject, normal, reseed

LR = t.scale_by_learning_rate(0.05)

Given: TypeAlias = "Stage | type[Stage] | Callable[[], Stage]"
Around: TypeAlias = "Stages | Iterable[Stages]"

NEIGHBOURS: tuple[tuple[tuple[Stage, ...], tuple[Stage, ...]], ...] = (
    ((), (LR,)),
    ((), (t.divide(0.1), LR)),
    ((t.first_moment(0.8),), (LR,)),
    ((t.second_moment(0.99),), (LR,)),
    ((), (t.first_moment(0.8), LR)),
    ((), (t.second_moment(0.99), t.divide(0.1), LR)),
    ((t.range_normalize(floor=0.1),), (t.divide(0.1), LR)),
    ((t.sign(), t.first_moment(0.8)), (LR,)),
    ((t.second_moment(0.99),), (t.divide(0.1), LR, t.decoupled_decay(0.1))),
    ((LR,), ()),
    ((t.promote("fp32"), LR), ()),
    ((), (LR, t.decoupled_decay(0.1))),
    ((t.first_moment(0.8), LR), (t.decoupled_decay(0.1),)),
    ((t.adopt(0.9), t.divide(0.1)), (LR,)),
    ((), ()),
)
"""Stages before and after one, tried in this order."""


@dataclass(frozen=True)
class Bench:
    """A stage, its chain, and what runs one step of it below everything that an optimizer checks."""

    stage: Stage
    chain: Chain
    address: str

    @property
    def name(self) -> str:
        return type(self.stage).__name__

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """The entries of a parameter group."""
        group = dict(self.chain.hyperparameters)
        for _, stage in self.chain.addressed:
            group = {**stage.initial_entries(self.chain.hyperparameters), **group}
        return group | shared.initial(self.chain, self.chain.hyperparameters, torch.device("cpu"))

    def program(self, param: torch.Tensor) -> Program:
        """The stages that a parameter passes."""
        return self.chain.route("", param)

    def start(self, shape: Shape, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, State]:
        """A parameter and its state before the first step."""
        param = normal(0, shape, dtype)
        return param, self.program(param).init(param)

    def step(
        self,
        param: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        step: Any = 1,
        numbers: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """One step of one parameter; nothing is traced before."""
        program = self.program(param)
        values = program.numbers(self.chain.bindings, self.numbers if numbers is None else numbers, step)
        return self.run(param, gradient, state, values, int(step))

    def run(
        self, param: torch.Tensor, gradient: torch.Tensor, state: Mapping[str, torch.Tensor], values: Numbers, step: int
    ) -> Outcome:
        """The step itself, with all numbers computed, and the global generators as always."""
        reseed(0)
        key = torch.tensor(parameter_key(step, 0), dtype=torch.int32)
        with torch.no_grad():
            return _alone(self.program(param).run(param, gradient, state, values, noise_key=key))

    def advanced(self, shape: Shape, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, State]:
        """A parameter and its state after two steps, where no slot is as it was made."""
        param, state = self.start(shape, dtype)
        for number in (1, 2):
            outcome = self.step(param, normal(number, shape, dtype), state, number)
            param, state = outcome.param, {**state, **outcome.state}
        return param, state

    @cached_property
    def _trials(self) -> dict[Shape, str]:
        """Each shape that is tried, with the error of the raw step; empty where there is none."""
        trials: dict[Shape, str] = {}
        for shape in SHAPES:
            try:
                self.advanced(shape)
            except Exception as error:
                trials[shape] = f"{type(error).__name__}: {error}"
            else:
                trials[shape] = ""
        return trials

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that the raw step takes; `NotApplicable` if it takes none."""
        if all(self._trials.values()):
            raise NotApplicable("its step fails; see the law accepted")
        return tuple(shape for shape, error in self._trials.items() if not error)

    @cached_property
    def refusal(self) -> str:
        """Why no optimizer takes the stage, if none does."""
        if all(self._trials.values()):
            return f"its step raised {self._trials[SHAPES[0]]}"
        params = [torch.nn.Parameter(normal(place, shape)) for place, shape in enumerate(self.shapes)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Optimizer(params, self.chain, compile=False)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    @cached_property
    def subject(self) -> Subject:
        """The optimizer that runs the chain."""
        if self.refusal:
            raise NotApplicable("no optimizer takes the stage; see the law accepted")
        return Subject(lambda params: Optimizer(params, self.chain, compile=False), self.name)


def _alone(running: Any) -> Outcome:
    """The outcome of a step whose totals are those of one parameter."""
    answer: Totals | None = None
    while True:
        try:
            request: Request = running.send(answer)[1]
        except StopIteration as stop:
            return stop.value
        answer = request.local_totals()


def bench(given: Given, before: Around = (), after: Around = ()) -> Bench:
    """Put a stage on the bench, between the stages that are given, or else between the first that it fits.

    Raises:
        OptionError: this is no stage, or cannot be made without arguments.
        ChainError: it fits nowhere that was tried, or not where it was put.
    """
    stage = _made(given)
    if before or after:
        return _placed(stage, _elements(before), _elements(after))
    refusals: list[GradchainError] = []
    for earlier, later in NEIGHBOURS:
        try:
            return _placed(stage, earlier, later)
        except GradchainError as error:
            refusals.append(error)
    raise ChainError(
        f"{type(stage).__name__} fits none of {len(NEIGHBOURS)} small chains; alone before scale_by_learning_rate: "
        f"{refusals[0]} Pass the stages that it needs: before=[...], after=[...].",
        stage=type(stage).__name__,
    )


def _made(given: Any) -> Stage:
    made: object = given
    if not isinstance(given, Stage) and callable(given):
        try:
            made = given()
        except TypeError as error:
            raise OptionError(f"{shown(given)} cannot be made without arguments: {error}. Pass an instance.") from None
    if not isinstance(made, Stage):
        raise OptionError(
            f"{shown(made)} is no transform; pass a stage, such as `gradchain.sign()`, its class, or a function that makes "
            "one. Optimizers are for check_optimizer."
        )
    return made


def _elements(around: Around) -> tuple[Any, ...]:
    return (around,) if isinstance(around, (Stage, Chain)) else tuple(cast("Iterable[Any]", around))


def _placed(stage: Stage, before: tuple[Any, ...], after: tuple[Any, ...]) -> Bench:
    built = chain(*before, stage, *after)
    check_single(built, "laws are examined without closures")
    (address,) = [at for at, held in built.addressed if held is stage] or [stage.address]
    return Bench(stage, built, address)
