"""Comparisons that say what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradchain.testing.law import Broken
from gradchain.testing.runs import Run, Tensors

CLOSE = 1e-4
"""Of the largest move of a parameter: what rounding in another order may do."""


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same, bit for bit but for the kinds of NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_sparse:
        one, other = one.to_dense(), other.to_dense()
    if not one.is_floating_point():
        return torch.equal(one, other)
    one, other = one.detach().to(torch.float64), other.detach().to(torch.float64)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def same(found: Tensors, wanted: Tensors, what: str) -> None:
    """Raise `Broken` unless tensors are the same bit for bit."""
    for place, (one, other) in enumerate(zip(found, wanted)):
        if not equal(one, other):
            raise Broken(f"{what}: parameter {place} of shape {tuple(other.shape)} differs{_by(one, other)}")


def close(found: Tensors, wanted: Tensors, start: Tensors, what: str, slack: float = 0.0) -> None:
    """Raise `Broken` unless parameters are the same up to a small part of how far they moved."""
    for place, (one, other, first) in enumerate(zip(found, wanted, start)):
        if one.shape != other.shape:
            raise Broken(f"{what}: parameter {place} has shape {tuple(one.shape)}, not {tuple(other.shape)}")
        one, other, first = one.double(), other.double(), first.double()
        if not one.numel():
            continue
        error = (one - other).abs().max()
        allowed = CLOSE * (other - first).abs().max() + 1e-6 * other.abs().max() + slack
        if not bool(error <= allowed):
            raise Broken(f"{what}: parameter {place} of shape {tuple(other.shape)} differs{_by(one, other)}")


def _by(one: torch.Tensor, other: torch.Tensor) -> str:
    if one.shape != other.shape or one.dtype != other.dtype:
        return f": {one.dtype} {tuple(one.shape)}, not {other.dtype} {tuple(other.shape)}"
    error = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    return f" by {error:.2g}"


def finite(run: Run, what: str) -> None:
    """Raise `Broken` if a parameter or a part of the state is not finite."""
    named = [(f"parameter {place}", param) for place, param in enumerate(run.params)]
    for name, value in [*named, *run.tensors()]:
        if value.is_floating_point() and not bool(value.detach().to(torch.float64).isfinite().all()):
            raise Broken(f"{what}: {name} is not finite")


def moved(run: Run, start: Tensors, what: str) -> None:
    """Raise `Broken` if a parameter is where it was."""
    for place, (now, before) in enumerate(zip(run.values, start)):
        if before.numel() and equal(now, before):
            raise Broken(f"{what}: parameter {place} of shape {tuple(before.shape)} did not move")


def snapshot(tree: Any) -> Any:
    """A copy of the tensors in a nest of dicts, lists and tuples."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: snapshot(value) for key, value in tree.items()}
    return [snapshot(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def unlike(one: Any, other: Any, where: str = "") -> str:
    """Where two nests differ; empty if they do not."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return "" if equal(one, other) else where
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if {*one} != {*other}:
            return f"{where} (its keys)"
        return next((found for key in one if (found := unlike(one[key], other[key], f"{where}[{key!r}]"))), "")
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        if len(one) != len(other):
            return f"{where} (its length)"
        pairs = enumerate(zip(one, other))
        return next((found for place, (a, b) in pairs if (found := unlike(a, b, f"{where}[{place}]"))), "")
    return "" if one is other or bool(one == other) else where
