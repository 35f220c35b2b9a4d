"""Studies that grow until their arms are told apart: what runs, and how often they are wrong, simulated."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

import gradchain
from gradchain import ablation
from gradchain.ablation import study as study_module
from gradchain.ablation.statistics import ALPHA
from tests.ablation_training import line

ARMS = 5
CHAINS = [gradchain.chain(gradchain.scale_by_learning_rate(10.0**-i)) for i in range(ARMS + 1)]
DESIGN = ablation.Design(tuple(ablation.Arm(f"arm {i}", chain, "edited") for i, chain in enumerate(CHAINS)))


class Simulated:
    """In place of the worker: runs whose loss is noise and the effect of their arm, in units of the noise."""

    def __init__(self, rng: np.random.Generator, effects: Sequence[float]) -> None:
        self.rng, self.effects = rng, {arm.label: effect for arm, effect in zip(DESIGN.arms, [0.0, *effects])}
        self.done = 0

    def expect(self, runs: int) -> None:
        pass

    def __call__(self, jobs: Sequence[SimpleNamespace]) -> list[ablation.Run]:
        self.done += len(jobs)
        losses = [self.effects[job.arm] + float(self.rng.standard_normal()) for job in jobs]
        return [
            ablation.Run(f"{job.arm}{job.seed}", job.arm, job.seed, {}, {"loss": loss}, weights=str(loss))
            for job, loss in zip(jobs, losses)
        ]


@pytest.fixture
def simulate(monkeypatch):
    """The verdicts of a simulated study, and how many runs it took; the real loop over looks, and the real statistics."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)  # statsmodels, in each correction
    monkeypatch.setattr(study_module, "job_of", lambda chain, settings, seed, arm: SimpleNamespace(arm=arm, seed=seed))
    settings = ablation.Settings(ablation.Training(line))

    def study(rng, effects, looks, margin=None):
        worker = Simulated(rng, effects)
        runs = study_module._Runs(settings, DESIGN, looks, None, margin, worker, None)
        results = runs.results()
        found = ablation.Results(
            "", settings, (ablation.Metric("loss"),), DESIGN, results, runs.looks, len(looks), margin=margin
        )
        return [row.judgement.verdict for row in ablation.rows(found)[1:]], worker.done

    return study


def test_where_nothing_differs_all_looks_together_find_nothing(simulate):
    studies, rng = 200, np.random.default_rng(0)
    false = sum(set(simulate(rng, [0.0] * ARMS, (3, 6, 9))[0]) != {"not resolved"} for _ in range(studies))
    assert false / studies <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / studies)


def test_what_differs_is_found_early_and_costs_no_more_runs(simulate):
    studies, rng = 60, np.random.default_rng(1)
    found = [simulate(rng, [8.0] * ARMS, (4, 8)) for _ in range(studies)]
    assert sum(verdicts == ["worse"] * ARMS for verdicts, _ in found) >= 0.95 * studies
    assert sum(runs for _, runs in found) < 0.75 * studies * 8 * (ARMS + 1)


def test_an_arm_that_is_told_apart_stops_and_the_others_go_on(simulate):
    rng = np.random.default_rng(2)
    verdicts, runs = simulate(rng, [50.0, 0.0, 0.0, 0.0, 0.0], (4, 8))
    assert verdicts == ["worse", *["not resolved"] * 4]
    assert runs == 4 + 5 * 8


@pytest.mark.slow
def test_equivalence_keeps_its_rate_too(simulate):
    studies, rng = 150, np.random.default_rng(3)
    wrong = sum("equivalent" in simulate(rng, [1.0] * ARMS, (4, 8), margin=1.0)[0] for _ in range(studies))
    assert wrong / studies <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / studies)


def test_a_real_study_grows_and_resumes(tmp_path):
    asked = {"train": line, "seeds": 2, "up_to": 8, "lr": 0.05, "baseline": "lion", "out": tmp_path}
    study = ablation.ablate("adamw", **asked)
    assert study.looks == (2, 4, 8)[: len(study.looks)]
    assert study.planned_looks == 3
    assert len(study.full.runs) == study.looks[-1]
    again = ablation.ablate("adamw", **asked)
    assert again.resumed == len(study.runs)
    assert ablation.rows(again) == ablation.rows(study) == ablation.rows(ablation.load_study(tmp_path))
    assert "4" in str(study)


def test_a_design_with_contrasts_does_not_grow():
    design = ablation.Design(DESIGN.arms, (ablation.Contrast("a", (("arm 0", 1.0), ("arm 1", -1.0))),))
    with pytest.raises(ablation.StudyError, match="takes a fixed number of seeds"):
        ablation.ablate("adamw", train=line, design=design, up_to=12)


class TestContrasts:
    """Weighted sums of arms."""

    def test_an_interaction_by_hand(self):
        weights = (("arm 0", 1.0), ("arm 1", -1.0), ("arm 2", -1.0), ("arm 3", 1.0))
        values = {
            "arm 0": [1.0, 2.0, 3.5],
            "arm 1": [2.0, 3.0, 4.0],
            "arm 2": [0.0, 1.0, 1.0],
            "arm 3": [4.0, 4.0, 5.0],
        }
        design = ablation.Design(DESIGN.arms[:4], (ablation.Contrast("a x b", weights),))
        runs = {
            label: tuple(ablation.Run(f"{seed}", label, seed, {}, {"loss": loss}) for seed, loss in enumerate(losses))
            for label, losses in values.items()
        }
        results = tuple(ablation.Result(arm, arm.chain, runs[arm.label]) for arm in design.arms)
        study = ablation.Results(
            "", ablation.Settings(ablation.Training(line)), (ablation.Metric("loss"),), design, results, (3,)
        )
        (effect,) = ablation.effects(study)
        assert effect.difference.mean == pytest.approx(((1 - 2 - 0 + 4) + (2 - 3 - 1 + 4) + (3.5 - 4 - 1 + 5)) / 3)
        assert (effect.label, effect.difference.pairs) == ("a x b", 3)


class TestPlan:
    def test_more_for_a_smaller_effect_and_to_be_safe(self):
        pilot = ablation.ablate("adamw", train=line, seeds=4, lr=0.05, baseline="lion")
        large, small = ablation.plan(pilot, 20.0), ablation.plan(pilot, 5.0)
        assert small.seeds > large.seeds >= 2
        assert all(arm.safe >= arm.seeds for arm in small.arms)
        assert f"--seeds {small.seeds}" in str(small)
        assert "A difference of 5 of loss" in str(small)

    def test_its_promise_holds_in_simulated_studies(self, simulate):
        """The spread is known here: of differences of two runs, the root of two."""
        needed = ablation.seeds_needed(math.sqrt(2), 2.5, comparisons=ARMS)
        studies, rng = 150, np.random.default_rng(5)
        found = sum(simulate(rng, [2.5] + [0.0] * 4, (needed,))[0][0] == "worse" for _ in range(studies))
        assert found / studies >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / studies)

    def test_one_seed_has_no_spread(self):
        pilot = ablation.ablate("adamw", train=line, seeds=1, baseline=None)
        with pytest.raises(ablation.StudyError, match="a pilot of one seed has no spread"):
            ablation.plan(pilot, 1.0)
