"""Recorded steps: the bits of the stages, whatever changes from step to step; none where something else goes into them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

import gradchain
from gradchain._engine import batch_replay, eager, eager_tiles
from gradchain._engine.batch_replay import BatchReplay
from gradchain._engine.recorder import GRADIENT, PARAM, NoTape
from gradchain._engine.tape import Tape
from gradchain._engine.tape_writer import Room
from gradchain._engine.traced_number import Answers, TracedNumber
from tests.laws.cases import CASES

SHAPES = [(7,), (3, 5), (40,), (1,), (6, 9)]
CUT = [(16, 8), (17, 9), (9, 4, 3), (16, 8), (71,)]
"""Shapes that are cut into tiles of about 16 elements; two of them are alike, and some tiles are shorter."""
STEPS = 8

Change = Callable[[Any, int], None]


def slow(value: Any) -> Any:
    """A value of a parameter for which a test is slow."""
    return pytest.param(value, marks=pytest.mark.slow)


def nothing(optimizer: Any, step: int) -> None:
    pass


def train(
    chain: gradchain.Chain,
    monkeypatch: pytest.MonkeyPatch,
    taped: bool,
    change: Change = nothing,
    dtype: torch.dtype = torch.float32,
    size: int = 32,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    tile: int = 1 << 18,
    **options: Any,
) -> tuple[list[torch.Tensor], list[int]]:
    """What some steps make of parameters and state, joined, cut and whole; and how many batches were played in each."""
    played: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(eager, "ELEMENTS", size)
        patch.setattr(eager_tiles, "ELEMENTS", tile)
        patch.setattr(batch_replay, "RECORDED", 2 if taped else 1 << 40)
        play = Tape.play

        def counted(*args: Any) -> None:
            played.append(1)
            play(*args)

        patch.setattr(Tape, "play", counted)
        generator = torch.Generator().manual_seed(1)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = gradchain.Optimizer(params, chain, compile=False, **options)
        counts: list[int] = []
        for step in range(STEPS):
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator, dtype=dtype)
            change(optimizer, step)
            before = [param.grad.clone() for param in params if param.grad is not None]
            played.clear()
            optimizer.step()
            counts.append(len(played))
            assert all(map(torch.equal, before, (param.grad for param in params if param.grad is not None)))
    kept = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    return [*(param.detach() for param in params), *kept], counts


def replayed() -> list[str]:
    """The cases of which small tensors are stepped in batches, or alone."""
    found: list[str] = []
    for name, case in CASES.items():
        params = [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(3, 2))]
        for param in params:
            param.grad = torch.ones_like(param)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizer = gradchain.Optimizer(params, case.chain, compile=False)
                for _ in range(3):
                    optimizer.step()
        except gradchain.GradchainError:  # not for vectors
            continue
        if isinstance(vars(optimizer)["_executor"].replayable, BatchReplay):
            found.append(name)
    return found


NAMES = replayed()
UNTAPED = {"adv-muon", "adv-muon:rows", "adv-adamuon", "adv-adamuon:power"}
"""Those that have no tape: their larger matrices are orthogonalised, with others that are like them."""


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.float64), slow(torch.bfloat16), torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_tape_makes_the_bits_of_the_stages(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = CASES[name].chain
    expected, _ = train(chain, monkeypatch, False, dtype=dtype)
    made, played = train(chain, monkeypatch, True, dtype=dtype)
    assert all(map(torch.equal, made, expected))
    if dtype.itemsize >= 4:  # narrower parameters may be rounded with noise
        assert bool(played[-1]) == (name not in UNTAPED)


def scheduled(optimizer: Any, step: int) -> None:
    group = optimizer.param_groups[0]
    group["lr"], group["betas"] = 0.1 / (step + 1), (0.9 - step / 100, 0.99)


def decay_from_the_sixth(optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["weight_decay"] = 0.1 if step > 5 else 0.0


def an_integer(optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["lr"] = 1 if step == 5 else 0.1


def a_tensor(optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["lr"] = torch.tensor(0.2) if step == 5 else 0.1


def a_gradient_that_is_a_parameter(optimizer: Any, step: int) -> None:
    for param in optimizer.param_groups[0]["params"]:
        param.grad = param.detach()


def a_weight_that_is_clamped(optimizer: Any, step: int) -> None:
    for param in optimizer.param_groups[0]["params"]:
        param.data.clamp_(-0.5, 0.5)


# Tiles of rows.

PHASES = {"rose": 2, "gyro-adam": 3, "adams": 3, "adv-adamw-orthograd": 3, "adafactor": 3, "lamb": 2}
"""How often the tiles are gone over: once more than totals are asked for that depend on those before."""


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)], ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if name.partition("/")[2] not in ("int8", "int4")])
def test_tiles_are_played_bit_for_bit(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = CASES[name].chain
    expected, _ = train(chain, monkeypatch, False, dtype=dtype, shapes=CUT, tile=16)
    made, _ = train(chain, monkeypatch, True, dtype=dtype, shapes=CUT, tile=16)
    assert all(map(torch.equal, made, expected))


@pytest.mark.parametrize("name", PHASES)
def test_tiles_are_gone_over_as_often_as_totals_are_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (8, 16)
    _, played = train(gradchain.recipe(name), monkeypatch, True, shapes=[shape], tile=16)
    assert played[-1] == 8 * PHASES[name]


@pytest.mark.parametrize("change", [scheduled, decay_from_the_sixth, an_integer, a_tensor, a_weight_that_is_clamped])
@pytest.mark.parametrize("name", ["rose", "gyro-adam", "adams"])
def test_what_changes_between_steps_of_tiles(name: str, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = gradchain.recipe(name)
    expected, _ = train(chain, monkeypatch, False, change, shapes=CUT, tile=16, maximize=True)
    made, played = train(chain, monkeypatch, True, change, shapes=CUT, tile=16, maximize=True)
    assert all(map(torch.equal, made, expected))
    assert played[4]


@pytest.mark.parametrize("name", ["gyro-adam", "rose", "adams", "adamw/factored", "adv-adamw-orthograd"])
def test_a_life_of_tiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules, missing gradients, a late group, a resume in another optimizer: the bits of the stages all along."""
    recipe, _, storage = name.partition("/")
    chain = gradchain.recipe(recipe, lr=0.01)
    if storage:
        chain = chain.with_options(**{"first_moment.storage": storage, "second_moment.storage": storage})

    def life(recorded: int) -> list[torch.Tensor]:
        monkeypatch.setattr(batch_replay, "RECORDED", recorded)
        monkeypatch.setattr(eager_tiles, "ELEMENTS", 64)
        generator = torch.Generator().manual_seed(3)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(40, 16), (24, 9), (16,)]]
        late = torch.nn.Parameter(torch.randn(40, 16, generator=generator))
        optimizer = gradchain.Optimizer(params, chain, compile=False)
        for step in range(24):
            if step == 7:
                optimizer.add_param_group({"params": [late], "lr": 0.02})
                params.append(late)
            if step == 14:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = gradchain.Optimizer(
                    [{"params": params[:-1]}, {"params": [late], "lr": 0.02}], chain, compile=False
                )
                optimizer.load_state_dict(saved)
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            if step == 11:
                params[1].grad = None
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * 0.97
            optimizer.step()
        kept = [x for param in params for x in optimizer.state[param].values() if isinstance(x, torch.Tensor)]
        return [*(param.detach() for param in params), *kept]

    assert all(map(torch.equal, life(2), life(1 << 40)))


def test_a_step_that_depends_on_the_place_of_a_tile_has_no_tape() -> None:
    def step(place: float) -> Any:
        def run(c: Any, n: Any) -> Any:
            return made(c[PARAM] - n[0]["lr"] * place * c[GRADIENT])

        return run

    numbers = ({"lr": 0.5},)
    Tape(step(1.0), columns(), numbers, Room(), (step(1.0), columns()))
    with pytest.raises(NoTape):
        Tape(step(1.0), columns(), numbers, Room(), (step(2.0), columns()))


def test_what_tiles_share_is_computed_once() -> None:
    def step(c: Any, n: Any) -> Any:
        scale = torch.where(c["total"] == 0, 1.0, c["total"]).sqrt() * n[0]["lr"]
        return made(c[PARAM] - c[GRADIENT] * scale)

    given = {**columns(), "total": torch.tensor(4.0)}
    called: list[str] = []

    class Counts(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(func.__name__)
            return func(*args, **(kwargs or {}))

    tape = Tape(step, given, ({"lr": 0.5},), Room(), shared=["total"])
    expected = step(given, ({"lr": 0.5},))[PARAM]
    with Counts():
        tape.begin(given, (0.5,))
        assert len(called) == 4
        called.clear()
        tape.play(given, (0.5,))
    assert called == ["mul", "sub"]
    assert torch.equal(given[PARAM], expected)


@pytest.mark.parametrize("name", ["adamw", "rose", "gyro-adam", "adams", "first_moment/fp16", "orthograd"])
def test_tensors_of_one_shape_that_lie_otherwise_have_tapes_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[torch.Tensor]] = []
    for recorded in (1 << 40, 2):
        monkeypatch.setattr(batch_replay, "RECORDED", recorded)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(4, 3, 5, 5, generator=generator) for _ in range(4)]
        weights[1] = weights[1].bfloat16()
        weights[2] = weights[2].to(memory_format=torch.channels_last)
        params = [torch.nn.Parameter(x) for x in weights]
        optimizer = gradchain.Optimizer(params, CASES[name].chain, compile=False)
        for _ in range(STEPS):
            for place, param in enumerate(params):
                param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
                if place != 3:
                    param.grad = param.grad.to(memory_format=torch.channels_last)
            optimizer.step()
        state = [x for param in params for x in optimizer.state[param].values() if isinstance(x, torch.Tensor)]
        made.append([*(param.detach() for param in params), *state])
    assert all(map(torch.equal, *made))


CHANGES = [scheduled, decay_from_the_sixth, an_integer, a_tensor, a_weight_that_is_clamped]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["adamw", "lion", "adv-adamw"])
def test_what_changes_between_steps(name: str, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = gradchain.recipe(name)
    expected, _ = train(chain, monkeypatch, False, change)
    made, played = train(chain, monkeypatch, True, change)
    assert all(map(torch.equal, made, expected))
    assert played[4]


def test_a_gradient_in_the_memory_of_its_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = gradchain.recipe("adamw")
    made: list[list[torch.Tensor]] = []
    for taped in (False, True):
        monkeypatch.setattr(batch_replay, "RECORDED", 2 if taped else 1 << 40)
        monkeypatch.setattr(eager, "ELEMENTS", 8)
        params = [torch.nn.Parameter(torch.linspace(-1.0, 1.0, 40))]
        optimizer = gradchain.Optimizer(params, chain, compile=False)
        for step in range(STEPS):
            params[0].grad = params[0].detach() if step > 4 else torch.ones(40)
            optimizer.step()
        made.append([params[0].detach(), *(optimizer.state[params[0]].values())])
    assert all(map(torch.equal, *made))


# What has no tape.


def columns(n: int = 6) -> dict[str, torch.Tensor]:
    return {
        PARAM: torch.linspace(-1.0, 1.0, n),
        GRADIENT: torch.linspace(2.0, 3.0, n),
        "a.m": torch.linspace(0.5, 1.0, n),
    }


def made(param: torch.Tensor, **state: torch.Tensor) -> dict[str, torch.Tensor]:
    """New columns."""
    return {PARAM: param, **{f"a.{name}": x for name, x in state.items()}}


def lost(c: Any, n: Any) -> Any:
    return made(c[PARAM] - math.sqrt(n[0]["lr"]) * c[GRADIENT])


def in_place(c: Any, n: Any) -> Any:
    return made(c[PARAM] - c["a.m"].mul_(n[0]["lr"]))


def of_its_own(c: Any, n: Any) -> Any:
    return made(c[PARAM] - torch.from_numpy(c[GRADIENT].numpy().copy()) * n[0]["lr"])


def handed_on(c: Any, n: Any) -> Any:
    return made(c[PARAM] - n[0]["lr"] * c[GRADIENT], m=c[PARAM])


@pytest.mark.parametrize("step", [lost, in_place, of_its_own, handed_on], ids=lambda step: step.__name__)
def test_a_step_into_which_something_else_goes_has_no_tape(step: Any) -> None:
    given = columns()
    before = {name: x.clone() for name, x in given.items()}
    with pytest.raises(NoTape):
        Tape(step, given, ({"lr": 0.5},), Room())
    assert all(torch.equal(given[name], x) for name, x in before.items() if step is not in_place)


def asking(c: Any, n: Any) -> Any:
    lr = n[0]["lr"]
    step = c[GRADIENT] * lr if lr > 0.25 else -c[GRADIENT]
    return made(c[PARAM] - step / (1 - lr), m=c["a.m"].sign())


def test_a_tape_is_for_numbers_that_answer_alike() -> None:
    tape = Tape(asking, columns(), ({"lr": 0.5, "kind": "a", "count": 3},), Room())
    assert tape.scalars(({"lr": 0.75, "kind": "a", "count": 3},)) == (0.75, 0.25)
    for other in (
        {"lr": 0.2},
        {"lr": 1},
        {"kind": "b"},
        {"count": 4},
        {"count": 3.0},
        {"lr": torch.tensor(0.5)},
    ):
        assert tape.scalars(({"lr": 0.5, "kind": "a", "count": 3, **other},)) is None


def test_no_memory_is_taken_where_some_is_free() -> None:
    """Eight operations in a row work in one piece of memory."""

    def long(c: Any, n: Any) -> Any:
        x = c[GRADIENT]
        for _ in range(8):
            x = x * n[0]["lr"] + 1.0
        return made(c[PARAM] - x)

    room = Room()
    Tape(long, columns(), ({"lr": 0.5},), room)
    assert len(room.pieces) == 1


MARKS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: 3 - x,
    "*": lambda x, y: x * 0.5,
    "/": lambda x, y: x / y,
    "**": lambda x, y: y**2,
    "abs": lambda x, y: -abs(x),
    "min": min,
}

numbers = st.floats(0.01, 4.0)


@given(numbers, numbers, numbers, st.lists(st.sampled_from(list(MARKS)), min_size=1, max_size=8))
def test_a_traced_number_is_made_again_of_others(a: float, b: float, other: float, marks: list[str]) -> None:
    def calculate(x: Any, y: Any) -> Any:
        for mark in marks:
            x = MARKS[mark](x, y)
        return x

    answers: Answers = []
    traced = calculate(TracedNumber(a, "n[0]", answers), TracedNumber(b, "n[1]", answers))
    assert traced == calculate(a, b)
    for now in ((a, b), (other, b)):
        if all(eval(question, {"n": now}) == answer for question, answer in list(answers)):
            assert eval(traced.source, {"n": now}) == calculate(*now)
