"""The tasks that come with gradchain: they learn, and the same seed gives the same run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import gradchain
from gradchain import ablation
from gradchain.ablation import Settings, find_task, tasks
from gradchain.ablation.builtin.synthetic import ravine, rosenbrock
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


def test_all_are_listed():
    assert {"digits", "digits-conv", *BUDGETS} <= set(tasks())
