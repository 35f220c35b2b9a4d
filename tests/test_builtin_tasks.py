"""The tasks that come with gradchain: they learn, and the same seed gives the same run."""

from __future__ import annotations

import dataclasses
import math
import sys

import pytest
import torch

import gradchain
from gradchain import ablation
from gradchain.ablation import Settings, find_task, tasks
from gradchain.ablation.builtin import charlm, lora, text
from gradchain.ablation.builtin.synthetic import ravine, rosenbrock
from gradchain.ablation.builtin.tables import mse, r2, rmse
from gradchain.ablation.run import Run, train

BUDGETS = {"rosenbrock": 1000, "ravine": 500, "quadratic": 500}
"""Enough to see something learned."""


def run(name: str, recipe: str = "adamw", seed: int = 0, budget: int | None = None, **options: float) -> Run:
    task = dataclasses.replace(find_task(name), **({"budget": budget} if budget else {}))
    return train(gradchain.recipe(recipe, **options), Settings(task, task.budget), seed, "full")


def losses(found: Run) -> list[float]:
    return [value for _, value in found.curves["loss"]]


class TestSynthetic:
    def test_the_minima_are_where_they_are_said_to_be(self):
        assert rosenbrock(torch.tensor([1.0, 1.0])) == 0
        assert ravine(torch.zeros(2)) == 0
        assert rosenbrock(torch.tensor([-1.0, 1.0])) == 4
        assert ravine(torch.tensor([2.0, 2.0])) == 404

    @pytest.mark.parametrize("name", BUDGETS)
    @pytest.mark.parametrize("recipe", ["rose", "gyro-adam", "adams", "adamw"])
    def test_recipes_learn_with_their_defaults(self, name, recipe):
        curve = losses(run(name, recipe, budget=BUDGETS[name]))
        assert curve[-1] < 0.9 * curve[0]

    @pytest.mark.parametrize("name", BUDGETS)
    def test_the_same_seed_is_the_same_run_and_another_is_another(self, name):
        one, again, other = (run(name, seed=seed, budget=40) for seed in (3, 3, 4))
        assert (one.weights, one.metrics, one.curves) == (again.weights, again.metrics, again.curves)
        assert one.metrics != other.metrics

    def test_seed_0_starts_where_it_was_published(self):
        assert run("rosenbrock", budget=1).metrics == {"loss": 4.0}
        assert run("ravine", budget=1).metrics == {"loss": 404.0}

    def test_a_run_that_diverges_is_cut_short_and_said_so(self):
        found = run("quadratic", "sgd", lr=1e3, budget=500)
        assert found.diverged
        assert found.steps < 100

    def test_the_quadratic_is_measured_from_its_optimum(self):
        noise = run("quadratic", "sgd", lr=0.1, budget=2000).metrics["suboptimality"]
        less = run("quadratic", "sgd", lr=0.01, budget=2000).metrics["suboptimality"]
        assert noise is not None
        assert less is not None
        assert 0 < noise < 0.1
        assert less > 0


def test_a_study_of_the_ravine_counts_steps():
    study = ablation.ablate("adamw", task="ravine", budget=400, lr=0.01, seeds=2, baseline="lion")
    assert study.metric.name == "steps to loss <= 0.001"
    assert study.settings.training.summary == "the valley 100 x0² + x1² from (2, 2), gradients clipped to norm 10"


class TestTables:
    @pytest.mark.parametrize("name", ["diabetes", "breast-cancer"])
    @pytest.mark.parametrize("recipe", ["rose", "gyro-adam", "adams", "adamw"])
    def test_recipes_learn_with_their_defaults(self, name, recipe):
        found = run(name, recipe)
        assert found.metrics["r2"] > 0.3 if name == "diabetes" else found.metrics["accuracy"] > 0.9

    @pytest.mark.parametrize("name", ["diabetes", "breast-cancer"])
    def test_the_data_are_standardised_and_split_without_overlap(self, name):
        data = find_task(name).data()
        assert torch.allclose(data.inputs.mean(0), torch.zeros(data.inputs.shape[1]), atol=1e-5)
        assert torch.allclose(data.inputs.std(0), torch.ones(data.inputs.shape[1]), atol=1e-5)
        split = find_task(name).split(0)
        assert len(split.train) + len(split.validation) + len(split.test) == len(data)

    def test_the_measures_of_a_regression(self):
        outputs, targets = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([1.0, 2.0, 3.0])
        assert mse(outputs, targets) == 3
        assert rmse(outputs, targets) == pytest.approx(3**0.5)
        assert r2(outputs, targets) == pytest.approx(1 - 9 / 2)
        assert r2(targets[:, None], targets) == 1

    def test_a_regression_is_judged(self):
        study = ablation.ablate("gyro-adam", task="diabetes", seeds=2, epochs=3)
        assert [metric.name for metric in study.metrics] == ["rmse", "r2"]


class TestCharlm:
    def test_the_parts_are_contiguous_and_whole(self):
        parts = text.parts()
        assert sum(len(part) for part in parts.values()) == len(text.text())
        assert text.text()[1000:1010] == "".join(text.CHARACTERS[index] for index in parts["train"][1000:1010])
        assert len(parts["train"]) == 8 * len(parts["test"]) or len(parts["train"]) > 7.9 * len(parts["test"])

    def test_no_place_sees_what_comes_after_it(self):
        model = charlm.build(seed=0)
        pieces = text.windows(text.parts()["test"], charlm.LENGTH, 2)[:, :-1]
        changed = pieces.clone()
        changed[:, 40:] = 0
        assert torch.equal(model(pieces)[:, :40], model(changed)[:, :40])
        assert not torch.allclose(model(pieces)[:, 40:], model(changed)[:, 40:])

    def test_it_starts_from_knowing_nothing(self):
        loss = charlm.measured(charlm.build(seed=0), text.parts()["test"], 32)
        assert loss == pytest.approx(math.log(text.VOCABULARY), abs=0.1)

    @pytest.mark.parametrize("recipe", ["rose", "gyro-adam", "adams", "adamw"])
    def test_recipes_learn_with_their_defaults(self, recipe):
        found = run("charlm", recipe, budget=50)
        assert found.metrics["loss"] < 4.1
        assert [step for step, _ in found.curves["validation_loss"]] == [25, 50]

    @pytest.mark.slow
    @pytest.mark.parametrize(("recipe", "loss"), [("rose", 2.8), ("gyro-adam", 2.1), ("adams", 2.2), ("adamw", 2.1)])
    def test_they_learn_more_in_the_whole_budget_and_in_time(self, recipe, loss):
        found = run("charlm", recipe)
        assert found.metrics["loss"] < loss
        assert found.seconds < 60

    def test_the_same_seed_is_the_same_run_and_another_is_another(self):
        one, again, other = (run("charlm", seed=seed, budget=5) for seed in (3, 3, 4))
        assert (one.weights, one.metrics, one.curves) == (again.weights, again.metrics, again.curves)
        assert one.weights != other.weights

    def test_the_target_is_one_of_the_reported_curve(self):
        study = ablation.ablate(
            "adamw", task="charlm", budget=50, seeds=1, lr=0.01, metric="validation_loss<=3.4", baseline=None
        )
        steps = [ablation.value_of(each.runs[0], study.metric) for each in study.results]
        assert set(steps) <= {25, 50}

    def test_its_runs_belong_to_the_text(self):
        assert find_task("charlm").facts() == {"text": text.digest()}

    def test_a_python_without_the_text(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
        with pytest.raises(ablation.StudyError, match="in pydoc_data, a part of the standard library"):
            text.text.__wrapped__()
        monkeypatch.setattr(text, "SOURCES", ("no_such_module",))
        with pytest.raises(ablation.StudyError, match="the sources of no_such_module"):
            text.text.__wrapped__("sources")


@pytest.fixture
def short_base(monkeypatch, tmp_path):
    """A base that takes no time to train, in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lora, "BASE_STEPS", 30)
    lora._base.cache_clear()
    yield tmp_path / "gradchain"
    lora._base.cache_clear()


class TestLora:
    def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(self, short_base):
        model, pieces = lora.base(), text.windows(text.parts("sources")["test"], charlm.LENGTH, 2)[:, :-1]
        before = model(pieces)
        lora.adapted(model, seed=0)
        assert torch.equal(model(pieces), before)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 4 * charlm.LAYERS
        assert all(name.endswith(("a.weight", "b.weight")) for name in trained)

    def test_the_base_is_trained_once_and_kept(self, short_base, monkeypatch):
        first = lora.base().state_dict()
        assert [path.name for path in short_base.iterdir()] == [f"charlm-{lora.key()}.pt"]
        lora._base.cache_clear()
        monkeypatch.setattr(lora, "_trained", lambda: pytest.fail("trained again"))
        assert all(torch.equal(first[name], weight) for name, weight in lora.base().state_dict().items())

    def test_a_base_of_other_settings_is_another(self, short_base, monkeypatch):
        before = lora.key()
        monkeypatch.setattr(lora, "BASE_STEPS", 31)
        assert lora.key() != before

    def test_a_broken_file_is_made_again_with_the_same_bits(self, short_base):
        first = lora.base().state_dict()
        next(short_base.iterdir()).write_bytes(b"half")
        lora._base.cache_clear()
        assert all(torch.equal(first[name], weight) for name, weight in lora.base().state_dict().items())

    def test_a_folder_that_cannot_be_written_does_no_harm(self, short_base):
        short_base.write_text("a file in its place")
        assert lora.base()

    @pytest.mark.slow
    def test_recipes_learn_with_their_defaults(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        lora._base.cache_clear()
        before = charlm.measured(lora.base(), text.parts("sources")["test"], 512)
        for recipe in ("rose", "gyro-adam", "adams", "adamw"):
            assert run("lora-charlm", recipe, budget=200).metrics["loss"] < before - 0.05
        lora._base.cache_clear()

    def test_runs_change_neither_the_base_nor_each_other(self, short_base):
        one, again, other = (run("lora-charlm", seed=seed, budget=5) for seed in (3, 3, 4))
        assert (one.weights, one.metrics) == (again.weights, again.metrics)
        assert one.weights != other.weights


def test_all_are_listed():
    assert {"digits", "digits-conv", "diabetes", "breast-cancer", "charlm", "lora-charlm", *BUDGETS} <= set(tasks())
