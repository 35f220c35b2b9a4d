from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gradchain as gc
from gradchain.storage import near_square
from tests.transforms.steps import close, directions, optimizer_of, run, slot, step, tensor

LR = gc.scale_by_learning_rate(1.0)


def test_the_divisor_is_of_the_last_step() -> None:
    # v = 4, then 1/2 * 4 + 1/2 * 16 = 10
    u, state = run(gc.adopt(0.5), gc.divide(), grads=[[2.0], [4.0], [1.0]])
    close(torch.stack(u), [[0.0], [4 / 2], [1 / math.sqrt(10)]])
    close(slot(state, "adopt.exp_avg_sq"), [5.5])


def test_the_skipped_step_leaves_parameter_and_moments() -> None:
    chain = gc.chain(gc.adopt(0.5), gc.divide(), gc.first_moment(0.9), LR, gc.decoupled_decay(0.1))
    optimizer = optimizer_of(chain, tensor([3.0]))
    (first,) = step(optimizer, tensor([2.0]))
    close(first, [3.0])  # not even decay
    (state,) = optimizer.state.values()
    close(state["first_moment.exp_avg"], [0.0])
    close(state["adopt.exp_avg_sq"], [4.0])
    (second,) = step(optimizer, tensor([2.0]))
    close(second, [3.0 - 0.3 - 0.1 / (1 - 0.9**2)])


def test_the_first_step_need_not_be_skipped() -> None:
    u, state = run(gc.adopt(0.5, skip_first=False), gc.divide(), grads=[[2.0, 0.0], [4.0, 1.0]])
    close(torch.stack(u), [[1.0, 0.0], [2.0, 1.0]])  # where the divisor is 0 the direction passes
    close(slot(state, "adopt.exp_avg_sq"), [10.0, 0.5])


@pytest.mark.parametrize(("initial", "divisor", "after"), [("effective", 1.0, 1.0), ("raw", 2.0, 2.5)])
def test_the_second_moment_begins_with_either_gradient(initial: str, divisor: float, after: float) -> None:
    # Of 2, clipped to 1; the average goes on with the clipped one.
    stages = (gc.clip_by_value(1.0), gc.adopt(0.5, skip_first=False, initial=initial), gc.divide())
    u, state = run(*stages, grads=[[2.0]])
    close(u[0], [1 / divisor])
    close(slot(state, "adopt.exp_avg_sq"), [after])
    _, state = run(gc.clip_by_value(1.0), gc.adopt(0.5, initial=initial), gc.divide(), grads=[[2.0]])
    close(slot(state, "adopt.exp_avg_sq"), [divisor**2])


def test_a_first_step_divides_by_what_factors_keep() -> None:
    torch.manual_seed(0)
    g = torch.randn(6, 4)
    assert near_square(24) == (6, 4)
    chain = gc.chain(gc.adopt(0.9, skip_first=False, storage="factored"), gc.divide(), LR)
    (p,) = step(optimizer_of(chain, torch.zeros(6, 4)), g)
    square = g.square()
    torch.testing.assert_close(-p, g / (torch.outer(square.sum(1), square.sum(0)) / square.sum()).sqrt())
    vector, v = torch.zeros(24), torch.randn(24)
    (p,) = step(optimizer_of(chain, vector), v)
    close(-p, v.sign().tolist(), rtol=1e-6)  # vectors are kept dense


class hold_third(gc.Stage):
    def scalars(self, step: float) -> dict[str, float]:
        return {"third": gc.ops.where(step == 3, 1.0, 0.0)}

    def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
        return update.replace(skip_mask=ctx["third"] > 0)


def test_steps_held_before_stay_held() -> None:
    chain = gc.chain(hold_third(), gc.adopt(0.5), gc.divide(), LR)
    grads = [[2.0], [2.0], [2.0], [2.0]]
    close(torch.stack(directions(chain, grads=grads)), [[0.0], [1.0], [0.0], [1.0]])  # steps counted in tensors
    optimizer = optimizer_of(chain, tensor([0.0]))
    close(torch.stack([step(optimizer, tensor(g))[0] for g in grads]), [[0.0], [-1.0], [-1.0], [-2.0]])


@pytest.mark.slow
def test_compiled_steps_are_held() -> None:
    chain = gc.chain(hold_third(), gc.adopt(0.5), gc.divide(), LR, gc.decoupled_decay(0.5))
    p = torch.nn.Parameter(torch.tensor([4.0]))
    optimizer = gc.Optimizer([p], chain, compile=True)
    found: list[float] = []
    for _ in range(4):
        p.grad = torch.tensor([2.0])
        optimizer.step()
        found.append(p.item())
    assert found == pytest.approx([4.0, 1.0, 1.0, -0.5])


def test_adopt_written_out() -> None:
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(9, 5)) * rng.uniform(0.01, 3, size=(9, 1))
    v, m, moved = grads[0] ** 2, np.zeros(5), [np.zeros(5)]
    for k, g in enumerate(grads[1:], start=1):
        n = np.clip(g / (np.sqrt(v) + 1e-6), -(k**0.25), k**0.25)
        m = 0.9 * m + 0.1 * n
        v = 0.99 * v + 0.01 * g**2
        moved.append(m)
    stages = (gc.adopt(0.99), gc.divide(1e-6), gc.step_clip(), gc.first_moment(0.9, bias_correction=False))
    close(torch.stack(directions(*stages, grads=list(grads))), np.stack(moved))


def test_step_clip() -> None:
    u = directions(gc.step_clip(0.5), grads=[[9.0, -9.0, 0.5]] * 5)
    close(torch.stack(u)[:, 0], [0.0, 1.0, math.sqrt(2), math.sqrt(3), 2.0])
    close(torch.stack(u)[:, 1], [0.0, -1.0, -math.sqrt(2), -math.sqrt(3), -2.0])
    close(torch.stack(u)[:, 2], [0.0, 0.5, 0.5, 0.5, 0.5])


def test_step_clip_without_growth() -> None:
    close(torch.stack(directions(gc.step_clip(0.0), grads=[[9.0], [9.0], [9.0]])), [[1.0], [1.0], [1.0]])


def test_adopt_wants_its_scale_resolved() -> None:
    with pytest.raises(gc.ChainError, match="adopt"):
        gc.chain(gc.adopt(), gc.first_moment(bias_correction=False), LR)
    with pytest.raises(gc.OptionError, match="initial"):
        gc.adopt(initial="first")
