"""A step in the backward pass holds about one layer's gradients of twelve."""

from __future__ import annotations

import sys

import pytest

from tests.distributed import memory, worlds


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
def test_resident_memory_of_one_process() -> None:
    (kept,), (freed,) = (worlds.run(memory.resident, 1, in_backward=flag) for flag in (False, True))
    assert kept > memory.LAYERS - 1
    assert freed < memory.LAYERS / 2  # about 1, and 3 that its step is computed in


def test_gradients_of_sharded_layers() -> None:
    found = worlds.run_all([(memory.live, {"in_backward": flag}) for flag in (False, True)], 2)
    assert found == [[memory.LAYERS, 1], [memory.LAYERS, 1]]
