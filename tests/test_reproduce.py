"""Published claims beside ours: what is printed, and the figures that were published."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from gradchain import ablation
from gradchain.ablation import Claim, Reproduction
from gradchain.ablation.reproduce.gyro_synthetic import PUBLISHED, chains, compared
from gradchain.ablation.reproduce.runs import trained
from gradchain.cli import app
from gradchain.errors import UnknownNameError


class TestResults:
    def test_it_is_printed_side_by_side(self):
        rows = (Claim("loss", "0.1", "0.1", True), Claim("gap", "0.2", "0.35", False, "other data."))
        text = str(Reproduction("it", "a claim", "a paper", "small", rows))
        assert text.splitlines() == [
            "it: a claim",
            "Published: a paper",
            "Ours: small",
            "",
            "what  published  ours",
            "----  ---------  ----  -------",
            "loss  0.1        0.1   agrees",
            "gap   0.2        0.35  differs",
            "",
            "gap: other data.",
            "",
            "1 of 2 agree.",
        ]

    def test_they_are_listed(self):
        assert "gyro-synthetic" in ablation.reproductions()
        listed = CliRunner().invoke(app, ["reproduce"])
        assert "gyro-synthetic" in listed.output

    def test_what_is_wrong_is_said(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'gyro-synthetic'"):
            ablation.reproduce("gyro-syntetic")
        with pytest.raises(ablation.StudyError, match="seeds = 0"):
            ablation.reproduce("gyro-synthetic", seeds=0)
        wrong = CliRunner().invoke(app, ["reproduce", "gyro"])
        assert wrong.exit_code != 0
        assert "unknown reproduction 'gyro'" in wrong.output


class TestGyroSynthetic:
    @pytest.mark.parametrize(
        ("task", "name"), [("rosenbrock", "SGD"), ("rosenbrock", "GYRO"), ("ravine", "SGD"), ("ravine", "GYRO")]
    )
    def test_the_published_digits(self, task, name):
        loss = trained(task, chains(task)[name], seed=0).metrics["loss"]
        assert loss is not None
        assert compared(task, name, PUBLISHED[task][name], loss).agrees

    @pytest.mark.slow
    def test_all_of_them_or_the_reason(self):
        done = ablation.reproduce("gyro-synthetic")
        assert [row.what for row in done.rows if not row.agrees] == [
            "rosenbrock, AdamW",
            "ravine: SGD fails to converge",
        ]
        assert all(row.agrees or row.explanation for row in done.rows)
        assert "In double precision it is 0.0002262" in str(done)
