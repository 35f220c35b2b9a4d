"""Every golden trajectory of adv_optm, its state, and what it measured on the way; eager and compiled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from gradchain.storage import STORAGES, SlotView, near_square
from gradchain.storage.signs import unpack
from tests.parity import adv_optm
from tests.parity.replay import Replayed, run

GOLDEN = Path(__file__).parents[1] / "golden" / "advoptm"
CASES = sorted(path.stem.removeprefix("advoptm_") for path in GOLDEN.glob("*.pt"))

# Compiled in the fast tests: between them they hold every stage and storage of the family. The others are slow.
COMPILED = (
    "adamw_ademamix_factored",
    "adamw_cwd_full_cautious_fisher",
    "adopt_ortho_kourkoutas",
    "lion_freeze_factored",
    "prodigy_slice11_sched",
    "signsgd_snr_geometric",
    "sinksgd_snr_geometric",
)
MODES = [
    pytest.param(name, compile, id=f"{name}-{'compiled' if compile else 'eager'}", marks=marks)
    for name in CASES
    for compile in (False, True)
    if not (compile and name == "muon_lowrank")  # which of the recorded sketches it is at is read on the host
    for marks in ([pytest.mark.slow] if compile and name not in COMPILED else [],)
]


def load(name: str) -> dict[str, Any]:
    return torch.load(GOLDEN / f"advoptm_{name}.pt", weights_only=True)


def assert_matches(case: Mapping[str, Any], snapshots: Mapping[int, list[torch.Tensor]], ulps: int) -> None:
    # Newton-Schulz runs in bfloat16, where one flipped rounding shows: 7e-3 of the largest move in the published package.
    # In units of the largest move of a parameter. In bfloat16, some units in the last place of the parameter and of its
    # move: the published arithmetic rounds each intermediate result, ours does so in other places, and a compiled kernel
    # only at the end.
    loose = case["dtype"] == "bfloat16"
    for step, expected in case["snapshots"].items():
        for index, (ours, theirs) in enumerate(zip(snapshots[step], expected, strict=True)):
            error = (ours.double() - theirs.double()).abs()
            allowed = torch.full_like(error, (1e-2 if "uon_adv" in case["optimizer"] else 5e-5) * case["max_move"])
            if loose:
                allowed = ulps * 2**-8 * (theirs.double().abs() + case["max_move"])
            assert (error <= allowed).all(), f"step {step}, tensor {index}: off by {float(error.max()):.2e}"


def test_the_golden_set_is_complete() -> None:
    assert len(CASES) == 118
    assert set(COMPILED) < set(CASES)


@pytest.mark.parametrize(("name", "compile"), MODES)
def test_trajectory_and_state(name: str, compile: bool) -> None:
    case = load(name)
    replayed = run(case, compile=compile)
    assert_matches(case, replayed.snapshots, ulps=12 if compile else 4)
    check_shared(case, replayed)
    check_betas(case, replayed)
    check_state(case, replayed)


@pytest.mark.parametrize("name", ["pr_scaled_l2_eps", "pr_scaled_rms_fullmatrix"])
def test_a_dora_scale_of_one_axis_is_stepped_like_a_column(name: str) -> None:
    # So it is in 2.4.dev2 and 2.4.dev6, which decay it although they decay no other vector.
    case = load(name)
    index = adv_optm.roles(case).index("dora_scale")
    for tensors in (case["params0"], *case["grads"], *case["snapshots"].values()):
        tensors[index] = tensors[index].flatten()
    assert_matches(case, run(case).snapshots, ulps=4)


def check_shared(case: Mapping[str, Any], replayed: Replayed) -> None:
    """Prodigy's `d`, `d_max` and `d_numerator` after each step."""
    for key in set(case["trace"]) & {"d", "d_max", "d_numerator"}:
        ours = [shared[key] for shared in replayed.shared]
        assert ours == pytest.approx(case["trace"][key], rel=2e-4, abs=1e-12), key


def check_betas(case: Mapping[str, Any], replayed: Replayed) -> None:
    """The second moment's beta in each step, of each parameter, rank or block."""
    for step, betas in enumerate(case["trace"].get("beta2", [])):
        for ours, theirs in zip(replayed.betas[step], betas, strict=True):
            assert ours is not None
            expected = torch.tensor(theirs, dtype=torch.float64).flatten().expand(ours.numel())
            torch.testing.assert_close(ours.double().flatten(), expected, rtol=1e-5, atol=1e-6)


# published names of the row and column factors and of the sign plane -> our slot
FACTORS = {
    ("mu_m_nmf", "mv_m_nmf", "sign"): ("exp_avg", "momentum_buffer"),
    ("mu_m_slow_nmf", "mv_m_slow_nmf", "sign_slow"): ("exp_avg_slow",),
    ("mu_v_nmf", "mv_v_nmf", None): ("exp_avg_sq",),
    ("mu_b_nmf", "mv_b_nmf", "sign"): ("exp_avg",),  # SinkSGD's
    ("mu_vbuf_nmf", "mv_vbuf_nmf", None): ("exp_avg_sq",),  # AdaMuon's
}


def check_state(case: Mapping[str, Any], replayed: Replayed) -> None:
    """Factors, sign planes, frozen signs and anchors after the last step."""
    for index, published in enumerate(case.get("state_final") or []):
        param = replayed.params[index]
        state = replayed.optimizer.state[param]
        for (row, column, sign), slot in FACTORS.items():
            if row in published:
                check_factors(published[row], published[column], published.get(sign), slot, state, param.shape)
        if "normuon_v" in published:
            rows = next(value for key, value in state.items() if key.endswith("exp_avg_sq_row"))
            torch.testing.assert_close(rows, published["normuon_v"].flatten(), rtol=2e-2, atol=2e-2 * float(rows.max()))
        if "prev_sign" in published:
            words = next(value for key, value in state.items() if key.endswith("prev_sign"))
            shape = param.shape
            bits = unpack(words, shape[1:].numel() if len(shape) > 1 else shape.numel())
            assert torch.equal(bits.reshape(shape), published["prev_sign"].bool().reshape(shape))
        if "anchor_data" in published:
            check_anchor(published, state, param.shape)


def check_factors(
    row: torch.Tensor,
    column: torch.Tensor,
    sign: torch.Tensor | None,
    slot: tuple[str, ...],
    state: Mapping[str, torch.Tensor],
    shape: torch.Size,
) -> None:
    """Ours are the same numbers; a tensor that is one column is kept dense, which is the same too."""
    prefix = next(f"{names[0]}.{names[1]}" for key in state if "." in key and (names := key.split("."))[1] in slot)
    sides = near_square(shape.numel())
    assert (len(row), len(column)) == sides
    parts = {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(f"{prefix}.")}
    if parts:
        torch.testing.assert_close(parts["row"], row, rtol=2e-4, atol=2e-4 * float(row.max()))
        torch.testing.assert_close(parts["column"], column, rtol=2e-4, atol=2e-4 * float(column.max()))
    else:
        assert sides[1] == 1
        parts = {"": state[prefix]}
    ours = STORAGES["factored_vectors"].load(parts, SlotView(shape, torch.float32, sign is not None)).reshape(sides)
    theirs = torch.outer(row, column)
    if sign is not None:
        bits = (sign[:, :, None] >> torch.arange(8)) & 1  # column 8j + k is bit k of byte j
        theirs = torch.where(bits.reshape(len(row), -1)[:, : len(column)] > 0, theirs, -theirs)
    torch.testing.assert_close(ours, theirs, rtol=5e-4, atol=5e-4 * float(theirs.abs().max()))


def check_anchor(published: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], shape: torch.Size) -> None:
    """Ours are the same codes; theirs are filled up to whole blocks, and ours to whole bytes along the rows."""
    data = next(value for key, value in state.items() if ".anchor_param" in key and key.endswith(("data", "_param")))
    theirs = published["anchor_data"].flatten().view(torch.uint8)
    ours = data.flatten().view(torch.uint8)
    if data.dtype == torch.int8 and len(theirs) == 16 * -(-shape.numel() // 32):  # two codes in a byte
        width = shape[1:].numel() if len(shape) > 1 else shape.numel()
        theirs, ours = (torch.stack([x >> 4, x & 15], 1).flatten() for x in (theirs, ours))
        ours = ours.view(-1, width + width % 2)[:, :width].flatten()
    assert torch.equal(ours, theirs[: shape.numel()])
    for name, part in (("anchor_scale", "scale"), ("anchor_min", "low")):
        if name in published:
            ours = next(value for key, value in state.items() if key.endswith(f"anchor_param.{part}"))
            torch.testing.assert_close(ours, published[name].flatten(), rtol=0, atol=0)
