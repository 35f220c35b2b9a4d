"""Large factored tensors are stepped in tiles of rows: the same step, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain._engine import buckets, call, tiles
from tests.compilers import compile_by
from tests.test_optimizer import frozen_copy

SHAPES = [(64, 48), (50, 6, 8), (96, 40), (9, 7), (48,)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "LARGE", 1000)
    monkeypatch.setattr(tiles, "ELEMENTS", 600)
    monkeypatch.setattr(buckets, "SMALL_ELEMENTS", 500)


pytestmark = pytest.mark.usefixtures("kernels")  # those of one test run graphs as traced


def factored(name: str = "adv-adamw", **options: Any) -> gradchain.Chain:
    return gradchain.recipe(name, lr=0.02, nnmf_factor=True, **options)


def compact(*moments: str) -> gradchain.Chain:
    options = {f"{moment}.storage": "factored_compact" for moment in moments}
    return gradchain.recipe("adamw", lr=0.02, weight_decay=0.1).with_options(**options)


CHAINS = {
    "adamw": factored(),
    "one": gradchain.recipe("adamw", lr=0.02, weight_decay=0.1).with_options(**{"second_moment.storage": "factored"}),
    "fp32": gradchain.recipe("adamw").with_options(
        **{"first_moment.storage": "fp32", "second_moment.storage": "factored"}
    ),
    "ademamix": factored(ademamix=True),
    "lion": factored("adv-lion"),
    "adopt": gradchain.recipe("adv-adopt-factored", lr=0.02),
    "compact": compact("first_moment", "second_moment"),  # packed with noise when all tiles are done
    "compact second": compact("second_moment"),
}


def run(chain: gradchain.Chain, compile: bool, dtype: torch.dtype = torch.float32, **group: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    optimizer = gradchain.Optimizer([{"params": params, **group}], chain, compile=compile)
    for step in range(5):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(dtype)
        params[1].grad = None if step == 3 else params[1].grad
        optimizer.step()
    return frozen_copy(optimizer)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tiles of each tensor."""
    counts: list[int] = []
    original = tiles.RowTiles.finish

    def finish(self: tiles.RowTiles) -> None:
        counts.append(len(self.calls))
        original(self)

    monkeypatch.setattr(tiles.RowTiles, "finish", finish)
    return counts


@pytest.mark.parametrize(("name", "group"), [*((name, {}) for name in CHAINS), ("adamw", {"maximize": True})])
def test_tiles_make_the_step_of_the_whole(
    name: str, group: Any, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_by(monkeypatch, lambda graph, inputs, **_: lambda: graph)
    expected = run(CHAINS[name], compile=False, **group)
    result = run(CHAINS[name], compile=True, **group)
    assert max(counted) >= 3
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_vectors_stay_whole(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their signs are packed along the matrix."""
    compile_by(monkeypatch, lambda graph, inputs, **_: lambda: graph)
    monkeypatch.setattr("tests.test_tiles.SHAPES", [(1200,), (9, 7)])
    storage = {"first_moment.storage": "factored_vectors", "second_moment.storage": "factored_vectors"}
    chain = gradchain.recipe("adamw", lr=0.02).with_options(**storage)
    expected, result = run(chain, compile=False), run(chain, compile=True)
    assert not counted
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_tiles_stay_tiles_under_telemetry(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    compile_by(monkeypatch, lambda graph, inputs, **_: lambda: graph)
    plain = run(CHAINS["adamw"], compile=True)
    tiled, counted[:] = [*counted], []
    watched = run(CHAINS["adamw"], compile=True, telemetry=True)
    assert counted == tiled
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_tiles(counted: list[int]) -> None:
    torch.testing.assert_close(run(CHAINS["adamw"], True), run(CHAINS["adamw"], False), rtol=1e-5, atol=1e-6)
    assert counted


def test_tiles_that_cannot_be_compiled_are_stepped_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(graph: Any, inputs: Any, **_: Any) -> Any:
        if inputs[0].shape[0] in (16, 12, 24, 48):
            raise RuntimeError("no such fusion")
        return lambda: graph

    compile_by(monkeypatch, picky)
    monkeypatch.setattr(call, "_kernels", call.Recent(call.KERNELS))
    expected = run(CHAINS["adamw"], compile=False)
    with pytest.warns(gradchain.CompileWarning, match="no such fusion"):
        result = run(CHAINS["adamw"], compile=True)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


class halved_if_compact(gradchain.Stage):
    """Another's stage, which looks at its own option."""

    storage: str = gradchain.static(default="factored_compact", choices=("factored_compact", "factored_vectors"))

    def slots(self, p: Any) -> Any:
        return {"exp_avg": gradchain.Slot(storage=self.storage)}

    def update(self, update: Any, ctx: Any) -> Any:
        average = 0.9 * ctx.read("exp_avg") + 0.1 * update.value
        return update.replace(value=average / 2 if self.storage == "factored_compact" else average), {
            "exp_avg": average
        }


OTHERS = {
    "no factors": gradchain.recipe("adv-adamw"),
    "totals besides": gradchain.recipe("rose"),
    "noise of each element": gradchain.chain(
        gradchain.promote("fp32"), compact("first_moment"), gradchain.stochastic_round()
    ),
    "another's stage": gradchain.chain(halved_if_compact(), gradchain.scale_by_learning_rate(0.1)),
    "a first step by what is kept": gradchain.recipe("adv-adopt-factored-ademamix"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay_whole(name: str, counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    compile_by(monkeypatch, lambda graph, inputs, **_: lambda: graph)
    run(OTHERS[name], compile=True, dtype=torch.bfloat16 if "noise" in name else torch.float32)
    assert not counted
