"""The kit itself: reports, what it refuses, the pytest plugin, and that nothing of it stays behind."""

from __future__ import annotations

import pickle
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import gradchain
from gradchain.cli import app
from gradchain.errors import ChainError, OptionError, UnknownNameError
from gradchain.testing import (
    ConformanceError,
    Report,
    Row,
    check_optimizer,
    check_transform,
    optimizer_laws,
    transform_laws,
)
from gradchain.testing.checks import laws_of_transforms
from gradchain.testing.law import OF_OPTIMIZERS
from gradchain.testing.new_transform import write_transform
from tests.testing.broken_optimizers import DecayIntoGradient, Sound
from tests.testing.broken_transforms import kit_sums_by_hand

ROOT = Path(__file__).parents[2]

test_items_of_an_optimizer = optimizer_laws(Sound, only=["resume", "gradients_unwritten", "compiled"], skip=["resume"])
test_items_of_a_transform = transform_laws(gradchain.sign(), only=["purity", "errors", "resume"])


@pytest.mark.parametrize("laws", [OF_OPTIMIZERS, laws_of_transforms()], ids=["optimizers", "transforms"])
def test_every_law_says_what_is_lost_and_how_to_mend_it(laws: Any) -> None:
    for law in laws.values():
        assert re.fullmatch(r"[A-Z].*[.]", law.lost), law.name
        assert re.fullmatch(r".*[.]", law.fix), law.name


def test_a_report_is_a_value() -> None:
    report = check_optimizer(
        DecayIntoGradient, only=["gradients_unwritten", "closure", "sharded"], skip=["closure"], strict=False
    )
    assert {row.status for row in report.rows} == {"broken", "skipped", "not applicable"}
    assert report.failed == ("gradients_unwritten",)
    assert not report.ok
    assert report["closure"].status == "skipped"
    assert report["sharded"].why == "what happens to shards can be told in one process of gradchain's optimizers only"
    assert "gradients_unwritten  broken" in str(report)
    assert str(report).endswith("DecayIntoGradient: 1 broken, 1 not applicable, 1 skipped")
    assert pickle.loads(pickle.dumps(report)) == report == eval(repr(report), {"Report": Report, "Row": Row})
    with pytest.raises(UnknownNameError, match="has no law 'resume'"):
        report["resume"]


def test_the_error_survives_another_process() -> None:
    """As pytest-xdist sends it."""
    with pytest.raises(ConformanceError) as caught:
        check_transform(kit_sums_by_hand, only=["sharded"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.report) == (str(caught.value), caught.value.report)
    assert isinstance(again, gradchain.GradchainError)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: check_optimizer(Sound, skip=["resum"]), UnknownNameError, "skip: there is no law 'resum'. Did you mean"),
        (lambda: check_optimizer(Sound, only=["closures"]), UnknownNameError, "only: there is no law 'closures'"),
        (lambda: check_optimizer(Sound, skip="resume"), UnknownNameError, "pass the names of laws in a tuple: ('resume',)"),
        (lambda: optimizer_laws(Sound, skip=["resum"]), UnknownNameError, "Did you mean 'resume'"),
        (lambda: check_optimizer(3), OptionError, "factory = 3 cannot be called"),  # type: ignore[arg-type]
        (lambda: check_transform(Sound), OptionError, "cannot be made without arguments"),
        (lambda: check_transform(lambda: 3), OptionError, "3 is no transform; pass a stage"),
        (lambda: check_transform(gradchain.multiply), OptionError, "Pass an instance."),
        (
            lambda: check_transform(gradchain.nesterov(), before=[gradchain.sign()]),
            ChainError,
            "Put first_moment(...)",
        ),
    ],
)  # fmt: skip
def test_what_it_refuses(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)


class kit_needs_much(gradchain.Stage):
    reads = (gradchain.earlier("exp_avg"), gradchain.earlier("no_such_slot"))


def test_a_stage_that_fits_nowhere_is_told_what_to_pass() -> None:
    with pytest.raises(
        ChainError, match=r"kit_needs_much fits none of \d+ small chains.*before=\[...\], after=\[...\]"
    ):
        check_transform(kit_needs_much)


def test_a_factory_of_something_else() -> None:
    report = check_optimizer(lambda params: params, strict=False)
    assert report.failed == ("runs",)
    assert "which is no torch.optim.Optimizer" in report["runs"].why
    assert {row.why for row in report.rows if row.law != "runs"} == {"it cannot be run; see the law runs"}


def test_nothing_stays_behind() -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.random.get_rng_state(), random.getstate(), torch.get_default_dtype(), torch.get_num_threads()
    check_optimizer(Sound, skip=["compiled_outside"])
    after = torch.random.get_rng_state(), random.getstate(), torch.get_default_dtype(), torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


TESTS = """
from gradchain.testing import optimizer_laws, transform_laws
import gradchain, torch

test_adamw = optimizer_laws(torch.optim.AdamW, only=["resume", "bad_rates", "compiled"])
test_sign = transform_laws(gradchain.sign(), only=["purity", "errors"])

def test_of_mine():
    pass
"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin in a folder, as a user does."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:gradchain",  # as installed it has this name, which is not yet so in a checkout that was installed before
        "-p",
        "pytest_gradchain",
        "-p",
        "no:cacheprovider",
        "-q",
        "--strict-markers",
    ]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *options], capture_output=True, text=True, env=env, cwd=folder, timeout=300)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_plugin_and_a_new_transform(workers: int, tmp_path: Path) -> None:
    """The plugin marks items and counts laws; what `gradchain new-transform` writes passes its own tests."""
    (tmp_path / "test_some.py").write_text(TESTS)
    result = CliRunner().invoke(app, ["new-transform", "my_average", "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    done = run_pytest(tmp_path, "-n", str(workers), "-rs", "-k", "not test_laws or not (compiled or options_act)")
    text = done.stdout
    assert done.returncode == 1, text + done.stderr
    assert re.search(r"1 failed, 5\d passed, \d skipped", text), text  # 51 laws hold, and two tests of their own
    assert re.search(r"^5\d hold, 2 do not apply, 1 broken$", text, flags=re.M), text
    assert "broken: test_some.py::test_adamw[bad_rates]" in text
    assert "AdamW breaks 1 law." in text
    assert "a group with lr = -1.0 is accepted" in text
    assert "it has no fields with a range or choices" in text
    assert "items.py" not in text.split("FAILURES")[1].split("laws of gradchain")[0], "its own lines are hidden"


@pytest.mark.slow
def test_all_that_a_new_transform_is_passes(tmp_path: Path) -> None:
    write_transform("my_other_average", tmp_path)
    done = run_pytest(tmp_path, "-m", "gradchain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 deselected" in done.stdout, "the test of the equation is not a law"


def test_the_plugin_imports_neither_torch_nor_gradchain() -> None:
    code = "import pytest_gradchain, sys; assert not {'torch', 'gradchain'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
