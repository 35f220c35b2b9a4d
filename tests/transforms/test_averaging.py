"""Averages over time: by hand, against a float64 oracle from the equations, and against torch.optim.swa_utils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gradchain as gc
from tests.transforms.steps import SHAPES, Array, close, optimizer_of, sequence, step

LR = gc.scale_by_learning_rate(0.1)


def trained(chain: gc.Chain, grads: list[Array], start: Array, **options: Any) -> tuple[gc.Optimizer, torch.Tensor]:
    """An optimizer after steps with these gradients, and its one parameter."""
    optimizer = optimizer_of(chain, torch.from_numpy(np.array(start)), **options)
    for grad in grads:
        step(optimizer, torch.from_numpy(np.array(grad)))
    return optimizer, optimizer.param_groups[0]["params"][0].detach()


def seen(optimizer: gc.Optimizer) -> torch.Tensor:
    optimizer.eval()
    value = optimizer.param_groups[0]["params"][0].detach().clone()
    optimizer.train()
    return value


# schedule_free


def oracle(
    grads: list[Array],
    start: Array,
    lr: Callable[[int], float],
    decay: float,
    beta: float,
    warmup: int,
    r: float,
    p: float,
) -> tuple[Array, Array]:
    """The equations of the docstring with all three sequences kept: y and x after the last step."""
    x = y = z = start
    total = lr_max = 0.0
    for t, grad in enumerate(grads, start=1):
        w = min(t / warmup, 1.0) if warmup else 1.0
        lr_max = max(lr_max, w * lr(t))
        weight = t**r * lr_max**p
        total += weight
        z = z - w * lr(t) * (grad + decay * y)
        x = x + weight / total * (z - x)
        y = (1 - beta) * z + beta * x
    return y, x


OPTIONS = [
    {"beta": 0.9, "warmup": 0, "r": 0.0, "p": 2.0},
    {"beta": 0.6, "warmup": 4, "r": 1.0, "p": 2.0},
    {"beta": 0.95, "warmup": 2, "r": 0.5, "p": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_schedule_free_is_the_three_sequences(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    grads = sequence(shape, 9)
    start, lr = sequence(shape, 1)[0], [0.1, 0.3, 0.2, 0.05, 0.05, 0.4, 0.1, 0.1, 0.01]
    stage = gc.schedule_free(options["beta"], options["warmup"], options["r"], options["p"])
    optimizer = optimizer_of(gc.chain(gc.decoupled_decay(0.3), LR, stage), torch.from_numpy(np.array(start)))
    for rate, grad in zip(lr, grads, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        (y,) = step(optimizer, torch.from_numpy(np.array(grad)))
    wanted_y, wanted_x = oracle(grads, start, lambda t: lr[t - 1], 0.3, **options)
    np.testing.assert_allclose(y.numpy(), wanted_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(seen(optimizer).numpy(), wanted_x, rtol=1e-12, atol=1e-12)


def test_with_equal_weights_the_average_is_the_mean_of_the_steps_of_z() -> None:
    optimizer, _ = trained(
        gc.chain(LR, gc.schedule_free(0.5)), [np.array([1.0]), np.array([2.0]), np.array([3.0])], np.zeros(1)
    )
    close(optimizer.state[optimizer.param_groups[0]["params"][0]]["schedule_free.z"], [-0.6])
    close(seen(optimizer), [-(0.1 + 0.3 + 0.6) / 3])


def test_steps_at_a_learning_rate_of_zero_move_nothing() -> None:
    optimizer = optimizer_of(gc.chain(LR, gc.schedule_free()), torch.ones(2))
    optimizer.param_groups[0]["lr"] = 0.0
    (value,) = step(optimizer, torch.ones(2))
    assert (value == 1).all()
    optimizer.param_groups[0]["lr"] = 0.5
    (value,) = step(optimizer, torch.ones(2))
    close(value, [0.5, 0.5])


def test_an_element_that_is_skipped_stays_where_it_is() -> None:
    class skips_the_first(gc.Stage):
        def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
            return update.replace(skip_mask=torch.tensor([True, False]))

    optimizer, value = trained(gc.chain(skips_the_first(), LR, gc.schedule_free()), [np.ones(2)] * 3, np.ones(2))
    assert value[0] == 1
    assert value[1] < 1
    assert seen(optimizer)[0] == 1


def test_any_direction_can_be_schedule_free() -> None:
    for name in ("lion", "rose", "adv-signsgd"):
        chain = gc.recipe(name, lr=0.1)
        assert gc.chain(*chain.without(*(n for n in chain.names if n == "stochastic_round")), gc.schedule_free()).names


@pytest.mark.parametrize("stage", [gc.schedule_free(), gc.average_weights(), gc.lookahead()], ids=lambda s: s.address)
def test_what_changes_the_step_comes_before(stage: gc.Stage) -> None:
    with pytest.raises(gc.ChainError, match=f"{stage.address} goes by where the step leads.*after decoupled_decay"):
        gc.chain(LR, stage, gc.decoupled_decay(0.1))
    gc.chain(gc.promote("fp32"), LR, stage, gc.stochastic_round())


# average_weights


@pytest.mark.parametrize(
    "options", [{"decay": 0.7}, {"decay": 0.7, "warmup": True}, {"decay": 1.0, "warmup": True}], ids=str
)
def test_average_weights_is_the_average_of_the_values(options: dict[str, Any]) -> None:
    for shape in SHAPES:
        grads, start = sequence(shape), sequence(shape, 1)[0]
        optimizer, _ = trained(gc.chain(gc.first_moment(0.8), LR, gc.average_weights(**options)), grads, start)
        values = [
            trained(gc.chain(gc.first_moment(0.8), LR), grads[:n], start)[1].numpy() for n in range(1, len(grads) + 1)
        ]
        average = values[0]
        for t, value in enumerate(values[1:], start=2):
            d = min(options["decay"], (t - 1) / t) if options.get("warmup") else options["decay"]
            average = d * average + (1 - d) * value
        np.testing.assert_allclose(seen(optimizer).numpy(), average, rtol=1e-12, atol=1e-14)
        if options["decay"] == 1:
            np.testing.assert_allclose(average, np.mean(values, axis=0), rtol=1e-12, atol=1e-14)


def test_training_is_as_without_the_average() -> None:
    grads, start = sequence((8, 16)), sequence((8, 16), 1)[0]
    adam = gc.recipe("adamw", lr=0.1)
    averaged = adam.insert_after("scale_by_learning_rate", gc.average_weights(0.9))
    assert torch.equal(trained(averaged, grads, start)[1], trained(adam, grads, start)[1])


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_average_weights_is_torch_averaged_model(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    stage = gc.average_weights(0.8) if kind == "ema" else gc.average_weights(1.0, warmup=True)
    optimizer = gc.Optimizer(model, gc.chain(gc.recipe("adamw", lr=0.01), stage), compile=False)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8) if kind == "ema" else None)
    for seed in range(12):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        theirs.update_parameters(model)
    optimizer.eval()
    tolerance = {"rtol": 0, "atol": 1e-14 if dtype == torch.float64 else 3e-7}
    torch.testing.assert_close([*model.parameters()], [*theirs.module.parameters()], **tolerance)  # type: ignore[arg-type]


def test_a_wide_average_of_narrow_parameters_moves() -> None:
    """In bfloat16, 1 + 0.001 * 0.5 is 1."""
    seen_at: dict[str | None, float] = {}
    for dtype in (None, "fp32"):
        chain = gc.chain(gc.multiply(0.0), LR, gc.average_weights(0.999, dtype=dtype))
        optimizer = optimizer_of(chain, torch.ones(1, dtype=torch.bfloat16))
        step(optimizer, torch.ones(1, dtype=torch.bfloat16))
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].fill_(1.5)
        for _ in range(100):
            step(optimizer, torch.ones(1, dtype=torch.bfloat16))
        (average,) = [
            x for key, x in optimizer.state[optimizer.param_groups[0]["params"][0]].items() if "average" in key
        ]
        seen_at[dtype] = average.item()
    assert seen_at[None] == 1
    assert seen_at["fp32"] == pytest.approx(1.5 - 0.5 * 0.999**100, rel=1e-4)


# lookahead


def test_lookahead_goes_back_every_k_steps() -> None:
    for shape in SHAPES:
        grads, start = sequence(shape, 7), sequence(shape, 1)[0]
        optimizer, value = trained(gc.chain(gc.decoupled_decay(0.2), LR, gc.lookahead(3, 0.6)), grads, start)
        fast = slow = start
        for t, grad in enumerate(grads, start=1):
            fast = fast - 0.1 * (grad + 0.2 * fast)
            if t % 3 == 0:
                fast = slow = slow + 0.6 * (fast - slow)
        np.testing.assert_allclose(value.numpy(), fast, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(seen(optimizer).numpy(), slow, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_after_going_back_the_parameter_is_the_slow_one(dtype: torch.dtype) -> None:
    optimizer = optimizer_of(gc.chain(LR, gc.lookahead(2, 0.3)), torch.linspace(-3, 3, 50, dtype=dtype))
    for _ in range(4):
        (value,) = step(optimizer, torch.linspace(1, 2, 50, dtype=dtype))
    assert torch.equal(seen(optimizer), value)


def test_with_k_1_and_alpha_1_nothing_goes_back() -> None:
    grads, start = sequence((8, 16)), sequence((8, 16), 1)[0]
    with_it, without = (trained(gc.chain(LR, *more), grads, start)[1] for more in ([gc.lookahead(1, 1.0)], []))
    torch.testing.assert_close(with_it, without, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        (gc.schedule_free, {"beta": 0.0}), (gc.schedule_free, {"beta": 1.0}), (gc.schedule_free, {"warmup_steps": -1}),
        (gc.average_weights, {"decay": 1.1}), (gc.lookahead, {"k": 0}), (gc.lookahead, {"alpha": 0.0}),
    ],
    ids=str,
)  # fmt: skip
def test_values_out_of_range(stage: Any, options: dict[str, Any]) -> None:
    with pytest.raises(gc.OptionError, match=next(iter(options))):
        stage(**options)
