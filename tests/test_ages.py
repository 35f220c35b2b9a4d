"""A moment that started late, or paused, is corrected by its own count. The oracle is Adam in float64, with two clocks."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import Chain, Optimizer, chain
from gradchain import transforms as t

SHAPES = [(3, 4), (5,)]
LR, BETAS, EPS = 0.1, (0.9, 0.999), 1e-8
MODES: dict[str, dict[str, Any]] = {
    "eager": {}, "traced": {"compile": True}, "capturable": {"capturable": True}, "in backward": {},
}  # fmt: skip
RATE = t.scale_by_learning_rate(LR)
ADAM = chain(t.first_moment(BETAS[0]), t.second_moment(BETAS[1]), t.divide(EPS), RATE)
OUTSIDE = chain(
    t.first_moment(BETAS[0], bias_correction=False), t.second_moment(BETAS[1]), t.divide(EPS), t.debias(), RATE
)

Off = dict[int, tuple[str, ...]]

over_modes = pytest.mark.parametrize("mode", MODES)


pytestmark = pytest.mark.usefixtures("traced")


def make(made: Chain = ADAM, **options: Any) -> Optimizer:
    params = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
    return Optimizer(params, made, **{"compile": False, **options})


def gradient(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def step(optimizer: torch.optim.Optimizer, number: int, mode: str = "eager") -> list[torch.Tensor]:
    """One step; returns what it subtracted."""
    params = optimizer.param_groups[0]["params"]
    before = [param.detach().clone() for param in params]
    for param, grad in zip(params, gradient(number)):
        param.grad = grad
        if mode == "in backward":
            optimizer.step_parameter(param)  # type: ignore[attr-defined]
    if mode != "in backward":
        optimizer.step()
    return [old - param.detach() for old, param in zip(before, params)]


class Oracle:
    """Adam with a count for each moment; what is off is neither updated nor used."""

    def __init__(self) -> None:
        zeros = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
        self.m, self.v, self.counts = list(zeros), list(zeros), {"first": 0, "second": 0}

    def step(self, number: int, off: tuple[str, ...] = ()) -> list[torch.Tensor]:
        on = {name: f"{name}_moment" not in off for name in self.counts}
        for name in self.counts:
            self.counts[name] += on[name]
        result = []
        for place, g in enumerate(gradient(number)):
            u, scale = g, torch.ones_like(g)
            if on["first"]:
                self.m[place] = BETAS[0] * self.m[place] + (1 - BETAS[0]) * g
                u = self.m[place] / (1 - BETAS[0] ** self.counts["first"])
            if on["second"]:
                self.v[place] = BETAS[1] * self.v[place] + (1 - BETAS[1]) * g * g
                scale = (self.v[place] / (1 - BETAS[1] ** self.counts["second"])).sqrt() + EPS
            result.append(LR * u / scale)
        return result

    def restart(self, name: str) -> None:
        self.counts[name] = 0
        slots = self.m if name == "first" else self.v
        slots[:] = [torch.zeros_like(slot) for slot in slots]


def agree(ours: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


FIRST, SECOND = ("first_moment",), ("second_moment", "divide")
SCHEDULES: dict[str, Off] = {
    "off and on": {4: FIRST, 5: FIRST, 6: FIRST},
    "on late": {1: FIRST, 2: FIRST, 3: FIRST, 4: FIRST},
    "off twice": {3: FIRST, 4: FIRST, 6: FIRST, 8: FIRST},
    "the scale on late": dict.fromkeys(range(1, 6), SECOND),
    "the scale off and on": dict.fromkeys((4, 5, 6, 7), SECOND),
    "one after the other": {1: FIRST, 2: FIRST, 4: SECOND, 5: (*FIRST, *SECOND), 6: SECOND},
}


@over_modes
@pytest.mark.parametrize("outside", [False, True], ids=["corrected inside", "corrected outside"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_stages_that_are_off_for_some_steps(schedule: Off, outside: bool, mode: str) -> None:
    optimizer, oracle = make(OUTSIDE if outside else ADAM, **MODES[mode]), Oracle()
    for number in range(1, 13):
        off = schedule.get(number, ())
        without = (*off, "debias") if outside and "first_moment" in off else off
        optimizer.param_groups[0]["disable"] = without
        agree(step(optimizer, number, mode), oracle.step(number, off))


@pytest.mark.parametrize("mode", ["eager", "traced", "capturable"])
@pytest.mark.parametrize("cut", range(1, 11))
def test_ages_survive_a_checkpoint_bit_for_bit(cut: int, mode: str) -> None:
    schedule = SCHEDULES["off twice"]
    straight, resumed = make(**MODES[mode]), make(**MODES[mode])
    for number in range(1, 13):
        if number == cut + 1:
            file = io.BytesIO()
            torch.save(resumed.state_dict(), file)
            file.seek(0)
            fresh = make(**MODES[mode])
            report = fresh.load_state_dict(torch.load(file, weights_only=True))
            assert report.clean
            for old, new in zip(resumed.param_groups[0]["params"], fresh.param_groups[0]["params"]):
                new.data.copy_(old)
            resumed = copy.deepcopy(fresh) if cut % 2 else fresh
        for optimizer in (straight, resumed):
            optimizer.param_groups[0]["disable"] = schedule.get(number, ())
        ours, theirs = step(resumed, number, "eager"), step(straight, number, "eager")
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_ordinary_checkpoints_hold_nothing_new() -> None:
    optimizer = make()
    step(optimizer, 1)
    for off in (FIRST, ()):  # switched off and on, and no step in between
        optimizer.param_groups[0]["disable"] = off
    step(optimizer, 2)
    held = {key for state in optimizer.state_dict()["state"].values() for key in state}
    assert held == {"step", "first_moment.exp_avg", "second_moment.exp_avg_sq"}


@over_modes
def test_a_state_of_another_chain_loaded_leniently(mode: str) -> None:
    """The first moment is kept, the second is new."""
    before = make(ADAM.without("second_moment", "divide"))
    oracle = Oracle()
    for number in range(1, 8):
        step(before, number)
        oracle.step(number, SECOND)
    optimizer = make(**MODES[mode])
    report = optimizer.load_state_dict(before.state_dict(), strict=False)
    assert report.reset
    assert "bias" not in str(report)
    for number in range(8, 14):
        agree(step(optimizer, number, mode), oracle.step(number))


@over_modes
def test_another_storage_starts_afresh_with_its_own_count(mode: str) -> None:
    before, oracle = make(), Oracle()
    for number in range(1, 8):
        step(before, number)
        oracle.step(number)
    other = ADAM.with_options(**{"first_moment.storage": "factored_vectors"})
    optimizer = make(other, **MODES[mode])
    optimizer.load_state_dict(before.state_dict(), strict=False)
    oracle.restart("first")
    (ours, *_), (wanted, *_) = step(optimizer, 8, mode), oracle.step(8)
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-9)  # of the first step nothing has been factored yet


@over_modes
def test_torchs_own_state_loaded_leniently(mode: str) -> None:
    """Nothing of it fits: the step is that of a new optimizer, not 1.8 to 3.6 times as long."""
    params = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
    torchs = torch.optim.AdamW(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    for number in range(1, 30):
        step(torchs, number)
    optimizer, oracle = make(**MODES[mode]), Oracle()
    optimizer.load_state_dict(torchs.state_dict(), strict=False)
    assert all(int(state["step"]) == 29 for state in optimizer.state.values())
    for number in range(30, 36):
        agree(step(optimizer, number, mode), oracle.step(number))


def test_stages_with_a_first_step_of_their_own() -> None:
    """ADOPT that is switched on late takes its first gradient in; it does not divide by a second moment of 0."""
    made = chain(t.adopt(0.99), t.divide(1e-12), RATE)
    late, anew = make(made), make(made)
    late.param_groups[0]["disable"] = ("adopt", "divide")
    for number in range(1, 5):
        step(late, number)
    late.param_groups[0]["disable"] = ()
    for number in range(5, 9):
        agree(step(late, number), step(anew, number))


class ages_two_slots(gradchain.Stage):
    """A user's, with a correction for two slots."""

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        return {"a": gradchain.Slot(), "b": gradchain.Slot()}

    def scalars(self, step: float) -> dict[str, float]:
        return {"correction": 1 - 0.5**step}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> Any:
        a, b = (0.5 * ctx.read(slot) + 0.5 * update.value for slot in ("a", "b"))
        return update.replace(value=(a + b) / ctx["correction"]), {"a": a, "b": b}


def test_slots_of_one_stage_start_afresh_together() -> None:
    before, optimizer, anew = (
        make(chain(ages_two_slots())),
        make(chain(ages_two_slots())),
        make(chain(ages_two_slots())),
    )
    for number in range(1, 4):
        step(before, number)
    saved = before.state_dict()
    for state in saved["state"].values():
        del state["ages_two_slots.a"]
    optimizer.load_state_dict(saved, strict=False)
    agree(step(optimizer, 4), step(anew, 4))


@pytest.mark.parametrize("count", [-1, 0.5, 8, float("nan")])
def test_an_age_that_cannot_be_is_refused(count: float) -> None:
    optimizer = make()
    for number in range(1, 8):
        optimizer.param_groups[0]["disable"] = FIRST if number < 3 else ()
        step(optimizer, number)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["first_moment.since"] = torch.tensor(count)
    with pytest.raises(gradchain.StateError, match=r"first_moment\.since.*\[0, 7\]"):
        optimizer.load_state_dict(saved)


class ages_taken(gradchain.Stage):
    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        return {"since": gradchain.Slot()}


def test_a_slot_may_not_take_the_name() -> None:
    with pytest.raises(gradchain.ChainError, match=r"ages_taken.*'since'"):
        chain(ages_taken())
