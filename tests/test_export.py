"""An exported file steps as its chain does, needs torch alone, goes on from a saved state, and reads well."""

from __future__ import annotations

import ast
import builtins
import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import ChainError, OptionError, UnknownNameError
from gradchain._export.verify import distance

FAST = ("adam-atan2", "adamw", "adv-adamw", "adv-lion", "adv-signsgd", "gyro-sgd", "lion", "sgd")
SHAPES = ((), (1,), (11,), (5, 7), (9, 1), (1, 6), (34, 12), (3, 2, 5), (4, 3, 2, 2))


def clip(chain: gradchain.Chain) -> gradchain.Chain:
    return chain.insert_before("first_moment", gradchain.clip_by_global_norm(1.0))


OPTIONS: dict[str, tuple[Callable[[], gradchain.Chain], bool]] = {
    "nesterov": (lambda: gradchain.recipe("sgd", momentum=0.9, nesterov=True, weight_decay=0.1), True),
    "dampening": (lambda: gradchain.recipe("sgd", momentum=0.9, dampening=0.1), True),
    "all parameters": (lambda: clip(gradchain.recipe("adamw")), True),
    "packed signs": (lambda: gradchain.recipe("adv-lion", freeze_on_flip=True), False),
    "noise": (lambda: gradchain.recipe("adv-lion", stochastic_sign=True), False),
    "kappa": (lambda: gradchain.recipe("adv-lion", kappa_p=1.5, cautious=True, cautious_wd=True), True),
    "anchor": (lambda: gradchain.recipe("adv-adamw", centered_wd=0.1, centered_wd_mode="full"), True),
    "float8 anchor": (lambda: gradchain.recipe("adv-adamw", centered_wd=0.1), True),
    "growing alpha": (lambda: gradchain.recipe("adv-adamw", ademamix=True, t_alpha=100.0), False),
    "eps of the size": (lambda: gradchain.recipe("adv-adamw", eps=None), True),
    "bf16 state": (lambda: gradchain.recipe("adv-adamw", state_precision="bf16_sr"), False),
    "fp16 state": (lambda: gradchain.recipe("adv-adamw", state_precision="fp16"), False),
    "int8 state": (lambda: gradchain.recipe("adv-adamw", state_precision="int8_sr"), False),
    "layers": (lambda: gradchain.recipe("adv-adamw", kourkoutas_beta=True, k_warmup_steps=3), False),
    "iterative": (lambda: gradchain.recipe("adv-adamw", orthogonal_gradient="iterative"), False),
    "rows and columns": (
        lambda: gradchain.recipe(
            "adv-sinksgd", momentum=0.9, normed_momentum=True, snr_cond=True, geometric_wd=True, weight_decay=0.1
        ),
        False,
    ),
    "warmup": (lambda: gradchain.recipe("gyro-adam", warmup_steps=2), False),
    "schedule": (lambda: gradchain.recipe("rose", wd_schedule=True), False),
    "shared numbers": (lambda: gradchain.recipe("adv-prodigy", d_limiter=True, prodigy_steps=5, beta3=0.99), False),
}
"""Chains that are more than a recipe, and whether they are quick to export."""


def marked(name: str, fast: bool) -> Any:
    return pytest.param(name, marks=() if fast else pytest.mark.slow)


SEEN_ELSEWHERE = ("schedule-free-adamw", "schedule-free-sgd")
BY_NAME = ("apollo", "galore-adamw", "muon", "normuon", "scion", "shampoo", "soap")
"""Recipes that know hidden matrices by their names."""
REFUSED = (*SEEN_ELSEWHERE, *BY_NAME)
RECIPES = [marked(name, name in FAST) for name in gradchain.recipes() if name not in REFUSED]


def load(text: str, monkeypatch: pytest.MonkeyPatch | None = None) -> dict[str, Any]:
    """Run a file where gradchain cannot be imported."""
    real = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "gradchain":
            raise ImportError("the file imports gradchain")
        return real(name, *args, **kwargs)

    space: dict[str, Any] = {"__name__": "exported"}
    builtins.__import__ = blocked
    try:
        exec(compile(text, "exported.py", "exec"), space)
    finally:
        builtins.__import__ = real
    return space


def made(text: str) -> Any:
    """The class in a file."""
    space = load(text)
    return next(x for x in space.values() if isinstance(x, type) and issubclass(x, torch.optim.Optimizer))


def parameters(seed: int = 1, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def advance(optimizer: Any, params: list[nn.Parameter], steps: range) -> None:
    """Some steps with gradients, learning rates and decays that depend on the number of the step alone."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for place, param in enumerate(params):
            gradient = torch.randn(param.shape, generator=generator).to(param.dtype)
            param.grad = None if place == step % 7 and step else gradient * (0.1 + step % 3)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 + step % 4)
            if "weight_decay" in group:
                group["weight_decay"] = 0.01 * (step % 3)
        optimizer.step()


def reference(chain: gradchain.Chain, params: list[nn.Parameter]) -> gradchain.Optimizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gradchain.Optimizer(params, chain, compile=False)


def check(chain: gradchain.Chain, text: str, dtype: torch.dtype = torch.float32) -> float:
    """Step both side by side, resume the exported one, and give it the state of the chain; returns the distance."""
    kind = made(text)
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    one, other = reference(chain, ours), kind(theirs)
    advance(one, ours, range(8))
    advance(other, theirs, range(8))

    resumed = [nn.Parameter(param.detach().clone()) for param in theirs]
    again = kind(resumed)
    again.load_state_dict(copy.deepcopy(other.state_dict()))
    moved = [nn.Parameter(param.detach().clone()) for param in ours]
    taken = kind(moved)
    taken.load_state_dict(copy.deepcopy(one.state_dict()))

    for optimizer, params in ((one, ours), (other, theirs), (again, resumed), (taken, moved)):
        advance(optimizer, params, range(8, 14))
    for a, b in zip(theirs, resumed):
        assert torch.equal(a, b), "after a resume"
        assert all(torch.equal(other.state[a][key], again.state[b][key]) for key in other.state[a])
    worst = 0.0
    for a, b, c in zip(ours, theirs, moved):
        assert one.state[a].keys() == other.state[b].keys()
        worst = max(worst, distance(a, b), distance(a, c))
        worst = max([worst, *(distance(one.state[a][key], other.state[b][key]) for key in one.state[a])])
    return worst


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_steps_as_its_chain(name: str) -> None:
    text = gradchain.export(name)
    assert check(gradchain.recipe(name), text) <= 2
    assert "import gradchain" not in text
    ast.parse(text, feature_version=(3, 10))


@pytest.mark.parametrize("name", [marked(name, fast) for name, (_, fast) in OPTIONS.items()])
def test_so_do_chains_with_options(name: str) -> None:
    chain = OPTIONS[name][0]()
    assert check(chain, gradchain.export(chain)) <= 2


@pytest.mark.parametrize("name", [marked("adamw", True), marked("rose", False), marked("adams", False)])
@pytest.mark.parametrize("dtype", ["fp64", "bf16"])
def test_other_dtypes(name: str, dtype: str) -> None:
    from gradchain._core.fields import DTYPES

    text = gradchain.export(name, dtypes=("fp32", dtype))
    for each in ("fp32", dtype):
        assert check(gradchain.recipe(name), text, DTYPES[each]) <= 2


def test_it_runs_without_gradchain(tmp_path: Path) -> None:
    """In a process that cannot import it."""
    (tmp_path / "mine.py").write_text(gradchain.export("adamw", name="Mine"))
    script = """
import sys
sys.modules["gradchain"] = None
import torch, mine
weight = torch.nn.Parameter(torch.ones(3, 2))
optimizer = mine.Mine([weight], lr=0.1)
loss = optimizer.step(lambda: weight.square().sum().backward() or 7.0)
print(loss, weight.detach().max().item() < 1)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout.split()) == (0, ["7.0", "True"]), run.stderr


def test_groups_and_ranges() -> None:
    kind = made(gradchain.export("adamw", lr=0.5))
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = kind([{"params": [a]}, {"params": [b], "lr": 0.0, "weight_decay": 0.0}])
    assert optimizer.defaults["lr"] == 0.5
    a.grad = b.grad = torch.ones(2)
    optimizer.step()
    assert not torch.equal(a, torch.ones(2))
    assert torch.equal(b, torch.ones(2))
    for wrong in ({"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": float("nan")}):
        with pytest.raises(ValueError, match="is outside"):
            kind([a], **wrong)
    with pytest.raises(ValueError, match="bfloat16"):
        kind([nn.Parameter(torch.ones(2, dtype=torch.bfloat16))])


def test_empty_parameters_are_counted_only() -> None:
    kind = made(gradchain.export("adamw"))
    empty = nn.Parameter(torch.ones(0, 3))
    empty.grad = torch.ones(0, 3)
    optimizer = kind([empty])
    optimizer.step()
    assert int(optimizer.state[empty]["step"]) == 1


def test_it_is_well_formed(tmp_path: Path) -> None:
    """By the rules of ruff, on lines of 120 characters."""
    for name in ("adamw", "adv-lion", "gyro-sgd", "sgd", "adam-atan2"):
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(gradchain.export(name))
    ruff = [sys.executable, "-m", "ruff"]
    common = ["--isolated", "--no-cache", "--line-length", "120", "--target-version", "py310", "."]
    for command in (["check", "--select", "E,F,W,I,B,UP"], ["format", "--check"]):
        run = subprocess.run([*ruff, *command, *common], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stdout


@pytest.mark.slow
def test_type_checkers_are_content(tmp_path: Path) -> None:
    for name in ("adamw", "rose"):
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(gradchain.export(name))
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "basic"}')
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout


def test_the_stages_are_named_with_their_sources() -> None:
    text = gradchain.export("lion", weight_decay=0.5)
    assert text.startswith("# Generated by gradchain")
    assert "from recipe lion with weight_decay=0.5" in text
    assert "SPDX-License-Identifier: Apache-2.0" in text
    assert "    # lion_interpolate: Lion, arXiv:2302.06675" in text
    assert "weight_decay: float = 0.5" in text


# Refusals.


class looks(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update if update.value.sum().item() > 0 else update.replace(value=-update.value)


class writes(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        value = update.value.clone()
        value.mul_(2)
        return update.replace(value=value)


class out_is_none(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=torch.mul(update.value, 2, out=None))


HELD = torch.ones(())


class held(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=update.value * HELD)


class burns(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=update.value / float(len(update.value) if update.value.ndim else 1))


@gradchain.label_function
def by_name_of_export(name: str, param: torch.Tensor) -> str:
    return "a" if "bias" in name else "b"


@pytest.mark.parametrize(
    ("stage", "reason"),
    [(looks(), "looks at a value"), (writes(), "writes into a tensor"), (held(), "made outside")],
)
def test_stages_that_cannot_be_written_down(stage: gradchain.Stage, reason: str) -> None:
    chain = gradchain.chain(stage, gradchain.scale_by_learning_rate(0.1))
    with pytest.raises(ChainError, match=f"{stage.address}.*{reason}"):
        gradchain.export(chain)


def test_no_place_to_write_is_not_a_place() -> None:
    chain = gradchain.chain(out_is_none(), gradchain.scale_by_learning_rate(0.1))
    text = gradchain.export(chain)
    assert "out=" not in text
    assert check(chain, text) <= 2


def test_a_size_that_was_read_as_a_number_becomes_one_again() -> None:
    chain = gradchain.chain(burns(), gradchain.scale_by_learning_rate(0.1))
    try:
        text = gradchain.export(chain)
    except ChainError:
        return  # refused is fine; wrong is not
    assert check(chain, text) <= 2


def test_partitions_by_name_are_refused() -> None:
    branches = {"a": [gradchain.sign()], "b": [gradchain.multiply(2.0)]}
    chain = gradchain.chain(gradchain.partition(branches, by_name_of_export), gradchain.scale_by_learning_rate(0.1))
    with pytest.raises(ChainError, match="names of parameters"):
        gradchain.export(chain)


@pytest.mark.parametrize("name", BY_NAME)
def test_recipes_that_go_by_names_are_refused(name: str) -> None:
    with pytest.raises(ChainError, match="names of parameters"):
        gradchain.export(name)


@pytest.mark.parametrize("name", SEEN_ELSEWHERE)
def test_parameters_that_are_seen_at_another_point_are_refused(name: str) -> None:
    with pytest.raises(ChainError, match=r"schedule_free shows .* by optimizer\.eval\(\)"):
        gradchain.export(name)


def test_bad_arguments() -> None:
    for name in ("my class", "class", 3):
        with pytest.raises(OptionError, match="name of a class"):
            gradchain.export("sgd", name=name)  # type: ignore[arg-type]
    for dtypes in ((), ("fp8",), (None,), 3):
        with pytest.raises(OptionError, match="fp64"):
            gradchain.export("sgd", dtypes=dtypes)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        gradchain.export("adamv")


# The command.


def test_the_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from gradchain.cli import app

    run, out = CliRunner(), tmp_path / "mine.py"
    done = run.invoke(app, ["export", "sgd", "--out", str(out), "-o", "lr=0.5", "--name", "Mine"])
    assert done.exit_code == 0, done.output
    assert f"{out}: Mine," in done.output
    assert "lr: float = 0.5" in out.read_text()
    again = run.invoke(app, ["export", "sgd", "--out", str(out)])
    assert (again.exit_code, "--force" in again.output) == (2, True)
    forced = run.invoke(app, ["export", "sgd", "--out", str(out), "--force"])
    assert forced.exit_code == 0
    assert "class SGD(" in out.read_text()
    unknown = run.invoke(app, ["export", "adamv"])
    assert (unknown.exit_code, "adamw" in unknown.output) == (2, True)
    printed = run.invoke(app, ["export", "sgd"])
    assert printed.output.startswith("# Generated by gradchain")
