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
from benchmarks import counts, memory, references, schedule, tables, targets
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
        ("gpt2-124m", 148, 124_439_808),
        ("gpt2-1.5b", 580, 1_557_611_200),
    ],
)
def test_a_list_has_the_tensors_and_elements_that_its_model_has(name: str, tensors: int, total: int) -> None:
    assert (len(LISTS[name]), elements(name)) == (tensors, total)
    assert name in TITLES


def test_pairs_have_names_of_their_own_and_measure_known_lists() -> None:
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)
    assert {name for pair in PAIRS for name in (*pair.lists, *pair.cuda, *pair.quick, *pair.targets)} <= set(LISTS)
    assert all(set(pair.targets) <= {*pair.lists, *pair.cuda} for pair in PAIRS), "a target that no run looks at"
    assert all(set(pair.quick) <= set(pair.lists) for pair in PAIRS), "nothing on the page to compare with"


def test_the_perceptrons_are_those_of_the_tasks() -> None:
    from gradchain.ablation.builtin.digits import _perceptron

    assert [tuple(param.shape) for param in _perceptron().parameters()] == LISTS["digits"]
    assert len(LISTS["mlp"]) == 4


def test_the_memory_of_a_step_is_seen() -> None:
    size = 16 * tables.MIB

    def step() -> None:
        for _ in range(5):  # one after another
            torch.ones(size // 4).add_(1)
        torch.ones(size // 4) + torch.ones(size // 4)  # and three at once

    assert math.isclose(memory.extra_bytes(step, "cpu"), 3 * size, rel_tol=1e-3)
    assert memory.extra_bytes(lambda: None, "cpu") == 0


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
    assert f"{torch.__version__}, device `cpu`, 1 threads" in text
    assert (tmp_path / "page" / "tiny.svg").exists()
    again = CliRunner().invoke(app, ["--redraw", "--output", str(output), "--page", str(page)], catch_exceptions=False)
    assert again.exit_code == 0
    assert page.read_text() == text


def test_failures_are_shown() -> None:
    failed = {"list": "tiny", "ours": "a", "peer": "b", "compiled": True, "failure": "RuntimeError: x | y"}
    data = {"results": [failed]}
    assert "RuntimeError: x \\| y" in tables.step_times(data, "tiny").markdown()


def test_unknown_names_are_refused() -> None:
    assert CliRunner().invoke(app, ["--pair", "adamwfused"]).exit_code == 2
    assert CliRunner().invoke(app, ["--list", "gpt"]).exit_code == 2


def test_a_quick_run_is_short() -> None:
    assert len(plan([], [], quick=True)) < 10


def measured(name: str, ratio: float, **rest: Any) -> dict[str, Any]:
    """A result as a run makes it."""
    number = next(number for number, pair in enumerate(PAIRS) if pair.name == name)
    own = schedule.facts(PAIRS[number], PAIRS[number].lists[0])
    numbers = {
        "ratio": ratio,
        "quartiles": [0.9 * ratio, 1.1 * ratio],
        "ratios": 3 * [ratio],
        "rounds": 3,
        "cpu_ratio": ratio,
    }
    sizes = {"ours_state": 8, "peer_state": 8, "ours_extra": 0, "peer_extra": 0, "largest": 4, "must_move": 1 << 30}
    return {
        **own,
        **numbers,
        "ours_ms": 2.0,
        "peer_ms": 1.0,
        "ours_first_s": 0.5,
        "cold_s": 9.0,
        "warnings": [],
        **sizes,
        **rest,
    }


def run_of(*results: dict[str, Any], minutes: float = 20.0) -> dict[str, Any]:
    about = {"processor": "A", "cores": 2, "memory_gib": 8, "system": "Linux", "python": "3.11.7", "torch": "2.13.0"}
    return {
        "machine": about,
        "settings": {"device": "cpu", "threads": 2},
        "peers": {"torchao": "0.18.0"},
        "command": "python -m benchmarks",
        "minutes": minutes,
        "bandwidth": {"copy": 5e10, "triad": 6e10, "triad_in_place": 7e10},
        "results": list(results),
        "checks": [],
    }


def verdicts(data: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in targets.targets(data):
        found.setdefault(row.what, []).append(row.verdict)
    return found


def test_targets_are_met_or_missed_by_what_was_measured() -> None:
    slow = measured("adamw-fused", 1.2, cold_s=11.0, ours_first_s=1.5, ours_extra=targets.TILE + 1)
    stored = measured("adamw-int8", 0.39, cold_s=11.0, ours_extra=targets.TILE + 1)
    failed = {**schedule.facts(pair := next(p for p in PAIRS if p.name == "adams"), pair.lists[0]), "failure": "no"}
    found = verdicts(run_of(slow, stored, failed, minutes=26.0))
    assert found == {
        "adamw / torch AdamW(fused), GPT-2-like": ["**missed**"],
        "adamw int8 / torchao AdamW8bit, GPT-2-like": ["met"],
        "adams / adams-torch Adams_ZeRO, GPT-2-like": ["**not measured**"],
        "adamw, GPT-2-like": ["**missed**", "**missed**"],
        "adamw int8, GPT-2-like": ["met", "met", "**missed**"],
        "adamw, GPT-2-like: most of the fp32 states": ["**missed**"],
        "`make bench`": ["**missed**"],
    }


def test_a_missed_target_is_explained_and_a_loss_is_bold() -> None:
    text = pages.generated(run_of(measured("adamw-fused", 1.2)), "page")
    assert "| time, at most 1.05 | 1.20 | 1.08 to 1.32 | **missed** |" in text
    assert "A, 2 cores, 2 threads, torch 2.13.0 | quartiles" in text
    assert "**1.20** slower" in text
    (pair,) = (pair for pair in PAIRS if pair.name == "adamw-fused")
    assert f"- adamw / torch AdamW(fused), GPT-2-like: {pair.why}." in text


def test_results_are_kept_as_they_are(tmp_path: Path) -> None:
    data = run_of(measured("adamw-fused", 1.25), measured("adams", 0.25))
    pages.save(data, tmp_path / "a" / "results.json")
    text = (tmp_path / "a" / "results.json").read_text()
    assert json.loads(text) == data
    assert sum('"pair"' in line for line in text.splitlines()) == 2


def test_calls_are_counted() -> None:
    def step() -> None:
        for _ in range(times):
            math.gcd(1, 2)

    times = 3
    few = counts.calls(step, lambda: None)
    times = 8
    assert counts.calls(step, lambda: None) == few + 5


class Clock:
    """A run in which nothing waits: every task takes as long as `takes` says, and its timed steps."""

    def __init__(self, takes: float) -> None:
        self.now, self.takes, self.done = 0.0, takes, []

    def __call__(self) -> float:
        return self.now

    def run(self, task: dict[str, Any], cache: Path, limit: float) -> dict[str, Any]:
        took = self.takes + task.get("seconds", 0.0)
        self.now += min(took, limit)
        self.done.append(task)
        return {"failure": "too long"} if took > limit else {"first_s": 1.0, "seconds": task.get("seconds")}


def scheduled(clock: Clock, minutes: float) -> list[dict[str, Any]]:
    work = plan([], [], quick=False)
    settings = {"device": "cpu", "threads": 2, "cold": True, "rounds": 40, "seconds": 3.0}
    budget = schedule.Budget(minutes, schedule.tasks_of(work, (), settings), clock)
    first, rest = schedule.in_order(work)
    rows = dict(schedule.Measuring(settings, budget, Path("caches"), clock.run).results([*first, *rest]))
    assert sorted(rows) == list(range(len(work)))
    return [rows[place] for place in sorted(rows)]


@pytest.mark.parametrize(("takes", "seconds"), [(8.0, 3.0), (18.0, 2.3)])
def test_a_run_keeps_to_its_minutes(takes: float, seconds: float) -> None:
    clock = Clock(takes)
    rows = scheduled(clock, 24.0)
    assert clock.now <= 24 * 60
    assert [(row["pair"], row["list"]) for row in rows] == [(p.name, name) for p, name in plan([], [], quick=False)]
    assert not [row for row in rows if "failure" in row]
    assert min(row["seconds"] for row in rows) == pytest.approx(seconds, abs=0.3)


def test_what_comes_too_late_is_said_and_has_no_target() -> None:
    rows = scheduled(Clock(25.0), 24.0)
    late = [row for row in rows if "left out" in row.get("failure", "")]
    assert late
    assert all(row["target"] is None for row in late)


def test_a_chain_is_compiled_once_with_an_empty_cache() -> None:
    clock = Clock(1.0)
    scheduled(clock, 24.0)
    cold = [task["pair"] for task in clock.done if task["what"] == "first step"]
    labels = {p.ours.label for p, name in plan([], [], quick=False) if name == "gpt2" and p.ours.compiled}
    assert len(cold) == len(labels)


PAGES = [ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks-cuda.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_the_results_beside_it(page: Path) -> None:
    """And where there are none, says that nothing has been run."""
    _, shown, _ = pages.between(page.read_text(encoding="utf-8"))
    results = pages.results_of(page)
    assert results.exists() or page.stem != "benchmarks", "`make bench` keeps its results beside the page"
    data = json.loads(results.read_text(encoding="utf-8")) if results.exists() else None
    assert shown == pages.generated(data, page.stem)
