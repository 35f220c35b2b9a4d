"""`gradchain warm`: what is compiled ahead is there for the training that follows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gradchain.cli import app
from tests.compilers import compile_by

pytestmark = pytest.mark.usefixtures("traced")

MODULE = """
    import torch

    def small():
        return torch.nn.Sequential(torch.nn.Linear(320, 320), torch.nn.Linear(320, 2, bias=False))

    def names():
        return list(small().named_parameters())

    def broken():
        raise ValueError("no such width")

    def text():
        return "a model"

    number = 3
    """


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "warm_models.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "warm_models"


def warm(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["warm", *arguments])


@pytest.mark.parametrize("factory", ["small", "names"])
def test_it_tells_what_was_compiled(models: str, factory: str) -> None:
    result = warm("adamw", "--model", f"{models}:{factory}", "-o", "weight_decay=0.1")
    assert result.exit_code == 0, result.output
    assert "any shape     float32" in result.stdout
    assert "320, 2 x 320" in result.stdout
    assert result.stdout.splitlines()[-1].endswith(" s")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("warm_models", "--model 'warm_models' is not of the form module:factory"),
        ("warm_models:smal", "warm_models has no 'smal'. Did you mean 'small'"),
        ("warm_models:number", "--model warm_models:number is int; name a function that returns a model."),
        ("warm_models:broken", "warm_models:broken() raised ValueError: no such width"),
        ("warm_models:text", "gradchain: "),
    ],
)
@pytest.mark.usefixtures("models")
def test_a_model_that_is_none_is_one_line(place: str, told: str) -> None:
    result = warm("adamw", "--model", place)
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_cannot_be_compiled_is_a_failure(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no such fusion")

    compile_by(monkeypatch, fail)
    with pytest.warns(UserWarning, match="no such fusion"):
        result = warm("adamw", "--model", f"{models}:small")
    assert result.exit_code == 1
    assert "no such fusion" in result.stdout


TRAINING = """
    import sys, torch, gradchain, warm_models
    model = warm_models.small()
    optimizer = gradchain.optimizer("adamw", model, compile=True)
    for _ in range(3):
        model(torch.ones(4, 320)).sum().backward()
        optimizer.step()
    print(optimizer.compile_report().kernels, "torch._inductor.compile_fx" in sys.modules)
    """


@pytest.mark.slow
def test_a_second_process_finds_its_kernels(models: str, tmp_path: Path) -> None:
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert run("-c", textwrap.dedent(TRAINING)).split() == ["2", "True"]
    shutil.rmtree(tmp_path / "cache")
    run("-m", "gradchain", "warm", "adamw", "--model", f"{models}:small")
    assert run("-c", textwrap.dedent(TRAINING)).split() == ["2", "False"]
