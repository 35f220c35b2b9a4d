"""One very large gradient element makes no NaN: what it shares with other elements is kept finite."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import Chain, chain
from gradchain import transforms as t
from gradchain.ops import finite, narrowed
from gradchain.storage import ANCHORS, STORAGES
from tests.laws.cases import CASES, FAST, selected
from tests.laws.running import build

SHAPES = [(8, 16), (7,), (), (4, 3, 3, 3), (40, 64)]  # the last has more than one block of int8
STEPS, SPIKE = 6, 2
RATE = t.scale_by_learning_rate(0.05)


class outliers_layer(gradchain.Stage):
    """A user's: a statistic of squares that is kept, and a pair of slots in whatever storage."""

    storage: str = gradchain.static(default="param", choices=tuple(STORAGES))

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        square = gradchain.Slot(nonnegative=True, storage=self.storage)
        return {"mean": gradchain.Slot(storage=self.storage), "square": square, "layer": gradchain.Slot(shape=(1, 2))}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> Any:
        g, layer = update.value, ctx.read("layer")
        total = yield gradchain.whole_tensor(gg=g * g)
        mean, square = 0.9 * ctx.read("mean") + 0.1 * g, 0.9 * ctx.read("square") + 0.1 * g * g
        new = 0.5 * layer + 0.5 * total.gg
        value = mean / (square.sqrt() + layer.mean() / (layer.mean() + 1) + 1e-3)
        return update.replace(value=value), {"mean": mean, "square": square, "layer": new.expand(1, 2)}


def adam(first: str, second: str | None = None) -> Chain:
    return chain(t.first_moment(storage=first), t.second_moment(storage=second or first), t.divide(1e-8), RATE)


def kourkoutas(storage: str) -> Chain:
    return adam(storage).insert_before("second_moment", t.kourkoutas_beta())


CHAINS: dict[str, Chain] = {
    **{name: case.chain for name, case in CASES.items()},
    **{f"adam in {storage}": adam(storage) for storage in STORAGES},
    **{f"adam with squares in {storage}": adam("param", storage) for storage in STORAGES},
    **{f"kourkoutas in {storage}": kourkoutas(storage) for storage in STORAGES},
    **{f"adopt in {storage}": chain(t.adopt(0.9, storage=storage), t.divide(1e-6), RATE) for storage in STORAGES},
    **{f"anchored in {anchor}": adam("fp32").insert_after("scale_by_learning_rate", t.centered_decay(0.1, anchor=anchor))
       for anchor in ANCHORS},
    **{f"a user's in {storage}": chain(outliers_layer(storage=storage), RATE) for storage in STORAGES},
    "gated": adam("param").insert_after("second_moment", t.cv_trust_gate()),
}  # fmt: skip
over_chains = pytest.mark.parametrize("name", selected(CHAINS, CHAINS.keys() - (CASES.keys() - {*FAST})))


def run(made: Chain, *sizes: float, dtype: torch.dtype = torch.float32, **options: Any) -> list[list[torch.Tensor]]:
    """The parameters after each step; one element of each gradient is large in one of them, by sizes in turn."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    optimizer = build(params, made, **{"compile": False, **options})
    history: list[list[torch.Tensor]] = []
    for step in range(STEPS):
        for param, size in zip(params, itertools.cycle(sizes)):
            param.grad = torch.randn(param.shape, generator=generator).to(dtype)
            if step == SPIKE and param.ndim:
                param.grad.view(-1)[3] = size
        optimizer.step()
        history.append([param.detach().clone() for param in params])
    return history


def assert_no_nan(history: list[list[torch.Tensor]]) -> None:
    for step, params in enumerate(history):
        for param in params:
            assert param.isfinite().all(), f"step {step}, shape {tuple(param.shape)}"


@over_chains
def test_a_large_element_makes_no_nan(name: str) -> None:
    assert_no_nan(run(CHAINS[name], 1e20, -1e30))


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(torch.bfloat16, marks=pytest.mark.slow), torch.float16],  # bfloat16 has the range of float32
    ids=str,
)
@over_chains
def test_a_large_element_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    """What is large and leaves room for a step of it: 1e30 in bfloat16, 1e4 in float16."""
    assert_no_nan(run(CHAINS[name], 1e4 if dtype == torch.float16 else 1e30, dtype=dtype))


LONG = ("projected_adaptivity/total", "projected_adaptivity/squared")
"""Chains that step by the sum of all elements, or by the square of their size: out of the range of float16."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)  # bfloat16 has the range of float32
@pytest.mark.parametrize("size", [1e-6, 1e3])
@over_chains
def test_ordinary_gradients_make_no_nan(name: str, size: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) / 8 for shape in SHAPES]
    start += [torch.zeros(4, 4), torch.cat([torch.ones(2, 4), -torch.ones(2, 4)])]
    params = [nn.Parameter(x.to(dtype)) for x in start]
    optimizer = build(params, CHAINS[name], compile=False)
    for step in range(4):
        for param in params:
            param.grad = (size * torch.randn(param.shape, generator=generator)).to(dtype)
            param.grad *= step != 2
        optimizer.step()
        assert not any(param.isnan().any() for param in params), step
        assert name in LONG or all(param.isfinite().all() for param in params), step


TRACED = [
    "adam in int8",
    "adam in factored",
    "adam in factored_compact",
    "kourkoutas in fp16",
    "a user's in fp16",
    "gated",
]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", TRACED)
def test_a_large_element_traced(name: str) -> None:
    traced, eager = (run(CHAINS[name], 1e20, compile=compile) for compile in (True, False))
    assert_no_nan(traced)
    for one, other in zip(traced[SPIKE], eager[SPIKE], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("storage", ["param", "fp32", "bf16"])
def test_of_dense_slots_only_the_element_itself_stands_still(storage: str) -> None:
    with_it, without = run(adam(storage), 1e20), run(adam(storage), 1.0)
    for late, plain in zip(with_it[-1], without[-1], strict=True):
        if late.ndim:
            others = torch.arange(late.numel()) != 3
            assert torch.equal(late.view(-1)[others], plain.view(-1)[others])
    before, after = with_it[SPIKE - 1][0].view(-1)[3], with_it[-1][0].view(-1)[3]
    assert torch.equal(before, after) or storage == "bf16"


@pytest.mark.parametrize("storage", ["fp16", "int8", "factored", "factored_vectors"])
def test_of_shared_scales_the_others_go_on(storage: str) -> None:
    """They lose what they remember, momentum and square alike, and go on from there with steps of ordinary length."""
    history = run(adam(storage), 1e20)
    for before, after in zip(history[SPIKE:], history[SPIKE + 1 :]):
        for shape, old, new in zip(SHAPES, before, after, strict=True):
            if len(shape) == 2:
                moved = (new - old).abs().view(-1)[torch.arange(old.numel()) != 3]
                assert 0 < float(moved.max()) < 10 * 0.05


def test_finite_keeps_nan_and_all_that_is_ordinary() -> None:
    x = torch.tensor([1e30, -1e30, 0.0, 1e-45, torch.nan, torch.inf, -torch.inf])
    kept = finite(x)
    assert torch.equal(kept[:4], x[:4])
    assert kept[4].isnan()
    assert kept[5:].isfinite().all()
    assert finite(torch.tensor(1e300, dtype=torch.float64)) == 1e300
    assert finite(torch.tensor(3)) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrowed_is_the_cast_but_for_what_is_out_of_range(dtype: torch.dtype) -> None:
    x = torch.tensor([1.1, -3.3, 1e-9, 1e300, -1e300, torch.nan], dtype=torch.float64)
    kept = narrowed(x, dtype)
    assert kept.dtype == dtype
    assert torch.equal(kept[:3], x[:3].to(dtype))
    assert kept[3:5].tolist() == [torch.finfo(dtype).max, -torch.finfo(dtype).max]
    assert kept[5].isnan()
