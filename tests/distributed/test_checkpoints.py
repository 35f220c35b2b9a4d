"""A run that is interrupted and goes on with another number of processes ends where an uninterrupted one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed import checkpoints, worlds

FEW = ["moments/int8", "moments/factored_compact", "anchor/int4", "freeze_on_flip", "kourkoutas_beta", "prodigy"]
STATELESS = ["rose"]
"""torch (2.13) cannot take a full state dict of an optimizer whose state is all numbers: `Expected device to be set`."""


def check(folder: Path, before: tuple[str, int], after: tuple[str, int], names: list[str] | None, **flags: bool) -> None:
    worlds.run(checkpoints.save, before[1], seconds=200, folder=str(folder), mode=before[0], names=names, **flags)
    found = worlds.run(checkpoints.resume, after[1], seconds=200, folder=str(folder), mode=after[0], names=names, **flags)
    assert [text for texts in found for text in texts] == []


def test_two_processes_become_three(tmp_path: Path) -> None:
    check(tmp_path, ("fsdp", 2), ("fsdp", 3), None)


@pytest.mark.parametrize(
    ("before", "after"), [(("fsdp", 2), ("plain", 1)), (("plain", 2), ("fsdp", 2))], ids=["to one", "from copies"]
)
@pytest.mark.slow
def test_others(tmp_path: Path, before: tuple[str, int], after: tuple[str, int]) -> None:
    check(tmp_path, before, after, None)


def test_flattened(tmp_path: Path) -> None:
    check(tmp_path, ("fsdp", 2), ("plain", 1), FEW, flat=True)


@pytest.mark.slow
def test_flattened_for_three(tmp_path: Path) -> None:
    check(tmp_path, ("fsdp", 2), ("fsdp", 3), None, flat=True)


@pytest.mark.parametrize("names", [FEW, pytest.param(None, marks=pytest.mark.slow)], ids=["few", "all"])
def test_full(tmp_path: Path, names: list[str] | None) -> None:
    names = [name for name in names or checkpoints.CHAINS if name not in STATELESS]
    check(tmp_path, ("fsdp", 2), ("fsdp", 3), names, full=True)
