"""`make bench-quick` finds what got slower and lets pass what is noise; it is fed numbers, nothing is timed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import guard

ROUNDS, NOISE = 30, 0.04
MACHINE = {"processor": "A", "cores": 2, "memory_gib": 8, "system": "Linux", "python": "3.11.7", "torch": "2.13.0"}


def row(ratio: float, seed: int, noise: float = NOISE, pair: str = "adamw-fused", **rest: Any) -> dict[str, Any]:
    ratios = ratio * np.exp(noise * np.random.default_rng(seed).standard_normal(ROUNDS))
    counted = {"calls": 200, "kernels": 4, "ours_state": 1000}
    return {
        "pair": pair,
        "list": "gpt2",
        "ratio": float(np.median(ratios)),
        "ratios": ratios.tolist(),
        **counted,
        **rest,
    }


def run_of(*rows: dict[str, Any], **machine: Any) -> dict[str, Any]:
    settings = {"device": "cpu", "threads": 2}
    return {"machine": {**MACHINE, **machine}, "settings": settings, "peers": {"torchao": "1"}, "results": list(rows)}


def verdict(before: dict[str, Any], now: dict[str, Any], what: str = "ratio of times") -> str:
    return next(found.verdict for found in guard.findings(run_of(before), run_of(now)) if found.what == what)


def test_noise_moves_nothing() -> None:
    assert {verdict(row(0.9, seed), row(0.9, 1000 + seed)) for seed in range(40)} == {guard.SAME}


@pytest.mark.parametrize("slower", [1.1, 1.3, 2.0])
def test_a_slowdown_is_found(slower: float) -> None:
    assert {verdict(row(0.9, seed), row(0.9 * slower, 1000 + seed)) for seed in range(20)} == {guard.SLOWER}


def test_a_gain_is_told_and_is_no_fault() -> None:
    found = guard.findings(run_of(row(0.9, 0)), run_of(row(0.6, 1)))
    assert found[0].verdict == guard.FASTER
    assert not guard.worse(found)


def test_what_the_noise_hides_has_not_moved() -> None:
    assert verdict(row(1.0, 0, noise=0.5), row(1.1, 1, noise=0.5)) == guard.SAME


def test_a_change_that_is_certain_and_small_is_let_pass() -> None:
    assert verdict(row(1.0, 0, noise=1e-4), row(1.04, 1, noise=1e-4)) == guard.SAME
    assert verdict(row(1.0, 0, noise=1e-4), row(1.06, 1, noise=1e-4)) == guard.SLOWER


@pytest.mark.parametrize(
    ("count", "what", "then", "now", "expected"),
    [
        ("calls", "calls of Python in a step", 200, 209, guard.SAME),
        ("calls", "calls of Python in a step", 200, 211, guard.MORE),
        ("calls", "calls of Python in a step", 200, 150, guard.FEWER),
        ("kernels", "kernels", 4, 5, guard.MORE),
        ("ours_state", "bytes of state", 1000, 1001, guard.MORE),
        ("ours_state", "bytes of state", 0, 0, guard.SAME),
    ],
)
def test_counts_are_compared(count: str, what: str, then: int, now: int, expected: str) -> None:
    assert verdict(row(1.0, 0, **{count: then}), row(1.0, 1, **{count: now}), what) == expected


def test_a_pair_that_fails_now_is_worse_and_a_new_one_is_not() -> None:
    failed = {"pair": "adamw-fused", "list": "gpt2", "failure": "RuntimeError"}
    (found,) = guard.findings(run_of(row(1.0, 0)), run_of(failed))
    assert (found.verdict, guard.worse([found])) == (guard.FAILS, True)
    for before in (run_of(), run_of(failed)):
        (found,) = guard.findings(before, run_of(row(1.0, 0)))
        assert (found.verdict, guard.worse([found])) == (guard.NEW, False)


@pytest.mark.parametrize(
    ("later", "expected"), [([1.0], guard.SAME), ([1.5, 1.0], guard.SAME), ([1.5, 1.5], guard.SLOWER)]
)
def test_what_got_slower_is_measured_again(later: list[float], expected: str) -> None:
    asked: list[Sequence[guard.Key]] = []

    def again(keys: Sequence[guard.Key]) -> dict[str, Any]:
        asked.append(keys)
        return run_of(row(later[len(asked) - 1], 10 + len(asked)))

    before = run_of(row(1.0, 0), row(1.0, 1, pair="adams"))
    found = guard.confirmed(before, run_of(row(1.5, 2), row(1.0, 3, pair="adams")), again)
    assert found[0].verdict == expected
    assert asked == len(later) * [[("adamw-fused", "gpt2")]]


def test_other_machines_and_versions_are_told() -> None:
    assert guard.unlike(run_of(), run_of()) == []
    assert guard.unlike(run_of(), run_of(torch="2.14.0")) == ["torch: 2.13.0 then, 2.14.0 now"]
    other = {**run_of(), "peers": {"torchao": "2"}, "settings": {"device": "cpu", "threads": 4}}
    assert guard.unlike(run_of(), other) == ["threads: 2 then, 4 now", "torchao: 1 then, 2 now"]


@pytest.mark.parametrize(
    ("now", "status", "said"),
    [
        (run_of(row(1.0, 5)), 0, "0 of 4 numbers moved"),
        (run_of(row(0.5, 5)), 0, "faster"),
        (run_of(row(1.5, 5)), 1, "slower"),
        (run_of(row(1.0, 5, kernels=9)), 1, "more"),
        (run_of(row(1.5, 5), processor="B"), 3, "processor: A then, B now"),
    ],
    ids=["same", "faster", "slower", "kernels", "elsewhere"],
)
def test_the_exit_status_says_it(
    now: dict[str, Any], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = tmp_path / "results.json"
    baseline.write_text(json.dumps(run_of(row(1.0, 0))))
    monkeypatch.setattr(command, "run_all", lambda *_: now)
    ended = CliRunner().invoke(command.app, ["--quick", "--baseline", str(baseline)])
    assert ended.exit_code == status, ended.output


def test_without_results_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    ended = CliRunner().invoke(command.app, ["--quick", "--baseline", str(tmp_path / "results.json")])
    assert ended.exit_code == 3
