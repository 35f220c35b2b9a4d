"""Processes of their own without the seconds that it takes to import torch.

They are forked from one, a nursery, that has imported some modules and run nothing: each starts anew, and what it does or
breaks is gone with it.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]

# Where the tests run.


class Nursery:
    """A process that has imported some modules, and forks others that go on from there."""

    def __init__(self, *modules: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __name__, *modules]
        self._process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self._process.communicate)  # it ends where its input does

    def start(self, target: str, arguments: Sequence[Any], folder: Path, seconds: float) -> list[int]:
        """Call `module:function` with each of some plain data, at once, each in a process of its own.

        Returns:
            The exit status of each, once all have ended, one has failed, or the time is over. `folder` has what they
            wrote, in `0.out`, `0.err`, `1.out` and so on.
        """
        asked = {"target": target, "arguments": list(arguments), "folder": str(folder), "seconds": seconds}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**asked, "cwd": os.getcwd()}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def has_ended(self) -> bool:
        return self._process.poll() is not None


_nurseries: dict[tuple[str, ...], Nursery] = {}


def nursery(*modules: str) -> Nursery:
    """The one that has imported these modules; another if it has ended."""
    if modules not in _nurseries or _nurseries[modules].has_ended():
        _nurseries[modules] = Nursery(*modules)
    return _nurseries[modules]


def python(code: str, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """What `python -c code` does with some arguments, in a process that has imported torch and nothing of ours."""
    with tempfile.TemporaryDirectory() as folder:
        (status,) = nursery("torch").start(f"{__name__}:execute", [[code, *arguments]], Path(folder), seconds)
        out, err = (Path(folder, f"0.{end}").read_text() for end in ("out", "err"))
        return subprocess.CompletedProcess(code, status, out, err)


# In a nursery and in what comes from it.


def execute(arguments: Sequence[str]) -> None:
    """Be `python -c`."""
    code, *rest = arguments
    sys.argv = ["-c", *rest]
    exec(compile(code, "<string>", "exec", dont_inherit=True), {"__name__": "__main__"})


def _serve() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    with os.fdopen(os.dup(1), "w") as answers:
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(_wait([_fork(asked, n) for n in range(len(asked["arguments"]))], asked["seconds"])),
                  file=answers, flush=True)  # fmt: skip


def _fork(asked: dict[str, Any], number: int) -> int:
    """The id of a process that does what is asked."""
    return os.fork() or _do(asked, number)


def _do(asked: dict[str, Any], number: int) -> NoReturn:
    status = 1
    try:
        for descriptor, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{asked['folder']}/{number}.{end}", os.O_WRONLY | os.O_CREAT), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(asked["cwd"])
        module, _, function = asked["target"].partition(":")
        getattr(importlib.import_module(module), function)(asked["arguments"][number])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        print(*[end.code] if isinstance(end.code, str) else [], file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # gloo's threads do not always let a process end


def _wait(left: list[int], seconds: float) -> list[int]:
    """The exit statuses once all have ended, one has failed, or the time is over; none is left."""
    pids, ended, end = list(left), dict[int, int](), time.monotonic() + seconds
    while left:
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.remove(pid)
                ended[pid] = os.waitstatus_to_exitcode(status)
                if ended[pid]:
                    end = min(end, time.monotonic() + 2)  # the others find out by themselves, and say where they were
        if time.monotonic() > end:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [ended[pid] for pid in pids]


if __name__ == "__main__":
    _serve()
