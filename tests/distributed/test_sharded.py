"""Parameters that are split into rows are stepped as whole ones are, to the last bit."""

from __future__ import annotations

import pytest

from tests.distributed import sharded, worlds
from tests.laws.cases import CASES, RECIPES

ROUNDS = {"adamw": 0, "lion": 0, "rose": 2, "gyro-adam": 2, "adams": 2, "prodigy": 1, "factored_moment": 2, "clip_by_global_norm": 1}
"""Collectives in a step of ten parameters: one for each time that the chain yields, and one for shared numbers."""

PROMOTED = ["adams", "rose", "rose:plain", "stochastic_round", "master_weights"]
"""Chains that compute in float32 or wider: torch (2.13) rounds bfloat16 by where an element stands on a CPU."""


def check(layout: str, world: int, names: list[str] | None = None, dtype: str = "float32", compile: bool = False) -> None:
    results = worlds.run(
        sharded.cases, world, seconds=400, layout=layout, names=names, dtype=dtype, compile=compile
    )
    assert [text for case in results[0] for text in case["found"]] == []
    counted = {case["name"]: case["collectives"] for case in results[0]}
    assert {name: counted[name] for name in ROUNDS if name in counted} == {n: c for n, c in ROUNDS.items() if n in counted}


def test_two_processes() -> None:
    check("fsdp", 2)


@pytest.mark.parametrize(("layout", "world"), [("fsdp", 3), ("hsdp", 4)], ids=["three", "two by two"])
def test_recipes_on_more(layout: str, world: int) -> None:
    check(layout, world, [name for name in RECIPES if ":" not in name])


def test_bfloat16() -> None:
    check("fsdp", 3, PROMOTED, "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "world"), [("fsdp", 3), ("fsdp", 4), ("hsdp", 4)], ids=["three", "four", "two by two"])
def test_all_on_more(layout: str, world: int) -> None:
    check(layout, world)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["clip_by_norm", "momentum_project", "clip_by_global_norm", "first_moment/int8", "factored_moment", "prodigy", "rose"]
)
def test_compiled(name: str) -> None:
    assert name in CASES
    check("fsdp", 2, [name], compile=True)
