"""Compilers of C++ that run side by side: a function is there when it is called, and whoever fails has written nothing."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import symbolic_trace

import gradchain
from gradchain._engine import building, call, inductor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiled function is known, in memory or on disk, and none is waited for."""
    monkeypatch.setattr(building, "_open", {})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(call, "_kernels", call.Recent(call.KERNELS))


class Times(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x * self.factor]


def started(factor: float) -> Any:
    return inductor.start_compiling(symbolic_trace(Times(factor)), [torch.ones(5)])


def test_functions_are_waited_for_in_any_order() -> None:
    waiting = {factor: started(factor) for factor in (2.0, 3.0, 4.0)}
    assert len(building._open) == 3
    for factor in (4.0, 2.0, 3.0):
        assert torch.equal(waiting[factor]()(torch.ones(5))[0], torch.full((5,), factor))
    assert not building._open


def test_graphs_of_one_code_are_of_one_module() -> None:
    both = [started(5.0) for _ in range(2)]
    assert len(building._open) == 1
    for finish in reversed(both):
        assert torch.equal(finish()(torch.ones(5))[0], torch.full((5,), 5.0))


def test_another_thread_that_compiles_meanwhile_waits_for_its_own() -> None:
    found: list[torch.Tensor] = []

    def compile_and_call() -> None:
        found.append(torch.compile(lambda x: x.sin() + 6.0)(torch.ones(5)))

    with building.not_waited_for():
        thread = threading.Thread(target=compile_and_call)
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], torch.ones(5).sin() + 6.0)
    assert not building._open


def test_kernels_of_a_step_are_built_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both shapes are on their way before one is waited for, and so are both that write."""
    most = 0
    known = building.wait_for

    def counted(code: Any) -> None:
        nonlocal most
        most = max(most, len(building._open))
        known(code)

    monkeypatch.setattr(inductor, "wait_for", counted)
    params = [torch.nn.Parameter(torch.randn(300, 300)), torch.nn.Parameter(torch.randn(200, 400))]
    optimizer = gradchain.Optimizer(params, gradchain.recipe("rose"), compile=True)
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    assert most >= 2
    assert not building._open
    assert not optimizer.compile_report().fallbacks


@pytest.mark.parametrize("name", ["adamw", "rose"])
def test_a_compiler_of_cpp_that_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is made without it, with the results of an eager one; who makes an error of it finds nothing written."""

    def fail(code: Any) -> None:
        raise RuntimeError("g++ has no such instruction")

    monkeypatch.setattr(inductor, "wait_for", fail)
    results: list[list[torch.Tensor]] = []
    for compile in (False, True):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(300, 300)), torch.nn.Parameter(torch.randn(7))]
        optimizer = gradchain.Optimizer(params, gradchain.recipe(name), compile=compile)
        before = [param.detach().clone() for param in params]
        for param in params:
            param.grad = torch.randn_like(param)
        if compile:
            with warnings.catch_warnings():
                warnings.simplefilter("error", gradchain.CompileWarning)
                with pytest.raises(gradchain.CompileWarning, match="no such instr"):
                    optimizer.step()
            torch.testing.assert_close([param.detach() for param in params], before, rtol=0, atol=0)
            assert all(int(state.get("step", 0)) == 0 for state in optimizer.state.values())
        optimizer.step()
        results.append([param.detach() for param in params])
    torch.testing.assert_close(*results, rtol=0, atol=0)
