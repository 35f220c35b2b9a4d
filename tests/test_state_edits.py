"""State that someone writes to between steps: taken up, or an error before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc

State = dict[str, Any]
SLOT = "first_moment.exp_avg"


def trained(compile: bool) -> tuple[gc.Optimizer, list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (3,))]
    optimizer = gc.optimizer("adamw", [("a", params[0]), ("b", params[1])], compile=compile)
    for _ in range(3):
        step(optimizer, params)
    return optimizer, params


def step(optimizer: gc.Optimizer, params: list[nn.Parameter]) -> None:
    for param in params:
        param.grad = torch.full_like(param, 0.5)
    optimizer.step()


def put(key: str, value: Any) -> Callable[[State], None]:
    def edit(state: State) -> None:
        state[key] = value(state[key]) if callable(value) else value

    return edit


WRONG: dict[str, tuple[Callable[[State], None], str]] = {
    "a step that is a string": (put("step", "x"), "'step' in the state of parameter b is a str"),
    "a step that is None": (put("step", None), "is None; a count"),
    "a step that is NaN": (put("step", float("nan")), "is nan; a count"),
    "a negative step": (put("step", -3), "is -3; a count"),
    "a negative step in place": (lambda state: state["step"].fill_(-3), "is -3; a count"),
    "half a step": (put("step", torch.tensor(2.5)), r"is 2\.5; a count"),
    "two steps": (put("step", torch.ones(2)), r"shape \(2,\) and dtype float32; a count"),
    "None for a slot": (put(SLOT, None), "slot first_moment.exp_avg is None"),
    "a string for a slot": (put(SLOT, "x"), "exp_avg is a str"),
    "a list for a slot": (put(SLOT, lambda x: x.tolist()), "exp_avg is a list"),
    "another shape": (put(SLOT, lambda x: x[:2]), r"shape \(2,\) .* shape \(3,\)"),
    "integers": (put(SLOT, lambda x: x.int()), "dtype int32"),
    "a sparse slot": (put(SLOT, lambda x: x.to_sparse()), "sparse_coo"),
    "a slot on meta": (put(SLOT, lambda x: x.to("meta")), "on the meta device"),
}


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_state(what: str, compile: bool) -> None:
    edit, words = WRONG[what]
    optimizer, params = trained(compile)
    kept = dict(optimizer.state[params[1]])
    count = kept["step"].clone()
    edit(optimizer.state[params[1]])
    before = [param.detach().clone() for param in params]
    slots = {key: value.clone() for key, value in optimizer.state[params[0]].items()}
    for _ in range(2):
        with pytest.raises(gc.StateError, match=words):
            step(optimizer, params)
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
    assert all(torch.equal(value, optimizer.state[params[0]][key]) for key, value in slots.items())
    optimizer.state[params[1]].update(kept)
    kept["step"].copy_(count)
    twin, others = trained(compile)
    step(optimizer, params), step(twin, others)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_a_state_that_is_no_dict(compile: bool) -> None:
    optimizer, params = trained(compile)
    optimizer.state[params[1]] = 3  # type: ignore[assignment]
    with pytest.raises(gc.StateError, match="is a dict, not an int"):
        step(optimizer, params)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("value", [3, "note", torch.ones(2), None], ids=str)
def test_what_is_nobodys_slot_is_let_be(value: Any, compile: bool) -> None:
    optimizer, params = trained(compile)
    twin, others = trained(compile)
    optimizer.state[params[1]]["mine"] = value
    step(optimizer, params), step(twin, others)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    assert optimizer.state[params[1]]["mine"] is value


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_a_slot_that_is_deleted_starts_afresh(compile: bool) -> None:
    """With a bias correction of its own, so the step is as long as a first one."""
    optimizer, params = trained(compile)
    del optimizer.state[params[1]][SLOT]
    before = params[1].detach().clone()
    step(optimizer, params)
    torch.testing.assert_close(before - params[1], 1e-3 * (before * 0.01 + 1), rtol=1e-3, atol=1e-6)
