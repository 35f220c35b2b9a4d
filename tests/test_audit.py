"""The audit: every recipe passes it, and whatever does nothing is caught."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import gradchain
from gradchain import Stage, chain
from gradchain._chain import recipes
from gradchain._core.fields import Interval
from gradchain.audit import check
from gradchain.audit.alternatives import named, numbers, values
from gradchain.audit.probe import SHAPES, STEPS, make_probe
from gradchain.cli import app
from gradchain.errors import OptionError
from gradchain.roles import ROLES

LR = gradchain.scale_by_learning_rate(0.05)


# The others take up to half a minute each; `make check` has them all. That their numbers and stages matter is a law too:
# tests/laws/test_meaning.py.
QUICK = {"adamw", "lion", "sgd"}
RECIPES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in gradchain.recipes()]

audited = functools.cache(check)
"""Reports of recipes as they are, which several tests look at."""


@pytest.mark.parametrize("name", RECIPES)
def test_everything_in_a_recipe_matters(name: str) -> None:
    report = audited(name)
    assert report.ok, str(report)


def test_the_report_names_what_was_tried() -> None:
    report = audited("adamw")
    assert report.verdict("first_moment") == "changes the update"
    assert report.verdict("betas[1]", "hyperparameter") == "changes the update"
    assert report.verdict("betas[1]", "option") == "changes the update"
    assert report.verdict("storage of second_moment") == "changes the update"
    text = str(report)
    assert "stage           second_moment                     changes the update  removed with divide" in text
    assert text.endswith(report.summary)
    assert report.summary.startswith("adamw: ")
    assert "Everything matters." in report.summary


def test_what_a_switch_turns_on_is_live_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_recipes", dict(recipes._recipes))

    @gradchain.register_recipe("lenient-sgd", source="none")
    def lenient_sgd(lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0) -> gradchain.Chain:
        """Says nothing of an option that it does not use."""
        return chain(momentum != 0 and gradchain.heavy_ball(momentum, dampening), gradchain.scale_by_learning_rate(lr))

    report = check("lenient-sgd")
    found = {finding.name: finding for finding in report.findings if finding.kind == "option"}
    assert found["dampening"].cells[2:] == ("live with", "momentum=0.25")
    refused = {finding.name: finding for finding in audited("sgd").findings if finding.kind == "option"}
    assert refused["nesterov"].cells[2:] == ("refused", "live with momentum=0.25")
    # Given all the same, it is said to have been in vain.
    given = check("lenient-sgd", dampening=0.5)
    assert given.ok
    assert "option          dampening               live with" in str(given)
    assert "momentum=0.25; given here without effect" in str(given)
    assert check("lenient-sgd", dampening=0.5, momentum=0.9).verdict("dampening", "option") == "changes the update"


def test_two_switches_may_be_needed() -> None:
    report = audited("lion")
    clamp = next(found for found in report.findings if found.name == "clamp of decoupled_decay")
    assert clamp.verdict == "live with"
    assert "weight_decay=" in clamp.because
    assert "lr=" in clamp.because


def test_refused_values_are_listed() -> None:
    report = check(chain(gradchain.sign(), gradchain.decoupled_decay(0.1), LR))
    found = next(finding for finding in report.findings if finding.name == "reference_lr of decoupled_decay")
    assert found.cells[2:] == ("refused", "live with decoupled_decay.schedule=True")
    assert report.ok


def test_a_sound_chain_that_someone_edited() -> None:
    mine = gradchain.recipe("sgd", momentum=0.9).insert_before("heavy_ball", gradchain.orthograd())
    report = check(mine, lr=0.01)
    assert report.ok
    assert report.name == "chain"
    assert {finding.kind for finding in report.findings} == {"stage", "hyperparameter", "field"}


# Planted faults.


class idle(Stage):
    """Gives back what it got."""


class deaf(Stage):
    """Ignores its field."""

    strength: float = gradchain.hyper(default=0.5, ge=0)

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=0.5 * update.value)


class flagged(Stage):
    """A flag that changes nothing, and one that does."""

    ignored: bool = gradchain.static(default=False)
    halved: bool = gradchain.static(default=False)

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=(0.5 if self.halved else 2.0) * update.value)


class for_nobody(Stage):
    """Acts on a role that there is not."""

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=0 * update.value) if ctx.role == "lora_Z" else update


class for_factors(Stage):
    """Acts on one role."""

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=2 * update.value) if ctx.role == "lora_A" else update


class collector(Stage):
    """Keeps what nobody reads."""

    def slots(self, p: Any) -> Any:
        return {"total": gradchain.Slot()}

    def update(self, update: Any, ctx: Any) -> Any:
        return update, {"total": ctx.read("total") + update.value}


class late(Stage):
    """Waits longer than a probe takes."""

    after: float = gradchain.hyper(default=5000.0, ge=0)

    def scalars(self, step: Any) -> dict[str, Any]:
        return {"factor": gradchain.ops.where(step > self.after, 0.5, 1.0)}

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=ctx["factor"] * update.value)


class excused(Stage):
    """Says itself what is inert."""

    unused: float = gradchain.hyper(default=0.5, inert="kept for old configs")
    block: int = gradchain.static(default=128, inert="only the speed depends on it")
    used: float = gradchain.hyper(default=0.5)

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=self.used * update.value)


class humble(Stage):
    """Says that what it uses is inert."""

    used: float = gradchain.hyper(default=0.5, inert="or so it thinks")

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=self.used * update.value)


class tripping(Stage):
    """Takes a value that it cannot work with."""

    mode: str = gradchain.static(default="plain", choices=("plain", "fancy"))

    def update(self, update: Any, ctx: Any) -> Any:
        return update if self.mode == "plain" else {}["fancy"]


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (idle(), "idle"),
        (for_nobody(), "for_nobody"),
        (deaf(), "strength"),
        (flagged(), "ignored of flagged"),
    ],
)
def test_what_does_nothing_is_dead(stage: Stage, name: str) -> None:
    report = check(chain(stage, LR))
    assert [found.name for found in report.bad] == [name]
    assert report.verdict(name) == "DEAD"
    assert not report.ok
    assert f"To mend: {report.bad[0].kind} {name}." in report.summary


def test_a_dead_stage_in_a_branch_is_found() -> None:
    def by_name(name: str, param: torch.Tensor) -> str:
        return "head" if name == "head" else "body"  # the probe has no head

    report = check(chain(gradchain.partition({"head": [flagged(), idle()], "body": gradchain.sign()}, by_name), LR))
    assert report.verdict("head/flagged") == "changes the update"
    assert {found.name for found in report.bad} == {"head/idle", "ignored of head/flagged"}


def test_what_acts_on_few_parameters_or_late_is_live() -> None:
    report = check(chain(for_factors(), late(), LR))
    assert report.ok, str(report)
    assert {report.verdict(name) for name in ("for_factors", "late", "after")} == {"changes the update"}


def test_state_that_nobody_reads_is_no_change_of_the_update() -> None:
    report = check(chain(collector(), LR))
    assert report.verdict("collector") == "state only"
    assert report.ok


def test_declared_reasons_are_given_and_must_be_true() -> None:
    report = check(chain(excused(), LR))
    assert report.ok
    assert report.verdict("unused") == report.verdict("block of excused") == "inert"
    assert "kept for old configs" in str(report)
    report = check(chain(humble(), LR))
    assert [(found.name, found.verdict) for found in report.bad] == [("used", "NOT INERT")]


def test_a_value_that_is_taken_and_then_fails_is_broken() -> None:
    report = check(chain(tripping(), gradchain.sign(), LR))
    assert [(found.name, found.verdict) for found in report.bad if found.kind == "field"] == [
        ("mode of tripping", "BROKEN")
    ]
    assert "plain → fancy: KeyError" in str(report)


def test_a_chain_that_diverges_cannot_be_judged() -> None:
    report = check(chain(gradchain.scale_by_learning_rate(1e38)))
    assert report.findings[0].cells[:3] == ("probe", "all stages", "BROKEN")


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    gradchain.recipes()
    monkeypatch.setattr(recipes, "_recipes", dict(recipes._recipes))


def planted(**facts: Any) -> None:
    @gradchain.register_recipe("planted", source="here", **facts)
    def planted(
        lr: float = 0.1,
        beta: float = 0.9,
        *,
        average: bool = False,
        mode: str = "sign",
        unused: bool = False,
        text: str = "any",
        trust: float = 0.5,
    ) -> gradchain.Chain:
        if trust != 0.5 and not average:
            raise OptionError(f"trust = {trust!r} has no effect without average. Pass average=True.")
        if mode not in ("sign", "plain"):
            raise OptionError(f"mode = {mode!r} is not one of 'sign', 'plain'. Pass one of these.")
        return chain(
            average and gradchain.first_moment(beta),
            mode == "sign" and gradchain.sign(),
            gradchain.scale_by_learning_rate(lr),
        )


@pytest.mark.usefixtures("forgetful")
def test_ignored_options_of_a_recipe_are_dead() -> None:
    planted()
    report = check("planted")
    assert [found.name for found in report.bad] == ["unused", "text", "trust"]
    assert report.bad[-1].because == "refused here, without effect with average=True"
    assert report.verdict("mode") == "changes the update"
    beta = next(found for found in report.findings if found.name == "beta")
    assert beta.cells[2:] == ("live with", "average=True")
    assert "given here without effect" in str(check("planted", beta=0.5))
    assert "given here" not in str(check("planted", beta=0.5, average=True))


@pytest.mark.usefixtures("forgetful")
def test_a_recipe_declares_what_is_inert() -> None:
    planted(inert={"unused": "for old scripts", "text": "a comment", "trust": "not yet", "mode": "wrong"})
    report = check("planted")
    assert report.verdict("unused") == report.verdict("text") == "inert"
    assert [(found.name, found.verdict) for found in report.bad] == [("mode", "NOT INERT")]
    with pytest.raises(OptionError, match=r"there is no option 'unusd'. Did you mean 'unused'"):
        planted(inert={"unusd": "a slip"})


# The probe and the values.


def test_the_probe_has_every_role_and_rank() -> None:
    probe = make_probe(gradchain.recipe("adams"))
    assert set(ROLES) <= set(probe.roles)
    assert {param.ndim for param in probe.params} == {0, 1, 2, 3, 4}
    assert {param.dtype for param in probe.params} == {torch.float32, torch.bfloat16}
    assert len(probe.params) == 2 * len(SHAPES)
    assert len(probe.grads) == STEPS
    again = make_probe(gradchain.recipe("adams"))
    assert all(torch.equal(a, b) for a, b in zip(probe.grads[0], again.grads[0]))


def test_a_check_leaves_threads_and_the_random_numbers_alone() -> None:
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        check(chain(gradchain.sign(), LR))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(before, torch.get_rng_state())


def test_a_check_tells_how_far_it_is() -> None:
    seen: list[Any] = []
    report = check(chain(gradchain.sign(), LR), watch=seen.append)
    assert [(progress.done, progress.text) for progress in seen] == [
        (0, "stage sign"),
        (1, "stage scale_by_learning_rate"),
        (2, "hyperparameter lr"),
    ]
    assert len(report.findings) == seen[0].total == 3


def test_other_values_are_in_the_range_and_of_the_type() -> None:
    assert numbers(0.9, Interval(0, 1, high_open=True))[:3] == [0.45, 0.25, 0.001]
    assert numbers(4) == [8, 2, 5, 3, 1, 7, 50]
    assert numbers(None, optional=True) == [0.25, 1000.0, 1.0, 0.001, 0.9, 3.0]
    assert numbers(0.5, optional=True)[-1] is None
    assert values(True, "bool") == [False]
    assert values(False, "bool | float") == [True, *numbers(None)]
    assert values("a", "Literal['a', 'b']") == ["b"]
    assert values(None, "int | None")[:2] == [3, 2]
    assert values(1, "int", (1, 2, 3)) == [2, 3]
    assert named("mode = '?' is not one of 'sign', 'plain'. Pass one of these.") == ["sign", "plain"]
    assert named("dtype = '?': not a floating dtype; pass one of fp64, fp32.") == ["fp64", "fp32"]
    assert named("unknown storage '?'. Known: bf16.") == ["bf16"]


# The command.


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", *arguments])


def test_the_command_prints_a_table() -> None:
    result = run("sgd", "-o", "momentum=0.9")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["what", "name", "verdict", "because"]
    assert "  heavy_ball  " in result.stdout
    assert lines[-1].startswith("sgd: ")


@pytest.mark.usefixtures("forgetful")
def test_the_command_fails_if_anything_is_dead() -> None:
    planted()
    result = run("planted")
    assert result.exit_code == 1
    assert "To mend: option unused, option text, option trust." in result.stdout


def test_the_command_reads_configs_and_explains_itself(tmp_path: Any) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(chain(gradchain.sign(), LR).to_toml())
    assert run(str(path)).exit_code == 0
    result = run("rsoe")
    assert result.exit_code == 2
    assert result.stderr == "gradchain: unknown recipe 'rsoe'. Did you mean 'rose' or 'soap' or 'lars'?\n"
