"""SOAP and Shampoo in the middle of a period, from two processes to three and to one: as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed import refreshed, worlds


@pytest.mark.slow
def test_two_processes_become_three_and_one_in_the_middle_of_a_period(tmp_path: Path) -> None:
    worlds.run(refreshed.save, 2, seconds=300, folder=str(tmp_path), mode="fsdp")
    for mode, world in (("fsdp", 3), ("plain", 1)):
        assert worlds.run(refreshed.resume, world, seconds=300, folder=str(tmp_path), mode=mode) == [[]] * world
