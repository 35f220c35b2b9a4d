"""The command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gradchain
from gradchain.ablation import execution
from gradchain.cli import app
from tests.processes import python

QUICK = ["--epochs", "1", "--batch-size", "128", "--seeds", "2"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments: str):
    return CliRunner().invoke(app, arguments)


def succeed(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def words(text: str) -> str:
    return " ".join(text.split())


def test_list_names_everything():
    text = succeed("list")
    assert all(f"\n{name} " in f"\n{text}" for name in gradchain.recipes())
    assert re.search(r"cv_trust_gate +Pull the pending scales towards their mean", text)
    assert "arXiv:2407.05872" in text


@pytest.mark.parametrize("name", gradchain.recipes())
def test_show_toml_reads_back(name, tmp_path):
    for kind in ("toml", "json"):
        path = tmp_path / f"chain.{kind}"
        path.write_text(succeed("show", name, f"--{kind}"))
        assert gradchain.Chain.from_config(path) == gradchain.recipe(name)
        assert succeed("show", str(path), f"--{kind}") == path.read_text()


def test_show_has_stages_and_sources():
    text = succeed("show", "adams")
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "bias_correction=False, beta=0.9" in lines["first_moment"]
    assert "exp_avg " in lines["first_moment"]
    assert "beta=0.9 [betas[0]]" in succeed("show", "adamw")
    assert "arXiv:1710.03740" in lines["master_weights"]
    assert "Source: Adams 0.0.1, pypi.org/project/adams-torch" in text


def test_show_needs_no_config(monkeypatch):
    mine = types.ModuleType("cli_mine")
    branches = {"wide": gradchain.sign(), "flat": gradchain.first_moment(0.9)}
    by_rank = gradchain.partition(branches, lambda name, param: "wide" if param.ndim > 1 else "flat")
    mine.built = gradchain.chain(by_rank, gradchain.scale_by_learning_rate(0.1))
    monkeypatch.setitem(sys.modules, "cli_mine", mine)
    assert "wide/sign" in succeed("show", "cli_mine:built")
    assert call("show", "cli_mine:built", "--toml").exit_code == 2  # there its label function needs a name


def test_show_takes_options():
    made = succeed("show", "adamw", "--toml", "-o", "betas=0.8,0.95", "--option", "weight-decay=0")
    Path("chain.toml").write_text(made)
    assert gradchain.Chain.from_config("chain.toml") == gradchain.recipe("adamw", betas=(0.8, 0.95), weight_decay=0)
    assert "centralize" not in succeed("show", "rose", "-o", "centralize=false")
    assert "dtype=fp32" in succeed("show", "rose", "-o", "compute_dtype=fp32")
    assert "decoupled_decay" not in succeed("show", "rose", "-o", "weight_decay=none")


def test_ablate_writes_table_plot_and_results():
    text = succeed("ablate", "rose", *QUICK)
    assert "Ablation of rose on digits" in text
    assert "8 arms with 2 seeds each, 1 epoch" in words(text)
    assert "cv_trust_gate and divide depend on it and are removed together with it" in words(text)
    assert "not ablated: scale_by_learning_rate, it is the step size itself." in text
    folder = Path("runs/rose-digits")
    assert f"Results: {folder / 'results.jsonl'}\n" in text
    assert f"Plot:    {folder / 'ablation.png'}\n" in text
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    runs = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(runs) == len({run["key"] for run in runs}) == 16
    again = succeed("ablate", "rose", *QUICK)
    assert "16 had been there already" in again
    assert again.replace(" (of these runs, 16 had been there already)", "") == text


def test_ablate_a_file_and_tune():
    Path("mine.toml").write_text(succeed("show", "sgd", "--toml", "-o", "momentum=0.9"))
    arguments = ["mine.toml", "--tune", "3", "--tune-range", "0.2,20", "--baseline", "none", "--out", "here"]
    text = words(succeed("ablate", *arguments, *QUICK))
    assert "Ablation of mine on digits" in text
    assert "3 trials" in text
    assert "baseline" not in text
    assert len(Path("here/results.jsonl").read_text().splitlines()) == 3 * (3 + 2)


def test_ablate_a_training_of_mine(monkeypatch):
    Path("cli_training.py").write_text(
        "import torch\n\n\ndef fit(make_optimizer, trial):\n    model = torch.nn.Linear(2, 1)\n"
        "    optimizer = make_optimizer(model)\n    for step in range(5):\n        optimizer.zero_grad()\n"
        "        loss = (model(torch.ones(4, 2)) - trial.seed).square().mean()\n        loss.backward()\n"
        "        optimizer.step()\n        trial.report(step, loss=loss)\n    return {'loss': loss, 'bias': model.bias}\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    asked = [
        "ablate",
        "adamw",
        "--train",
        "cli_training:fit",
        "--seeds",
        "2",
        "--metric",
        "loss:min",
        "--metric",
        "bias:max",
    ]
    text = words(succeed(*asked))
    assert "Ablation of adamw on fit" in text
    assert Path("runs/adamw-fit/report.html").exists()
    assert "--seeds" in succeed(*asked, "--plan", "0.5")


def test_an_interrupt_keeps_what_is_done(monkeypatch):
    real = execution.train
    calls: list[str] = []

    def train(chain, settings, seed, arm, *others):
        calls.append(arm)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(chain, settings, seed, arm, *others)

    monkeypatch.setattr(execution, "train", train)
    result = call("ablate", "sgd", *QUICK)
    assert result.exit_code == 130
    assert "gradchain: interrupted; finished runs are kept, and the same command resumes." in result.stderr
    assert "of these runs, 2 had been there already" in succeed("ablate", "sgd", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "rsoe"], "unknown recipe 'rsoe'. Did you mean 'rose' or 'soap' or 'lars'?"),
        (["show", "rose", "--toml", "--json"], "--toml and --json exclude each other; pass one."),
        (["show", "rose", "-o", "centralise=false"], "has no option 'centralise'. Did you mean 'centralize'"),
        (["show", "rose", "-o", "centralize"], "--option 'centralize' is not of the form key=value."),
        (["show", "rose", "-o", "weight_decay=-1"], "decoupled_decay.weight_decay = -1 is outside [0, inf)."),
        (["show", "gyro-adam", "-o", "betas=0.9"], "recipe 'gyro-adam': betas = 0.9: pass a tuple of 2 numbers."),
        (["show", "absent.toml"], "absent.toml cannot be read"),
        (["ablate", "rsoe"], "unknown recipe 'rsoe'. Did you mean 'rose' or 'soap' or 'lars'?"),
        (["ablate", "rose", "--task", "dogits"], "unknown task 'dogits'."),
        (["ablate", "rose", "--seeds", "0"], "seeds = 0: pass at least 1."),
        (["ablate", "rose", "--epochs", "0"], "epochs = 0: pass at least 1."),
        (["ablate", "rose", "--lr", "-1"], "lr = -1.0 is outside"),
        (["ablate", "rose", "--baseline", "adan"], "unknown recipe 'adan'."),
        (["ablate", "rose", "--tune-range", "1,two"], "--tune-range '1,two' is not a list of numbers"),
        (["ablate", "rose", "--out", "taken"], "taken/results.jsonl: cannot be used for results"),
        (["ablate", "broken.toml"], "broken.toml is not valid TOML"),
    ],
)
def test_errors_are_one_line(arguments, message):
    Path("taken").write_text("a file")
    Path("broken.toml").write_text("= 1")
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("gradchain: ")
    assert result.stderr.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("missing", ["typer", "rich.console"])
def test_a_missing_extra_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import gradchain.cli"
    done = python(code)
    assert done.returncode == 1
    assert 'pip install "gradchain[cli]"' in done.stderr
    assert "Traceback" not in done.stderr


# Code of a user's.


MINE = """
import gradchain
from gradchain import chain, scale_by_learning_rate, sign
from gradchain.ablation import find_task

@gradchain.register_recipe("mine-{number}", source="here")
def mine(lr: float = 0.1):
    "My own."
    return chain(sign(), scale_by_learning_rate(lr))

built = chain(scale_by_learning_rate(0.5))
number = 3
digits = find_task("digits")
"""


@pytest.fixture
def module(tmp_path: Path, own_recipes: None) -> str:
    """A module of a user's in the current folder, under a name that no other test imports."""
    name = f"my_code_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MINE.replace("{number}", name), encoding="utf-8")
    return name


def test_it_imports_what_a_user_registers(module: str) -> None:
    assert f"mine-{module}" in succeed("--import", module, "list")
    assert "sign" in succeed("--import", module, "show", f"mine-{module}", "-o", "lr=0.3")


@pytest.mark.slow
def test_a_recipe_or_a_chain_may_be_named_by_its_place(module: str) -> None:
    assert "0.3" in succeed("show", f"{module}:mine", "-o", "lr=0.3")
    assert "0.7" in succeed("show", f"{module}:built", "-o", "lr=0.7")
    assert succeed("check", f"{module}:built")
    out = succeed("ablate", f"{module}:mine", "--task", f"{module}:digits", "--baseline", "none", *QUICK)
    assert "runs/mine-" in words(out).replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--import", "no_such_module", "list"], "there is no module 'no_such_module'"),
        (["--import", "broken", "list"], "importing broken raised ZeroDivisionError"),
        (["--import", "needs", "list"], "needs the module absent_module"),
        (["show", "no_such_module:chain"], "there is no module 'no_such_module'"),
        (["show", "good:chian"], "Did you mean 'chain'"),
        (["show", "good:number"], "name a chain, or a function that returns one"),
        (["show", "good:text"], "returned a str"),
        (["show", "good:made", "-o", "rate=1"], "cannot be built"),
        (["ablate", "adamw", "--task", "good:number"], "name a gradchain.ablation.Task"),
    ],
    ids=str,
)
def test_places_that_are_wrong(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "needs.py").write_text("import absent_module", encoding="utf-8")
    good = "from gradchain import chain\nnumber = 3\ntext = lambda: 'x'\ndef made(lr=1.0): return chain()\n"
    (tmp_path / "good.py").write_text(good, encoding="utf-8")
    for name in ("broken", "needs", "good"):
        sys.modules.pop(name, None)
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in words(result.output)


def test_entry_points_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "theirs", "their.module:recipe"

        def load(self) -> None:
            raise ImportError("no such thing")

    from gradchain._chain import named

    monkeypatch.setattr(named, "entry_points", lambda group: [Point()] if group == "gradchain.recipes" else [])
    result = call("list")
    assert result.exit_code == 2
    assert "entry point theirs = their.module:recipe of gradchain.recipes cannot be loaded" in words(result.output)


def test_version_and_json_and_the_module() -> None:
    assert succeed("--version").strip() == gradchain.__version__
    listed = json.loads(succeed("list", "--json"))
    assert listed["recipes"].keys() == {*gradchain.recipes()}
    assert listed["recipes"]["rose"]["source"]
    assert listed["transforms"]["divide"]["summary"].startswith("Divide")
    ran = subprocess.run([sys.executable, "-m", "gradchain", "--version"], capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == gradchain.__version__
