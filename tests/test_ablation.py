"""Ablation studies: arms, pairing, resuming, statistics, reports."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import gradchain
from gradchain import ablation
from gradchain._chain import recipes
from gradchain.ablation import execution, maker
from gradchain.ablation import run as run_module
from gradchain.cli import app
from tests.processes import python

QUICK = {"epochs": 1, "batch_size": 128, "seeds": 2}
PAIR = {**QUICK, "baseline": "lion"}
"""`sgd` has one stage besides its rate, which is off: alone, its arms tie."""


def labels(arms: ablation.Design) -> list[str]:
    return [arm.label for arm in arms.arms]


def untimed(study: ablation.Study) -> list[ablation.Row]:
    return [dataclasses.replace(row, step_seconds=0.0, step_ratio=0.0) for row in ablation.rows(study)]


def lines(path: Path) -> list[str]:
    return (path / ablation.RESULTS).read_text().splitlines()


@pytest.fixture
def trained(monkeypatch):
    """The arms that were really trained, in order."""
    calls: list[str] = []
    real = execution.train

    def train(chain, settings, seed, arm, *others):
        calls.append(arm)
        return real(chain, settings, seed, arm, *others)

    monkeypatch.setattr(execution, "train", train)
    return calls


def weights(model: nn.Module) -> str:
    return maker.digest(model.parameters())


class TestArms:
    def test_stages_that_need_each_other_are_one_arm(self):
        arms = ablation.leave_one_out(gradchain.recipe("rose"))
        assert labels(arms) == [
            "full",
            "without promote (+ stochastic_round)",
            "without centralize",
            "without range_normalize and divide (+ cv_trust_gate)",
            "without cv_trust_gate",
            "without decoupled_decay",
            "without stochastic_round",
        ]
        assert arms.arms[3].chain == gradchain.recipe("rose").without("range_normalize", "cv_trust_gate", "divide")

    def test_notes_say_what_depends_on_what(self):
        together = "cannot be removed alone: cv_trust_gate and divide depend on it and are removed together with it."
        again = together.replace("cv_trust_gate and divide", "range_normalize and cv_trust_gate").removesuffix(".")
        assert ablation.leave_one_out(gradchain.recipe("rose")).notes == (
            "promote cannot be removed alone: stochastic_round depends on it and is removed together with it.",
            f"range_normalize {together}",
            f"divide {again}, which is the same arm as without range_normalize.",
            "not ablated: scale_by_learning_rate, it is the step size itself.",
        )

    @pytest.mark.parametrize("name", gradchain.recipes())
    def test_every_recipe_has_different_arms(self, name):
        chain = gradchain.recipe(name)
        arms = ablation.leave_one_out(chain)
        assert arms.arms[0].chain == chain
        assert len({arm.chain for arm in arms.arms}) == len(arms.arms)
        named = " ".join([*labels(arms), *arms.notes])
        assert all(stage in named for stage in chain.names)

    def test_stages_of_a_partition(self):
        assert "without matrix/spectral_decay" in labels(ablation.leave_one_out(gradchain.recipe("adams")))

    def test_baseline_that_is_the_recipe_itself_is_run_once(self):
        adamw = gradchain.recipe("adamw")
        arms = ablation.leave_one_out(adamw, ("adamw", adamw))
        assert [arm.kind for arm in arms.arms].count("baseline") == 0
        assert "the baseline adamw is the same chain as the arm 'full': run once." in arms.notes

    def test_the_last_stage_is_kept(self):
        arms = ablation.leave_one_out(gradchain.chain(gradchain.sign()))
        assert labels(arms) == ["full"]
        assert arms.notes == ("not ablated: sign, nothing is left of the chain without it.",)

    def test_a_chain_that_cannot_be_reduced(self):
        class ablation_loner(gradchain.Stage):
            def check(self, before, after):
                if not before:
                    raise gradchain.ChainError("something must come first.", stage="sign")

        arms = ablation.leave_one_out(gradchain.chain(gradchain.sign(), ablation_loner()))
        assert labels(arms) == ["full", "without ablation_loner"]
        assert arms.notes == ("not ablated: sign, no sound chain is left without it (something must come first.)",)


class TestPairing:
    def test_a_seed_fixes_data_weights_and_batches(self):
        task = ablation.find_task("digits")
        assert weights(task.build(3)) == weights(task.build(3)) != weights(task.build(4))
        one, same, other = (list(ablation.batches(50, 16, 2, seed)) for seed in (3, 3, 4))
        assert all(map(torch.equal, one, same))
        assert not all(map(torch.equal, one, other))
        assert torch.equal(task.split(3).test.inputs, task.split(3).test.inputs)
        assert not torch.equal(task.split(3).test.inputs, task.split(4).test.inputs)

    def test_batches_visit_everything_each_epoch(self):
        rows = torch.cat(list(ablation.batches(50, 16, 2, 0)))
        assert rows[:50].sort().values.tolist() == rows[50:].sort().values.tolist() == list(range(50))

    def test_the_parts_are_disjoint_and_complete(self):
        task = dataclasses.replace(
            ablation.find_task("digits"), data=lambda: ablation.Part(torch.arange(100.0), torch.arange(100))
        )
        split = task.split(0)
        parts = [split.train, split.validation, split.test]
        assert [len(part) for part in parts] == [60, 15, 25]
        assert torch.cat([part.targets for part in parts]).sort().values.tolist() == list(range(100))

    def test_building_leaves_the_global_random_state_alone(self):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        ablation.find_task("digits-conv").build(7)
        assert torch.equal(torch.rand(3), expected)

    def test_all_arms_start_from_the_same_loss(self):
        study = ablation.ablate("rose", **QUICK)
        first = [[run.curves["training_loss"][0] for run in result.runs] for result in study.results]
        assert all(losses == first[0] for losses in first)
        assert first[0][0] != first[0][1]

    def test_threads_are_given_back(self):
        before = torch.get_num_threads()
        ablation.ablate("rose", **{**QUICK, "seeds": 1})
        assert torch.get_num_threads() == before


class TestFindings:
    def test_a_stage_that_does_nothing_is_no_finding(self):
        study = ablation.ablate("rose", **QUICK)
        identical = {row.label: row.identical for row in ablation.rows(study)}
        assert identical["without stochastic_round"]
        assert sum(identical.values()) == 1
        line = next(line for line in str(study).splitlines() if "identical to full" in line)
        assert line.count("identical to full") == 1
        assert "[" not in line
        assert "bit for bit" in str(study)

    def test_it_does_something_where_it_acts(self):
        rows = ablation.rows(ablation.ablate("rose", dtype="bf16", baseline=None, **QUICK))
        assert not any(row.identical for row in rows)

    def test_identical_means_in_every_seed(self):
        study = ablation.ablate("rose", **QUICK)
        place = [result.arm.label for result in study.results].index("without stochastic_round")
        result = study.results[place]
        other = dataclasses.replace(result.runs[1], weights="other")
        changed = dataclasses.replace(result, runs=(result.runs[0], other))
        results = (*study.results[:place], changed, *study.results[place + 1 :])
        assert not ablation.rows(dataclasses.replace(study, results=results))[place].identical

    def test_divergence_is_said_and_kept(self, tmp_path):
        study = ablation.ablate("sgd", lr=1e30, out=tmp_path, **QUICK)
        row = ablation.rows(study)[0]
        assert row.diverged == 2
        assert row.cells["loss"] == ablation.Cell(None, None)
        assert "full: diverged in 2 of 2 seeds." in str(study)
        assert json.loads(lines(tmp_path)[0])["metrics"]["loss"] is None
        assert "diverged" in str(ablation.ablate("sgd", lr=1e30, out=tmp_path, **QUICK))

    def test_warnings_of_the_optimizer_are_reported(self):
        chain = gradchain.chain(gradchain.scale_by_learning_rate(0.1), gradchain.spectral_decay())
        assert "warning: 0.bias: spectral_decay does not decay" in str(ablation.ablate(chain, **QUICK))

    def test_state_bytes(self):
        study = ablation.ablate("rose", **QUICK)
        model = ablation.find_task("digits").build(0)
        by_label = {row.label: row.state_bytes for row in ablation.rows(study)}
        assert by_label["full"] == 0
        assert by_label["adamw (baseline)"] == 2 * sum(4 * p.numel() for p in model.parameters())


class TestLearning:
    @pytest.mark.parametrize("name", ["digits", pytest.param("digits-conv", marks=pytest.mark.slow)])
    def test_rose_learns_every_task_by_default(self, name):
        task = ablation.find_task(name)
        run = run_module.train(gradchain.recipe("rose"), ablation.Settings(task, task.budget), 0, "full")
        assert run.metrics["accuracy"] > 0.9

    def test_one_seed_has_no_interval(self):
        text = str(ablation.ablate("rose", **{**QUICK, "seeds": 1}))
        assert "(1 seed)" in text
        assert text.startswith("With 1 seed, no arm can be told from the full chain.")
        assert "One seed gives no interval" in text


class TestVerdicts:
    def test_a_stage_that_matters_and_one_that_does_not(self):
        """Planted: noise on the gradient, and a stage that multiplies by 1 + 1e-6."""

        @gradchain.stateless
        def ablation_noise(value):
            return value + 30 * torch.sin(1e4 * value)

        @gradchain.stateless
        def ablation_nothing(value):
            return value * (1 + 1e-6)

        chain = gradchain.chain(ablation_noise(), ablation_nothing(), *gradchain.recipe("adamw"))
        study = ablation.ablate(chain, baseline=None, margin=0.2, **{**QUICK, "seeds": 6, "epochs": 6})
        verdicts = {row.label: row.judgement.verdict for row in ablation.rows(study) if row.judgement}
        assert verdicts["without ablation_noise"] == "better"
        assert verdicts["without ablation_nothing"] == "equivalent"
        said = ablation.headline(study)
        assert "Better than the full chain: without ablation_noise" in said
        assert "equivalent to it within 0.2 of loss: " in said.lower()
        assert str(study).startswith(said.split(".")[0])

    @pytest.mark.slow
    def test_the_default_command_names_a_harmful_and_an_inert_stage(self, tmp_path, monkeypatch):
        """On digits, with nothing but defaults."""
        (tmp_path / "ablation_planted.py").write_text(
            "import gradchain\n\n\n@gradchain.stateless\ndef planted_harm(value):\n"
            "    return value + 3 * value.flip(-1)\n\n\n@gradchain.stateless\ndef planted_inert(value):\n"
            "    return value * (1 + 1e-6)\n\n\nchain = gradchain.chain(planted_harm(), planted_inert(),"
            " *gradchain.recipe('adamw'))\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        result = CliRunner().invoke(app, ["ablate", "ablation_planted:chain"])
        assert result.exit_code == 0, result.output
        said = " ".join(result.stdout.split("\n\n")[0].split())
        assert "Better than the full chain: without planted_harm" in said
        assert re.search(r"Equivalent to it within 0.01 of loss: [^.]*without planted_inert", said)

    @pytest.mark.parametrize("margin", [0, -1.0, float("nan"), True, "0.5"])
    def test_a_margin_that_is_none(self, margin):
        with pytest.raises(ablation.StudyError, match="margin"):
            ablation.ablate("sgd", margin=margin, **QUICK)


class TestResume:
    def test_finished_runs_are_not_run_again(self, tmp_path, trained):
        first = ablation.ablate("rose", out=tmp_path, **QUICK)
        count = len(trained)
        second = ablation.ablate("rose", out=tmp_path, **QUICK)
        assert count == len(trained) == second.resumed == 16
        assert ablation.rows(first) == ablation.rows(second)

    def test_an_interrupted_study_gives_the_same_table(self, tmp_path, trained):
        whole = ablation.ablate("rose", **QUICK)

        def interrupt(progress: ablation.Progress) -> None:
            if progress.done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ablation.ablate("rose", out=tmp_path, watch=interrupt, **QUICK)
        assert len(lines(tmp_path)) == 3
        trained.clear()
        resumed = ablation.ablate("rose", out=tmp_path, **QUICK)
        assert len(trained) == 13
        assert untimed(resumed) == untimed(whole)

    @pytest.mark.parametrize("kept", [1, 200, -1])
    def test_a_broken_last_line_is_run_again(self, tmp_path, trained, kept):
        whole = ablation.ablate("sgd", out=tmp_path, **QUICK)
        path = tmp_path / ablation.RESULTS
        content = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(content[:-1]) + content[-1][:kept])
        trained.clear()
        resumed = ablation.ablate("sgd", out=tmp_path, **QUICK)
        assert len(trained) == 1
        assert untimed(resumed) == untimed(whole)
        assert len([json.loads(line) for line in lines(tmp_path)]) == len(content)

    @pytest.mark.parametrize("other", [{"epochs": 2}, {"batch_size": 64}, {"dtype": "bf16"}, {"lr": 0.5}])
    def test_other_settings_are_other_runs(self, tmp_path, other):
        ablation.ablate("sgd", out=tmp_path, **PAIR)
        assert ablation.ablate("sgd", out=tmp_path, **{**PAIR, **other}).resumed == (2 if "lr" in other else 0)
        assert ablation.ablate("sgd", out=tmp_path, **PAIR).resumed == 6

    def test_more_seeds_add_runs(self, tmp_path, trained):
        ablation.ablate("sgd", out=tmp_path, **PAIR)
        trained.clear()
        ablation.ablate("sgd", out=tmp_path, **{**PAIR, "seeds": 3})
        assert trained == ["full", "without add_decayed_weights", "lion"]

    def test_fresh_runs_everything_and_loses_nothing(self, tmp_path, trained):
        for _ in range(2):
            ablation.ablate("sgd", out=tmp_path, fresh=True, **PAIR)
        assert len(trained) == len(lines(tmp_path)) == 12

    def test_a_foreign_line_is_an_error(self, tmp_path):
        (tmp_path / ablation.RESULTS).write_text('{"key": 1}\n')
        with pytest.raises(ablation.StudyError, match=r"line 1 of .* is not a result of this version"):
            ablation.ablate("sgd", out=tmp_path, **QUICK)

    def test_an_edited_stage_is_another_run(self, tmp_path, monkeypatch):
        def key(factor: float) -> str:
            path = tmp_path / "ablation_mine.py"
            path.write_text(
                "import gradchain\n\n\nclass ablation_halve(gradchain.Stage):\n"
                f"    def update(self, update, ctx):\n        return update.replace(value={factor} * update.value)\n"
            )
            spec = importlib.util.spec_from_file_location("ablation_mine", path)
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, "ablation_mine", module)
            spec.loader.exec_module(module)
            settings = ablation.Settings(ablation.find_task("digits"), 1)
            return run_module.run_key(gradchain.chain(module.ablation_halve()), settings, 0)

        assert key(0.5) == key(0.5) != key(0.25)


class TestOwn:
    """What users bring along."""

    def test_a_registered_recipe(self, monkeypatch):
        monkeypatch.setattr(recipes, "_recipes", dict(recipes._recipes))  # what is registered here goes again

        @gradchain.stateless
        def ablation_power(value, *, exponent: float = 0.5):
            return value.sign() * value.abs() ** exponent

        @gradchain.register_recipe("ablation-mine", source="this test")
        def mine(lr: float = 1e-2, exponent: float = 0.5):
            return gradchain.chain(
                gradchain.centralize(), ablation_power(exponent=exponent), gradchain.scale_by_learning_rate(lr)
            )

        study = ablation.ablate("ablation-mine", options={"exponent": 1.0}, baseline="lion", **QUICK)
        assert [row.label for row in ablation.rows(study)] == [
            "full",
            "without centralize",
            "without ablation_power",
            "lion (baseline)",
        ]
        assert study.full.arm.chain == mine(exponent=1.0)
        assert study.full.lr == 1e-2

    def test_a_chain_that_no_config_can_name(self, tmp_path):
        chain = gradchain.chain(
            gradchain.partition(
                {"a": gradchain.sign(), "b": gradchain.centralize()}, lambda name, p: "a" if p.ndim == 1 else "b"
            ),
            gradchain.scale_by_learning_rate(1e-3),
        )
        study = ablation.ablate(chain, baseline=None, out=tmp_path, **QUICK)
        assert [result.arm.label for result in study.results] == ["full", "without a/sign", "without b/centralize"]
        assert len({run.weights for result in study.results for run in result.runs}) == 6

    def test_a_task(self):
        def data() -> ablation.Part:
            inputs = torch.linspace(-1, 1, 200).reshape(100, 2)
            return ablation.Part(inputs, (inputs.sum(1) > 0).long())

        task = ablation.Task("signs", "two classes", data, lambda: nn.Linear(2, 2), epochs=30, batch_size=20)
        study = ablation.ablate("sgd", task=task, lr=1.0, seeds=2)
        assert ablation.rows(study)[0].cells["accuracy"].mean > 0.9
        assert "signs" in str(study)

    def test_a_compiled_study_is_asked_for(self, monkeypatch):
        seen: list[bool] = []
        real = maker.Optimizer

        def optimizer(model, chain, *, compile):
            seen.append(compile)
            return real(model, chain, compile=False)

        monkeypatch.setattr(maker, "Optimizer", optimizer)
        ablation.ablate("rose", compile=True, **{**QUICK, "seeds": 1})
        assert set(seen) == {True}


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"lr": 1e30}])
def test_plot_is_a_png(tmp_path, options):
    study = ablation.ablate("sgd", **{**QUICK, **options})
    path = ablation.plot(study, tmp_path / "deep" / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seeds": 0}, "seeds = 0: pass at least 1"),
        ({"epochs": 0}, "epochs = 0"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"task": "digit"}, "unknown task 'digit'. Did you mean 'digits'"),
        ({"dtype": "int8"}, "dtype = 'int8' is not one of fp32, bf16, fp64"),
        ({"baseline": "adamv"}, "unknown recipe 'adamv'. Did you mean 'radam' or 'nadam' or 'adamw'"),
        ({"options": {"centralise": False}}, "recipe 'rose' has no option 'centralise'. Did you mean 'centralize'"),
        ({"lr": -1.0}, "lr = -1.0 is outside"),
    ],
)
def test_errors(asked, message):
    with pytest.raises(gradchain.GradchainError, match=message.replace("(", r"\(")):
        ablation.ablate("rose", **asked)


def test_imports_are_light():
    """`import gradchain` needs no extras, and studies leave pyplot's global state alone."""
    code = (
        "import sys, gradchain\n"
        "extras = {'typer', 'rich', 'matplotlib', 'sklearn', 'scipy', 'gradchain.ablation', 'gradchain.cli'}\n"
        "assert not extras & set(sys.modules), extras & set(sys.modules)\n"
        "import gradchain.ablation\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["matplotlib", "rich"])
def test_a_missing_extra_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import gradchain.ablation"
    done = python(code)
    assert done.returncode == 1
    assert 'pip install "gradchain[ablate]"' in done.stderr.splitlines()[-1]


def test_a_missing_data_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "gradchain\[ablate\]"'):
        ablation.ablate("sgd", **QUICK)
