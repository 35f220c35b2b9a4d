"""Step counters are exact, and what hangs on them goes on: at any step, in every engine, after any load."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import Optimizer, chain
from gradchain import transforms as t
from gradchain._core.noise import _signed, mix, parameter_key, parameter_key_tensor, parameter_salt
from gradchain._engine import replay

NOISY = chain(t.first_moment(storage="int8"), t.scale_by_learning_rate(0.1))
LATE = [2**24 - 1, 2**24, 2**31 - 1, 2**32 - 1, 2**32, 2**40, 2**53 - 4]
MODES = {"eager": {}, "traced": {"compile": True}, "capturable": {"capturable": True}, "in backward": {}}

over_modes = pytest.mark.parametrize("mode", MODES)


pytestmark = pytest.mark.usefixtures("traced")  # what is tested does not depend on the compiler


def make(made: gradchain.Chain = NOISY, **options: Any) -> Optimizer:
    params = [nn.Parameter(torch.full(shape, 0.5)) for shape in ((4, 3), (5,))]
    return Optimizer(params, made, **{"compile": False, **options})


def step(optimizer: Optimizer, mode: str = "eager") -> None:
    params = optimizer.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(5)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
        if mode == "in backward":
            optimizer.step_parameter(param)
    if mode != "in backward":
        optimizer.step()


def counts(optimizer: Optimizer) -> list[int]:
    return [int(state["step"]) for state in optimizer.state.values()]


def fill(optimizer: Optimizer, count: int) -> None:
    """As a user would: in place."""
    for state in optimizer.state.values():
        state["step"].fill_(count)


def replace(optimizer: Optimizer, count: int) -> None:
    """As a user, or ZeRO with an old checkpoint, would: another tensor, in float32."""
    for state in optimizer.state.values():
        state["step"] = torch.tensor(float(count), dtype=torch.float32)


def load(optimizer: Optimizer, count: int) -> None:
    """A checkpoint from when counters were float32."""
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = torch.tensor(float(count), dtype=torch.float32)
    optimizer.load_state_dict(saved)


def number(optimizer: Optimizer, count: int) -> None:
    """By hand, as a plain number."""
    for state in optimizer.state.values():
        state["step"] = float(count)


@over_modes
@pytest.mark.parametrize("count", LATE)
def test_counters_are_exact(mode: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stood: list[int] = []
    original = replay.ReplayPlan.run
    monkeypatch.setattr(replay.ReplayPlan, "run", lambda *args: stood.append(1) or original(*args))
    optimizer = make(**MODES[mode])
    step(optimizer, mode)
    fill(optimizer, count)
    for _ in range(4):
        step(optimizer, mode)
    assert counts(optimizer) == [count + 4] * 2
    assert bool(stood) == (mode == "traced")


@over_modes
@pytest.mark.parametrize("how", [replace, load, number], ids=lambda how: how.__name__)
def test_a_float32_counter_goes_on(how: Callable[[Optimizer, int], None], mode: str) -> None:
    optimizer = make(**MODES[mode])
    step(optimizer, mode)
    how(optimizer, 2**24)
    step(optimizer, mode)
    step(optimizer, mode)
    assert counts(optimizer) == [2**24 + 2] * 2
    assert counts(copy.deepcopy(optimizer)) == [2**24 + 2] * 2


def test_pure_functions_count_on() -> None:
    param = torch.zeros(3)
    state = NOISY.init(param)
    state["step"][""] = torch.tensor(float(2**24))
    for _ in range(2):
        _, state = NOISY.update(torch.ones(3), state, param)
    assert int(state["step"][""]) == 2**24 + 2


@pytest.mark.parametrize("count", LATE)
def test_noise_is_the_same_in_every_mode_and_new_at_every_step(count: int) -> None:
    codes: dict[str, list[torch.Tensor]] = {}
    for mode, options in MODES.items():
        optimizer = make(**options)
        step(optimizer, mode)
        fill(optimizer, count)
        codes[mode] = []
        for _ in range(3):
            for state in optimizer.state.values():
                state["first_moment.exp_avg.data"].zero_()
                state["first_moment.exp_avg.scale"].zero_()
            step(optimizer, mode)
            state = next(iter(optimizer.state.values()))
            codes[mode].append(state["first_moment.exp_avg.data"].clone())
    assert all(torch.equal(torch.stack(codes[mode]), torch.stack(codes["eager"])) for mode in MODES)
    first, second, third = codes["eager"]
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_the_first_keys_are_those_they_always_were() -> None:
    for count in (1, 2, 1000, 2**24, 2**31 - 1, 2**31, 2**32 - 1):
        assert parameter_key(count, 7) == _signed(mix(mix(count) + parameter_salt(7)))


def test_keys_of_tensors_are_keys_of_numbers() -> None:
    steps = [1, 1000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 5, 2**53]
    keys = parameter_key_tensor(torch.tensor(steps), parameter_salt(3))
    assert keys.tolist() == [parameter_key(count, 3) for count in steps]


def test_keys_do_not_return_after_32_bits() -> None:
    early, late = ([parameter_key(start + n, 0) for n in range(1, 1000)] for start in (0, 2**32))
    assert sum(a == b for a, b in zip(early, late)) == 0


@over_modes
def test_a_bound_that_grows_with_the_step_never_overflows(mode: str) -> None:
    """adv-adopt with a large exponent: 10,000 ** 100 is no float."""
    made = chain(t.adopt(0.9), t.divide(1e-6), t.step_clip(100.0), t.scale_by_learning_rate(0.1))
    optimizer = make(made, **MODES[mode])
    step(optimizer, mode)
    for count in (10_000, 2**53 - 4):
        fill(optimizer, count)
        step(optimizer, mode)
        step(optimizer, mode)
        assert all(param.isfinite().all() for param in optimizer.param_groups[0]["params"])


class counters_overflowing(gradchain.Stage):
    def scalars(self, step: float) -> dict[str, float]:
        return {"bound": step**100.5}


def test_a_scalar_that_overflows_is_named() -> None:
    optimizer = make(chain(counters_overflowing()))
    fill(optimizer, 10_000)
    with pytest.raises(gradchain.ChainError, match=r"counters_overflowing.*10001.*overflow"):
        step(optimizer)
    assert counts(optimizer) == [10_000] * 2
