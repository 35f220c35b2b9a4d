"""Muon_adv and AdaMuon_adv of adv_optm 2.5.16 next to ours: the same gradients, and faults M1 to M17 of adv-optm.md."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from tests.parity.adv_optm import RECIPES
from tests.parity.test_live import MODELS, Model, copy_gradients, distance, flat, noise, set_gradients

adv_optm = pytest.importorskip("adv_optm", reason="pip install gradchain[parity]")

STEPS = 12
Options = dict[str, Any]

# Of both. What is given to ours alone puts back what we changed: M15.
COMMON: dict[str, tuple[Options, Options]] = {
    "plain": ({}, {}),
    "no-nesterov": ({"nesterov": False}, {}),
    "nesterov-coef": ({"nesterov_coef": 0.5}, {}),
    "ns-eps": ({"ns_eps": None}, {}),
    "ns-steps": ({"ns_steps": 3}, {}),
    "cans": ({"accelerated_ns": True}, {}),
    "cans-bound": ({"accelerated_ns": True, "cns_a_bound": 1e-3}, {}),
    "normuon": ({"normuon_variant": True}, {}),
    "mars": ({"approx_mars": True}, {"mars_initial": "zero"}),
    "decay": ({"weight_decay": 0.1, "adam_weight_decay": 0.2}, {}),
    "cautious-decay": ({"weight_decay": 0.1, "cautious_wd": True}, {}),
}
MUON: dict[str, tuple[Options, Options]] = {
    **COMMON,
    "shape": ({"rms_rescaling": False}, {}),
    "normuon-shape": ({"normuon_variant": True, "rms_rescaling": False}, {}),
    "adam": ({"adam_use_atan2": True, "adam_nesterov": True, "adam_betas": (0.8, 0.9)}, {}),
    "adam-factored": ({"adam_nnmf_factor": True}, {}),
}
ADAMUON: dict[str, tuple[Options, Options]] = {
    **COMMON,
    "eps": ({"eps": None}, {}),
    "power-2": ({"auto_projection": False, "kappa_p": 2.0}, {}),
}
CASES = [("Muon_adv", *MUON[case]) for case in MUON] + [("AdaMuon_adv", *ADAMUON[case]) for case in ADAMUON]
NAMES = [f"muon-{case}" for case in MUON] + [f"adamuon-{case}" for case in ADAMUON]


@MODELS
@pytest.mark.parametrize(("name", "options", "own"), CASES, ids=NAMES)
def test_same_gradients(model: Model, name: str, options: Options, own: Options) -> None:
    # Newton-Schulz runs in bfloat16: where two sums differ in their last bit one rounding flips, which is 2**-8 of an
    # element, and shows as up to 4e-3 of the largest move. Most steps agree to 1e-5. Signs of what is stored in factors
    # may flip, as in test_live.py.
    reference, follower = model(), model()
    start = flat(reference)
    theirs = getattr(adv_optm, name)(reference.parameters(), lr=3e-3, **options)
    mine = gradchain.optimizer(RECIPES[name], follower.parameters(), compile=False, lr=3e-3, **options, **own)
    for _, batch in zip(range(STEPS), model.batches()):
        set_gradients(reference, batch)
        copy_gradients(reference, follower)
        theirs.step()
        mine.step()
        expected = flat(reference)
        move = (expected - start).abs().max()
        differing = (flat(follower) - expected).abs() > 1e-2 * move
        assert differing.double().mean() <= (1e-3 if "adam_nnmf_factor" in options else 0)
    assert float((flat(reference) - start).abs().max()) > 3e-3


# Faults.


def theirs_and_ours(
    name: str, grads: list[torch.Tensor], own: Options | None = None, lr: float = 1.0, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """What both take from ones in some steps."""
    taken: list[torch.Tensor] = []
    for ours in (False, True):
        param = nn.Parameter(torch.ones_like(grads[0]))
        if ours:
            stepper = gradchain.optimizer(RECIPES[name], [param], lr=lr, compile=False, **options, **(own or {}))
        else:
            stepper = getattr(adv_optm, name)([param], lr=lr, **options)
        for grad in grads:
            param.grad = grad.clone()
            stepper.step()
        taken.append(1 - param.detach())
    return taken[0], taken[1]


def rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


BOTH = pytest.mark.parametrize("name", ["Muon_adv", "AdaMuon_adv"])


def test_m1_a_factored_momentum_ignores_the_learning_rate() -> None:
    theirs, mine = theirs_and_ours("Muon_adv", [noise(8, 16)], lr=1e-3, nnmf_factor=True)
    assert rms(theirs) > 0.1
    assert rms(mine) == pytest.approx(0.2e-3, rel=1e-3)


def test_m2_a_factored_momentum_is_no_matrix() -> None:
    grads = [noise(8, 16)]  # in the first step there is nothing yet that factors could lose
    dense = theirs_and_ours("AdaMuon_adv", grads)
    factored = theirs_and_ours("AdaMuon_adv", grads, nnmf_factor=True)
    assert rms(factored[0] - dense[0]) > 0.1 * rms(dense[0])
    torch.testing.assert_close(factored[1], dense[1])


def test_m3_kernels_by_their_own_sides() -> None:
    theirs, mine = theirs_and_ours("AdaMuon_adv", [noise(32, 2, 2, 2)], rms_rescaling=False)
    torch.testing.assert_close(mine, theirs * math.sqrt(32 / 8), rtol=1e-2, atol=1e-2)


@BOTH
@pytest.mark.parametrize("shape", [(), (7,)])
def test_m4_vectors_are_no_matrices(name: str, shape: tuple[int, ...]) -> None:
    param = nn.Parameter(torch.ones(shape))
    param.grad = torch.ones(shape)
    with pytest.raises((UnboundLocalError, IndexError)):
        getattr(adv_optm, name)([param], use_muon=True).step()
    with pytest.raises(gradchain.OptionError, match="takes matrices"):
        gradchain.optimizer(RECIPES[name], [param], use_muon=True)


@BOTH
@pytest.mark.parametrize(
    "options",
    [{"adam_kourkoutas_beta": True, "adam_beta2_min": 0.1}, {"adam_fisher_wd": True}],
    ids=["m5-kourkoutas", "m6-fisher"],
)
def test_m5_m6_options_of_adam_without_effect(name: str, options: Options) -> None:
    grads = [noise(7) * scale for scale in (1.0, 5.0, 0.2, 3.0)]
    given: Options = {"lr": 1e-2, "use_muon": False, "adam_weight_decay": 0.5}
    without, with_ = theirs_and_ours(name, grads, **given), theirs_and_ours(name, grads, **given, **options)
    torch.testing.assert_close(*without, rtol=1e-5, atol=1e-6)
    assert torch.equal(with_[0], without[0])
    assert rms(with_[1] - without[1]) > 1e-4 * rms(without[1])


@BOTH
def test_m7_spectral_scaling_of_bfloat16_is_lost(name: str) -> None:
    param = [nn.Parameter(noise(8, 16).bfloat16()) for _ in range(2)]
    still = param[0].detach().clone()
    options: Options = {"lr": 1e-3, "state_precision": "fp32", "spectral_normalization": True, "rms_rescaling": False}
    for p in param:
        p.grad = noise(8, 16).bfloat16()
    getattr(adv_optm, name)(param[:1], **options).step()
    gradchain.optimizer(RECIPES[name], param[1:], compile=False, **options).step()
    assert rms(param[0].detach() - still) > 0.1
    assert rms(param[1].detach() - still) < 5e-3


def test_m8_arctangents_are_longer_than_promised() -> None:
    theirs, mine = theirs_and_ours("AdaMuon_adv", [noise(8, 16)], use_atan2=True)
    assert rms(theirs) == pytest.approx(0.2 * 4 / math.pi, rel=1e-3)
    assert rms(mine) == pytest.approx(0.2, rel=1e-3)


@BOTH
def test_m9_sketches_depend_on_what_ran_before(name: str) -> None:
    options: Options = {"low_rank_ortho": True, "ortho_rank": 3}
    first = theirs_and_ours(name, [noise(8, 16)], **options)
    again = theirs_and_ours(name, [noise(8, 16)], **options)
    assert not torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@BOTH
def test_m10_groups_of_vectors_cannot_be_resumed(name: str) -> None:
    param = nn.Parameter(torch.ones(7))
    param.grad = torch.ones(7)
    theirs = getattr(adv_optm, name)([param])
    mine = gradchain.optimizer(RECIPES[name], [param], compile=False)
    for stepper in (theirs, mine):
        stepper.step()
    with pytest.raises(KeyError, match="actual_state_precision"):
        theirs.load_state_dict(theirs.state_dict())
    mine.load_state_dict(mine.state_dict())


def test_m11_eps_of_the_size_for_rows() -> None:
    param = nn.Parameter(torch.ones(8, 16))
    param.grad = noise(8, 16)
    options: Options = {"eps": None, "normuon_variant": True}
    with pytest.raises(TypeError):
        adv_optm.AdaMuon_adv([param], **options).step()
    gradchain.optimizer("adv-adamuon", [param], compile=False, **options).step()


def test_m12_an_absolute_floor_leaves_small_directions_small() -> None:
    options: Options = {"ns_eps": None, "rms_rescaling": False}
    theirs, mine = theirs_and_ours("Muon_adv", [1e-8 * noise(8, 16)], **options)
    torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-6)  # reproduced
    assert rms(mine) < 1e-3 * rms(theirs_and_ours("Muon_adv", [noise(8, 16)], **options)[1])


@BOTH
def test_m13_mars_begins_at_a_gradient_of_zero(name: str) -> None:
    # Where the direction is all signs, the first momentum is too large all the same.
    grads = [noise(8, 16), noise(8, 16).flip(0), noise(8, 16).flip(1)]
    theirs, published = theirs_and_ours(name, grads, {"mars_initial": "zero"}, approx_mars=True)
    _, mine = theirs_and_ours(name, grads, approx_mars=True)
    assert rms(theirs - published) < 1e-2 * rms(theirs)
    assert rms(theirs - mine) > 2e-2 * rms(theirs)


def test_m14_three_digits_whatever_the_precision() -> None:
    grads = [noise(8, 16).double()]
    theirs, mine = theirs_and_ours("Muon_adv", grads)
    _, exact = theirs_and_ours("Muon_adv", grads, {"ns_precision": "fp64"})
    assert rms(mine - theirs) < 1e-6 * rms(exact)
    assert 1e-4 * rms(exact) < rms(theirs - exact) < 2e-2 * rms(exact)


@BOTH
def test_m15_two_sizes_of_a_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(adv_optm, name)([nn.Parameter(noise(8, 16))], spectral_normalization=True)
    assert "spectral_normalization" in capsys.readouterr().out
    with pytest.raises(gradchain.OptionError, match="rms_rescaling=False"):
        gradchain.recipe(RECIPES[name], spectral_normalization=True)


def test_m16_decay_is_tied_to_the_learning_rate() -> None:
    for lr in (1e-2, 1e-1):
        theirs, mine = theirs_and_ours("Muon_adv", [torch.zeros(8, 16)], lr=lr, weight_decay=0.5)
        torch.testing.assert_close(mine, theirs)  # reproduced
        assert float(mine.mean()) == pytest.approx(0.5 * lr, rel=1e-4)


def test_m17_factored_second_moments_of_tall_matrices() -> None:
    param = nn.Parameter(torch.ones(12, 4))  # its factors are of 8 x 6
    param.grad = noise(12, 4)
    with pytest.raises(RuntimeError, match="view"):
        adv_optm.AdaMuon_adv([param], factored_2nd=True).step()
    gradchain.optimizer("adv-adamuon", [param], compile=False, factored_2nd=True).step()


def test_ours_and_theirs_agree_in_the_rest() -> None:
    assert distance("Muon_adv", shape=(12, 16)) < 1e-2
    assert distance("AdaMuon_adv", shape=(12, 16)) < 1e-2
