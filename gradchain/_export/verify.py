"""Runs what was written against the chain before anyone gets it: a file that differs is no file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from gradchain._chain.chain import Chain
from gradchain._core.fields import DTYPES
from gradchain._export.symbols import ExportError
from gradchain._optim.optimizer import Optimizer

SHAPES = ((), (1,), (9,), (6, 5), (8, 1), (1, 8), (33, 40), (65, 34), (3, 4, 5), (4, 2, 3, 3), (2, 1, 1, 3))
ULPS = 2
"""By how many units in the last place a number may differ."""


CAUSE = "A stage or a storage goes by something that its trace does not show, such as a size read as a plain number."


def verify(chain: Chain, text: str, name: str, dtypes: Sequence[str]) -> None:
    """Raise `ExportError` unless the optimizer in a file steps as the chain does."""
    space: dict[str, Any] = {"__name__": "exported"}
    exec(compile(text, "exported.py", "exec"), space)
    for dtype in dtypes:
        try:
            _compare(chain, space[name], dtype)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(
                f"the file would fail where the chain does not: {type(error).__name__}: {str(error)[:200]}. {CAUSE}"
            ) from error


@torch.no_grad()
def _compare(chain: Chain, made: Any, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(DTYPES[dtype])

    values = [drawn(shape) for shape in SHAPES]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in values] for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference, exported = Optimizer(ours, chain, compile=False), made(theirs)
    for turn in range(6):
        for one, other in zip(ours, theirs):
            one.grad = drawn(tuple(one.shape)) * (0.1 + turn)
            other.grad = one.grad.clone()
        if turn == 4:
            _advance(reference, 10_000)
            _advance(exported, 10_000)
        for optimizer in (reference, exported):
            for group in optimizer.param_groups:
                if isinstance(group.get("lr"), float):
                    group["lr"] = group["lr"] * 0.75
            optimizer.step()
        for one, other in zip(ours, theirs):
            _same(one, other, reference.state[one], exported.state[other], f"shape {tuple(one.shape)}, {dtype}")


def _advance(optimizer: Any, steps: int) -> None:
    """Act as if so many steps had been taken, for what begins late."""
    for state in optimizer.state.values():
        state["step"] += steps


def _same(one: Any, other: Any, state: dict[str, Any], theirs: dict[str, Any], where: str) -> None:
    pairs = {"the parameter": (one, other)}
    if state.keys() != theirs.keys():
        raise ExportError(
            f"the file would keep other state than the chain for a parameter of {where}. This is a fault of the export; "
            "please report the chain."
        )
    pairs |= {key: (state[key], theirs[key]) for key in state}
    for key, (wanted, got) in pairs.items():
        if (far := distance(wanted, got)) > ULPS:
            raise ExportError(
                f"the file would not do what the chain does: {key} of {where} differs by {far:.3g} units in the last place. "
                f"{CAUSE}"
            )


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """By how many units in the last place two tensors differ, at most."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return torch.inf
    if torch.equal(a, b) or a.numel() == 0:
        return 0.0
    if not a.dtype.is_floating_point:
        return torch.inf
    x, y = a.detach().double(), b.detach().double()
    if not torch.equal(x.isfinite(), y.isfinite()):
        return torch.inf
    size = torch.maximum(x.abs(), y.abs()).clamp(min=torch.finfo(a.dtype).smallest_normal)
    return float(((x - y).abs() / (size * torch.finfo(a.dtype).eps)).nan_to_num(0.0).max())
