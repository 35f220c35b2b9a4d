"""Ways to run a chain a few steps: as an optimizer, and as pure functions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import gradchain
from gradchain import Chain, orthogonalize
from gradchain._core.fields import DTYPES
from tests.laws.cases import CASES, FAST, SHAPES

Shape = tuple[int, ...]
Tensors = list[torch.Tensor]

DECAYS = ("weight_decay", "centered_wd")
"""How the keys of decays end."""

over_all_cases = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=() if name in FAST else pytest.mark.slow) for name, case in CASES.items()],
)


def tensors(seed: int, shapes: Sequence[Shape] = SHAPES, dtype: torch.dtype = torch.float32) -> Tensors:
    """Normal numbers that are the same in every dtype, up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(steps: int, shapes: Sequence[Shape] = SHAPES, dtype: torch.dtype = torch.float32) -> list[Tensors]:
    """For each step: gradients that turn against the previous ones at every other step, so that projections act."""
    result: list[Tensors] = []
    for step in range(steps):
        fresh = tensors(100 + step, shapes, torch.float64)
        signs = 1 if step % 2 == 0 else -1
        result.append([signs * (base + 0.5 * new) for base, new in zip(tensors(99, shapes, torch.float64), fresh)])
    return [[g.to(dtype) for g in step] for step in result]


def build(params: Any, chain: Chain, **options: Any) -> gradchain.Optimizer:
    """An optimizer, without the advice about odd shapes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(removes the whole gradient|does not decay).*")
        return gradchain.Optimizer(params, chain, **options)


def optimize(
    chain: Chain,
    params: Tensors,
    grads: Sequence[Tensors],
    *,
    compile: bool = False,
) -> tuple[Tensors, gradchain.Optimizer]:
    """The parameters after an optimizer's steps."""
    held = [torch.nn.Parameter(p.detach().clone()) for p in params]
    optimizer = build(held, chain, compile=compile)
    for step in grads:
        for param, grad in zip(held, step):
            param.grad = torch.empty_like(param).copy_(grad)
        optimizer.step()
    return [param.detach() for param in held], optimizer


def functional(chain: Chain, params: Tensors, grads: Sequence[Tensors], **hyperparameters: Any) -> Tensors:
    """The same by the pure functions."""
    state = chain.init(params)
    for step in grads:
        updates, state = chain.update(step, state, params, **hyperparameters)
        params = gradchain.apply_updates(params, updates)
    return params


def precision(chain: Chain, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a chain computes in, or keeps its masters in, where it is narrower than the parameter's."""
    widths = [
        DTYPES[stage.dtype] for stage in chain if getattr(stage, "dtype", None) in DTYPES
    ]  # fp24 has no wide ones
    return min([dtype, *widths], key=lambda dtype: torch.finfo(dtype).bits)


def tolerance(chain: Chain, dtype: torch.dtype = torch.float64) -> float:
    """A few units in the last place of what the chain computes in, or keeps: what is rounded may fall either way."""
    kept = [COARSE.get(getattr(stage, "storage", ""), 0.0) for stage in chain]
    kept += [COARSE["factored"] for stage in chain if stage.address == "factored_moment"]
    kept += [WITHIN.get(getattr(stage, "precision", ""), 0.0) for stage in chain if isinstance(stage, orthogonalize)]
    return max({torch.float64: 1e-12, torch.float32: 2e-6}[precision(chain, dtype)], *kept)


COARSE = {
    "fp16": 2**-13,
    "int8": 2**-7,
    "bf16": 2**-10,
    "factored": 1e-6,
    "factored_vectors": 1e-6,
    "factored_compact": 2**-6,
}
"""What rounding to the other neighbour does to a step, for storages that round."""


WITHIN = {"bf16": 2**-6, "fp32": 1e-5}
"""The same for stages that compute in less: one flipped rounding of bfloat16 goes through the iterations that follow."""


def differs(left: Tensors, right: Tensors) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(left, right, strict=True))


def assert_all_close(left: Tensors, right: Tensors, rtol: float, atol: float) -> None:
    for shape, a, b in zip([tuple(p.shape) for p in left], left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda text, s=shape: f"shape {s}: {text}")
