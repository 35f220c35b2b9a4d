"""A few steps on small random parameters, chosen so that every effect of a chain shows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

from gradchain._chain.chain import Chain, Element
from gradchain._chain.partition import Partition
from gradchain._optim.optimizer import Optimizer

Effect = Literal["changes", "state only", "nothing"]

SHAPES: Mapping[str, tuple[tuple[int, ...], str | None]] = {
    "lora_A": ((4, 24), "lora_A"),
    "lora_B": ((16, 4), "lora_B"),
    "dora_scale": ((16, 1), "dora_scale"),
    "oft": ((3, 6), "oft"),
    "flat": ((3, 5), "vector"),
    "matrix": ((16, 12), None),
    "stack": ((2, 3, 5), None),
    "conv": ((4, 3, 3, 3), None),
    "column": ((6, 1), None),
    "vector": ((7,), None),
    "composite": ((12,), None),
    "single": ((1,), None),
    "scalar": ((), None),
    "qkv": ((9, 3), "qkv"),
    "experts": ((2, 4, 3), "experts"),
    "query": ((12, 3), "query"),
}
"""Shape and role of each parameter."""

FAINT = {"lora_A": 1e-3, "query": 1e-3}
"""Parameters with small gradients, next to which additions such as `eps` count, and their size."""

# Per step: the gradient's sign (it turns, so that momenta are opposed), its size (it jumps, so that clips act), and the
# learning rate in units of its own (it varies, so that schedules act).
SIGNS = (1, 1, -1, 1, -1, -1, 1, 1, 1, -1, 1)
SIZES = (1.0, 0.5, 1.0, 30.0, 1.0, 1e-3, 1.0, 1.0, 1.0, 2.0, 1.0)
RATES = (1.0, 0.9, 0.5, 0.7, 1.2, 0.6, 0.3, 0.8, 1.0, 0.4, 0.9)
STEPS = len(SIGNS)

LATE_STEP = 8
"""From this step on, the step counter stands beyond any warmup."""
LATE = 1_000_000


class Probe(NamedTuple):
    """Named parameters before the first step, their roles, and for each step their gradients."""

    names: tuple[str, ...]
    roles: tuple[str | None, ...]
    params: tuple[torch.Tensor, ...]
    grads: tuple[tuple[torch.Tensor, ...], ...]


class Subject(NamedTuple):
    """A chain, other values for its hyperparameters, and the options given to its recipe."""

    chain: Chain
    numbers: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def runs(self) -> tuple[Any, ...]:
        """The parts that decide the result."""
        return self.chain, self.numbers


def make_probe(chain: Chain) -> Probe:
    """The parameters of `SHAPES`, and more for branches of partitions that none of these reaches."""
    generator = torch.Generator().manual_seed(20)
    shapes = dict(SHAPES)
    for label in _unreached(chain):
        shapes |= {f"branch_{label}": ((6, 5), label), f"branch_{label}_vector": ((5,), label)}
    names, roles, params, grads = [], [], [], []
    for dtype in (torch.float32, torch.bfloat16):
        for name, (shape, role) in shapes.items():
            names.append(f"{name}.{str(dtype).removeprefix('torch.')}")
            roles.append(role)
            # A LoRA starts with one factor at zero.
            weight = _normal(shape, generator) * (0.0 if name == "lora_B" else 0.5)
            params.append(weight.to(dtype))
            size = FAINT.get(name, 1.0)
            grads.append([(size * gradient).to(dtype) for gradient in _gradients(shape, generator)])
    steps = tuple(tuple(gradients[step] for gradients in grads) for step in range(STEPS))
    return Probe(tuple(names), tuple(roles), tuple(params), steps)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _gradients(shape: tuple[int, ...], generator: torch.Generator) -> list[torch.Tensor]:
    """Correlated from step to step, with heavy tails, exact zeros, and one step of nothing but zeros."""
    base, tails = _normal(shape, generator), _normal(shape, generator).exp()
    silent = torch.rand(shape, generator=generator) < 0.1 if len(shape) > 1 else torch.zeros(shape, dtype=torch.bool)
    found: list[torch.Tensor] = []
    for step, (sign, size) in enumerate(zip(SIGNS, SIZES)):
        gradient = sign * size * tails * (base + 0.7 * _normal(shape, generator))
        missing = torch.rand(shape, generator=generator) < (0.1 if len(shape) else 0.0)
        found.append(torch.where(silent | missing | (step == 6), 0.0, gradient))
    return found


def _unreached(chain: Chain) -> list[str]:
    def partitions(elements: Sequence[Element]) -> list[Partition]:
        found = [element for element in elements if isinstance(element, Partition)]
        return found + [inner for part in found for _, branch in part.branches for inner in partitions(branch.elements)]

    missing: dict[str, None] = {}
    for part in partitions(chain.elements):
        reached = {part.branch(name, torch.empty(shape), role)[0] for name, (shape, role) in SHAPES.items()}
        missing |= dict.fromkeys(label for label, _ in part.branches if label not in reached)
    return list(missing)


class Trajectory:
    """The parameters after each step; steps are taken on demand."""

    def __init__(self, probe: Probe, subject: Subject) -> None:
        self._probe = probe
        self._params = [torch.nn.Parameter(param.clone()) for param in probe.params]
        named = list(zip(probe.names, self._params))
        with warnings.catch_warnings():  # advice about odd shapes
            warnings.simplefilter("ignore", UserWarning)
            self._optimizer = Optimizer(named, subject.chain, compile=False, role=probe.roles, **dict(subject.numbers))
        self._rate = self._optimizer.param_groups[0].get("lr")
        self._shared = [key for _, _, key in subject.chain.bindings.shared]
        self._taken: list[list[torch.Tensor]] = []

    def after(self, step: int) -> list[torch.Tensor]:
        """The parameters after a step, counted from 0."""
        while len(self._taken) <= step:
            self._step(len(self._taken))
            self._taken.append([param.detach().clone() for param in self._params])
        return self._taken[step]

    def _step(self, step: int) -> None:
        if isinstance(self._rate, (int, float)):
            self._optimizer.param_groups[0]["lr"] = self._rate * RATES[step]
        for param, gradient in zip(self._params, self._probe.grads[step]):
            param.grad = gradient.clone()
            if step == LATE_STEP:
                self._optimizer.state[param]["step"].fill_(LATE)
        self._optimizer.step()

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        """All state after the last step, by name."""
        self.after(STEPS - 1)
        group = self._optimizer.param_groups[0]
        kept = {key: torch.as_tensor(group[key]) for key in self._shared}
        for name, param in zip(self._probe.names, self._params):
            kept |= {f"{name}: {slot}": torch.as_tensor(value) for slot, value in self._optimizer.state[param].items()}
        return kept

    def is_finite(self) -> bool:
        return all(bool(param.isfinite().all()) for step in range(STEPS) for param in self.after(step))


def difference(one: Trajectory, other: Trajectory) -> Effect:
    """Whether two runs differ, bit for bit; they stop at the first difference."""
    for step in range(STEPS):
        if not all(map(_alike, one.after(step), other.after(step))):
            return "changes"
    same = one.state.keys() == other.state.keys() and all(_alike(one.state[key], other.state[key]) for key in one.state)
    return "nothing" if same else "state only"


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    if torch.equal(one, other):
        return one.dtype == other.dtype
    if one.shape != other.shape or one.dtype != other.dtype or not one.is_floating_point():
        return False
    one, other = one.to(torch.float64), other.to(torch.float64)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
