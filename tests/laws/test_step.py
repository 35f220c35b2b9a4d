"""Laws of one step: pure, free of syncs, the same in both APIs, sound for every shape, layout and dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

import gradchain
from gradchain._chain.tracing import traits_of
from tests.laws.cases import FEW_SHAPES, SHAPES, Case
from tests.laws.running import (
    DECAYS,
    assert_all_close,
    build,
    functional,
    gradients,
    optimize,
    over_all_cases,
    precision,
    tensors,
    tolerance,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EMPTY = [(0,), (0, 3), (3, 0)]


def no_decay(case: Case) -> dict[str, float]:
    """The decays of a chain, set to zero."""
    return {name: 0.0 for name in case.chain.hyperparameters if name.endswith(DECAYS)}


def as_tensors(values: dict[str, Any], make: Any) -> dict[str, Any]:
    return tree_map(lambda value: make(value) if isinstance(value, (int, float)) else value, values)


def equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Bit for bit; torch compares no float8."""
    return left.dtype == right.dtype and torch.equal(left.to(torch.float64), right.to(torch.float64))


def advanced(case: Case, dtype: torch.dtype) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Parameters and state after two steps, so that no slot is zero."""
    params = tensors(1, FEW_SHAPES, dtype)
    state = case.chain.init(params)
    for grads in gradients(2, FEW_SHAPES, dtype):
        _, state = case.chain.update(grads, state, params)
    return params, state


@over_all_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_update_writes_to_nothing_and_repeats_itself(case: Case, dtype: torch.dtype) -> None:
    params, state = advanced(case, dtype)
    grads = gradients(3, FEW_SHAPES, dtype)[2]
    inputs = [x for x in tree_leaves((params, state, grads)) if isinstance(x, torch.Tensor)]
    before, versions = [x.clone() for x in inputs], [x._version for x in inputs]
    first = case.chain.update(grads, state, params)
    assert [x._version for x in inputs] == versions
    assert all(equal(x, y) for x, y in zip(inputs, before, strict=True))
    second = case.chain.update(grads, state, params)
    assert all(equal(x, y) for x, y in zip(tree_leaves(first), tree_leaves(second), strict=True))


@over_all_cases
def test_a_new_state_shares_no_memory_with_the_parameters(case: Case) -> None:
    params = [torch.nn.Parameter(p) for p in tensors(1, FEW_SHAPES, torch.bfloat16)]
    slots = [x for x in tree_leaves(case.chain.init(params)["slots"]) if isinstance(x, torch.Tensor)]
    assert not {x.data_ptr() for x in slots if x.numel()} & {p.data_ptr() for p in params}
    assert not any(x.requires_grad for x in slots)


@over_all_cases
def test_an_optimizer_leaves_the_gradients_alone(case: Case) -> None:
    grads = gradients(1, FEW_SHAPES)[0]
    _, optimizer = optimize(case.chain, tensors(1, FEW_SHAPES), [grads])
    held = optimizer.param_groups[0]["params"]
    versions = [param.grad._version for param in held]
    optimizer.step()
    assert [param.grad._version for param in held] == versions
    assert all(torch.equal(param.grad, grad) for param, grad in zip(held, grads, strict=True))


@over_all_cases
def test_a_step_never_syncs(case: Case) -> None:
    # Fake tensors have no values: `.item()`, `bool(tensor)` and branches on a dynamic hyperparameter raise.
    with FakeTensorMode():
        params = [torch.empty(shape) for shape in FEW_SHAPES]
        params += [torch.empty(shape, dtype=torch.bfloat16) for shape in ((7,), (8, 16))]
        hyper = as_tensors(case.chain.hyperparameters, lambda value: torch.empty((), dtype=torch.float64))
        state = case.chain.init(params)
        for _ in range(2):
            updates, state = case.chain.update([torch.empty_like(p) for p in params], state, params, **hyper)
    assert [u.shape for u in updates] == [p.shape for p in params]


@over_all_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_optimizer_and_functions_agree(case: Case, dtype: torch.dtype) -> None:
    # The functions count steps in tensors, so bias corrections and averages are rounded in another order.
    rtol = tolerance(case.chain, dtype)
    params, grads = tensors(1, dtype=dtype), gradients(4, dtype=dtype)
    ours, _ = optimize(case.chain, params, grads)
    assert_all_close(functional(case.chain, params, grads), ours, rtol=rtol, atol=rtol)


@over_all_cases
def test_hyperparameters_may_be_tensors(case: Case) -> None:
    params, grads = tensors(1, FEW_SHAPES, torch.float64), gradients(4, FEW_SHAPES, torch.float64)
    hyper = as_tensors(case.chain.hyperparameters, lambda value: torch.tensor(value, dtype=torch.float64))
    by_tensor = functional(case.chain, params, grads, **hyper)
    rtol = tolerance(case.chain)
    assert_all_close(by_tensor, functional(case.chain, params, grads), rtol=rtol, atol=rtol)


@over_all_cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes_and_dtypes_are_kept(case: Case, dtype: torch.dtype) -> None:
    shapes = SHAPES if dtype == torch.float32 else FEW_SHAPES
    params = tensors(1, shapes, dtype)
    stepped, optimizer = optimize(case.chain, params, gradients(3, shapes, dtype))
    held = optimizer.param_groups[0]["params"]
    for before, after, owner, slots in zip(
        params, stepped, held, case.chain.init(params)["slots"].values(), strict=True
    ):
        assert (after.shape, after.dtype) == (before.shape, dtype)
        assert after.isfinite().all()
        state = optimizer.state[owner]
        assert state.keys() == {"step", *slots}
        for name, slot in slots.items():
            assert (state[name].shape, state[name].dtype) == (slot.shape, slot.dtype), name
            assert state[name].to(torch.float64).isfinite().all(), name  # float8 knows no `isfinite`


@over_all_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_empty_tensors_stay_empty(case: Case, dtype: torch.dtype) -> None:
    shapes = [*EMPTY, (2, 2)]
    params, grads = tensors(1, shapes, dtype), gradients(2, shapes, dtype)
    stepped, _ = optimize(case.chain, params, grads)
    assert [p.shape for p in stepped] == [torch.Size(shape) for shape in shapes]
    alone, _ = optimize(case.chain, params[-1:], [step[-1:] for step in grads])
    if traits_of(case.chain.route("", params[-1]), params[-1]).draws:
        assert stepped[-1].isfinite().all()  # the noise depends on the place among the parameters
    else:
        assert torch.equal(stepped[-1], alone[0])  # an empty tensor contributes nothing to anything


@over_all_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_zero_gradients_move_nothing_but_decay(case: Case, dtype: torch.dtype) -> None:
    params = tensors(1, FEW_SHAPES, dtype)
    zeros = [[torch.zeros_like(p) for p in params]] * 2
    constrained = any(isinstance(stage, gradchain.Constraint) for stage in case.chain)
    if constrained:  # the first step may move the parameter onto the set, where it stays
        params = functional(case.chain, params, zeros[:1], **no_decay(case))
    for now, before in zip(functional(case.chain, params, zeros, **no_decay(case)), params, strict=True):
        if constrained:
            torch.testing.assert_close(now, before)
        else:  # true of every other stage that we have, but for what a narrower compute dtype or master rounds away
            assert torch.equal(now, before.to(precision(case.chain, dtype)).to(dtype))
    for now in functional(case.chain, params, [*gradients(2, FEW_SHAPES, dtype), *zeros]):
        assert now.isfinite().all()


@over_all_cases
def test_the_memory_layout_does_not_matter(case: Case) -> None:
    shapes = [(8, 16), (4, 3, 3, 3), (2, 6, 10), (7,)]
    params, grads = tensors(1, shapes, torch.float64), gradients(3, shapes, torch.float64)
    turned = [
        params[0].t().contiguous().t(),
        params[1].to(memory_format=torch.channels_last),
        params[2].permute(2, 0, 1).contiguous().permute(1, 2, 0),
        torch.stack([params[3], params[3]], dim=1)[:, 0],
    ]
    assert not any(p.is_contiguous() for p in turned)
    ours = [torch.nn.Parameter(p) for p in turned]
    plain, _ = optimize(case.chain, params, grads)
    optimizer = build(ours, case.chain, compile=False)
    for step in grads:
        for index, (param, grad) in enumerate(zip(ours, step, strict=True)):
            param.grad = grad if index == 0 else torch.empty_like(param).copy_(grad)  # also of another layout
        optimizer.step()
    assert [p.stride() for p in ours] == [p.stride() for p in turned]
    rtol = tolerance(case.chain)
    assert_all_close([p.detach() for p in ours], plain, rtol=rtol, atol=rtol)
