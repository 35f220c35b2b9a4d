"""Compilation in another process, while this one trains on.

Graphs are traced here, and written to files that the other process reads: a graph needs no definitions of the user's script,
which is not run again. What the other process compiles goes into inductor's cache on disk, where this one then finds it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from gradchain._engine.inductor import compile_graph, reason_of
from gradchain._engine.shelf import Compiled

NICE = 10
"""How far the other process stands back: threads that train wait for the one of them that has no processor."""

WATCH = 1.0
"""How often, in seconds, the other process looks whether this one lives."""


@dataclass(frozen=True)
class _Module:
    name: str


@dataclass(frozen=True)
class Task:
    """All that the other process needs to compile a graph as this one would."""

    source: str
    """The graph as Python; a pickled graph would be traced again, which takes constants for numbers of the graph."""
    names: dict[str, Any]
    """What its names stand for; modules by theirs."""
    constants: dict[str, torch.Tensor]
    examples: list[tuple[Any, ...]]
    """Size, stride, dtype and device of each."""
    inline: bool
    lined: int
    threads: int
    """As many as the code is made for."""
    settings: dict[str, Any] | None
    """Inductor's, as the user may have changed them."""

    @staticmethod
    def of(graph: Any, examples: Sequence[torch.Tensor], inline: bool, lined: int) -> Task:
        shapes = [(tuple(x.shape), x.stride(), x.dtype, x.device) for x in examples]
        settings = sys.modules.get("torch._inductor.config")
        changed = settings and settings.save_config_portable()
        code = graph.graph.python_code("self")
        names = {name: _Module(x.__name__) if isinstance(x, ModuleType) else x for name, x in code.globals.items()}
        constants = {node.target: getattr(graph, node.target) for node in graph.graph.nodes if node.op == "get_attr"}
        return Task(code.src, names, constants, shapes, inline, lined, torch.get_num_threads(), changed)

    def compile(self, name: str | None = None) -> Compiled:
        """The function; from the cache, where it is there. `name`: what it is kept under."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():  # no memory
            examples = [torch.empty_strided(size, s, dtype=dtype, device=at) for size, s, dtype, at in self.examples]
        names = {name: import_module(x.name) if isinstance(x, _Module) else x for name, x in self.names.items()}
        exec(self.source, names)
        forward: Any = names["forward"]
        graph = functools.partial(forward, SimpleNamespace(**self.constants))
        return compile_graph(graph, examples, inline=self.inline, lined=self.lined, name=name)


class Job:
    """A task that the other process has, or has done. The last answer stands."""

    def __init__(self, task: Task, worker: Worker) -> None:
        self.task, self.worker = task, worker
        self.place = worker.add(task)

    def ended(self) -> bool:
        """Whether there is an answer, or never will be one; does not wait."""
        return self._answer.exists() or not self.worker.alive

    def result(self) -> tuple[float, str | None]:
        """The seconds that it took, and why it failed; waits."""
        while not self.ended():
            time.sleep(0.01)
        try:
            seconds, failure = self._answer.read_text().split("\n", 1)
            return float(seconds), failure or None
        except FileNotFoundError:
            return 0.0, f"the process that compiled it ended with {self.worker.code}"
        finally:
            self.worker.remove(self.place)

    @property
    def _answer(self) -> Path:
        return self.place.with_suffix(".answer")


class Worker:
    """The other process. It compiles what it is given, one after another, and ends with the last, or with this process."""

    command = (sys.executable, "-c", "from gradchain._engine.background import main; main()")

    def __init__(self) -> None:
        self.owner, self.count = os.getpid(), 0
        self.open: set[Path] = set()
        self.folder = Path(tempfile.mkdtemp(prefix="gradchain-"))
        paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)  # an empty one is the current folder
        self.process = subprocess.Popen(
            [*self.command, str(self.folder), str(self.owner)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # with the compilers that it starts, and apart from a Ctrl-C
        )
        atexit.register(self.end)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def code(self) -> str:
        code = self.process.poll()
        return f"signal {-code}" if code is not None and code < 0 else f"code {code}"

    def add(self, task: Task) -> Path:
        self.count += 1
        place = self.folder / f"{self.count}.task"
        place.write_bytes(pickle.dumps(task))
        self.open.add(place)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its jobs will tell
            self.process.stdin.write(f"{place}\n".encode())
            self.process.stdin.flush()
        return place

    def remove(self, place: Path) -> None:
        """Note that a job is done with."""
        self.open.discard(place)
        if not self.open:
            self.end()

    def end(self) -> None:
        """End the process, and what it has started."""
        atexit.unregister(self.end)
        if os.getpid() != self.owner:  # a fork
            return
        _kill_group(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


_worker: Worker | None = None


def submit(task: Task) -> Job:
    """Have a task done by the other process of this one, which is started if there is none."""
    global _worker
    if _worker is None or not _worker.open or not _worker.alive or _worker.owner != os.getpid():
        _worker = Worker()
    return Job(task, _worker)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(OSError):
        process.communicate()


# The other process.


def main() -> None:
    """Compile the tasks whose files are named on standard input."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    if hasattr(os, "nice"):
        os.nice(NICE)
    threading.Thread(target=_watch, args=(folder, parent), daemon=True).start()
    for line in sys.stdin:
        place = Path(line.rstrip("\n"))
        start = time.perf_counter()
        failure = _failure(place)
        scratch = place.with_suffix(".part")
        scratch.write_text(f"{time.perf_counter() - start}\n{failure or ''}")
        scratch.replace(place.with_suffix(".answer"))


def _failure(place: Path) -> str | None:
    """Compile a task. Returns: why that was not possible."""
    try:
        import torch._inductor.config
        from torch._dynamo.utils import counters

        task: Task = pickle.loads(place.read_bytes())
        torch.set_num_threads(task.threads)

        with torch._inductor.config.patch(task.settings or {}):
            task.compile()
        if counters["inductor"]["fxgraph_cache_bypass"]:
            return "inductor does not keep it in its cache"
    except Exception as error:  # told, where it is waited for
        return reason_of(error)
    return None


def _watch(folder: Path, parent: int) -> None:
    """End, with all that was started, when the process that is waiting has ended."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
