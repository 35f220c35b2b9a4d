"""Studies whose runs are done by the executor of another package."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradchain import ablation
from tests import ablation_training

submitit = pytest.importorskip("submitit")


def test_submitit_runs_a_study_as_jobs_of_this_machine(tmp_path: Path) -> None:
    cluster = submitit.LocalExecutor(folder=tmp_path / "logs")
    cluster.update_parameters(timeout_min=5)
    asked = {"seeds": 1, "tune": 0, "baseline": None}
    there = ablation_training.study(tmp_path / "runs", executor=cluster, **asked)
    here = ablation_training.study(None, **asked)
    assert [run.metrics for run in there.runs] == [run.metrics for run in here.runs]
    assert [run.weights for run in there.runs] == [run.weights for run in here.runs]
    assert [row.label for row in ablation.rows(there)] == [row.label for row in ablation.rows(here)]
