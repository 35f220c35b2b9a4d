"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gradchain._engine import kernel

torch.set_num_threads(1)  # the tensors are small, and pytest-xdist keeps the cores busy


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def graphs_as_traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels run the graph that was traced: all of the engine but inductor's code, which takes seconds for each graph."""
    monkeypatch.setattr(kernel, "compile_graph", lambda graph, inputs, **_: graph)
    yield
