"""Estimates of the Hessian for parameters that are split into rows."""

from __future__ import annotations

from tests.distributed import hessian, worlds


def test_an_estimate_may_be_split_or_whole() -> None:
    assert worlds.run(hessian.given, 2) == [[]] * 2
