"""Processes start anew, whatever happened to those before them."""

from __future__ import annotations

from pathlib import Path

from tests.processes import nursery, python


def test_nothing_is_left_of_a_process() -> None:
    done = python("import sys; sys.modules['json'] = None; print(sys.argv[1:], __name__); sys.exit('so')", "a", "b")
    assert (done.returncode, done.stdout, done.stderr) == (1, "['a', 'b'] __main__\n", "so\n")
    assert python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == -9
    assert "ZeroDivisionError" in python("1 / 0").stderr
    done = python("import sys, json; print('gradchain' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_none_goes_on_when_the_time_is_over_or_another_has_failed(tmp_path: Path) -> None:
    wait = "import time; time.sleep(60)"
    (status,) = nursery("torch").start("tests.processes:execute", [[wait]], tmp_path, 0.5)
    assert status == -9
    assert nursery("torch").start("tests.processes:execute", [[wait], ["1 / 0"]], tmp_path, 60) == [-9, 1]
