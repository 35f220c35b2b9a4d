"""Studies that are killed, shared by processes, or handed to executors give the same numbers as one process alone."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from gradchain import ablation
from gradchain.ablation.ledger import Ledger
from tests import ablation_training


def untimed(study: ablation.Study) -> list[ablation.Row]:
    return [dataclasses.replace(row, step_seconds=0.0, step_ratio=0.0) for row in ablation.rows(study)]


def start(folder) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ablation_training", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def keys(folder) -> list[str]:
    return [json.loads(line)["key"] for line in (folder / ablation.RESULTS).read_text().splitlines()]


@pytest.fixture(scope="module")
def alone() -> ablation.Study:
    return ablation_training.study(None)


def test_kill_at_any_time_loses_the_run_in_progress_and_no_more(tmp_path, alone):
    lines = 0
    for wanted in (1, 7, 15):
        process = start(tmp_path)
        path = tmp_path / ablation.RESULTS
        while not path.exists() or path.read_bytes().count(b"\n") < wanted:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert path.read_bytes().count(b"\n") >= max(lines, wanted)
        lines = path.read_bytes().count(b"\n")
    with (tmp_path / ablation.RESULTS).open("ab") as file:
        file.write(b'{"key": "half a li')  # what a kill in the midst of a write leaves
    study = ablation_training.study(tmp_path)
    assert study.resumed == lines
    assert untimed(study) == untimed(alone)
    assert len(keys(tmp_path)) == len(set(keys(tmp_path)))


@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path, alone):
    processes = [start(tmp_path) for _ in range(2)]
    resumed = [int(process.communicate()[0]) for process in processes]
    total = len(keys(tmp_path))
    assert [process.returncode for process in processes] == [0, 0]
    assert total == len(set(keys(tmp_path))) == len(alone.runs) + sum(len(r.trials) for r in alone.results)
    assert all(0 <= count <= total for count in resumed)
    assert untimed(ablation.load_study(tmp_path)) == untimed(alone)


def test_jobs_give_the_same_numbers(tmp_path, alone):
    assert untimed(ablation_training.study(tmp_path, jobs=2)) == untimed(alone)


@pytest.mark.slow
def test_jobs_without_a_folder(alone):
    assert untimed(ablation_training.study(None, jobs=2)) == untimed(alone)


@pytest.mark.slow
def test_an_executor(tmp_path, alone):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert untimed(ablation_training.study(tmp_path, executor=pool)) == untimed(alone)


def test_a_worker_that_dies_is_named_and_nothing_is_lost(tmp_path):
    with pytest.raises(ablation.StudyError, match=r"seed 1: the process that ran it was lost.*Finished runs are kept"):
        ablation.ablate("adamw", train=ablation_training.killer, seeds=2, out=tmp_path, jobs=2)
    assert len(keys(tmp_path)) >= 4
    with pytest.raises(ablation.StudyError, match="the process that ran it was lost"):
        ablation.ablate("adamw", train=ablation_training.killer, seeds=2, out=tmp_path, jobs=2)


def test_a_run_that_another_process_is_at_is_waited_for(tmp_path):
    ledger = Ledger(tmp_path)
    with ledger.claim("abc") as ours, Ledger(tmp_path).claim("abc") as theirs:
        assert (ours, theirs) == (True, False)
    with ledger.claim("abc") as again:
        assert again


class TestSaved:
    def test_a_study_is_read_from_its_folder(self, tmp_path):
        study = ablation_training.study(tmp_path, margin=0.5, metric=["loss", "loss<=3"])
        again = ablation.load_study(tmp_path)
        assert ablation.rows(again) == ablation.rows(study)
        assert [result.trials for result in again.results] == [result.trials for result in study.results]
        assert (again.design, again.tuned, again.looks) == (study.design, study.tuned, study.looks)
        assert str(again) == str(study)

    def test_there_is_none(self, tmp_path):
        with pytest.raises(ablation.StudyError, match="A study is there once its last run has ended"):
            ablation.load_study(tmp_path)
        (tmp_path / "study.json").write_text("[]")
        with pytest.raises(ablation.StudyError, match="is not a study of this version"):
            ablation.load_study(tmp_path)
