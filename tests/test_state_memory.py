"""What the factored recipes keep for the UNet of SDXL, against the figures that adv_optm publishes and really needs.

The figures published with adv_optm 0.1 are 328 MB, and 625 MB with AdEMAMix, in MB of 2^20 bytes. Two planes of signs
alone take 612 of the latter; what is left is enough for factors of few bits. `PEER` is what the state tensors of
`Adopt_adv(factored=True)` of adv_optm 0.1.4 held after one step on a tensor of each shape: 642 MiB with AdEMAMix.
"""

from __future__ import annotations

import ctypes
import gc as garbage
import math
import resource
from collections import Counter
from pathlib import Path

import pytest
import torch

import gradchain as gc
from benchmarks.sdxl import PARAMETERS, unet_shapes

MIB = 2**20
PLAIN, ADEMAMIX = "adv-adopt-factored", "adv-adopt-factored-ademamix"
PEER = {PLAIN: 341_927_890, ADEMAMIX: 673_359_524}


def on_meta(dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in unet_shapes()]


def test_the_unet_is_that_of_sdxl() -> None:
    shapes = unet_shapes()
    assert len(shapes) == 1680
    assert sum(map(math.prod, shapes)) == PARAMETERS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [PLAIN, ADEMAMIX])
def test_bytes_for_sdxl_are_those_that_were_published(name: str, dtype: torch.dtype) -> None:
    ours = gc.recipe(name).state_bytes(on_meta(dtype))
    assert ours <= {PLAIN: 328, ADEMAMIX: 625}[name] * MIB
    assert ours <= PEER[name] * (1 + 1e-6)


def test_roles_count() -> None:
    # A rate for each of eight ranks, and no anchor for what is a difference to a frozen model.
    chain = gc.recipe("adv-adamw", kourkoutas_beta=True, centered_wd=0.1, centered_wd_mode="full")
    param = torch.empty(8, 32, device="meta")
    plain, factor = chain.state_bytes([param]), chain.state_bytes([param], role="lora_A")
    assert plain == 4 * (3 * 256 + 3)
    assert factor == 4 * (2 * 256 + 3 * 8)
    assert chain.state_bytes({"a": param, "b": param}, role={"a": "lora_A"}) == plain + factor


def test_where_the_bytes_go() -> None:
    chain = gc.recipe(PLAIN)
    parts: Counter[str] = Counter()
    for shape, count in Counter(unet_shapes()).items():
        param = torch.empty(shape, device="meta")
        slots = chain.route("", param).init(param)
        for name, slot in slots.items():
            parts[name.rpartition(".")[2]] += count * slot.numel() * slot.element_size()
    assert parts.keys() == {"sign", "row", "column"}
    assert parts["sign"] == pytest.approx(PARAMETERS / 8, rel=1e-3)
    assert parts["row"] + parts["column"] < 0.07 * parts["sign"]


def stepped(name: str, every: int, steps: int) -> gc.Optimizer:
    """An optimizer that has stepped each so many-th tensor of the UNet."""
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16)) for shape in unet_shapes()[::every]]
    optimizer = gc.optimizer(name, params, compile=False)
    for _ in range(steps):
        for param in params:
            param.grad = torch.full_like(param, 1e-3)
        optimizer.step()
    return optimizer


def held(optimizer: gc.Optimizer) -> int:
    """The bytes of the storages that the state really holds, step counters apart."""
    kept = [slot for state in optimizer.state.values() for name, slot in state.items() if name != "step"]
    return sum({slot.data_ptr(): slot.untyped_storage().nbytes() for slot in kept}.values())


def said(optimizer: gc.Optimizer) -> int:
    return optimizer.chain.state_bytes(optimizer.param_groups[0]["params"])


@pytest.mark.parametrize("name", [PLAIN, ADEMAMIX])
def test_what_is_said_is_held(name: str) -> None:
    optimizer = stepped(name, every=128, steps=1)
    assert held(optimizer) == said(optimizer)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
@pytest.mark.parametrize("name", [PLAIN, ADEMAMIX])
def test_a_sixteenth_of_sdxl_really_takes_what_was_said(name: str) -> None:
    optimizer = stepped(name, every=16, steps=2)
    expected = said(optimizer)
    assert held(optimizer) == expected
    full = resident()
    optimizer.state.clear()
    assert full - resident() == pytest.approx(expected, rel=0.1)


def resident() -> int:
    """Bytes of memory in use, once all that is free has been given back."""
    garbage.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
