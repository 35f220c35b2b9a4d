"""`optimizer.train()` and `eval()` with several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed import evaluating, worlds


def test_what_is_sharded_or_divided_is_seen_where_the_whole_is(tmp_path: Path) -> None:
    jobs = [
        (evaluating.shows, {"mode": "fsdp"}),
        (evaluating.gathered_parameters, {}),
        (evaluating.at_a_second_point, {}),
        (evaluating.divided, {}),
        (evaluating.save, {"folder": str(tmp_path), "mode": "fsdp", "flat": False}),
        (evaluating.resume, {"folder": str(tmp_path), "mode": "fsdp", "flat": False}),
    ]
    assert worlds.run_all(jobs, 2) == [[[], [], [], [], None, []]] * 2
    assert worlds.run_all([(evaluating.resume, {"folder": str(tmp_path), "mode": "plain", "flat": False})], 1) == [[[]]]


@pytest.mark.slow
def test_other_numbers_of_processes(tmp_path: Path) -> None:
    jobs = [
        (evaluating.shows, {"mode": "hsdp"}),
        (evaluating.save, {"folder": str(tmp_path), "mode": "hsdp", "flat": True}),
    ]
    assert worlds.run_all(jobs, 4) == [[[], None]] * 4
    later = {"folder": str(tmp_path), "mode": "fsdp", "flat": True}
    assert worlds.run_all([(evaluating.shows, {"mode": "fsdp"}), (evaluating.resume, later)], 3) == [[[], []]] * 3
