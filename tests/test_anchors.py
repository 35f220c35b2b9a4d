"""Anchors: the codes are those that adv_optm publishes, what they stand for is close, and a step never writes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import gradchain as gc
from gradchain._core.reduce import run_locally
from gradchain.storage import ANCHORS, Parts, SlotView

GOLDEN = Path(__file__).parent / "golden" / "advoptm"
PUBLISHED = {"": "anchor_data", "data": "anchor_data", "scale": "anchor_scale", "low": "anchor_min"}
LR = gc.scale_by_learning_rate(0.1)
over_anchors = pytest.mark.parametrize("anchor", ANCHORS)


def no_bits() -> torch.Tensor:
    raise AssertionError("an anchor is rounded to nearest")


def kept_of(x: torch.Tensor) -> SlotView:
    return SlotView(x.shape, x.dtype, signed=True)


def stored(anchor: str, x: torch.Tensor) -> Parts:
    return run_locally(ANCHORS[anchor].store(x, kept_of(x), no_bits))


def restored(anchor: str, x: torch.Tensor) -> torch.Tensor:
    return ANCHORS[anchor].load(stored(anchor, x), kept_of(x)).to(x.dtype)


def golden(anchor: str) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Each parameter of a published run before its first step, and the anchor that was kept of it."""
    case: dict[str, Any] = torch.load(GOLDEN / f"advoptm_adamw_cwd_{anchor}.pt", weights_only=True)
    return list(zip(case["params0"], case["state_final"], strict=True))


@pytest.mark.parametrize("anchor", ["float8", "int8", "int4"])
def test_codes_are_the_published_ones(anchor: str) -> None:
    for param, published in golden(anchor):
        parts = stored(anchor, param)
        assert {PUBLISHED[part] for part in parts} == {name for name in published if name.startswith("anchor_")}
        for part, ours in parts.items():
            theirs = published[PUBLISHED[part]]
            ours = (
                ours.view(theirs.dtype) if ours.dtype.itemsize == theirs.dtype.itemsize == 1 else ours
            )  # float8 as bytes
            assert ours.dtype == theirs.dtype
            # The published codes are flat and fill up the last block; ours are in rows.
            ours, theirs = (x.reshape(-1).to(torch.float32) for x in (ours, theirs))
            if anchor != "int4" or part != "data" or param.shape[-1] % 2 == 0:
                assert torch.equal(ours, theirs[: ours.numel()]), (tuple(param.shape), part)


@pytest.mark.parametrize(("anchor", "block", "codes"), [("int8", 128, 255), ("int4", 32, 15)])
def test_what_is_restored_is_half_a_code_away_at_most(anchor: str, block: int, codes: int) -> None:
    for param, published in golden(anchor):
        error = (restored(anchor, param) - param).abs().reshape(-1)
        step = published["anchor_scale"].repeat_interleave(block)[: error.numel()]
        assert (error <= step / 2 * (1 + 1e-4) + 1e-7).all()
        assert error.max() > 0


def test_int4_by_hand() -> None:
    # The codes are (x + 3) / 0.5 - 8, which is -8 -7 -2 | 6 7 -2. Two of a row share a byte, the even one in its high half.
    x = torch.tensor([[-3.0, -2.5, 0.0], [4.0, 4.5, 0.2]])
    parts = stored("int4", x)
    assert (float(parts["scale"]), float(parts["low"])) == (0.5, -3.0)
    assert parts["data"].view(torch.uint8).tolist() == [[0x89, 0xE0], [0x67, 0xE0]]
    assert restored("int4", x).tolist() == [[-3.0, -2.5, 0.0], [4.0, 4.5, 0.0]]


def test_float8_is_unscaled_unless_it_is_scaled() -> None:
    # Quirk N13: beyond 448 there is nothing, and below 2**-9 either.
    x = torch.tensor([1000.0, -500.0, 300.0])
    assert restored("float8", x).tolist() == [448.0, -448.0, 288.0]
    assert restored("float8_scaled", x).tolist() == pytest.approx([1000.0, -500.0, 300.0], rel=2**-4)
    tiny = torch.tensor([1e-4, -2e-4, 5e-5])
    assert restored("float8", tiny).tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(restored("float8_scaled", tiny), tiny, rtol=2**-4, atol=0)


@over_anchors
@pytest.mark.parametrize("value", [0.0, 2.0, -0.75])
def test_constant_tensors_are_exact(anchor: str, value: float) -> None:
    x = torch.full((5, 7), value)
    assert torch.equal(restored(anchor, x), x)


@over_anchors
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (3, 0), (33,), (2, 3, 4, 7)], ids=str)
def test_shapes_and_dtypes(anchor: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    y = restored(anchor, x)
    assert y.shape == x.shape
    spread = {"full": 0.0, "float8": 2**-4, "float8_scaled": 2**-4, "int8": 0.03, "int4": 0.25}[anchor]
    torch.testing.assert_close(y, x, rtol=0, atol=spread * 2.5)


@over_anchors
def test_state_bytes(anchor: str) -> None:
    chain = gc.chain(LR, gc.centered_decay(anchor=anchor))
    param = torch.empty(24, 32, dtype=torch.bfloat16, device="meta")
    blocks = {"full": 0, "float8": 0, "float8_scaled": 4, "int8": 6 * 2 * 2, "int4": 24 * 2 * 2}[anchor]
    assert chain.state_bytes([param]) == 768 * {"full": 2, "int4": 0.5}.get(anchor, 1) + blocks


def bits_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: slot.to(torch.float64) for name, slot in state.items() if "anchor" in name}


@over_anchors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_anchor_is_taken_at_the_first_step_and_outlives_a_load(anchor: str, dtype: torch.dtype) -> None:
    # Quirks C7 and N7: weights loaded after construction count, and codes are not cast when a state is loaded.
    chain = gc.chain(LR, gc.centered_decay(0.5, anchor=anchor))
    param = torch.nn.Parameter(torch.zeros(5, 9, dtype=dtype))
    optimizer = gc.Optimizer([param], chain, compile=False)
    start = torch.randn(5, 9, generator=torch.Generator().manual_seed(1)).to(dtype)
    param.data.copy_(start)
    for _ in range(3):
        param.grad = torch.ones_like(param)
        optimizer.step()
    taken = bits_of(optimizer.state[param])
    expected = bits_of(chain.init(start)["slots"][""])
    assert taken.keys() == expected.keys() != set()
    assert all(torch.equal(taken[name], expected[name]) for name in taken)

    other = torch.nn.Parameter(param.detach().clone())
    resumed = gc.Optimizer([other], chain, compile=False)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    dtypes = [
        {name: slot.dtype for name, slot in o.state[p].items()} for o, p in ((optimizer, param), (resumed, other))
    ]
    assert dtypes[0] == dtypes[1]
    for o, p in ((optimizer, param), (resumed, other)):
        p.grad = torch.ones_like(p)
        o.step()
    assert torch.equal(param, other)


def test_an_unknown_anchor_is_an_error() -> None:
    with pytest.raises(gc.OptionError, match="int4"):
        gc.centered_decay(anchor="int2")
