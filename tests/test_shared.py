"""Numbers that all parameters share: where they live, who sees them, and what may go wrong."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc

LR = gc.scale_by_learning_rate(1.0)


def params(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in shapes or [(3,)]]


def step(optimizer: gc.Optimizer, size: float = 1.0) -> gc.Optimizer:
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.full_like(param, size)
    optimizer.step()
    return optimizer


def prodigy(**options: Any) -> gc.Chain:
    adam = [gc.second_moment(0.9, bias_correction=False), gc.divide(0.1)]
    return gc.chain(gc.prodigy(**{"d0": 1e-2, "slice_p": 1, **options}), *adam, LR)


@pytest.mark.parametrize("empty_first", [True, False])
def test_groups_may_be_empty(empty_first: bool) -> None:
    groups: list[dict[str, Any]] = [{"params": params()}, {"params": []}]
    optimizer = gc.Optimizer(groups[::-1] if empty_first else groups, prodigy(), compile=False)
    for _ in range(3):
        step(optimizer)
    assert optimizer.param_groups[0]["d"] == optimizer.param_groups[1]["d"] > 1e-2


def test_a_route_without_the_owner_does_not_see_the_number() -> None:
    branches = {"a": gc.prodigy(1e-2, beta3=0.9), "b": gc.multiply(1.0)}
    rest = [gc.second_moment(0.0, bias_correction=False), gc.divide(0.5), LR]
    chain = gc.chain(gc.partition(branches, lambda name, p: "a" if p.numel() == 2 else "b"), *rest)
    scaled, plain = params((2,), (3,))
    step(gc.Optimizer([scaled, plain], chain, compile=False))
    torch.testing.assert_close(plain.detach(), torch.full((3,), 1 - 1 / 1.5))  # eps as it is
    torch.testing.assert_close(scaled.detach(), torch.full((2,), 1 - 1e-2 / 1.5))  # d g / (|d g| + d eps), times d lr


def test_a_stage_that_is_switched_off_leaves_its_number_to_nobody() -> None:
    (param,) = params()
    optimizer = gc.Optimizer([{"params": [param], "disable": ["prodigy"]}], prodigy(), compile=False)
    step(optimizer)
    torch.testing.assert_close(param.detach(), torch.full((3,), 1 - 1 / (0.1**0.5 + 0.1)))


def test_two_owners_in_two_branches() -> None:
    branches = {"a": gc.prodigy(1e-2, beta3=0.9), "b": gc.prodigy(1e-3, beta3=0.9)}
    rest = [gc.second_moment(0.0, bias_correction=False), gc.divide(0.5), LR]
    chain = gc.chain(gc.partition(branches, lambda name, p: "a" if p.numel() == 2 else "b"), *rest)
    first, second = params((2,), (3,))
    optimizer = step(gc.Optimizer([first, second], chain, compile=False))
    assert {"a/prodigy.d", "b/prodigy.d"} <= optimizer.param_groups[0].keys()
    torch.testing.assert_close(first.detach(), torch.full((2,), 1 - 1e-2 / 1.5))
    torch.testing.assert_close(second.detach(), torch.full((3,), 1 - 1e-3 / 1.5))


def test_a_hyperparameter_cannot_take_the_name() -> None:
    class scaled(gc.Stage):
        d: float = gc.hyper(default=3.0)

    with pytest.raises(gc.ChainError, match="'d' is a hyperparameter"):
        gc.chain(gc.prodigy(), scaled(), gc.second_moment(), gc.divide(), LR)


def test_the_rate_is_scaled_under_any_name() -> None:
    (param,) = params()
    chain = gc.chain(gc.prodigy(1e-2, beta3=0.9).rename(lr="eta"), gc.sign(), LR.rename(lr="eta"))
    step(gc.Optimizer([param], chain, compile=False))
    torch.testing.assert_close(param.detach(), torch.full((3,), 1 - 1e-2))


@pytest.mark.parametrize(
    "before", [gc.first_moment(), LR, [gc.second_moment(), gc.divide()], gc.second_moment()], ids=str
)
def test_prodigy_comes_before_what_it_scales(before: Any) -> None:
    with pytest.raises(gc.ChainError, match="prodigy multiplies the gradient by d"):
        gc.chain(before, gc.prodigy(beta3=0.9), gc.divide() if isinstance(before, gc.second_moment) else gc.sign())


def test_numbers_that_are_not_numbers_are_refused_before_anything_moves() -> None:
    class vector(gc.SharedNumbers):
        def init_shared(self) -> dict[str, float]:
            return {"total": 0.0}

        def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
            ctx.contribute(total=update.value)
            return update

    (param,) = params()
    with pytest.raises(gc.ChainError, match="sum it up to one number"):
        step(gc.Optimizer([param], gc.chain(vector(), LR), compile=False))
    assert (param == 1).all()


def test_a_non_finite_gradient_does_not_spoil_d() -> None:
    optimizer = gc.Optimizer(params(), prodigy(), compile=False)
    for _ in range(3):
        step(optimizer)
    d = optimizer.param_groups[0]["d"].clone()
    for size in (float("inf"), float("nan")):
        step(optimizer, size)
        assert torch.equal(optimizer.param_groups[0]["d"], d)
        assert optimizer.param_groups[0]["d_numerator"].isfinite()


# Saving, loading, copying.


def trained() -> gc.Optimizer:
    optimizer = gc.Optimizer(params(), prodigy(), compile=False)
    for _ in range(4):
        step(optimizer)
    return optimizer


def test_a_state_dict_with_plain_numbers_will_do() -> None:
    saved = trained().state_dict()
    for group in saved["param_groups"]:
        group["d"] = float(group["d"])
    other = gc.Optimizer(params(), prodigy(), compile=False)
    other.load_state_dict(saved)
    step(other)
    assert isinstance(other.param_groups[0]["d"], torch.Tensor)


def test_a_state_dict_without_the_numbers_is_another_chains() -> None:
    saved = trained().state_dict()
    for group in saved["param_groups"]:
        del group["d"]
    other = trained()
    with pytest.raises(gc.StateError, match="d"):
        other.load_state_dict(copy.deepcopy(saved))
    report = other.load_state_dict(saved, strict=False)
    assert float(other.param_groups[0]["d"]) == 1e-2
    assert any("group 0: d" in line for line in report.reset)


def test_an_optimizer_can_be_built_from_the_groups_of_another() -> None:
    first = trained()
    second = gc.Optimizer(first.param_groups, prodigy(), compile=False)
    assert torch.equal(second.param_groups[0]["d"], first.param_groups[0]["d"])


def test_float8_anchors_can_be_pickled() -> None:
    optimizer = gc.Optimizer(params((4, 4)), gc.recipe("adv-adamw", centered_wd=0.1), compile=False)
    step(optimizer)
    again = pickle.loads(pickle.dumps(optimizer))
    step(again)
    assert torch.equal(step(optimizer).param_groups[0]["params"][0], again.param_groups[0]["params"][0])


@pytest.mark.parametrize("old", ["full", "float8", "float8_scaled", "int8", "int4"])
@pytest.mark.parametrize("new", ["full", "float8", "float8_scaled", "int8", "int4"])
def test_anchors_of_another_kind_start_afresh(old: str, new: str) -> None:
    def make(anchor: str) -> gc.Optimizer:
        chain = gc.recipe("adv-adamw", centered_wd=0.1, centered_wd_mode=anchor)
        return step(gc.Optimizer(params((3, 128)), chain, compile=False))

    report = make(new).load_state_dict(make(old).state_dict(), strict=False)
    anchors = [line for line in report.reset if "anchor_param" in line]
    assert bool(anchors) == (old != new and not {old, new} <= {"float8"})


def test_a_role_cannot_change_in_mid_run() -> None:
    chain = gc.recipe("adv-adamw", kourkoutas_beta=True)
    optimizer = step(gc.Optimizer(params((4, 6)), chain, compile=False))
    optimizer.param_groups[0]["role"] = "lora_A"
    with pytest.raises(gc.OptionError, match="A role cannot change in mid-run"):
        step(optimizer)


# Options of the recipes that nothing would come of.


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adv-adamw", {"grams": True, "cautious": True}, "cautious"),
        ("adv-adamw", {"nnmf_factor": True, "factored_2nd": True}, "factored_2nd"),
        ("adv-adamw", {"nnmf_factor": True, "state_precision": "int8_sr"}, "state_precision"),
        ("adv-adamw", {"normed_momentum": True, "betas": (0.0, 0.9)}, "normed_momentum"),
        ("adv-adamw", {"state_precision": None}, "state_precision"),
        ("adv-lion", {"clip_threshold": -1.0}, "clip_threshold"),
        ("adv-signsgd", {"heavy_ball": True}, "heavy_ball"),
        ("adv-signsgd", {"momentum": 0.0, "nnmf_factor": True}, "nnmf_factor"),
        ("adv-signsgd", {"momentum": 0.0, "normed_momentum": True}, "normed_momentum"),
        ("adv-sinksgd", {"nesterov": True}, "nesterov"),  # S7
        ("adv-sinksgd", {"nnmf_factor": True}, "nnmf_factor"),  # S3
        ("adv-sinksgd", {"momentum": 0.9, "snr_cond": True}, "without normed_momentum"),  # S4
        ("adv-sinksgd", {"normed_momentum": True, "snr_cond": True}, "normed_momentum"),
        ("adv-sinksgd", {"sinkhorn_iterations": 0}, "sinkhorn_iterations"),
        ("adv-adopt", {"use_atan2": True, "clip_lambda": None}, "with use_atan2 = True"),
    ],
)
def test_options_in_vain_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(gc.OptionError, match=words):
        gc.recipe(name, **options)


def test_rates_that_cross_are_refused_when_the_optimizer_is_built() -> None:
    chain = gc.recipe("adv-adamw", kourkoutas_beta=True, betas=(0.9, 0.5))
    with pytest.raises(gc.OptionError, match="beta2_min"):
        gc.Optimizer(params(), chain)


def test_factored_second_moments_have_no_floor() -> None:
    # A sum of factors below 1e-12 used to be read back too small, and Prodigy's steps were 60 times too long.
    found = {}
    for factored in (False, True):
        torch.manual_seed(0)
        param = nn.Parameter(torch.randn(32, 32))
        optimizer = gc.optimizer("adv-prodigy", [param], factored_2nd=factored, compile=False)
        for _ in range(20):
            param.grad = 1e-3 * torch.randn(32, 32).sign()  # of rank one in size, so that factors lose nothing
            optimizer.step()
        found[factored] = float(optimizer.param_groups[0]["d"])
    assert found[True] == pytest.approx(found[False], rel=1e-3)
