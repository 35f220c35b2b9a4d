"""Parameters that are split into rows are stepped as whole ones are, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.shapes import gpt2
from gradchain._core.exchange import owners_of, parts_of
from tests.declared import EXACT
from tests.distributed import nonfinite, sharded, worlds, zero
from tests.laws.cases import TRANSFORMS

ROUNDS = {
    "adamw": 0, "lion": 0, "rose": 2, "gyro-adam": 2, "adams": 2, "prodigy": 1, "factored_moment": 1, "orthograd": 2,
    "clip_by_global_norm": 1, "adv-adopt-factored": 1, "orthogonalize": 2, "muon": 2,
}  # fmt: skip
"""Collectives in a step of nine parameters: one for each time that the chain yields, one for all factors, and one for shared
numbers."""

PROMOTED = ["adams", "rose", "rose:plain", "stochastic_round", "master_weights", "master_weights/fp24"]
"""Chains that compute in float32 or wider: torch (2.13) rounds bfloat16 by where an element stands on a CPU."""

FEW = ["rose", "adams", "adv-adopt-factored", "prodigy", "first_moment/int8", "freeze_on_flip", "centered_decay/int4"]
SOME = [
    "adamw",
    "lion",
    "sgd:nesterov",
    "adv-adamw:all",
    "adam-atan2",
    "stochastic_round",
    "master_weights",
    "second_moment/bf16",
]
MATRICES = ["orthogonalize", "muon", "soap", "shampoo", "low_rank"]
MAXIMA = ["rose", "stochastic_sign", "first_moment/int8", "first_moment/fp16"]


def job(layout: str, names: list[str] | None = None, **options: Any) -> worlds.Job:
    return sharded.cases, {"layout": layout, "names": names, **options}


def check(world: int, *jobs: worlds.Job, seconds: float = 300, more: Sequence[worlds.Job] = ()) -> None:
    """No case differs, and as many collectives as there should be; nor do `more` jobs find anything."""
    every = worlds.run_all([*jobs, *more], world, seconds=seconds)
    assert [results[len(jobs) :] for results in every] == [[[]] * len(more)] * world
    for results in every[0][: len(jobs)]:
        assert [text for case in results for text in case["found"]] == []
        if results[0]["usual"]:
            counted = {case["name"]: case["collectives"] for case in results}
            assert {n: c for n, c in counted.items() if n in ROUNDS} == {
                n: c for n, c in ROUNDS.items() if n in counted
            }


def test_most_on_two() -> None:
    """Every transform; of those where each element goes by itself, some. `make check` has all, on three."""
    names = [name for name in TRANSFORMS if name not in EXACT] + SOME
    check(
        2,
        job("fsdp", names),
        job("fsdp", MAXIMA, few=0),
        job("fsdp", MATRICES, part=1),
        more=[(sharded.own_stages, {"part": 1, "parts": 3})],
    )


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_owners_of_matrices_have_equal_work(world: int) -> None:
    """Within 20 % of each other, for the hidden matrices of a GPT-2-like model; the same whoever works it out."""
    costs = [m * n * min(m, n) for m, n in (shape for shape in gpt2()[2:] if len(shape) == 2)]
    owners = owners_of(costs, world)
    load = [sum(cost for cost, owner in zip(costs, owners) if owner == rank) for rank in range(world)]
    assert max(load) <= 1.2 * min(load)
    assert owners == owners_of(list(costs), world)


@pytest.mark.parametrize(
    ("moved", "matrices", "world", "parts"),
    [
        (170 * 10**6, 48, 8, 1),  # the hidden matrices of GPT-2 124M in bfloat16: 21 MB for each process
        (2950 * 10**6, 192, 8, 4),  # of 1.5B
        (2950 * 10**6, 192, 64, 1),
        (2950 * 10**6, 4, 2, 2),  # two matrices for each
        (0, 0, 4, 1),
    ],
)
def test_many_bytes_go_in_parts(moved: int, matrices: int, world: int, parts: int) -> None:
    assert parts_of(moved, matrices, world) == parts


def test_split_parameters_replay_steps() -> None:
    for counts in worlds.run_all([(sharded.replays, {})], 2)[0]:
        assert counts == {"eager": 4, "compiled": 4}  # the first step has no step before, the second finds what recurs


def test_some_on_three() -> None:
    """`make check` has all of them. Under ZeRO-1 there are more processes than parameters."""
    names = ["adamw", "clip_by_global_norm", "kourkoutas_beta", "prodigy"]
    check(
        3,
        job("fsdp", [*FEW, *(name for name in ROUNDS if name not in FEW)]),
        job("fsdp", PROMOTED, dtype="bfloat16"),
        more=[
            (zero.equals, {"names": names, "shapes": [(7, 6), (6,)]}),
            (sharded.own_stages, {}),
            (sharded.own_stages, {"part": 1, "parts": 2}),  # seven matrices
        ],
    )


def test_some_on_two_by_two() -> None:
    check(4, job("hsdp", FEW))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "world"), [("fsdp", 3), ("fsdp", 4), ("hsdp", 4)], ids=["three", "four", "two by two"]
)
def test_all_on_more(layout: str, world: int) -> None:
    check(world, job(layout))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["clip_by_norm", "momentum_project", "clip_by_global_norm", "first_moment/int8", "factored_moment", "prodigy"],
)
def test_compiled(name: str) -> None:
    check(2, job("fsdp", [name], compile=True), seconds=600)  # each shape is a kernel


def test_zero_steps_as_one_optimizer_does_and_gradients_that_are_not_finite() -> None:
    """In the same two processes, which take seconds to start."""
    names = ["adamw", "clip_by_global_norm", "kourkoutas_beta", "prodigy", "first_moment/int8", "stochastic_sign"]
    spoilt = ["adamw", "clip_by_global_norm", "prodigy", "rose"]
    jobs: list[worlds.Job] = [
        (zero.equals, {"names": names}),
        (zero.telemetry_of_the_whole_model, {}),
        (zero.wrong_uses, {}),
        (zero.foreign_checkpoints, {}),
        (nonfinite.sharded, {"names": spoilt}),
        (nonfinite.errors, {}),
        (nonfinite.zero, {"names": spoilt[:3]}),
    ]
    assert worlds.run_all(jobs, 2) == [[[]] * len(jobs)] * 2
