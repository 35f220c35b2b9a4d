"""The example of the documentation: killed half-way, it goes on with another number of processes to the same loss.

`make check` runs it; that a checkpoint is resumed by others, `test_checkpoints` says in the fast tests.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

SECONDS = 120
STEPS, SAVED, KILLED = 12, 4, 7


def train(world: int, folder: Path, *options: str) -> tuple[int, str]:
    """The exit status of torchrun, and what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command += [str(ROOT / "docs" / "examples" / "train_fsdp.py"), str(folder)]
    command += ["--steps", str(STEPS), "--save-every", str(SAVED), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        raise AssertionError(f"the example took more than {SECONDS} s:\n{printed[-3000:]}") from None
    return process.returncode, printed


def last(printed: str) -> tuple[float, int, int]:
    """The loss of the last step, the number of processes, and the step that they went on from."""
    line = re.search(rf"^step {STEPS}: loss ([\d.]+), (\d) processes, from step (\d+)$", printed, flags=re.M)
    assert line is not None, printed[-3000:]
    return float(line[1]), int(line[2]), int(line[3])


@pytest.mark.slow
def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    status, printed = train(2, tmp_path / "whole")
    assert status == 0, printed[-3000:]
    expected, _, _ = last(printed)
    status, printed = train(2, tmp_path / "killed", "--kill-at", str(KILLED))
    assert status != 0
    assert f"step {STEPS}:" not in printed
    status, printed = train(3, tmp_path / "killed")
    assert status == 0, printed[-3000:]
    loss, world, first = last(printed)
    assert (world, first) == (3, SAVED)
    assert loss == pytest.approx(expected, abs=1.5e-4)  # four decimals; gradients of three are averaged otherwise
