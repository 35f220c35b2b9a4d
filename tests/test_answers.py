"""What the command line answers without torch is what it answers with it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from typer.testing import CliRunner

from gradchain._chain import recipes, registry
from gradchain.cli import app
from gradchain_command import answers as command
from tests import answers

QUESTIONS = (
    ("--version",),
    ("list",),
    ("list", "--json"),
    *(("show", name, *flags) for name in ("rose", "adams") for flags in ((), ("--toml",), ("--json",))),
    ("show", "--json", "adamw"),
)
NOT_KNOWN = (
    (),
    ("--help",),
    ("list", "rose"),
    ("list", "--toml"),
    ("--json", "list"),
    ("--json", "show", "rose"),
    ("show",),
    ("show", "rose", "adams"),
    ("show", "rose", "--toml", "--json"),
    ("show", "rose", "--toml", "--toml"),
    ("show", "rose", "-o", "trust=False"),
    ("show", "rose", "--option=trust=False"),
    ("show", "./rose"),
    ("show", "rsoe"),
    ("--import", "mine", "show", "rose"),
    ("check", "rose"),
    ("show", "rose", "--help"),
)


@pytest.fixture(autouse=True)
def ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests of this process registered is not there."""
    stages = {name: stage for name, stage in registry._stages.items() if stage.__module__.startswith("gradchain.")}
    known = {name: each for name, each in recipes._recipes.items() if each.build.__module__.startswith("gradchain.")}
    monkeypatch.setattr(registry, "_stages", stages)
    monkeypatch.setattr(recipes, "_recipes", known)


def test_what_is_written_is_what_is_true() -> None:
    assert json.loads(command.ANSWERS.read_text(encoding="utf-8")) == json.loads(answers.written()), answers.WRITE


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_an_answer_is_the_same_either_way(question: tuple[str, ...], capsys: Any) -> None:
    assert command.answer(question)
    quick = capsys.readouterr().out
    assert quick == CliRunner().invoke(app, question).stdout
    assert quick.strip()


@pytest.mark.parametrize("question", NOT_KNOWN, ids=" ".join)
def test_what_is_not_known_is_left_to_others(question: tuple[str, ...], capsys: Any) -> None:
    assert not command.answer(question)
    assert capsys.readouterr().out == ""


def test_nothing_is_answered_for_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.answer(["show", "rose"])
    monkeypatch.setattr(command, "sources", lambda: "those after an edit")
    assert not command.answer(["show", "rose"])
    assert not command.answer(["list"])


def test_where_a_package_adds_recipes_all_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    more = EntryPoint("mine", "mine:recipe", "gradchain.recipes")
    monkeypatch.setattr(command, "entry_points", lambda group: [more] if group == more.group else [])
    assert not command.answer(["list"])


@pytest.mark.parametrize("question", [("--version",), ("list",), ("show", "rose")], ids=" ".join)
def test_torch_is_not_imported(question: tuple[str, ...]) -> None:
    code = "import sys; sys.modules['torch'] = None; from gradchain_command.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *question], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "question", [("show", "rsoe"), ("show", "rose", "--option", "clamp=False", "--json")], ids=" ".join
)
def test_the_rest_is_answered_as_ever(question: tuple[str, ...]) -> None:
    run = [[sys.executable, "-m", module, *question] for module in ("gradchain_command", "gradchain")]
    one, other = (subprocess.run(each, capture_output=True, text=True, check=False) for each in run)
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
