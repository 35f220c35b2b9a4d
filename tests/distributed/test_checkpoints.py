"""A run that is interrupted and goes on with another number of processes ends where an uninterrupted one does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import checkpoints, worlds

FEW = [
    "moments/int8",
    "moments/factored_compact",
    "anchor/int4",
    "freeze_on_flip",
    "kourkoutas_beta",
    "prodigy",
    "muon",
]
ALL = list(checkpoints.CHAINS)
STATELESS = ["rose"]
"""torch (2.13) cannot take a full state dict of an optimizer whose state is all numbers: `Expected device to be set`."""

NESTED: dict[str, Any] = {}
FLAT, FULL = {"flat": True}, {"full": True}

World = tuple[str, int]


def check(folder: Path, before: World, after: Sequence[World], names: Sequence[str], *forms: dict[str, Any]) -> None:
    """Save in one world, a mode and a number of processes, in each form, and resume in others."""
    jobs: list[dict[str, Any]] = []
    for number, form in enumerate(forms):
        place = folder / str(number)
        place.mkdir()
        able = [name for name in names if not (form == FULL and name in STATELESS)]
        jobs.append({"folder": str(place), "names": able, **form})
    worlds.run_all([(checkpoints.save, {**job, "mode": before[0]}) for job in jobs], before[1], seconds=300)
    for mode, world in after:
        found = worlds.run_all([(checkpoints.resume, {**job, "mode": mode}) for job in jobs], world, seconds=300)
        assert found == [[[]] * len(jobs)] * world


@pytest.mark.slow
def test_two_processes_become_three_and_one(tmp_path: Path) -> None:
    check(tmp_path, ("fsdp", 2), [("fsdp", 3), ("plain", 1)], FEW, NESTED, FLAT, FULL)


def test_saving_in_the_background(tmp_path: Path) -> None:
    """On a process group of its own: on that of training, torch (2.13) mixes up its collectives with those of the steps."""
    names = ["moments/int8"]
    options = {"folder": str(tmp_path), "names": names}
    jobs = [(checkpoints.save_while_training, options), (checkpoints.resume, {**options, "mode": "fsdp"})]
    assert worlds.run_all(jobs, 2) == [[[], []], [[], []]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("fsdp", 2), ("fsdp", 3)),
        (("fsdp", 3), ("fsdp", 2)),
        (("fsdp", 2), ("plain", 1)),
        (("plain", 2), ("fsdp", 3)),
        (("fsdp", 2), ("hsdp", 4)),
        (("hsdp", 4), ("fsdp", 2)),
    ],
    ids=["to three", "to two", "to one", "from copies", "to two by two", "from two by two"],
)
def test_every_storage(tmp_path: Path, before: World, after: World) -> None:
    check(tmp_path, before, [after], ALL, NESTED, FLAT, FULL)
