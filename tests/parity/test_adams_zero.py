"""adams-torch 0.0.1 itself on two processes, next to ours: in copies, and sharded, which the published one cannot be."""

from __future__ import annotations

import pytest

from tests.distributed import worlds
from tests.parity import adams_zero

pytest.importorskip("adams", reason="pip install gradchain[parity]")

CASES = ["adams_default", "adams_wd05", "adams_lrsched", "adams_lambda0grad", "adams_svwd05", "adams_ucollapse"]
"""The golden cases in float32 that set nothing on their tensors."""


def test_two_processes_follow_one_trajectory() -> None:
    assert worlds.run(adams_zero.follow, 2, names=CASES) == [[], []]
