"""Runs a function in several processes joined by gloo; nothing can hang, since all end when the time is over."""

from __future__ import annotations

import datetime
import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from tests.processes import nursery

Job = tuple[Callable[..., Any], dict[str, Any]]

USED = ("torch._dynamo", "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "tests.laws.running")
"""What jobs import, which takes seconds."""


def run(job: Callable[..., Any], world: int, *, seconds: float = 120, **options: Any) -> list[Any]:
    """What `job(**options)` returns in each process; it and its options must be plain data and importable."""
    return [results[0] for results in run_all([(job, options)], world, seconds=seconds)]


def run_all(jobs: Sequence[Job], world: int, *, seconds: float = 120) -> list[list[Any]]:
    """What each of some jobs returns, for each process."""
    calls = [(f"{job.__module__}:{job.__name__}", options) for job, options in jobs]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ranks = [{"rank": rank, "world": world, "folder": folder, "calls": calls} for rank in range(world)]
        statuses = nursery(*USED).start(f"{__name__}:join", ranks, place, seconds)
        broken = [rank for rank, status in enumerate(statuses) if status != 0]
        if broken:
            told = "\n".join(f"--- rank {rank}\n{(place / f'{rank}.err').read_text()[-3000:]}" for rank in broken)
            names = ", ".join(name for name, _ in calls)
            raise AssertionError(f"{names} on {world} processes failed or took more than {seconds} s:\n{told}")
        return [json.loads((place / f"result{rank}").read_text()) for rank in range(world)]


def join(asked: dict[str, Any]) -> None:
    """Be one of the processes, and run the jobs."""
    folder, rank = asked["folder"], asked["rank"]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=asked["world"],
        timeout=datetime.timedelta(seconds=60),
    )  # fmt: skip
    results: list[Any] = []
    for name, options in asked["calls"]:
        module, _, function = name.partition(":")
        results.append(getattr(importlib.import_module(module), function)(**options))
    Path(folder, f"result{rank}").write_text(json.dumps(results))
    dist.barrier()
