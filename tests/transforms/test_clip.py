from __future__ import annotations

import math

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, optimizer_of, step

LR = gc.scale_by_learning_rate(1.0)


def test_clip_by_value() -> None:
    (u,) = directions(gc.clip_by_value(0.5), grads=[[1.0, -2.0, 0.3, 0.5, 0.0]])
    close(u, [0.5, -0.5, 0.3, 0.5, 0.0])


def test_clip_by_value_lets_nan_show() -> None:
    (u,) = directions(gc.clip_by_value(0.5), grads=[[math.nan, math.inf]])
    assert u[0].isnan()
    assert u[1] == 0.5


def test_clip_by_norm() -> None:
    long, short, zero = directions(gc.clip_by_norm(1.0), grads=[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    close(long, [0.6, 0.8])
    close(short, [0.3, 0.4])
    close(zero, [0.0, 0.0])


def test_clip_by_norm_clips_each_tensor_alone() -> None:
    optimizer = optimizer_of(gc.chain(gc.clip_by_norm(1.0), LR), torch.zeros(1), torch.zeros(1))
    big, small = step(optimizer, torch.tensor([10.0]), torch.tensor([0.5]))
    assert (float(big), float(small)) == (-1.0, -0.5)


def test_clip_by_global_norm_by_hand() -> None:
    optimizer = optimizer_of(gc.chain(gc.clip_by_global_norm(1.0), LR), torch.zeros(1), torch.zeros(2))
    first, second = step(optimizer, torch.tensor([2.0]), torch.tensor([1.0, 2.0]))  # the joint norm is 3
    torch.testing.assert_close(first, torch.tensor([-2 / 3]))
    torch.testing.assert_close(second, torch.tensor([-1 / 3, -2 / 3]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e3])
def test_clip_by_global_norm_is_clip_grad_norm(dtype: torch.dtype, max_norm: float) -> None:
    torch.manual_seed(0)
    shapes = [(), (7,), (8, 16), (4, 3, 3, 3)]
    ours = optimizer_of(gc.chain(gc.clip_by_global_norm(max_norm), LR), *(torch.zeros(s, dtype=dtype) for s in shapes))
    twins = [torch.nn.Parameter(torch.zeros(s, dtype=dtype)) for s in shapes]
    theirs = torch.optim.SGD(twins, lr=1.0)
    for _ in range(3):
        grads = [torch.randn(s, dtype=dtype) for s in shapes]
        stepped = step(ours, *grads)
        for twin, grad in zip(twins, grads):
            twin.grad = grad.clone()
        torch.nn.utils.clip_grad_norm_(twins, max_norm)
        theirs.step()
        for a, b in zip(stepped, twins):
            # torch divides by norm + 1e-6; these norms are about 18
            torch.testing.assert_close(a, b.detach(), rtol=2e-6, atol=2e-6)


def test_global_norm_counts_only_parameters_with_gradients() -> None:
    optimizer = optimizer_of(gc.chain(gc.clip_by_global_norm(1.0), LR), torch.zeros(1), torch.zeros(1))
    first, second = optimizer.param_groups[0]["params"]
    first.grad = torch.tensor([4.0])
    optimizer.step()
    assert first.tolist() == [-1.0]
    assert second.tolist() == [0.0]


def test_global_norm_spans_groups_with_their_own_bounds() -> None:
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": params[:1], "max_norm": 1.0}, {"params": params[1:], "max_norm": 10.0}]
    optimizer = gc.Optimizer(groups, gc.chain(gc.clip_by_global_norm(), LR), compile=False)
    first, second = step(optimizer, torch.tensor([3.0]), torch.tensor([4.0]))  # the joint norm is 5
    torch.testing.assert_close(first, torch.tensor([-0.6]))
    torch.testing.assert_close(second, torch.tensor([-4.0]))


def test_global_norm_spares_the_gradients() -> None:
    optimizer = optimizer_of(gc.chain(gc.clip_by_global_norm(1.0), LR), torch.zeros(2))
    grad = torch.tensor([30.0, 40.0])
    step(optimizer, grad)
    assert torch.equal(optimizer.param_groups[0]["params"][0].grad, grad)


def test_clip_by_rms() -> None:
    long, short, zero = directions(gc.clip_by_rms(0.5), grads=[[3.0, 4.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0] * 4])
    close(long, [0.6, 0.8, 0.0, 0.0])
    close(short, [0.1, 0.2, 0.3, 0.4])
    close(zero, [0.0] * 4)
