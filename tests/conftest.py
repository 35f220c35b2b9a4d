"""What all tests share."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch

from gradchain._chain import recipes
from gradchain._engine import call
from tests.compilers import compile_by

torch.set_num_threads(1)  # the tensors are small, and pytest-xdist keeps the cores busy
gc.disable()  # until all tests are collected: there is nothing to find among 10,000 of them, and to look takes seconds


def pytest_collection_finish() -> None:
    """What is there now stays, so the collector need not go through it in every test."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def own_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers goes again."""
    monkeypatch.setattr(recipes, "_recipes", dict(recipes._recipes))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty kernel cache, in the place of the one that the process shares."""
    cache = copy.copy(call._kernels)
    cache.clear()
    monkeypatch.setattr(call, "_kernels", cache)
    return cache


@pytest.fixture
def traced(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kernels run their graphs as traced: all of the compiled path but inductor, in milliseconds.

    They have a cache of their own: a test that compiles must not be served one of these.
    """
    compile_by(monkeypatch, lambda graph, inputs, **_: lambda: graph)
    return kernels
