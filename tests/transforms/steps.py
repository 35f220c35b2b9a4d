"""What a transform makes of numbers written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gradchain as gc
from gradchain._chain.chain import ChainState

Numbers = Any  # a number, or a nest of lists of numbers


def tensor(numbers: Numbers, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


def directions(
    *stages: gc.Stage | gc.Chain, grads: list[Numbers], param: Numbers = None, **hyper: Any
) -> list[torch.Tensor]:
    """What is subtracted from `param` (zeros if not given) at each step; the parameter itself stays where it is."""
    return run(*stages, grads=grads, param=param, **hyper)[0]


def run(
    *stages: gc.Stage | gc.Chain, grads: list[Numbers], param: Numbers = None, **hyper: Any
) -> tuple[list[torch.Tensor], ChainState]:
    """The directions, and the state after the last step."""
    chain = gc.chain(*stages)
    gradients = [tensor(g) for g in grads]
    theta = torch.zeros_like(gradients[0]) if param is None else tensor(param)
    state = chain.init(theta)
    subtracted = []
    for gradient in gradients:
        updates, state = chain.update(gradient, state, theta, **hyper)
        subtracted.append(-updates)
    return subtracted, state


def slot(state: ChainState, name: str) -> torch.Tensor:
    """A slot of the only parameter."""
    return state["slots"][""][name]


def close(actual: torch.Tensor, expected: Numbers, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    torch.testing.assert_close(actual, tensor(expected, actual.dtype), rtol=rtol, atol=atol)


def optimizer_of(chain: gc.Chain, *params: torch.Tensor, **options: Any) -> gc.Optimizer:
    return gc.Optimizer([torch.nn.Parameter(p.clone()) for p in params], chain, compile=False, **options)


def step(optimizer: torch.optim.Optimizer, *grads: torch.Tensor) -> list[torch.Tensor]:
    """One step with these gradients; the parameters after it."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    optimizer.step()
    return [param.detach().clone() for param in params]


Array = NDArray[np.float64]
SHAPES = [(), (1,), (7,), (5, 1), (1, 6), (8, 16), (3, 4, 2), (2, 3, 4, 5), (3, 300)]


def state_of(optimizer: gc.Optimizer) -> dict[str, torch.Tensor]:
    """The slots of the only parameter, by their short names."""
    (param,) = optimizer.param_groups[0]["params"]
    return {key.rpartition(".")[2]: value for key, value in optimizer.state[param].items()}


def moves(optimizer: gc.Optimizer, grads: list[torch.Tensor]) -> list[torch.Tensor]:
    """What each step subtracts."""
    (param,) = optimizer.param_groups[0]["params"]
    found = []
    for g in grads:
        before = param.detach().clone()
        found.append(before - step(optimizer, g.to(param.dtype))[0])
    return found


def assert_resumes(make: Callable[[], gc.Optimizer], grads: list[torch.Tensor]) -> gc.Optimizer:
    """A run saved after five steps goes on bit for bit in another optimizer. Returns: the one that was not stopped."""
    whole = make()
    moves(whole, grads[:5])
    saved, held = copy.deepcopy(whole.state_dict()), whole.param_groups[0]["params"][0].detach().clone()
    moves(whole, grads[5:])
    again = make()
    again.param_groups[0]["params"][0].data.copy_(held)
    again.load_state_dict(saved)
    moves(again, grads[5:])
    assert torch.equal(again.param_groups[0]["params"][0], whole.param_groups[0]["params"][0])
    for key, value in state_of(whole).items():
        assert torch.equal(value, state_of(again)[key]), key
    return whole


def sequence(shape: tuple[int, ...], steps: int = 6) -> list[Array]:
    rng = np.random.default_rng(7)
    return [np.asarray(rng.normal(size=shape)) for _ in range(steps)]


def compare(stages: list[gc.Stage], expected: Callable[[list[Array]], list[Array]]) -> None:
    """The directions of a chain and those of a function of all gradients, for tensors of every rank."""
    for shape in SHAPES:
        grads = sequence(shape)
        for u, wanted in zip(directions(*stages, grads=[g.tolist() for g in grads]), expected(grads), strict=True):
            np.testing.assert_allclose(u.numpy(), wanted, rtol=1e-12, atol=1e-14, err_msg=str(shape))
