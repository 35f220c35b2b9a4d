"""Random chains of random stages: no foreign exception, no half step, nothing that is not finite out of nothing."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import nn

import gradchain as gc
from gradchain._engine import batch_replay, eager, eager_tiles
from gradchain.errors import GradchainError
from gradchain.roles import ROLES
from tests.fuzz.chains import chains

SHAPES = [(), (1,), (5,), (4, 3), (1, 6), (5, 1), (2, 3, 4), (3, 2, 2, 2), (0, 3), (33, 9)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [1.0, 1e-3, 30.0, 0.0]
"""The size of gradients; 0 stands for gradients of zeros."""


class breaks(gc.Stage):
    """A stage of a user's that fails when it is asked for the n-th time, if it is told to."""

    def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
        ASKED[0] += 1
        if ASKED[0] == FAILS[0]:
            raise ZeroDivisionError("told to")
        return update


ASKED, FAILS = [0], [0]
"""How often it has been asked, and when it fails."""


@st.composite
def settings_of(draw: st.DrawFn) -> dict[str, Any]:
    """How the optimizer is made, and over what."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5))
    return {
        "shapes": shapes,
        "dtypes": [draw(st.sampled_from(DTYPES)) for _ in shapes],
        "roles": [draw(st.sampled_from([None, None, None, *ROLES])) for _ in shapes],
        "options": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "maximize": st.booleans(),
                    "telemetry": st.booleans(),
                    "capturable": st.booleans(),
                    "nonfinite": st.just("skip"),
                },
            )
        ),
        "seed": draw(st.integers(0, 1 << 16)),
    }


def grads(params: list[nn.Parameter], seed: int, drawn: list[tuple[float, bool]]) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param, (size, missing) in zip(params, drawn):
        normal = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = None if missing else (size * normal).to(param.dtype)


def bits(optimizer: gc.Optimizer) -> list[tuple[str, Any]]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    found: list[tuple[str, Any]] = [(str(place), param.detach().clone()) for place, param in enumerate(params)]
    found += [(f"{n} {k}", x.clone()) for n, p in enumerate(params) for k, x in sorted(optimizer.state[p].items())]
    found += [(k, copy.deepcopy(v)) for group in optimizer.param_groups for k, v in group.items() if k != "params"]
    return found


def same(left: list[tuple[str, Any]], right: list[tuple[str, Any]]) -> bool:
    return [k for k, _ in left] == [k for k, _ in right] and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for (_, a), (_, b) in zip(left, right)
    )


def not_finite(optimizer: gc.Optimizer) -> list[str]:
    return [
        key
        for key, value in bits(optimizer)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.isfinite().all()
    ]


@given(chains(), settings_of(), st.data())
def test_any_chain(chain: gc.Chain, made: dict[str, Any], data: st.DataObject) -> None:
    note(repr(chain))
    FAILS[0] = 0
    generator = torch.Generator().manual_seed(made["seed"])
    params = [
        nn.Parameter((0.5 * torch.randn(shape, generator=generator)).to(dtype))
        for shape, dtype in zip(made["shapes"], made["dtypes"])
    ]
    where = data.draw(st.sampled_from(chain.names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            broken = chain.insert_before(where, breaks())
            optimizer = gc.Optimizer(
                params, broken, role=dict(zip(params, made["roles"])), compile=False, **made["options"]
            )
        except GradchainError:  # refused when it was built, with an error that is ours
            return
    gradient = st.tuples(st.sampled_from(SIZES), st.sampled_from([False, False, False, True]))
    for step in range(3):
        grads(params, made["seed"] + step, [data.draw(gradient) for _ in params])
        optimizer.step()
        if any(param.dtype == torch.float16 and param.isinf().any() for param in params):
            return  # a step of 1e6, as after a second moment of 0, is right, and float16 has no such number
        assert not_finite(optimizer) == []
    grads(params, made["seed"], [(1.0, False)] * len(params))
    ASKED[0] = 0
    optimizer.step()
    asked = ASKED[0]
    if "/" in where and not asked:
        return  # it stands in a branch that no parameter takes
    before = bits(optimizer)
    ASKED[0], FAILS[0] = 0, data.draw(st.integers(1, asked))
    try:
        optimizer.step()
    except ZeroDivisionError:
        assert same(before, bits(optimizer))
    else:
        raise AssertionError("the stage that fails was not asked")
    finally:
        FAILS[0] = 0


CUT = [(16, 8), (17, 9), (9, 4, 3), (70,), (5,), (4, 3)]
"""Shapes of which some are cut into tiles of 16 elements."""


@given(chains(), settings_of(), st.lists(st.sampled_from(CUT), min_size=1, max_size=4))
def test_a_tape_makes_the_bits_of_the_stages(chain: gc.Chain, made: dict[str, Any], shapes: list[Any]) -> None:
    note(repr(chain))

    def trained(recorded: int) -> list[tuple[str, Any]]:
        generator = torch.Generator().manual_seed(made["seed"])
        params = [
            nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
            for shape, dtype in zip(shapes, [*made["dtypes"], *[torch.float32] * len(shapes)])
        ]
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(batch_replay, "RECORDED", recorded)
            patch.setattr(eager_tiles, "ELEMENTS", 16)
            patch.setattr(eager, "ELEMENTS", 32)
            optimizer = gc.Optimizer(params, chain, compile=False, maximize=made["options"].get("maximize", False))
            for step in range(7):
                grads(params, made["seed"] + step, [(SIZES[step % 3], False)] * len(params))
                optimizer.step()
        return bits(optimizer)

    try:
        expected = trained(1 << 40)
    except GradchainError:
        return
    for (name, ours), (_, stages) in zip(trained(2), expected, strict=True):
        if isinstance(ours, torch.Tensor):  # of any bits: also of what is not finite
            assert torch.equal(ours.reshape(-1).view(torch.uint8), stages.reshape(-1).view(torch.uint8)), name
