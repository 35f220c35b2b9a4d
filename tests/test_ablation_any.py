"""Studies of a training function of one's own: what it is told, what it may return, and what is wrong with it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

import gradchain
from gradchain import ablation
from gradchain.ablation import Metric, Training, time_to


def regression(make_optimizer, trial):
    """A line through noisy points, which has no classes and no accuracy."""
    generator = torch.Generator().manual_seed(trial.seed)
    inputs = torch.randn(64, 4, generator=generator)
    targets = inputs.sum(1, keepdim=True) + 0.1 * torch.randn(64, 1, generator=generator)
    model = nn.Linear(4, 1)
    optimizer = make_optimizer(model)
    for step in range(trial.budget or 20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        trial.report(step + 1, loss=loss)
    return {"loss": loss.item(), "r2": 1 - loss.item() / targets.var().item()}


QUICK = {"train": regression, "seeds": 2, "lr": 0.05, "baseline": "lion"}


class TestTraining:
    def test_a_regression_is_told_apart(self):
        study = ablation.ablate("rose", **QUICK)
        assert len({cell.mean for row in ablation.rows(study) for cell in [row.cells["loss"]]}) > 3
        assert study.settings.training.name == "regression"
        assert study.settings.training.summary.startswith("A line through")

    def test_any_metric_in_either_direction(self):
        study = ablation.ablate("sgd", metric=["r2:max", "loss:min"], **QUICK)
        assert [metric.higher_is_better for metric in study.metrics] == [True, False]
        asked = {**QUICK, "seeds": 4, "baseline": "adamw"}
        low, high = (ablation.ablate("sgd", metric=f"r2:{goal}", **asked) for goal in ("min", "max"))
        assert [run.metrics for run in low.runs] == [run.metrics for run in high.runs]
        verdicts = [ablation.rows(study)[-1].judgement.verdict for study in (low, high)]
        assert sorted(verdicts) == ["better", "worse"]

    def test_a_single_number_will_do(self):
        def train(make_optimizer, trial):
            return regression(make_optimizer, trial)["loss"]

        assert set(ablation.ablate("sgd", train=train, seeds=1, baseline="lion").runs[0].metrics) == {"loss"}

    def test_time_to_a_target(self):
        study = ablation.ablate("sgd", metric="loss<=1.0", budget=200, **QUICK)
        runs = study.full.runs
        steps = [ablation.value_of(run, study.metric) for run in runs]
        for run, step in zip(runs, steps):
            assert [value <= 1.0 for at, value in run.curves["loss"] if at <= step] == [False] * (int(step) - 1) + [
                True
            ]
        assert study.metric == time_to("loss", 1.0)

    def test_a_target_that_is_never_reached_counts_as_the_whole_run_and_allows_no_equivalence(self):
        study = ablation.ablate("sgd", metric="loss<=1.0", margin=500.0, budget=30, **{**QUICK, "baseline": "adamw"})
        cell = ablation.rows(study)[-1].cells[study.metric.name]
        assert (cell.mean, cell.missed) == (30.0, 2)
        assert cell.difference.p_equivalent is None
        assert ablation.rows(study)[-1].judgement.verdict != "equivalent"

    def test_a_target_that_no_arm_reaches(self):
        with pytest.raises(ablation.StudyError, match="steps to loss <= 1e-09 with every seed"):
            ablation.ablate("sgd", metric="loss<=1e-9", **QUICK)

    def test_a_target_of_a_curve_that_is_not_reported(self):
        with pytest.raises(ablation.StudyError, match="reports no curve 'los'; it reports loss"):
            ablation.ablate("sgd", metric="los<=1", **QUICK)

    def test_the_budget_is_passed_on(self):
        study = ablation.ablate("sgd", budget=7, **QUICK)
        assert {run.steps for run in study.runs} == {7}

    def test_generators_are_seeded_for_the_careless_and_given_back(self):
        drawn: list[tuple[int, str, float, float]] = []

        def train(make_optimizer, trial):
            drawn.append((trial.seed, trial.arm, torch.rand(()).item(), random.random()))
            return regression(make_optimizer, trial)

        torch.manual_seed(0)
        expected = torch.rand(2)
        torch.manual_seed(0)
        first = torch.rand(1)
        ablation.ablate("sgd", **{**QUICK, "train": train})
        assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
        by_seed = {seed: {(a, b) for s, _, a, b in drawn if s == seed} for seed in (0, 1)}
        assert [len(values) for values in by_seed.values()] == [1, 1]
        assert by_seed[0] != by_seed[1]

    def test_a_scratch_folder_of_its_own(self):
        seen: list[Path] = []

        def train(make_optimizer, trial):
            assert [*trial.folder.iterdir()] == []
            (trial.folder / "checkpoint.pt").write_text("x")
            seen.append(trial.folder)
            return regression(make_optimizer, trial)

        ablation.ablate("sgd", **{**QUICK, "train": train})
        assert len(set(seen)) == len(seen)
        assert not any(folder.exists() for folder in seen)

    def test_telemetry_becomes_curves(self):
        def train(make_optimizer, trial):
            model = nn.Linear(4, 1)
            optimizer = make_optimizer(model, telemetry=2)
            for _ in range(4):
                optimizer.zero_grad()
                loss = model(torch.ones(8, 4)).square().mean()
                loss.backward()
                optimizer.step()
                seen = optimizer.telemetry()
                trial.report(seen.pop("step"), **seen)
            return loss

        study = ablation.ablate("adamw", train=train, seeds=1)
        curves = study.full.runs[0].curves
        assert {"divide/rms_out", "first_moment/cosine", "relative_change"} <= set(curves)
        assert all(name in ablation.to_html(study) for name in ("relative_change",))

    def test_groups_and_several_optimizers(self):
        def train(make_optimizer, trial):
            one, two = nn.Linear(2, 2), nn.Linear(2, 2)
            optimizers = [
                make_optimizer(one.named_parameters()),
                make_optimizer([{"params": two.parameters(), "lr": 0.5}]),
            ]
            for _ in range(3):
                loss = two(one(torch.ones(4, 2))).square().mean()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
            return loss

        study = ablation.ablate("adamw", train=train, seeds=1, baseline=None)
        assert study.full.runs[0].state_bytes == 2 * 2 * 6 * 4


class TestWrongTraining:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (lambda make, trial: 1.0, "has not called make_optimizer"),
            (lambda make, trial: make(nn.Linear(1, 1)) and 1.0, "has not stepped"),
            (lambda make, trial: make(nn.Linear(1, 1)).step() or 1.0, "no gradient has arrived in 1 steps"),
            (lambda make, trial: regression(make, trial) and None, "returned nothing"),
            (lambda make, trial: {"r2": regression(make, trial)["r2"]}, "returned r2, without loss"),
            (
                lambda make, trial: {"loss": "low"} if regression(make, trial) else 0,
                "return and report single numbers",
            ),
        ],
    )
    def test_it_says_what_is_wrong(self, body, message):
        with pytest.raises(ablation.StudyError, match=message):
            ablation.ablate("sgd", train=body, seeds=1)

    def test_zero_gradients_are_no_gradients(self):
        def train(make_optimizer, trial):
            model = nn.Linear(2, 1)
            optimizer = make_optimizer(model)
            (0 * model(torch.ones(1, 2))).sum().backward()
            optimizer.step()
            return 0.0

        with pytest.raises(ablation.StudyError, match="all None or 0"):
            ablation.ablate("sgd", train=train, seeds=1)

    def test_arms_that_all_tie_are_an_error(self, tmp_path):
        def train(make_optimizer, trial):
            regression(make_optimizer, trial)
            return {"loss": 0.5}

        with pytest.raises(
            ablation.StudyError, match="all 3 arms gave exactly the same loss with every seed, though their"
        ):
            ablation.ablate("sgd", train=train, seeds=2, baseline="adamw", out=tmp_path)

    def test_stages_that_are_all_off_are_an_error(self):
        with pytest.raises(ablation.StudyError, match="the same weights: in this setting no stage does anything"):
            ablation.ablate("sgd", **{**QUICK, "baseline": None})

    def test_a_training_that_crashes_from_the_start(self):
        def train(make_optimizer, trial):
            raise KeyError("data")

        with pytest.raises(ablation.StudyError, match=r"every arm failed with the first seed.*KeyError: 'data'"):
            ablation.ablate("sgd", train=train)

    def test_an_arm_that_crashes_is_recorded_and_the_study_goes_on(self, tmp_path):
        def train(make_optimizer, trial):
            if trial.arm != "full" and trial.seed == 1:
                raise RuntimeError("out of memory")
            return regression(make_optimizer, trial)

        study = ablation.ablate("sgd", **{**QUICK, "train": train, "seeds": 3}, out=tmp_path)
        full, other, _ = ablation.rows(study)
        assert (full.failed, other.failed) == (0, 1)
        assert other.cells["loss"].difference is None
        assert other.judgement is None
        assert study.results[1].runs[1].failed == "RuntimeError: out of memory"
        assert ablation.ablate("sgd", **{**QUICK, "train": train, "seeds": 3}, out=tmp_path).resumed == 9

    def test_an_interrupt_is_not_a_result(self, tmp_path):
        def train(make_optimizer, trial):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ablation.ablate("sgd", train=train, out=tmp_path)
        assert (tmp_path / ablation.RESULTS).read_text() == ""

    def test_divergence_is_none_and_said(self):
        def made(make_optimizer, trial):
            return {"loss": regression(make_optimizer, trial)["loss"] * (float("nan") if trial.arm != "full" else 1)}

        study = ablation.ablate("sgd", **{**QUICK, "train": made})
        assert [row.diverged for row in ablation.rows(study)] == [0, 2, 2]
        assert study.results[1].runs[0].metrics == {"loss": None}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"train": regression, "task": "digits"}, "train and task exclude each other"),
        ({"train": "regression"}, "'module:function'"),
        ({"train": "math:pi"}, "pass a function of make_optimizer and trial"),
        ({"train": regression, "epochs": 3}, "epochs: the training regression decides for itself"),
        ({"train": regression, "dtype": "bf16"}, "dtype: the training regression"),
        ({"metric": "r2"}, "say which way is better, as 'r2:min' or ':max'"),
        ({"metric": "r2:up"}, "say which way is better"),
        ({"metric": "loss<=low"}, "'low' is not a number"),
        ({"metric": []}, "name different metrics, at least one"),
        ({"metric": ["loss", "loss"]}, "name different metrics"),
        ({"budget": 3, "epochs": 3}, "are the same for the task digits; pass one"),
        ({"up_to": 6}, "begin with at least 2 seeds, and go up to more"),
        ({"jobs": 0}, "jobs = 0: pass at least 1"),
        ({"executor": 3}, "executor has no submit"),
        ({"tune": 1}, "pass at least 2 trials"),
        ({"tune": 4, "tune_over": ()}, "name hyperparameters"),
        ({"tune": 4, "tune_over": ("momentum",)}, "no arm has a hyperparameter 'momentum'"),
        ({"tune": 4, "tune_range": (2, 10)}, "two factors around 1"),
    ],
)
def test_errors(asked, message):
    with pytest.raises(ablation.StudyError, match=message.replace("(", r"\(")):
        ablation.ablate("adamw", **asked)


def test_a_training_with_names_of_its_own():
    training = Training(regression, "line", "a line", (Metric("r2", "max"),), budget=5, settings=(("noise", 0.1),))
    study = ablation.ablate("sgd", train=training, seeds=1, baseline="lion")
    assert study.full.runs[0].settings == {"task": "line", "budget": 5, "compile": False, "noise": 0.1}
    assert gradchain.ablation.rows(study)[0].cells["r2"].mean < 1


def test_metrics_of_a_wrong_kind():
    with pytest.raises(ablation.StudyError, match="neither 'min' nor 'max'"):
        Metric("loss", "low")  # type: ignore[arg-type]
    with pytest.raises(ablation.StudyError, match="given together"):
        Metric("loss", target=1.0)
