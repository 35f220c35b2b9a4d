"""The search for hyperparameters: the same budget for every arm, other seeds than those of the results, one outcome."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradchain import ablation
from gradchain.ablation import tuning
from gradchain.ablation.trial import TUNING_SEEDS


def bowl(make_optimizer, trial):
    """A quadratic on which plain SGD is best at lr = 1."""
    generator = torch.Generator().manual_seed(trial.seed)
    model = nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = make_optimizer(model)
    for step in range(5):
        optimizer.zero_grad()
        loss = 0.5 * (model.weight + 0.01 * torch.randn(1, 3, generator=generator)).square().sum()
        loss.backward()
        optimizer.step()
        trial.report(step + 1, loss=loss)
    return 0.5 * model.weight.square().sum()


ASKED = {"train": bowl, "seeds": 2, "lr": 0.2, "baseline": "lion"}


class TestBudget:
    def test_every_arm_has_the_same_trials_on_seeds_of_their_own(self):
        study = ablation.ablate("sgd", tune=6, tune_seeds=2, **ASKED)
        for result in study.results:
            assert len(result.trials) == 12
            assert {run.seed for run in result.trials} == {TUNING_SEEDS, TUNING_SEEDS + 1}
            assert {run.seed for run in result.runs} == {0, 1}

    def test_the_first_trial_has_the_arms_own_rate_and_the_best_is_kept(self):
        study = ablation.ablate("sgd", tune=8, **ASKED)
        full = study.full
        assert full.trials[0].lr == 0.2
        losses = {run.lr: run.metrics["loss"] for run in full.trials if not run.pruned}
        assert full.lr == min(losses, key=losses.__getitem__)
        assert 0.5 < full.lr < 2
        assert full.chain.hyperparameters["lr"] == full.lr
        assert full.arm.chain.hyperparameters["lr"] == 0.2

    def test_twice_the_same(self):
        one, two = (ablation.ablate("sgd", tune=7, **ASKED) for _ in range(2))
        assert [run.key for result in one.results for run in result.trials] == [
            run.key for result in two.results for run in result.trials
        ]

    def test_over_weight_decay_too(self):
        study = ablation.ablate("adamw", train=bowl, seeds=1, tune=4, tune_over=("lr", "weight_decay"), baseline=None)
        tried = {(run.lr, run.hyperparameters["weight_decay"]) for run in study.full.trials}
        assert len(tried) == len({wd for _, wd in tried}) == 4

    def test_what_diverges_is_not_chosen(self):
        def train(make_optimizer, trial):
            loss = bowl(make_optimizer, trial)
            return loss if loss < 0.5 else float("inf")

        study = ablation.ablate("sgd", **{**ASKED, "train": train}, tune=6, tune_range=(0.5, 50))
        assert any(run.diverged for run in study.full.trials)
        assert not any(run.diverged for run in study.full.runs)

    def test_a_chain_without_learning_rate(self):
        import gradchain

        with pytest.raises(ablation.StudyError, match="arm 'full' has no hyperparameter 'lr'"):
            ablation.ablate(gradchain.chain(gradchain.sign()), tune=2, train=bowl)


class TestPruning:
    def test_runs_that_fall_behind_are_given_up(self):
        study = ablation.ablate("sgd", tune=12, **ASKED)
        pruned = [run for run in study.full.trials if run.pruned]
        assert pruned
        assert all(run.metrics == {} and len(run.curves["loss"]) < 5 for run in pruned)
        assert not any(run.pruned for run in study.full.trials[:4])


class TestStorage:
    def test_a_database_for_the_dashboard(self, tmp_path):
        import optuna

        for _ in range(2):  # the second time nothing is added
            study = ablation.ablate("sgd", tune=5, out=tmp_path, **ASKED)
        assert study.resumed == 3 * (5 + 2)
        url = f"sqlite:///{tmp_path / tuning.DATABASE}"
        names = optuna.get_all_study_names(url)
        assert sorted(names) == ["bowl: full", "bowl: lion", "bowl: without add_decayed_weights"]
        stored = optuna.load_study(study_name="bowl: full", storage=url)
        assert [trial.params["lr"] for trial in stored.trials] == pytest.approx(
            [r.lr for r in study.full.trials], rel=1e-5
        )


@pytest.mark.parametrize(("chosen", "edge"), [(0.01, True), (0.1, False), (0.011, True), (1.0, True), (0.5, False)])
def test_the_edge_of_the_range(chosen, edge):
    assert tuning.at_edge(chosen, 0.1, (0.1, 10)) is edge


def test_the_report_says_how_and_warns():
    tuned, plain = (" ".join(str(ablation.ablate("sgd", tune=tune, **ASKED)).split()) for tune in (4, 0))
    assert "4 trials" in tuned
    assert "untuned" in plain or "not tuned" in plain
