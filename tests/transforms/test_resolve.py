from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions

SQUARE = gc.second_moment(0.0, bias_correction=False)  # the pending scale is |g|


def test_divide() -> None:
    (u,) = directions(SQUARE, gc.divide(1.0), grads=[[3.0, -1.0, 0.0]])
    close(u, [3 / 4, -1 / 2, 0.0])


def test_divide_by_exactly_zero_passes() -> None:
    # All slices of a constant matrix have range 0 (quirk R12): the raw gradient, however large.
    (u,) = directions(gc.range_normalize(), gc.divide(), grads=[[[5.0, 5.0], [1e6, 1e6]]])
    close(u, [[5.0, 5.0], [1e6, 1e6]])


def test_divide_eps_belongs_to_the_divisor() -> None:
    (u,) = directions(gc.range_normalize(), gc.divide(0.5), grads=[[[5.0, 5.0], [1.0, 0.5]]])
    close(u, [[10.0, 10.0], [1.0, 0.5]])


def test_atan2() -> None:
    (u,) = directions(SQUARE, gc.atan2_scale(), grads=[[3.0, -1e-30, 0.0]])
    close(u, [math.pi / 4, -math.pi / 4, 0.0])  # atan2(x, |x|); blind to units; atan2(0, 0) = 0


def test_atan2_a_and_b() -> None:
    (u,) = directions(SQUARE, gc.atan2_scale(a=2.0, b=0.5), grads=[[3.0, -2.0]])
    close(u, [2 * math.atan(2), -2 * math.atan(2)])


def test_atan2_is_bounded_where_the_scale_vanishes() -> None:
    # The moment of an old gradient over a second moment that has decayed to nothing.
    stages = (gc.first_moment(0.9, bias_correction=False), gc.second_moment(0.0), gc.atan2_scale(a=1.5))
    _, u = directions(*stages, grads=[[7.0], [0.0]])
    close(u, [1.5 * math.pi / 2])


def test_atan2_of_slices() -> None:
    (u,) = directions(gc.range_normalize(), gc.atan2_scale(), grads=[[[1.0, 3.0], [0.0, -1.0]]])
    close(u, [[math.atan(1 / 2), math.atan(3 / 2)], [0.0, -math.pi / 4]])


def test_adam_atan2_takes_steps_of_the_learning_rate() -> None:
    chain = gc.recipe("adam-atan2", lr=0.1, weight_decay=0.0, a=4 / math.pi)
    for u in directions(chain, grads=[[5.0]] * 3):
        close(u, [0.1])


@pytest.mark.parametrize("n_layers", [1.0, 4.0])
def test_divide_by_size(n_layers: float) -> None:
    (u,) = directions(SQUARE, gc.divide(None, n_layers), grads=[[[3.0, -1.0], [0.5, 0.0]]])
    eps = 1 / (n_layers * math.sqrt(4))
    close(u, [[3 / (3 + eps), -1 / (1 + eps)], [0.5 / (0.5 + eps), 0.0]])


def test_eps_none_survives_a_config(tmp_path: Path) -> None:
    chain = gc.chain(SQUARE, gc.divide(None, 4.0))
    assert chain.hyperparameters == {"betas": (None, 0.0), "eps": None, "n_layers": 4.0}
    for name, text in (("chain.json", chain.to_json()), ("chain.toml", chain.to_toml())):
        (tmp_path / name).write_text(text)
        assert gc.Chain.from_config(tmp_path / name) == chain
    assert gc.chain(SQUARE, gc.divide(1e-3)).hyperparameters.keys() == {"betas", "eps"}


def test_n_layers_needs_eps_none() -> None:
    with pytest.raises(gc.OptionError, match=r"n_layers = 4\.0 has no effect with eps = 1e-08"):
        gc.divide(1e-8, 4.0)
    with pytest.raises(gc.OptionError, match="eps"):
        gc.divide(-1.0)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_eps_may_come_and_go(compile: bool) -> None:
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = gc.Optimizer([p], gc.chain(SQUARE, gc.divide(1.0), gc.scale_by_learning_rate(1.0)), compile=compile)
    for eps, size in ((1.0, 1.0), (None, 0.5), (0.25, 0.25)):
        optimizer.param_groups[0]["eps"] = eps
        p.grad, before = torch.ones(4), p.detach().clone()
        optimizer.step()
        close(before - p.detach(), [1 / (1 + size)] * 4, rtol=1e-6)


class downscale(gc.Stage):
    d: float = gc.hyper(default=0.01)

    def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
        return update.replace(value=self.d * update.value)


@pytest.mark.parametrize("eps", [0.3, None])
def test_eps_has_the_unit_of_what_it_is_added_to(eps: float | None) -> None:
    grads = [[3.0, -1.0, 0.5, 0.0]]
    (plain,) = directions(SQUARE, gc.divide(eps), grads=grads)
    (u,) = directions(downscale(), SQUARE, gc.divide(eps), grads=grads)
    close(u, plain.tolist())
    (moved,) = directions(downscale(), SQUARE, gc.divide(eps), grads=grads, d=2.0)
    close(moved, plain.tolist())
