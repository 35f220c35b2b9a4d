"""Published claims beside ours: what is printed, and the figures that were published."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

import gradchain
from gradchain import ablation
from gradchain.ablation import Claim, Reproduction
from gradchain.ablation.builtin import charlm, text
from gradchain.ablation.reproducing import secret_sauce
from gradchain.ablation.reproducing.gyro_charlm import of_the_difference, of_the_loss
from gradchain.ablation.reproducing.gyro_synthetic import PUBLISHED, chains, compared
from gradchain.ablation.reproducing.runs import trained
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
    @pytest.mark.parametrize(("task", "name"), [("rosenbrock", "SGD"), ("ravine", "SGD"), ("ravine", "GYRO")])
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


class TestGyroCharlm:
    def test_a_loss_near_0_is_explained(self):
        masked, seen = of_the_loss(2.2, 0.04)
        assert not masked.agrees
        assert "without a causal mask" in masked.explanation
        assert seen.agrees

    def test_a_difference_comes_with_its_interval(self):
        same = of_the_difference([2.20, 2.31, 2.25], [2.21, 2.30, 2.25])
        assert same.agrees
        assert same.published == "-0.0001"
        assert "[" in same.ours
        assert not of_the_difference([2.20, 2.31, 2.25], [2.30, 2.41, 2.351]).agrees

    def test_without_a_mask_a_place_sees_what_it_is_to_predict(self):
        model = charlm.build(seed=0, causal=False)
        pieces = text.windows(text.parts()["test"], charlm.LENGTH, 1)
        changed = pieces.clone()
        changed[:, 5] = (changed[:, 5] + 1) % text.VOCABULARY
        assert not torch.equal(model(pieces[:, :-1])[:, 4], model(changed[:, :-1])[:, 4])

    @pytest.mark.slow
    def test_it_is_copied_without_a_mask(self):
        done = ablation.reproduce("gyro-charlm", seeds=1)
        assert [row.agrees for row in done.rows[:2]] == [False, True]


class TestSecretSauce:
    def test_the_published_table_says_what_is_claimed(self):
        published = {name: [value, value + 0.1, value - 0.1] for name, value in secret_sauce.PUBLISHED.items()}
        rows = secret_sauce.gap_rows(published, shorter=[23.23])
        assert [row.agrees for row in rows] == [True, True, True, True]
        assert rows[1].ours == "+1.37 [+1.37, +1.37]"
        assert rows[2].ours == "96%"

    def test_another_order_differs(self):
        rows = secret_sauce.gap_rows({"Adam": [8.0, 8.1], "Signum": [7.9, 8.0], "SGD": [9.0, 9.1]}, shorter=[8.1, 8.2])
        assert [row.agrees for row in rows] == [False, False, False, False]
        assert rows[0].ours == "Signum 7.95 < Adam 8.05 < SGD 9.05"

    def test_equal_betas_are_compared_with_the_best(self):
        grid = {(0.9, 0.9): 8.0, (0.9, 0.99): 7.95, (0.95, 0.9): 8.5, (0.95, 0.95): 8.4, (0.95, 0.99): 7.9}
        near, far, order = secret_sauce.grid_rows(grid)
        assert (near.ours, near.agrees) == ("0.6%", True)
        assert (far.ours, far.agrees) == ("6.3%", False)
        assert "0.95: 8.40" in far.explanation
        assert (order.ours, order.agrees) == ("0.99, 0.99", True)

    def test_signum_takes_steps_of_equal_size(self):
        x = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = gradchain.Optimizer([x], secret_sauce.signum(0.01))
        x.grad = torch.tensor([3.0, -0.1])
        optimizer.step()
        assert torch.allclose(x, torch.tensor([0.99, -1.99]) - 0.01 * 0.1 * torch.tensor([1.0, -2.0]), atol=1e-6)

    def test_it_runs(self, monkeypatch):
        told: list[str] = []
        rates = {name: (make, lrs[-1:]) for name, (make, lrs) in secret_sauce.RATES.items()}
        monkeypatch.setattr(secret_sauce, "RATES", rates)
        gap = secret_sauce.signum_gap(1, told.append, steps=4)
        assert len(gap.rows) == 4
        assert len(told) == 3 + 3 + 1
        assert "Adam 0.00" in gap.setting

    @pytest.mark.slow
    def test_sgd_is_behind_whatever_is_said_of_signum(self):
        rows = ablation.reproduce("signum-gap", seeds=1).rows
        assert rows[0].ours.split(" < ")[-1].startswith("SGD")
        assert all(row.agrees or row.explanation for row in rows)
