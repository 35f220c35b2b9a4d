"""Whatever the command line is given, it says in one line what is wrong, and exits with 2."""

from __future__ import annotations

import errno
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gradchain.ablation import StudyError, ablate
from gradchain.ablation.ledger import Ledger
from gradchain.cli import app
from tests.bad_values import refused

QUICK = ["--epochs", "1", "--batch-size", "512", "--seeds", "1", "--baseline", "lion", "--metric", "loss"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failed(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, (result.exit_code, result.output[:500], result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 2000
    return result.stderr


OPTIONS = [
    ("lr=" + "-" * 100_000, "lr"), ("lr=" + "(" * 100_000, "lr"), ("lr=" + "[" * 500, "lr"), ("lr=" + "9" * 5000, "lr"),
    ("lr=", "lr"), ("lr=1e999", "inf"), ("lr=nan", "'nan'"), ("lr=1j", "complex"), ("lr='0.1'", "float('0.1')"),
    ("lr=[1]", "list"), ("lr={}", "dict"), ("lr=true", "bool"), ("lr=none", "None"), ("lr=\x00", "lr"),
    ("lr=-1", "[0, inf)"), ("x" * 100_000 + "=1", "no option"),
    ("=1", "key=value"), ("lr", "key=value"), ("x" * 100_000, "key=value"), ("", "key=value"), ("lrr=1", "'lr'"),
    ("betas=1", "betas"), ("betas=1,2,3", "betas"), ("betas=a,b", "betas"), ("eps=\udcff", "eps"),
]  # fmt: skip


@pytest.mark.parametrize("command", ["show", "ablate", "check"])
@pytest.mark.parametrize(("option", "word"), OPTIONS, ids=[ascii(option)[:16] for option, _ in OPTIONS])
def test_a_bad_option_is_one_line(command: str, option: str, word: str) -> None:
    error = failed(command, "adamw", "-o", option)
    assert error.startswith("gradchain: ")
    assert error.count("\n") == 1
    assert word in error


RECIPES = [
    "",
    "rsoe",
    "x" * 100_000,
    "absent.toml",
    "folder.toml",
    "binary.json",
    "empty.json",
    "x" * 5000 + ".toml",
    "a\nb",
]


@pytest.mark.parametrize("command", ["show", "ablate", "check"])
@pytest.mark.parametrize("recipe", RECIPES, ids=[ascii(recipe)[:16] for recipe in RECIPES])
def test_a_bad_recipe_is_one_line(command: str, recipe: str) -> None:
    Path("folder.toml").mkdir()
    Path("binary.json").write_bytes(b"\xff\xfe")
    Path("empty.json").write_bytes(b"")
    error = failed(command, recipe)
    assert error.startswith("gradchain: ")
    assert error.count("\n") == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything can be read")
def test_a_file_that_cannot_be_read_is_named() -> None:
    Path("mine.toml").write_text("")
    Path("mine.toml").chmod(0)
    assert "mine.toml cannot be read" in failed("show", "mine.toml")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--lr", "nan"], "lr = nan"),
        (["--lr", "abc"], "'--lr'"),
        (["--seeds", "-1"], "seeds = -1"),
        (["--seeds", "1" + "0" * 100], "seeds"),
        (["--seeds", "1.5"], "'--seeds'"),
        (["--tune-range", ""], "--tune-range"),
        (["--tune", "2", "--tune-range", "2,nan"], "tune_range"),
        (["--metric", ""], "metric"),
        (["--sweep", "lr"], "--sweep"),
        (["--edit", "+"], "edit"),
        (["--orders", "x"], "x"),
        (["--factorial", "a,b"], "a"),
        (["--resolution", "4"], "--factorial"),
        (["--edit", "lr = 1", "--sweep", "lr=1|2"], "exclude each other"),
        (["--epochs", ""], "--epochs"),
        (["--batch-size", "0"], "batch_size = 0"),
        (["--dtype", "fp8"], "'fp8'"),
        (["--task", ""], "task"),
        (["--task", "x" * 100_000], "unknown task"),
        (["--baseline", "absent.toml"], "absent.toml"),
        (["--baseline", ""], "recipe ''"),
        (["--out", "taken"], "taken"),
        (["--out", "x" * 5000], "results"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_bad_study_is_explained(arguments: list[str], word: str) -> None:
    Path("taken").write_text("a file")
    assert word in failed("ablate", "sgd", *QUICK, *arguments)


STUDIES: dict[str, list[Any]] = {
    "recipe": [None, 3, []], "task": [3, ["digits"]], "train": [3, "x"], "metric": [3, [3], ["x"]],
    "seeds": [1.5, "3", True, 10**400], "epochs": [0, 1.5, "3", True], "batch_size": [0, 1.5, "3", True],
    "lr": ["x", -1, True, [0.1]], "tune": [-1, 1, 1.5, True], "jobs": [0, "2"], "up_to": [0, "9", 1], "margin": [0, "1"],
    "baseline": [3, []], "options": [3, "x", {3: 4}], "dtype": [3, ["fp32"]], "compile": [3, "yes", None],
    "out": [3, b"x", "a\0b"], "fresh": [3, None], "watch": [3],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in STUDIES.items() for value in values])
def test_ablate_refuses_what_it_cannot_run(name: str, value: Any) -> None:
    options: dict[str, Any] = {
        "recipe": "sgd",
        "epochs": 1,
        "seeds": 1,
        "batch_size": 512,
        "baseline": "lion",
        "metric": "loss",
        name: value,
    }
    refused(lambda: ablate(options.pop("recipe"), **options), ValueError, [name.rstrip("s") if name != "out" else ""])


# The folder of results.


@functools.cache
def lines() -> str:
    result = CliRunner().invoke(app, ["ablate", "sgd", *QUICK, "--out", "there"])
    assert result.exit_code == 0, result.output
    return Path("there/results.jsonl").read_text()


def results() -> Path:
    path = Path("here/results.jsonl")
    path.parent.mkdir()
    path.write_text(lines())
    return path


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("seed", "0"), ("seed", -1), ("metrics", [1]), ("metrics", {"loss": "low"}), ("steps", 1.5), ("step_seconds", "1"),
        ("seconds", None), ("curves", [1]), ("curves", {"loss": [[1]]}), ("curves", {"loss": [[1, "x"]]}), ("advice", "x"),
        ("settings", []), ("key", 3), ("diverged", 0), ("failed", 1), ("change", "x"), ("weights", None),
        ("state_bytes", -1), ("more", 1), ("arm", None),
    ],
)  # fmt: skip
def test_a_result_of_the_wrong_type_is_named(entry: str, value: Any) -> None:
    path = results()
    first, second = path.read_text().splitlines()[:2]
    path.write_text("\n".join([first, json.dumps({**json.loads(second), entry: value})]) + "\n")
    assert f"line 2 of {path}" in failed("ablate", "sgd", *QUICK, "--out", "here")


@pytest.mark.parametrize(
    "line", ["3", "null", "[]", "{}", '"x"', "[" * 100_000, "{", "\x00", '{"key": NaN}'], ids=lambda v: v[:6]
)
def test_a_line_that_is_no_result_is_named(line: str) -> None:
    path = results()
    path.write_text(path.read_text() + line + "\n")
    assert f"of {path}" in failed("ablate", "sgd", *QUICK, "--out", "here")


def test_a_folder_in_the_place_of_results_is_named() -> None:
    Path("here/results.jsonl").mkdir(parents=True)
    assert "here/results.jsonl" in failed("ablate", "sgd", *QUICK, "--out", "here")


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gradchain.ablation.ledger.os.fsync", full)
    error = failed("ablate", "sgd", *QUICK, "--out", "here")
    assert "here/results.jsonl" in error
    assert os.strerror(errno.ENOSPC) in error
    monkeypatch.undo()


def test_a_plot_that_cannot_be_written_is_named() -> None:
    Path("here/ablation.png").mkdir(parents=True)
    assert "here/ablation.png" in failed("ablate", "sgd", *QUICK, "--out", "here")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["list"], ["show", "adamw", "--toml"]], ids=str)
def test_a_full_output_is_one_line(arguments: list[str]) -> None:
    import subprocess
    import sys

    with open("/dev/full", "w") as full:
        code = "import sys; from gradchain.cli import app; app()"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert "Traceback" not in done.stderr
    assert os.strerror(errno.ENOSPC) in done.stderr


def test_a_ledger_takes_no_other_path() -> None:
    refused(lambda: Ledger(Path("a\0b/results.jsonl")), StudyError, ["cannot be used"])
