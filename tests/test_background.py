"""`compile="background"`: steps are eager as long as another process compiles, and then they are not, and say so."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import gradchain
from gradchain import transforms as t
from gradchain._engine import background, kernel, tiles
from gradchain.distributed import step_in_backward
from gradchain.errors import CompileWarning, OptionError
from tests.compilers import compile_by, find_nothing
from tests.test_optimizer import assert_same

Optimizer = gradchain.Optimizer
SHAPES = ((320, 300), (4, 5), (7,))
CHAINS = {
    "adamw": gradchain.recipe("adamw", lr=0.1),
    "noise": gradchain.chain(t.first_moment(storage="int8"), t.scale_by_learning_rate(0.1)),
    "totals": gradchain.chain(t.clip_by_global_norm(0.5), t.first_moment(), t.scale_by_learning_rate(0.1)),
    "factored": gradchain.chain(t.first_moment(storage="factored"), t.scale_by_learning_rate(0.1)),
}


class SlowJob:
    def __init__(self, task: Any) -> None:
        self.task = task
        self.answer: tuple[float, str | None] | None = None

    def ended(self) -> bool:
        return self.answer is not None

    def result(self) -> tuple[float, str | None]:
        return self.answer or (2.0, None)  # who waits, waits until it is done


class SlowCompiler:
    """In the place of the other process: its jobs end when a test says so. Counts the calls of what was compiled."""

    def __init__(self) -> None:
        self.jobs: list[SlowJob] = []
        self.calls = 0

    def submit(self, task: Any) -> SlowJob:
        self.jobs.append(SlowJob(pickle.loads(pickle.dumps(task))))
        return self.jobs[-1]

    def compile_graph(self, graph: Any, inputs: Sequence[torch.Tensor], **_: Any) -> Any:
        def counted(*flat: torch.Tensor) -> Any:
            self.calls += 1
            return graph(*flat)

        return counted

    def end(self, failure: str | None = None) -> None:
        for job in self.jobs:
            job.answer = job.answer or (2.0, failure)


@pytest.fixture
def slow(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> SlowCompiler:
    compiler = SlowCompiler()
    monkeypatch.setattr(kernel, "submit", compiler.submit)
    monkeypatch.setattr(background, "compile_graph", compiler.compile_graph)
    compile_by(monkeypatch, lambda *given, **named: lambda: compiler.compile_graph(*given, **named))
    return compiler


def make(compile: Any = "background", of: str = "adamw", **options: Any) -> Optimizer:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    return Optimizer(params, CHAINS[of], compile=compile, **options)


def step(optimizer: Optimizer, number: int) -> list[str]:
    """One step, with gradients that depend on its number. Returns: what it warned of."""
    generator = torch.Generator().manual_seed(100 + number)
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.randn(param.shape, generator=generator)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step()
    return [str(warning.message) for warning in caught]


def walk(optimizer: Optimizer, first: int, last: int) -> list[str]:
    return [told for number in range(first, last + 1) for told in step(optimizer, number)]


def everything(optimizer: Optimizer) -> Any:
    return [*optimizer.param_groups[0]["params"], [dict(x) for x in optimizer.state.values()]]


def reference(of: str, switch: int, last: int, **options: Any) -> Optimizer:
    """Steps that are eager before one, and compiled from it on."""
    optimizer = make(False, of, **options)
    walk(optimizer, 1, switch - 1)
    optimizer.compile = True
    walk(optimizer, switch, last)
    return optimizer


@pytest.mark.parametrize("of", CHAINS)
def test_steps_are_eager_up_to_one_and_compiled_from_it_on(
    of: str, slow: SlowCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "LARGE", 60_000)
    monkeypatch.setattr(tiles, "ELEMENTS", 30_000)
    optimizer = make(of=of)
    assert walk(optimizer, 1, 3) == []
    assert slow.calls == 0
    assert_same(everything(optimizer), everything(reference(of, 4, 3)))
    kernels = len(slow.jobs)
    slow.end()
    switch = 3 + kernels  # one a step is taken over
    assert walk(optimizer, 4, switch - 1) == []
    assert slow.calls == 0
    (told,) = walk(optimizer, switch, switch + 3)
    assert f"compiled from step {switch} on; steps 1 to {switch - 1} ran eagerly" in told
    assert slow.calls > 0
    assert len(slow.jobs) == kernels
    assert_same(everything(optimizer), everything(reference(of, switch, switch + 3)))
    assert optimizer.compile_report().fallbacks == ()
    assert optimizer.compile_report().seconds > 2 * kernels


def test_a_report_tells_what_is_not_there_yet(slow: SlowCompiler) -> None:
    optimizer = make()
    step(optimizer, 1)
    assert str(optimizer.compile_report()).count("not yet") == len(slow.jobs)


def test_what_cannot_be_compiled_stays_eager_and_is_told_once(slow: SlowCompiler) -> None:
    optimizer = make()
    walk(optimizer, 1, 2)
    slow.end("RuntimeError: no such fusion")
    switch = 2 + len(slow.jobs)
    told = walk(optimizer, 3, 8)
    assert len(told) == len(slow.jobs)
    assert all("runs eagerly, with the same results" in line and "no such fusion" in line for line in told)
    assert slow.calls == 0
    assert_same(everything(optimizer), everything(reference("adamw", switch, 8)))  # whose kernels have failed as well
    assert len(optimizer.compile_report().fallbacks) == len(slow.jobs)


def test_telemetry_waits_for_kernels_of_its_own(slow: SlowCompiler) -> None:
    optimizer = make(of="totals", telemetry=3)
    slow.end()
    told: list[str] = []
    for number in range(1, 20):
        told += step(optimizer, number)
        slow.end()
    eager = make(False, "totals", telemetry=3)
    walk(eager, 1, 19)
    assert 1 <= len(told) <= 2
    assert optimizer.telemetry().keys() == eager.telemetry().keys()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_made_meanwhile_shares_what_is_being_compiled(copied: Any, slow: SlowCompiler) -> None:
    optimizer = make()
    walk(optimizer, 1, 2)
    kernels = len(slow.jobs)
    other = copied(optimizer)
    assert other.compile == "background"
    assert walk(other, 3, 4) == []
    slow.end()
    (told,) = walk(other, 5, 10)
    assert f"compiled from step {4 + kernels} on; steps 3 to {3 + kernels}" in told
    assert len(slow.jobs) == kernels
    assert_same(everything(other), everything(reference("adamw", 4 + kernels, 10)))
    (told,) = walk(optimizer, 3, 4)  # the kernels are there
    assert "compiled from step 3 on; steps 1 to 2" in told


def test_a_state_dict_may_be_saved_and_loaded_meanwhile(slow: SlowCompiler) -> None:
    optimizer = make()
    walk(optimizer, 1, 2)
    resumed = make()
    with torch.no_grad():
        for new, old in zip(resumed.param_groups[0]["params"], optimizer.param_groups[0]["params"]):
            new.copy_(old)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for either in (optimizer, resumed):
        assert walk(either, 3, 4) == []
    slow.end()
    for either in (optimizer, resumed):
        walk(either, 5, 10)
    switch = 4 + len(slow.jobs)
    assert_same(everything(optimizer), everything(reference("adamw", switch, 10)))
    eager_to_four = reference("adamw", 5, 10)  # the kernels were taken over by the first
    assert_same(everything(resumed), everything(eager_to_four))


def test_who_is_told_to_wait_takes_what_is_being_compiled(slow: SlowCompiler) -> None:
    walk(make(), 1, 2)
    kernels = len(slow.jobs)
    waits = make(True)
    assert walk(waits, 1, 3) == []
    assert (len(slow.jobs), slow.calls) == (kernels, 3 * kernels)
    assert_same(everything(waits), everything(reference("adamw", 1, 3)))


def test_a_warning_that_is_an_error_has_written_nothing_and_comes_once(slow: SlowCompiler) -> None:
    optimizer = make()
    walk(optimizer, 1, 1)
    slow.end()
    walk(optimizer, 2, len(slow.jobs))
    before = copy.deepcopy(everything(optimizer))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CompileWarning):
            optimizer.step()
        assert_same(everything(optimizer), before)
        optimizer.step()


def test_parameters_stepped_in_backward_change_over_together(slow: SlowCompiler) -> None:
    model = nn.Sequential(nn.Linear(300, 320), nn.Linear(320, 2))
    optimizer = Optimizer(model, CHAINS["adamw"], compile="background")
    step_in_backward(optimizer)

    def backward(times: int) -> None:
        for _ in range(times):
            model(torch.ones(1, 300)).sum().backward()

    backward(2)
    assert slow.calls == 0
    kernels = len(slow.jobs)
    slow.end()
    with pytest.warns(CompileWarning, match="ran eagerly") as told:
        backward(2 + kernels)
    assert len(told) == 1
    assert len(slow.jobs) == kernels


def test_several_processes_compile_before_their_first_step(slow: SlowCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = make()
    assert optimizer._compiled() == "background"
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    assert optimizer._compiled() is True


def test_other_names_are_refused() -> None:
    with pytest.raises(OptionError, match="compile = 'backgrund' is not one of 'auto', 'background', True, False"):
        make("backgrund")


# The other process.


@pytest.fixture
def stuck(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never ends its first job, and nothing but what it compiles."""
    find_nothing(monkeypatch)
    monkeypatch.setattr(background, "_worker", None)
    monkeypatch.setattr(background.Worker, "command", (sys.executable, "-c", "import time; time.sleep(60)"))


@pytest.mark.usefixtures("stuck")
def test_a_process_that_is_killed_is_told_and_steps_stay_eager() -> None:
    optimizer = make()
    assert walk(optimizer, 1, 2) == []
    worker: Any = background._worker
    assert len(worker.open) == len(optimizer._executor.compiled.kernels.pending)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    told = walk(optimizer, 3, 6)
    assert told
    assert all("the process that compiled it ended with signal 9" in line for line in told)
    assert not worker.folder.exists()
    eager = make(False)
    walk(eager, 1, 6)
    torch.testing.assert_close(everything(optimizer), everything(eager))


SCRIPT = """
    import sys, time, warnings
    import torch, gradchain
    from dataclasses import dataclass
    from torch._dynamo.utils import counters

    @gradchain.stateless
    def doubled(value):
        return value * 2

    print("script")
    param = torch.nn.Parameter(torch.ones(320, 300))
    optimizer = gradchain.Optimizer(
        [param], gradchain.chain(doubled(), gradchain.transforms.scale_by_learning_rate(0.1)), compile="background"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        while not told:
            param.grad = torch.ones_like(param)
            optimizer.step()
            if "die" in sys.argv:
                from gradchain._engine import background
                print(background._worker.process.pid, background._worker.folder, flush=True)
                time.sleep(60)
            time.sleep(0.05)
    print("ran eagerly" in str(told[0].message), dict(counters["inductor"]).get("fxgraph_cache_miss"))
    """


def script(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "train.py").write_text(textwrap.dedent(SCRIPT))
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "train.py", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_script_of_one_file_finds_what_the_other_process_compiled(tmp_path: Path) -> None:
    output, _ = script(tmp_path).communicate(timeout=600)
    assert output.split("\n")[:2] == ["script", "True None"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_other_process_ends_with_the_one_that_trains(tmp_path: Path) -> None:
    process = script(tmp_path, "die")
    assert process.stdout is not None
    process.stdout.readline()
    pid, folder = process.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()
    process.kill()
    process.communicate()
    for _ in range(600):
        if not Path(folder).exists() and not _runs(pid):
            return
        time.sleep(0.1)
    raise AssertionError("it still runs")


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
