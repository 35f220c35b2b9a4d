"""The registry of cases is complete, and its chains are minimal."""

from __future__ import annotations

import gradchain
from gradchain import transforms
from tests.laws.cases import CASES, RECIPES, TRANSFORMS

CLOSURES = {"sam"}
"""Transforms that no chain can be stepped with unless there is a closure; tests/test_extra_evaluation.py has their laws."""


def test_every_transform_has_a_case() -> None:
    assert {name.partition("/")[0] for name in TRANSFORMS} == set(transforms.__all__) - CLOSURES


def test_a_case_contains_its_transform() -> None:
    for name, case in TRANSFORMS.items():
        assert name.partition("/")[0] in case.chain, name


def test_every_recipe_has_a_case() -> None:
    published = {name for name in gradchain.recipes() if _module(name).startswith("gradchain.")}  # not those of tests
    assert {name.partition(":")[0] for name in RECIPES} == published


def _module(recipe: str) -> str:
    return gradchain._chain.recipes.find_recipe(recipe).build.__module__


def test_exceptions_are_not_stale() -> None:
    for name, case in CASES.items():
        assert case.inert.keys() <= case.chain.hyperparameters.keys(), name
        assert case.silent.keys() <= set(case.chain.names), name
        assert set(case.units) <= case.chain.hyperparameters.keys(), name


def test_every_storage_has_a_case() -> None:
    used = {getattr(stage, "storage", "param") for case in CASES.values() for stage in case.chain}
    assert used == set(gradchain.storage.STORAGES)
