"""What is written is written as a whole or not at all, by one function that looks at all targets first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain._engine import eager
from gradchain.errors import GradchainError

MODES = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def snapshot(optimizer: gc.Optimizer) -> list[Any]:
    """All bits of parameters and state."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    held = [(key, value.clone()) for param in params for key, value in sorted(optimizer.state[param].items())]
    return [[param.detach().clone() for param in params], held]


def same(left: list[Any], right: list[Any]) -> bool:
    pairs = [*zip(left[0], right[0], strict=True), *((a, b) for (_, a), (_, b) in zip(left[1], right[1], strict=True))]
    return all(torch.equal(a, b) for a, b in pairs) and [k for k, _ in left[1]] == [k for k, _ in right[1]]


def refuses(optimizer: gc.Optimizer, words: str, kind: type[Exception] = GradchainError) -> None:
    """A step raises, and everything is as it was."""
    before = snapshot(optimizer)
    with pytest.raises(kind, match=words):
        optimizer.step()
    assert same(before, snapshot(optimizer))


def with_gradients(*params: torch.Tensor) -> list[torch.Tensor]:
    for param in params:
        param.grad = torch.ones_like(param)
    return list(params)


def test_one_function_writes() -> None:
    writes = re.compile(r"\.copy_\(|_foreach_copy_|\.set_\(|\.lerp_|\.addcmul_|\.addcdiv_|\.sub_\(|Tensor\.copy_")
    package = Path(gc.__file__).parent
    elsewhere = (
        "_export",
        "testing",
    )  # the text of files that go by themselves; optimizers of all kinds, to be examined
    files = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in elsewhere]
    found = {path.relative_to(package).as_posix() for path in files if writes.search(path.read_text())}
    # `take` fills a tensor that it has just made; a shared number may have to stay where a CUDA graph has seen it; a shadow
    # has copies of the parameters, and sums, of its own; the arctangent has its intermediate results. The last operations
    # of a tape write where `overwrite` would.
    allowed = {
        "_engine/writing.py",
        "_engine/tape_writer.py",
        "_core/shard.py",
        "_chain/shared.py",
        "_optim/shadows.py",
        "ops/_angle.py",
    }
    assert found == allowed


def test_a_leaf_made_by_expand_is_refused_at_once() -> None:
    leaf = torch.zeros(1).expand(5).requires_grad_()
    with pytest.raises(gc.ParameterError, match=r"share memory.*clone"):
        gc.optimizer("adamw", [leaf])


@MODES
def test_a_parameter_that_was_expanded_later(compile: bool) -> None:
    good, bad = with_gradients(nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4)))
    optimizer = gc.optimizer("adamw", [good, bad], compile=compile, lr=0.1)
    optimizer.step()
    bad.data = torch.ones(1).expand(4)
    refuses(optimizer, "share memory", gc.ParameterError)


@MODES
def test_inference_tensors(compile: bool) -> None:
    good = nn.Parameter(torch.ones(4))
    with torch.inference_mode():
        bad = nn.Parameter(torch.ones(3))
    optimizer = gc.optimizer("adamw", [good, bad], compile=compile, lr=0.1)
    with_gradients(good, bad)
    refuses(optimizer, "inference", gc.ParameterError)
    with torch.inference_mode():
        optimizer.step()
    assert (good != 1).all()
    assert (bad != 1).all()
    refuses(optimizer, "inference", gc.ParameterError)


@MODES
def test_parameters_that_share_memory(compile: bool) -> None:
    whole = torch.ones(8)
    apart = with_gradients(nn.Parameter(whole[:4]), nn.Parameter(whole[4:]))
    gc.optimizer("adamw", apart, compile=compile).step()
    columns = torch.ones(4, 2)
    gc.optimizer(
        "adamw", with_gradients(nn.Parameter(columns[:, 0]), nn.Parameter(columns[:, 1])), compile=compile
    ).step()
    for shared in ([whole, whole], [whole, whole[2:5]], [columns[:, 0], columns[:, 0]]):
        optimizer = gc.optimizer("adamw", with_gradients(*map(nn.Parameter, shared)), compile=compile)
        refuses(optimizer, "shares memory", gc.ParameterError)


@MODES
def test_a_slot_that_is_its_parameter(compile: bool) -> None:
    first, second = with_gradients(nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3)))
    optimizer = gc.optimizer("adamw", [first, second], compile=compile, lr=0.1)
    optimizer.step()
    optimizer.state[second]["first_moment.exp_avg"] = second.data
    refuses(optimizer, "first_moment.exp_avg shares memory", gc.StateError)


@MODES
@pytest.mark.parametrize("lr", [torch.tensor([0.1]), torch.tensor([[0.1]])], ids=["(1,)", "(1, 1)"])
def test_numbers_of_one_element_with_scalars(lr: torch.Tensor, compile: bool) -> None:
    results: list[list[torch.Tensor]] = []
    for rate in (0.1, lr):
        params = with_gradients(nn.Parameter(torch.ones(4)), nn.Parameter(torch.tensor(1.0)))
        optimizer = gc.optimizer("adamw", params, compile=compile, lr=rate)
        optimizer.step()
        optimizer.step()
        results.append([param.detach() for param in params])
    torch.testing.assert_close(results[1], results[0])


class keeps_the_old(gc.Stage):
    """A stage of a user's that stores the parameter it was given, and steps by how far it moved."""

    def slots(self, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        return {"before": gc.Slot()}

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        moved = ctx.param - ctx.read("before")
        return update.replace(value=update.value + 0.1 * moved), {"before": ctx.param}


@MODES
@pytest.mark.parametrize("size", [4, 1 << 17])
def test_what_a_stage_hands_on_is_read_before_it_is_overwritten(
    compile: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "ELEMENTS", size)
    params = [nn.Parameter(torch.linspace(-1, 1, n)) for n in (16, 3, 1)]
    optimizer = gc.Optimizer(params, gc.chain(keeps_the_old(), gc.scale_by_learning_rate(0.5)), compile=compile)
    expected, before = [p.detach().clone() for p in params], [torch.zeros_like(p) for p in params]
    for _ in range(3):
        optimizer_step = [0.5 * (1 + 0.1 * (p - b)) for p, b in zip(expected, before)]
        before, expected = expected, [p - s for p, s in zip(expected, optimizer_step)]
        with_gradients(*params)
        optimizer.step()
    torch.testing.assert_close([p.detach() for p in params], expected)
    torch.testing.assert_close([optimizer.state[p]["keeps_the_old.before"] for p in params], before)


def failing(at: int, error: type[BaseException]) -> type[gc.Stage]:
    """A stage of a user's that fails when it is asked for the `at`-th time."""
    asked = [0]

    class fails(gc.Stage):
        def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
            asked[0] += 1
            if asked[0] == at:
                raise error("no more")
            return update.replace(value=2 * update.value)

    fails.asked = asked  # type: ignore[attr-defined]
    return fails


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("later", range(1, 7))
def test_a_stage_that_fails_in_a_later_block(
    later: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "ELEMENTS", 8)
    params = with_gradients(*(nn.Parameter(torch.ones(n)) for n in (20, 5, 5, 1)))
    stage = failing(0, error)
    chain = gc.chain(stage(), gc.first_moment(0.9), gc.scale_by_learning_rate(0.1))
    optimizer = gc.Optimizer(params, chain, compile=False)
    optimizer.step()  # whatever is found out about the stage has been found out now
    asked: list[int] = stage.asked  # type: ignore[attr-defined]
    asked[0] = -later
    raised = None
    while raised is None:  # a step asks at least once
        before = snapshot(optimizer)
        try:
            optimizer.step()
        except error as reason:
            raised = reason
            assert same(before, snapshot(optimizer))


WRONG: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "more rows": lambda x: torch.cat([x, x]),
    "one more axis": lambda x: x[None],
    "another device": lambda x: x.to("meta"),
}


@MODES
@pytest.mark.parametrize("wrong", WRONG)
def test_a_stage_that_writes_something_else(wrong: str, compile: bool) -> None:
    class rewrites(gc.Precision):
        def write(self, new_param: torch.Tensor, ctx: gc.Context) -> Any:
            return (WRONG[wrong](new_param) if new_param.shape == (3,) else new_param), {}

    params = with_gradients(nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3)))
    chain = gc.chain(gc.first_moment(), gc.scale_by_learning_rate(0.1), rewrites())
    with pytest.raises(GradchainError):  # when the optimizer is made, or at its first step
        gc.Optimizer(params, chain, compile=compile).step()
    assert all((param == 1).all() for param in params)
