"""A run on a GPU, as far as it can be checked without one: all its lines, with a CPU in the place of the GPU."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import bandwidth, gpu, measure, targets, training
from benchmarks import page as pages
from benchmarks.__main__ import NO_GPU, app, plan, run_all
from benchmarks.schedule import Budget
from benchmarks.shapes import LISTS
from benchmarks.tables import WARM_LIST

SHORT = {"rounds": 5, "seconds": 0.01, "threads": 1, "device": "cuda", "rehearse": True}
GIB = 1 << 30


@pytest.mark.parametrize("task", gpu.tasks("tiny"), ids=lambda task: f"{task['check']}-{task['subject']}")
def test_a_check_runs(task: dict[str, Any]) -> None:
    result = gpu.check({**task, **SHORT})
    assert result.get("ok", True), result["detail"]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("subject", ["adamw", "rose fp32", "adamw int8"])
@pytest.mark.parametrize("what", ["graph", "waiting", "speed"])
def test_a_check_runs_compiled(what: str, subject: str) -> None:
    result = gpu.check({"check": what, "subject": subject, "list": "tiny", **SHORT, "compile": True})
    assert result.get("ok", True), result["detail"]


def test_a_replay_that_does_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: gpu.Rehearsal, step: gpu.Step) -> gpu.Step:
        for _ in range(gpu.WARMUP):
            step()
        return lambda: None

    monkeypatch.setattr(gpu.Rehearsal, "captured", forgetful)
    result = gpu.check({"check": "graph", "subject": "adamw", "list": "tiny", **SHORT})
    assert not result["ok"]
    assert "parameter 0" in result["detail"]


def test_a_step_that_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def strict(self: gpu.Rehearsal) -> Iterator[None]:
        yield
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(gpu.Rehearsal, "unsynchronized", strict)
    result = gpu.check({"check": "waiting", "subject": "adamw", "list": "tiny", **SHORT})
    assert not result["ok"]
    assert result["detail"].startswith("eager: called a synchronizing")


@pytest.mark.parametrize(("name", "moments"), [("adamw", 2), ("lion", 1), ("sgd momentum", 1), ("adv-adamw", 2)])
def test_the_bytes_to_move_are_those_of_the_tensors(name: str, moments: int) -> None:
    size = 4 * 124_439_808
    assert gpu.moved(gpu.SUBJECTS[name], LISTS["gpt2-124m"]) == bandwidth.must_move(size, moments * size, 0)


def test_the_large_list_fits_where_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, limits = LISTS["gpt2-1.5b"], (measure.GRADIENTS, measure.SHARED)
    assert 55 * GIB < gpu.needed(shapes, *limits) < 70 * GIB
    for free, fits in ((79 * GIB, True), (23 * GIB, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        said = gpu.lacking(shapes, *limits)
        assert said is None if fits else "23 are free" in str(said)


def test_the_model_that_is_trained_has_the_layers_of_gpt2() -> None:
    with torch.device("meta"):
        model = training.GPT(training.SIZES["cuda"])
    assert sorted(map(str, (tuple(p.shape[::-1]) for p in model.parameters()))) == sorted(
        str(shape[::-1] if shape[0] in (50_257, 1_024) else shape) for shape in LISTS["gpt2-124m"]
    )


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    page, output = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"{pages.BEGIN}\nold\n{pages.END}\n")
    ended = CliRunner().invoke(app, ["--device", "cuda", "--page", str(page), "--output", str(output)])
    assert ended.exit_code == NO_GPU == 4
    assert "old" in page.read_text()
    assert not output.exists()


def test_a_rehearsed_run_makes_the_page(tmp_path: Path) -> None:
    """In this process, some of its pairs and checks; the page has all sections."""
    settings = {**SHORT, "cold": False}
    work = [(p, "tiny") for p, _ in plan([], ["adamw-eager-foreach"], quick=False, device="cuda")][:1]
    checks = [task for task in gpu.tasks("tiny") if task["subject"] in ("adamw", "muon")]
    threads = torch.get_num_threads()
    try:
        data = run_all(
            work,
            checks,
            settings,
            tmp_path / "results.json",
            Budget(5, 20),
            tmp_path,
            lambda task, *_: measure.run(task),
        )
    finally:
        torch.set_num_threads(threads)
    assert not [row for row in [*data["checks"], *data["results"]] if "failure" in row]
    page = tmp_path / "page.md"
    page.write_text(f"{pages.BEGIN}\n{pages.END}\n")
    pages.write(json.loads((tmp_path / "results.json").read_text()), page)
    text = page.read_text()
    for said in (
        "A rehearsal",
        "share of a copy's",
        "5 replays, bit-equal",
        "no step waits",
        "| muon | a training step of GPT-2",
    ):
        assert said in text
    wanted = {row.wanted for row in targets.targets(data)}
    assert {"bit-equal", "none", "time, at most 1.04", "share of a copy's bandwidth, at least 90 %"} <= wanted


def test_a_default_run_has_what_the_page_promises() -> None:
    work = {(p.name, name) for p, name in plan([], [], quick=False, device="cuda")}
    assert {("adamw-fused", "gpt2-124m"), ("adamw-fused", "gpt2-1.5b"), ("muon", "gpt2-124m")} <= work
    tasks = gpu.tasks(WARM_LIST["cuda"])
    assert {task["check"] for task in tasks} == {"speed", "graph", "waiting", "training"}
