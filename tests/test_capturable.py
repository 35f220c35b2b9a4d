"""Steps that never look at the host: the same numbers, and nothing that a CUDA graph could not replay."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradchain
from tests.laws.cases import RECIPES, selected
from tests.test_optimizer import frozen_copy

SHAPES = [(6, 4), (4,), (2, 3, 4), ()]


class NoSync(TorchDispatchMode):
    """Refuses whatever waits for a device: reading a number, copying from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        source = next((x for x in args if isinstance(x, torch.Tensor)), None)
        if source is not None and source.device.type != "cpu":  # the counters of a plain step are on the CPU
            assert "_local_scalar_dense" not in name, f"{name} reads a number from the device"
        result = func(*args, **(kwargs or {}))
        if "_to_copy" in name and source is not None and source.device.type == "cpu" and result.device.type != "cpu":
            assert (kwargs or {}).get("non_blocking"), f"{name} waits for a copy from the host"
        return result


def random(shape: Any, device: str, generator: torch.Generator) -> torch.Tensor:
    """Gaussian numbers; the meta device has none."""
    return torch.empty(shape, device=device) if device == "meta" else torch.randn(shape, generator=generator)


MIXED = [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]


def make(device: str, recipe: str, dtype: torch.dtype | None = torch.float32, **options: Any) -> gradchain.Optimizer:
    """Parameters of a dtype; `None`: some of float32 and some of bfloat16."""
    generator = torch.Generator().manual_seed(0)
    dtypes = MIXED if dtype is None else [dtype] * len(SHAPES)
    params = [nn.Parameter(random(shape, device, generator).to(d)) for shape, d in zip(SHAPES, dtypes, strict=True)]
    options = {"compile": False, **options}
    return gradchain.Optimizer(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}], RECIPES[recipe].chain, **options
    )


def set_grads(optimizer: gradchain.Optimizer, step: int = 0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = random(param.shape, param.device.type, generator).to(param.dtype)


@pytest.mark.filterwarnings("ignore")  # of stages that do nothing for these shapes
@pytest.mark.parametrize(
    ("recipe", "capturable"),
    [pytest.param(*p.values, capturable, marks=p.marks) for capturable in (True, False) for p in selected(RECIPES)],
)  # that no stage reads a number is a law too: `test_a_step_never_syncs`
def test_a_step_never_waits_for_a_device(recipe: str, capturable: bool) -> None:
    """On the meta device, which like a GPU in a graph has no numbers that could be read."""
    optimizer = make("meta", recipe, None, capturable=capturable, telemetry=True)
    set_grads(optimizer)
    with NoSync():
        optimizer.step()
        optimizer.step()
    held = {key: x for state in optimizer.state.values() for key, x in state.items()}
    assert all(x.is_meta for key, x in held.items() if capturable or key != "step")
    assert held["step"].is_meta == capturable


def test_waiting_is_noticed() -> None:
    """The test above can fail."""
    x = torch.empty(3, device="meta")
    with NoSync():
        for wait in (lambda: x.sum().item(), lambda: torch.ones(3).to("meta")):
            with pytest.raises(AssertionError, match=r"from the device|waits"):
                wait()


@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("dtype", "compile"), [(torch.float32, True), (torch.bfloat16, False)], ids=["float32 traced", "bfloat16 eager"]
)
@pytest.mark.parametrize("recipe", selected(RECIPES))
def test_a_capturable_step_is_the_same_step(recipe: str, dtype: torch.dtype, compile: bool) -> None:
    results: list[Any] = []
    for capturable in (False, True):
        optimizer = make("cpu", recipe, dtype, capturable=capturable, compile=compile, telemetry=True)
        for step in range(4):
            set_grads(optimizer, step)
            if step == 2:
                optimizer.param_groups[1]["params"][0].grad = None
            optimizer.step()
        results.append((frozen_copy(optimizer), optimizer.telemetry()))
    plain, captured = results
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(captured[0], plain[0], **tolerance)
    if dtype == torch.bfloat16 and recipe.startswith(
        ("muon", "normuon", "scion", "adv-muon", "adv-adamuon", "shampoo", "soap", "galore", "apollo")
    ):
        return  # where one rounding of a number turns a matrix, which telemetry shows
    assert captured[1] == pytest.approx(plain[1], rel=1e-3 if dtype == torch.float32 else 2e-2, abs=1e-4)


def test_a_replay_goes_by_the_counters_on_the_device() -> None:
    """What a graph replays is the tensor operations of one step: they must do all steps right."""
    optimizer, expected = (make("cpu", "adamw", capturable=capturable) for capturable in (True, False))
    for step in range(3):
        set_grads(optimizer, step)
        optimizer.step()
    for state in optimizer.state.values():
        state["step"].fill_(7)
    expected.load_state_dict(optimizer.state_dict())
    for ours, theirs in zip(optimizer.param_groups, expected.param_groups):
        for param, other in zip(ours["params"], theirs["params"]):
            other.data.copy_(param.data)
            other.grad = param.grad
    optimizer.step()
    expected.step()
    torch.testing.assert_close(frozen_copy(optimizer)[0], frozen_copy(expected)[0])


def test_copies_and_state_dicts_stay_capturable() -> None:
    optimizer = make("cpu", "adv-prodigy", capturable=True)
    set_grads(optimizer)
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    assert twin.capturable
    other = make("cpu", "adv-prodigy", capturable=True)
    other.load_state_dict(optimizer.state_dict())
    before = [group["d"] for group in other.param_groups]
    set_grads(other, 1)
    other.step()
    assert all(group["d"] is d for group, d in zip(other.param_groups, before)), "a graph knows only the old place"


def test_capturable_is_yes_or_no() -> None:
    with pytest.raises(gradchain.OptionError, match="capturable"):
        make("cpu", "adamw", capturable="yes")
