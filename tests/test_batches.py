"""Elementwise chains in flat batches: cut or joined anywhere, they give the same bits as tensor by tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gradchain as gc
from gradchain._engine import eager
from tests.declared import EXACT
from tests.laws.cases import CASES
from tests.laws.running import gradients, optimize, tensors

SHAPES = [(40, 5), (7,), (), (3, 4), (0, 3), (2, 3, 4, 5), (1,), (6, 6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_batches_are_the_whole(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    params, grads = tensors(1, SHAPES, dtype), gradients(4, SHAPES, dtype)
    monkeypatch.setattr(eager, "divided", lambda works: ([], list(works)))
    whole, plain = optimize(CASES[name].chain, params, grads)
    monkeypatch.undo()
    for size in (16, 64, 1 << 17):
        monkeypatch.setattr(eager, "ELEMENTS", size)
        ours, optimizer = optimize(CASES[name].chain, params, grads)
        for a, b, p, q in zip(ours, whole, optimizer.state.values(), plain.state.values(), strict=True):
            assert torch.equal(a, b)
            assert p.keys() == q.keys()
            assert all(torch.equal(value, q[key]) for key, value in p.items())


def test_there_are_elementwise_recipes_and_others() -> None:
    assert {"adamw", "lion", "sgd", "adv-adamw"} <= {*EXACT}
    assert "rose" not in EXACT


def test_what_is_no_row_of_elements_goes_tensor_by_tensor() -> None:
    params = [torch.nn.Parameter(torch.ones(4, 6).t()), torch.nn.Parameter(torch.ones(4, 6))]
    optimizer = gc.optimizer("adamw", params, compile=False)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer._table.sync(optimizer.param_groups)
    inside, outside = eager.divided(optimizer._table.due(optimizer.param_groups, optimizer._info()))
    assert [item.owner is params[1] for item in inside] == [True]
    assert [item.owner is params[0] for item in outside] == [True]


class Calls(TorchDispatchMode):
    """Counts the calls of aten that compute something, as a launch on a device would."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def calls_of_a_step(shapes: list[tuple[int, ...]]) -> int:
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = gc.optimizer("adamw", params, compile=False)
    for param in params:
        param.grad = torch.ones_like(param)
    with Calls() as calls:
        optimizer.step()
    return calls.count


def test_large_tensors_are_cut_on_a_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    small, cut = calls_of_a_step([(4, 4)]), calls_of_a_step([(512, 2048)])
    assert cut > 2 * small  # four batches
    monkeypatch.setattr(eager, "cuts", lambda device: False)
    assert calls_of_a_step([(512, 2048)]) <= small
    assert calls_of_a_step([(4, 4)] * 100) < 30 * small  # small ones are joined on every device
    assert [eager.cuts(torch.device(kind)) for kind in ("cuda", "mps", "meta")] == [False] * 3


def test_batches_are_larger_where_calls_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes as long to be told as to do it, up to some millions of elements."""
    small, four = calls_of_a_step([(4, 4)]), [(512, 1024)] * 4
    assert calls_of_a_step(four) > 4 * small  # eight batches
    monkeypatch.setattr(eager, "cuts", lambda device: False)
    assert calls_of_a_step(four) < 3 * small
    params = [torch.empty(1 << size, device="meta") for size in (21, 22)]
    assert [torch.numel(x) > eager.batch_size(x.device) // 2 for x in params] == [False, True]


def test_a_number_that_becomes_none_is_seen() -> None:
    # eps=None is 1/sqrt(N): no longer a matter of single elements.
    params = [torch.nn.Parameter(torch.ones(4, 6)), torch.nn.Parameter(torch.ones(600))]
    optimizer = gc.optimizer("adamw", params, compile=False, lr=0.1)
    optimizer.param_groups[0]["eps"] = None
    for param in params:
        param.grad = torch.full_like(param, 1e-3)
    inside, _ = eager.divided(optimizer._table.due(optimizer.param_groups, optimizer._info()))
    assert inside == []


def test_an_error_in_a_batch_leaves_everything_as_it_was() -> None:
    class picky(gc.Stage):
        def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
            if update.value.dtype == torch.float64:
                raise RuntimeError("no doubles")
            return update

    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = gc.Optimizer(
        params, gc.chain(picky(), gc.first_moment(), gc.scale_by_learning_rate(0.1)), compile=False
    )
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="no doubles"):
        optimizer.step()
    assert all((p == 1).all() for p in params)
    assert not optimizer.state[params[0]]["first_moment.exp_avg"].any()


def test_state_of_a_parameter_that_was_laid_out_otherwise() -> None:
    results: list[torch.Tensor] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        param = torch.nn.Parameter(torch.linspace(-1, 1, 36).view(2, 2, 3, 3).contiguous(memory_format=layout))
        optimizer = gc.optimizer("adamw", [param], compile=False)
        for _ in range(3):
            param.grad = torch.linspace(1, -2, 36).view(2, 2, 3, 3)
            optimizer.step()
            param.grad, param.data = None, param.data.contiguous()  # as model.to(memory_format=torch.contiguous_format)
        results.append(param.detach())
    torch.testing.assert_close(results[1], results[0])
