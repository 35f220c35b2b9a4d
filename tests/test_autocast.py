"""A step is the same step inside `torch.autocast`: eager, compiled while it is on, in backward, as pure functions."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import chain
from tests.laws.cases import COVERING, RECIPES, TRANSFORMS
from tests.laws.running import build, gradients, tensors

SHAPES = [(8, 16), (7,)]


class autocast_products(gradchain.Stage):
    """A user's: products in its state, in its update, and after a yield."""

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        def gram(param: torch.Tensor, shard: object) -> torch.Tensor:
            return param @ param.mT if param.ndim == 2 else torch.outer(param, param)

        return {"gram": gradchain.Slot(gram, shape=p.shape[:1] * 2)}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> Any:
        g = update.value
        total = yield gradchain.whole_tensor(gg=g * g)
        gram = ctx.read("gram") + (g @ g.mT if g.ndim == 2 else torch.outer(g, g))
        return update.replace(value=(gram @ g) / (1 + total.gg)), {"gram": gram}


CHAINS = {name: case.chain for name, case in (RECIPES | TRANSFORMS).items()}
TOGETHER = ("adv-adamw:all", "adv-adopt:all", "adv-prodigy", "clip_by_global_norm", "kourkoutas_beta", "lamb:bounded")
"""They ask about all parameters: none of them is stepped alone."""
CHAINS["a user's"] = chain(autocast_products(), gradchain.scale_by_learning_rate(0.1))


def run(made: gradchain.Chain, mode: str, autocast: bool, steps: int = 3, **options: Any) -> list[torch.Tensor]:
    params = [nn.Parameter(x) for x in tensors(1, SHAPES)]
    on = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    with on:
        if mode == "functional":
            held = [x.detach() for x in params]
            state = made.init(held)
            for step in gradients(steps, SHAPES):
                updates, state = made.update(step, state, held)
                held = gradchain.apply_updates(held, updates)
            return held
        optimizer = build(params, made, **{"compile": False, **options})
        for step in gradients(steps, SHAPES):
            for param, grad in zip(params, step):
                param.grad = grad
                if mode == "step_parameter":
                    optimizer.step_parameter(param)
            if mode == "eager":
                optimizer.step()
    return [param.detach() for param in params]


PAIRS = [(name, "eager") for name in CHAINS] + [
    (name, mode)
    for name in (*COVERING, "a user's")
    for mode in ("step_parameter", "functional")
    if mode != "step_parameter" or name not in TOGETHER
]
"""What a stage computes shows in eager steps; that the other ways turn autocast off too, recipes show."""


@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_a_step_does_not_depend_on_autocast(name: str, mode: str) -> None:
    inside, outside = (run(CHAINS[name], mode, autocast) for autocast in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(inside, outside, strict=True))


def test_what_is_compiled_under_autocast_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of a process are shared: one that was made under autocast would serve steps outside."""
    inside, outside = (run(CHAINS["a user's"], "eager", autocast, compile=True) for autocast in (True, False))
    for one, other in zip(inside, outside, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(inside, run(CHAINS["a user's"], "eager", False), rtol=1e-5, atol=1e-6)


def test_the_closure_keeps_its_autocast() -> None:
    param = nn.Parameter(torch.ones(2, 2))
    optimizer = gradchain.optimizer("adams", [param], lr=0.1)
    seen: list[torch.dtype] = []

    def closure() -> torch.Tensor:
        product = param @ param
        seen.append(product.dtype)
        product.sum().backward()
        return product.sum()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        optimizer.step(closure)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [torch.bfloat16]
