"""The benchmarks measure what they say: references, parameter lists, memory, and the page made of the results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import gradchain
from benchmarks import memory, references
from benchmarks import page as pages
from benchmarks.__main__ import ROOT, app, plan, run_task
from benchmarks.measure import Gradients, Runner, difference, start_of
from benchmarks.pairs import PAIRS
from benchmarks.shapes import LISTS, TITLES, elements

STEPS = 6
SHAPES = [(12, 7), (9,), (4, 3, 2, 2), (1, 16), (5, 1)]

REFERENCES: dict[str, tuple[str, dict[str, Any], Callable[[Any], torch.optim.Optimizer]]] = {
    "rose": ("rose", {"lr": 1e-2}, lambda params: references.Rose(params, 1e-2)),
    "gyro-adam": (
        "gyro-adam",
        {"lr": 1e-2, "warmup_steps": 1, "weight_decay": 0.1},
        lambda params: references.GyroAdam(params, 1e-2, weight_decay=0.1, warmup_steps=1),
    ),
    "gyro-sgd": (
        "gyro-sgd",
        {"lr": 1e-2, "warmup_steps": 1},
        lambda params: references.GyroSGD(params, 1e-2, warmup_steps=1),
    ),
}
# The published projection is computed in fp32, so is the reference's.
TOLERANCE = {"rose": 1e-12, "gyro-adam": 1e-5, "gyro-sgd": 1e-5}


def double(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [value.double() for value in values]


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_takes_the_steps_of_our_recipe(name: str) -> None:
    recipe, options, build = REFERENCES[name]
    start = double(start_of(SHAPES, "cpu"))
    ours = Runner(lambda params: gradchain.optimizer(recipe, params, compile=False, **options), start)
    theirs = Runner(build, start)
    gradients = Gradients(SHAPES, "cpu")
    gradients.pool = [double(pool) for pool in gradients.pool]
    for _ in range(STEPS):
        gradients.hand_out(ours, theirs)
        ours.step(), theirs.step()
    assert difference(ours.moved(start), theirs.moved(start)) < TOLERANCE[name]


def test_gradients_conflict_with_their_average_now_and_then() -> None:
    """Or the projection of GYRO would never be timed."""
    gradients, turns = Gradients([(8, 8)], "cpu"), 0
    runner = Runner(lambda params: references.GyroSGD(params, 1e-2, warmup_steps=0), start_of([(8, 8)], "cpu"))
    for _ in range(20):
        gradients.hand_out(runner)
        param = runner.params[0]
        average = runner.optimizer.state[param].get("exp_avg", torch.zeros(8, 8))
        turns += references.turned(param.grad, average, True, 0.0, 1.0, 1e-8) is not param.grad
        runner.step()
    assert 4 <= turns <= 16


@pytest.mark.parametrize(
    ("name", "tensors", "total"),
    [
        ("gpt2", 52, 41_067_520),
        ("resnet50", 161, 25_557_032),
        ("small", 1000, 1_024_000),
        ("matrix", 1, 4096 * 4096),
    ],
)
def test_a_list_has_the_tensors_and_elements_that_its_model_has(name: str, tensors: int, total: int) -> None:
    assert (len(LISTS[name]), elements(name)) == (tensors, total)
    assert name in TITLES


def test_pairs_have_names_of_their_own_and_measure_known_lists() -> None:
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)
    assert {name for pair in PAIRS for name in (*pair.lists, *pair.targets)} <= set(LISTS)


@pytest.mark.skipif(not memory.RESET.exists(), reason="no /proc/self/clear_refs")
def test_the_memory_of_a_step_is_seen() -> None:
    size = 64 * pages.MIB

    def step() -> None:
        torch.ones(size // 4).add_(1)

    measured = memory.extra_bytes(step, "cpu")
    assert measured is not None
    assert math.isclose(measured, size, rel_tol=0.05)


def test_state_is_counted_once_and_without_the_parameters() -> None:
    params = [torch.nn.Parameter(torch.zeros(10, 10))]
    optimizer = torch.optim.Adam(params)
    moment = torch.zeros(10, 10)
    optimizer.state[params[0]] = {"m": moment, "again": [moment[0]], "master": params[0].detach().view(-1), "step": 3}
    assert memory.state_bytes(optimizer) == 400


def test_a_missing_package_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "heavyball.py").write_text("raise ModuleNotFoundError('no', name='heavyball')\n")
    task = {"what": "compare", "pair": "adamw-heavyball", "list": "tiny", "device": "cpu", "threads": 1}
    result = run_task({**task, "rounds": 5, "seconds": 0.1}, tmp_path / "cache")
    assert result["failure"] == "not installed: heavyball"


def test_a_run_gives_results_a_page_and_a_chart(tmp_path: Path) -> None:
    output, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(f"before\n{pages.BEGIN}\nold\n{pages.END}\nafter\n")
    command = ["--pair", "adamw-eager", "--list", "tiny", "--threads", "1", "--no-cold", "--output", str(output)]
    command += ["--rounds", "5", "--seconds", "0.05"]
    ended = CliRunner().invoke(app, [*command, "--page", str(page)], catch_exceptions=False)
    assert ended.exit_code == 0
    (result,) = json.loads(output.read_text())["results"]
    assert "failure" not in result
    assert result["update_difference"] < 1e-3
    assert result["quartiles"][0] <= result["ratio"] <= result["quartiles"][1]
    assert result["ours_state"] == pytest.approx(2 * 4 * elements("tiny"), rel=0.05)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| adamw eager | torch AdamW(for-loop) |" in text
    assert (tmp_path / "page" / "tiny.svg").exists()
    again = CliRunner().invoke(app, ["--redraw", "--output", str(output), "--page", str(page)], catch_exceptions=False)
    assert again.exit_code == 0
    assert page.read_text() == text


def test_failures_are_shown(tmp_path: Path) -> None:
    failed = {"list": "tiny", "ours": "a", "peer": "b", "compiled": True, "failure": "RuntimeError: x | y"}
    data = {"results": [failed]}
    assert "RuntimeError: x \\| y" in pages.step_times(data, "tiny").markdown()


def test_unknown_names_are_refused() -> None:
    assert CliRunner().invoke(app, ["--pair", "adamwfused"]).exit_code == 2
    assert CliRunner().invoke(app, ["--list", "gpt"]).exit_code == 2


def test_a_quick_run_is_short() -> None:
    assert len(plan([], [], quick=True)) < 10


def test_the_page_of_the_documentation_has_its_markers() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert 0 < text.find(pages.BEGIN) < text.find(pages.END)
