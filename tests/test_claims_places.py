"""What is found out about a program does not depend on where it is tried; storages are watched as stages are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gradchain as gc
from gradchain._chain.program import Program
from gradchain._chain.tracing import traits, traits_of
from tests.claims import LR, POINTWISE, noisy, of, stage
from tests.laws.cases import CASES


class logging_mode(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        logging_mode.calls += 1
        return func(*args, **(kwargs or {}))


class counting_mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def forget(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    """Let a program be tried as if for the first time; what is known of others stays, for other tests."""
    monkeypatch.setattr(traits, "_known", {})
    program.traced.clear()


PLACES: dict[str, Any] = {
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "function mode": logging_mode,
    "dispatch mode": counting_mode,
    "grad": torch.enable_grad,
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ["adamw", "rose", "adam-atan2", "adv-lion", "clip_by_global_norm"])
def test_it_does_not_matter_where_a_program_is_tried(where: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    param = torch.zeros(3, 3)
    program = CASES[name].chain.route("", param)
    expected = traits_of(program, param)
    forget(monkeypatch, program)
    with PLACES[where]():
        assert traits_of(program, param) == expected


def test_the_default_dtype_does_not_matter() -> None:
    expected = [of(stage(POINTWISE[what][0])) for what in POINTWISE]
    torch.set_default_dtype(torch.float64)
    try:
        assert [of(stage(POINTWISE[what][0])) for what in POINTWISE] == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_under_functorch(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = gc.chain(stage(noisy), gc.first_moment(), LR)
    params = torch.ones(4, 3)
    state = chain.init(params[0])

    def loss(param: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        forget(monkeypatch, chain.route("", param))
        updates, _ = chain.update(grad, state, param)
        return gc.apply_updates(param, updates).sum()

    assert torch.func.grad(loss)(params[0], params[0]).shape == (3,)
    assert torch.func.vmap(torch.func.grad(loss))(params, params).shape == (4, 3)


# Storages.


@dataclass(frozen=True)
class Mirrored(gc.storage.Storage):
    """Keeps a slot back to front."""

    def store(self, dense: torch.Tensor, kept: Any, bits: Any) -> Any:
        return {"": dense.flip(0)}

    def load(self, parts: Any, kept: Any) -> torch.Tensor:
        return parts[""].flip(0)


@dataclass(frozen=True)
class Sure(Mirrored):
    elementwise: ClassVar[bool | None] = True


@dataclass(frozen=True)
class Shaken(gc.storage.Storage):
    """Draws noise without saying so."""

    def store(self, dense: torch.Tensor, kept: Any, bits: Any) -> Any:
        return {"": dense + bits().to(dense.dtype) * 1e-12}


def test_storages_are_watched_too() -> None:
    def keeping(storage: gc.storage.Storage) -> gc.Stage:
        slots = {"exp_avg": gc.Slot(storage=storage)}
        return type("claims_kept", (gc.first_moment,), {"slots": lambda self, p: slots})()

    assert not of(keeping(Mirrored())).exact
    assert of(keeping(gc.storage.Storage())).exact
    assert of(keeping(Shaken())).draws
    with pytest.raises(gc.ChainError, match=r"Sure \(claims_kept\.exp_avg\)\.elementwise = True, but .* aten.flip"):
        of(keeping(Sure()))
