"""Short runs of an optimizer on given gradients: what the laws compare."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import nn

from gradchain._chain.program import Program
from gradchain._chain.tracing import traits_of
from gradchain._optim.optimizer import Optimizer
from gradchain.errors import OptionError, shown
from gradchain.testing.law import NotApplicable

Shape: TypeAlias = tuple[int, ...]
Tensors: TypeAlias = list[torch.Tensor]
Factory: TypeAlias = Callable[[Any], torch.optim.Optimizer]

SHAPES: tuple[Shape, ...] = ((4, 3), (3,), (2, 3, 2))
RANKS: tuple[Shape, ...] = ((), (3,), (4, 3), (2, 3, 2), (2, 3, 2, 2))


def normal(seed: int, shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers, the same in every dtype up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(step: int, shapes: Sequence[Shape], dtype: torch.dtype = torch.float32) -> Tensors:
    """The gradients of a step: others at each step and for each parameter, with something in common."""
    common = [normal(500 + place, shape, torch.float64) for place, shape in enumerate(shapes)]
    fresh = [normal(1000 + 100 * step + place, shape, torch.float64) for place, shape in enumerate(shapes)]
    return [(a + 0.5 * b).to(dtype) for a, b in zip(common, fresh)]


def reseed(seed: int) -> None:
    """Set the global generators."""
    torch.manual_seed(seed)
    random.seed(seed)


class Run:
    """Parameters, and an optimizer that was made for them."""

    def __init__(
        self,
        factory: Factory,
        shapes: Sequence[Shape] = SHAPES,
        dtype: torch.dtype = torch.float32,
        start: Tensors | None = None,
        **group: Any,
    ) -> None:
        self.shapes, self.dtype = tuple(shapes), dtype
        if start is None:
            start = [normal(place, shape) for place, shape in enumerate(shapes)]
        self.params = [nn.Parameter(value.to(dtype, copy=True)) for value in start]
        self.seed = 0
        reseed(self.seed)
        self.optimizer = factory([{"params": self.params, **group}] if group else self.params)
        self.wake()

    def wake(self) -> None:
        """Put an optimizer that has modes into that for training."""
        train: Any = getattr(self.optimizer, "train", None)
        if callable(train):
            train()

    @cached_property
    def needs_closure(self) -> bool:
        """Whether `step` cannot be called without a closure, as LBFGS's cannot."""
        parameters = inspect.signature(type(self.optimizer).step).parameters
        closure = parameters.get("closure")
        return closure is not None and closure.default is inspect.Parameter.empty

    def call(self) -> Any:
        """Call `step`, with the global generators as always: only the law about them is to see who draws from them."""
        reseed(self.seed)
        return self.optimizer.step(lambda: torch.zeros(())) if self.needs_closure else self.optimizer.step()  # type: ignore[arg-type]

    def step(self, number: int, grads: Sequence[torch.Tensor | None] | None = None) -> Run:
        """Take the step of this number, with other gradients than its own if they are given."""
        for param, grad in zip(self.params, gradients(number, self.shapes, self.dtype) if grads is None else grads):
            param.grad = None if grad is None else grad.clone()
        self.call()
        return self

    def train(self, start: int, stop: int) -> Run:
        """Take the steps from `start` to before `stop`."""
        for number in range(start, stop):
            self.step(number)
        return self

    @property
    def values(self) -> Tensors:
        """Copies of the parameters."""
        return [param.detach().clone() for param in self.params]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of the state, with names."""
        for place, param in enumerate(self.params):
            for key, value in self.optimizer.state.get(param, {}).items():
                if isinstance(value, torch.Tensor):
                    yield f"state[{place}][{key!r}]", value

    def set(self, **entries: Any) -> Run:
        """Set entries of all groups."""
        for group in self.optimizer.param_groups:
            group.update(entries)
        return self


@dataclass(frozen=True)
class Subject:
    """An optimizer under examination: how to make one, and what its author says about it."""

    factory: Factory
    name: str
    cross_parameter: bool = False

    def make(self, params: Any) -> torch.optim.Optimizer:
        """Call the factory.

        Raises:
            OptionError: it returns something else than an optimizer.
        """
        made: object = self.factory(params)
        if not isinstance(made, torch.optim.Optimizer):
            raise OptionError(f"the factory returned {shown(made)}, which is no torch.optim.Optimizer")
        return made

    def run(self, shapes: Sequence[Shape] | None = None, dtype: torch.dtype = torch.float32, **more: Any) -> Run:
        """A new run, of the shapes that the optimizer takes if none are given."""
        return Run(self.make, self.shapes if shapes is None else shapes, dtype, **more)

    def trial(self, shape: Shape) -> tuple[str, str]:
        """Where a parameter of this shape fails: `("", "")`, `("construction", error)` or `("step", error)`."""
        try:
            run = Run(self.make, [shape])
        except Exception as error:
            return "construction", f"{type(error).__name__}: {error}"
        try:
            run.train(0, 2)
        except Exception as error:
            return "step", f"{type(error).__name__}: {error}"
        return "", ""

    @cached_property
    def trials(self) -> dict[Shape, tuple[str, str]]:
        """What became of each of the usual shapes."""
        return {shape: self.trial(shape) for shape in SHAPES}

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Three shapes that the optimizer takes: of several ranks, or else matrices."""
        return tuple((self.runnable() * 3)[:3])

    def runnable(self) -> list[Shape]:
        """The usual shapes that it takes. Raises `NotApplicable` if there are none."""
        if good := [shape for shape, (where, _) in self.trials.items() if not where]:
            return good
        raise NotApplicable("it cannot be run; see the law runs")

    @cached_property
    def mixes(self) -> str:
        """Why the step of a parameter may depend on the others, if it may."""
        if self.cross_parameter:
            return "cross_parameter=True says that a step depends on all parameters"
        optimizer = self.run().optimizer
        if isinstance(optimizer, Optimizer):
            if address := optimizer.reaching_out():
                return f"{address} depends on all parameters"
            if draws(optimizer):
                return "it draws noise by the place of a parameter"
            if any(program.takes_turns for program, _ in _routed(optimizer)):
                return "parameters take turns by their places"
        return ""

    def alone(self) -> None:
        """Raise `NotApplicable` if the step of a parameter may depend on the others."""
        if self.mixes:
            raise NotApplicable(self.mixes)

    def ours(self, what: str, run: Run | None = None) -> Optimizer:
        """The optimizer if it is one of gradchain's; otherwise raise `NotApplicable`: it does not have `what`."""
        optimizer = (run or self.run()).optimizer
        if not isinstance(optimizer, Optimizer):
            raise NotApplicable(f"{what} of gradchain's optimizers only")
        return optimizer


def rebuilt(optimizer: Optimizer, **options: Any) -> Factory:
    """Make optimizers of the same chain and numbers with other keywords. Returns: a factory."""
    numbers = {name: optimizer.defaults[name] for name in optimizer.chain.hyperparameters}
    return lambda params: Optimizer(params, optimizer.chain, **{"compile": False, **options}, **numbers)


def draws(optimizer: Optimizer) -> bool:
    """Whether a step draws noise."""
    return any(traits_of(program, param).draws for program, param in _routed(optimizer))


def _routed(optimizer: Optimizer) -> Iterator[tuple[Program, torch.Tensor]]:
    """The parameters, each with what it runs through."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            yield optimizer.chain.route("", param), param


@contextlib.contextmanager
def left_as_it_was() -> Generator[None]:
    """Whatever a law sets, it is as before afterwards: the generators, the default dtype, the mode of gradients."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    seed, other = torch.random.get_rng_state(), random.getstate()
    try:
        torch.set_num_threads(1)  # the tensors are tiny
        with torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.random.set_rng_state(seed)
        random.setstate(other)
