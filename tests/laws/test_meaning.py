"""Laws about meaning: every number and every stage matters, and gradients scale as the mathematics promises."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from gradchain._chain.chain import Chain
from gradchain.errors import ChainError
from tests.laws.cases import CASES, FAST, SHAPES, Case
from tests.laws.running import (
    DECAYS,
    assert_all_close,
    differs,
    functional,
    gradients,
    optimize,
    over_all_cases,
    tensors,
    tolerance,
)

STEPS = 6

# Another value that must show; by default half of the value, or 0.25 where it is 0.
TELLING: dict[str, Any] = {
    "eps": 1e3,  # shuts the gates of projections, and outweighs any denominator
    "theta_base": 0.9,  # hardly any gradient is that much opposed
    "residual_rtol": 0.9,  # below the largest possible |r| / |g| = 1
    "floor": 0.3,
    "reference_lr": 0.01,
    "warmup_steps": 3,
    "horizon": 0.9,
    "clamp": 1e-3,
    "flat_rtol": 2.0,  # every slice is flat
    "max_gain": 1.0,
    "t_alpha": 40.0,  # the warmup outlasts the test
    "growth_rate": 2.5,  # at least 1
    "k_warmup_steps": 40.0,
    "prodigy_steps": 1.0,
    "divide_eps": 1e3,
    "moment_eps": 1e3,
    "confidence_eps": 1e3,
    "clip_threshold": 1e-3,
    "max_rms": 1e-3,
    "weight_norm_floor": 30.0,
    "weight_norm_cap": 1e-3,
    "min_weight": -0.01,
    "max_weight": 0.01,
    "min_rms": 30.0,
    "max_ratio": 1e-4,
    "min_weight_norm": 30.0,
    "max_weight_norm": 1e-3,
}


def perturbed(key: str, value: Any) -> Any:
    if key in TELLING:
        return TELLING[key]
    return value / 2 if value else 0.25


def marks(name: str) -> Any:
    """Every stage; `make check` has every option and every recipe too."""
    return () if name in FAST else pytest.mark.slow


def entries() -> list[Any]:
    """Every number of every case: `(case, key, place in the tuple)`."""
    found: list[Any] = []
    for name, case in CASES.items():
        for key, value in case.chain.hyperparameters.items():
            places = [i for i, part in enumerate(value) if part is not None] if isinstance(value, tuple) else [None]
            found += [pytest.param(name, key, place, marks=marks(name)) for place in places]
    return found


def with_number(hyper: dict[str, Any], key: str, place: int | None) -> dict[str, Any]:
    old = hyper[key]
    if place is None:
        return {key: perturbed(key, old)}
    return {key: tuple(perturbed(key, part) if i == place else part for i, part in enumerate(old))}


MOST = ((7,), (8, 16))
REST = tuple(shape for shape in SHAPES if shape not in MOST)
"""Nearly everything shows in the former; what does not has to show in the latter."""


def stepped(chain: Chain, shapes: Any, dtype: torch.dtype = torch.float64, **hyper: Any) -> list[torch.Tensor]:
    return functional(chain, tensors(1, shapes, dtype), gradients(STEPS, shapes, dtype), **hyper)


@functools.lru_cache(maxsize=8)  # cases come one after another
def as_it_is(name: str, shapes: Any, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """What a case makes, which many are compared with."""
    return stepped(CASES[name].chain, shapes, dtype)


@pytest.mark.parametrize(("name", "key", "place"), entries())
def test_every_number_is_live(name: str, key: str, place: int | None) -> None:
    case = CASES[name]
    changed = with_number(case.chain.hyperparameters, key, place)
    live = False
    for shapes in (MOST, REST):
        # The same number, once as a group would hold it and once built into the chain.
        by_group = stepped(case.chain, shapes, **changed)
        assert not any(torch.isnan(p).any() for p in by_group)
        assert not differs(by_group, stepped(case.chain.with_options(**changed), shapes))
        if live := differs(by_group, as_it_is(name, shapes)):
            break
    assert live == (key not in case.inert)


def stages() -> list[Any]:
    several = {name: case.chain for name, case in CASES.items() if len(case.chain) > 1}
    return [
        pytest.param(name, address, marks=marks(name)) for name, chain in several.items() for address in chain.names
    ]


@pytest.mark.parametrize(("name", "address"), stages())
def test_every_stage_matters(name: str, address: str) -> None:
    case = CASES[name]
    gone = (address, *case.chain.dependents(address))
    rest = case.chain.without(*gone)
    if not len(rest):
        with pytest.raises(ChainError, match="raw gradient"):  # nothing is left to run
            stepped(rest, MOST, torch.float32)
        return
    silent = address in case.silent or off(case.chain, address)
    # Stages that deal with precision show in bfloat16 or float32 only.
    shows = any(
        differs(as_it_is(name, shapes, dtype), stepped(rest, shapes, dtype))
        for shapes in ((MOST,) if silent else (MOST, REST))
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    )
    assert shows != silent


def off(chain: Chain, address: str) -> bool:
    """A decay of 0 is no decay."""
    return getattr(chain[address], "weight_decay", None) == 0.0


@over_all_cases
def test_scaling_the_gradients(case: Case) -> None:
    shapes, factor = case.scaling_shapes, 8.0  # a power of two rounds nothing
    # What is decoupled from the gradient does not scale with it.
    decays = {key: 0.0 for key in case.chain.hyperparameters if key.endswith(DECAYS)}
    fixed = {} if case.scaling == "invariant" else {key: 0.0 for key in decays if key not in case.units}
    scaled = {key: factor * case.chain.hyperparameters[key] for key in case.units if not unset(case, key)}
    if "weight_decay" in case.units:
        fixed, scaled = {"weight_decay": 0.1}, {**scaled, "weight_decay": factor * 0.1}
    params = tensors(1, shapes, torch.float64)
    grads = gradients(4, shapes, torch.float64)
    louder = [[factor * g for g in step] for step in grads]
    if case.scaling == "invariant":
        expected = functional(case.chain, params, grads, **fixed)
        accuracy = max(1e-9, tolerance(case.chain))
        assert_all_close(functional(case.chain, params, louder, **{**fixed, **scaled}), expected, accuracy, accuracy)
        return
    # The parameter itself may enter (orthograd, L2 decay), so the step is looked at from one and the same point.
    state, louder_state = case.chain.init(params), case.chain.init(params)
    for soft, loud in zip(grads, louder, strict=True):
        updates, state = case.chain.update(soft, state, params, **fixed)
        loud_updates, louder_state = case.chain.update(loud, louder_state, params, **{**fixed, **scaled})
        wanted = [factor * update for update in updates]
        # An update is a difference of parameters, so it is as exact as they are.
        accuracy = 10 * tolerance(case.chain)
        assert_all_close(loud_updates, wanted, rtol=accuracy, atol=accuracy)


def unset(case: Case, key: str) -> bool:
    return case.chain.hyperparameters[key] is None


@pytest.mark.parametrize("name", ["sign", "lion", "adams", "divide", "rose", "adam-atan2"])
def test_invariance_is_not_vacuous(name: str) -> None:
    # The law above would also hold for a chain that ignores its gradients.
    case = CASES[name]
    params, grads = tensors(1, case.scaling_shapes), gradients(2, case.scaling_shapes)
    opposite = [[-g for g in step] for step in grads]
    ours, _ = optimize(case.chain, params, grads)
    theirs, _ = optimize(case.chain, params, opposite)
    assert differs(ours, theirs)
