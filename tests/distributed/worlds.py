"""Runs a function in several processes joined by gloo; nothing can hang, since all end when the time is over."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


Job = tuple[Callable[..., Any], dict[str, Any]]


def run(job: Callable[..., Any], world: int, *, seconds: float = 120, **options: Any) -> list[Any]:
    """What `job(**options)` returns in each process; it and its options must be plain data and importable."""
    return [results[0] for results in run_all([(job, options)], world, seconds=seconds)]


def run_all(jobs: Sequence[Job], world: int, *, seconds: float = 120) -> list[list[Any]]:
    """What each of some jobs returns, for each process; to start a process takes seconds, so they share them."""
    with tempfile.TemporaryDirectory() as folder:
        calls = [(f"{job.__module__}:{job.__name__}", options) for job, options in jobs]
        name = ", ".join(name for name, _ in calls)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        processes: list[subprocess.Popen[bytes]] = []
        outputs = [Path(folder) / f"output{rank}" for rank in range(world)]
        for rank in range(world):
            command = [sys.executable, "-m", __name__, str(rank), str(world), folder, json.dumps(calls)]
            with outputs[rank].open("wb") as output:
                processes.append(
                    subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
                )
        try:
            _wait(processes, seconds)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        broken = [rank for rank, process in enumerate(processes) if process.returncode != 0]
        if broken:
            told = "\n".join(f"--- rank {rank}\n{outputs[rank].read_text()[-3000:]}" for rank in broken)
            raise AssertionError(f"{name} on {world} processes failed or took more than {seconds} s:\n{told}")
        return [json.loads((Path(folder) / f"result{rank}").read_text()) for rank in range(world)]


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all have ended, one has failed, or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return
        if any(codes):
            time.sleep(2)  # the others find out by themselves, and say where they were
            return
        time.sleep(0.05)


def _main() -> None:
    import torch
    from torch import distributed as dist

    rank, world, folder, calls = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=int(world),
        timeout=datetime.timedelta(seconds=60),
    )  # fmt: skip
    results: list[Any] = []
    for name, options in json.loads(calls):
        module, _, function = name.partition(":")
        results.append(getattr(importlib.import_module(module), function)(**options))
    (Path(folder) / f"result{rank}").write_text(json.dumps(results))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads do not always let a process end


if __name__ == "__main__":
    _main()
