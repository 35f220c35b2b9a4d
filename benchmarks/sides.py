"""How the optimizers of a pair are built: our recipes, published packages, references.

A peer is imported where it is built, so that a missing package costs its own pair only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import gradchain
from benchmarks import references
from benchmarks.shapes import TABLES

Build = Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]

ADAM: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
MUON: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "ns_steps": 5}


@dataclass(frozen=True)
class Side:
    """One side of a pair.

    Args:
        label: what it is called on the page.
        build: makes the optimizer.
        package: the one that it needs.
        compiled: whether we compile it.
        stored: whether moments are kept in fewer bits than the parameters, by rows and columns, or the like.
    """

    label: str
    build: Build
    package: str | None = None
    compiled: bool = False
    stored: bool = False


def recipe(
    name: str,
    label: str = "",
    *,
    compile: bool = True,
    storage: str | None = None,
    stored: bool = False,
    **options: Any,
) -> Side:
    """A side of ours; `storage` is that of both moments."""

    def build(params: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        chain = gradchain.recipe(name, **options)
        if storage is not None:
            chain = chain.with_options(**{"first_moment.storage": storage, "second_moment.storage": storage})
        return gradchain.Optimizer(params, chain, compile=compile)

    return Side(label or name, build, compiled=compile, stored=stored or storage is not None)


def published(package: str, path: str, label: str = "", **options: Any) -> Side:
    """A class of an installed package, by module and name."""

    def build(params: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        module, name = path.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)(params, **options)

    return Side(label or f"{package} {path.rsplit('.', 1)[1]}", build, package)


def torch_adamw(how: str) -> Side:
    """The `torch.optim.AdamW` that is fused, foreach or a for-loop."""
    flags = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}[how]
    return published("torch", "torch.optim.AdamW", f"torch AdamW({how})", **flags, **ADAM)


def muon(*, compile: bool = True) -> Side:
    """Muon for the hidden matrices of a GPT-2 list, AdamW for its embeddings and all else."""

    def build(params: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        roles = TABLES * ["embedding"] + (len(params) - TABLES) * [None]
        options = {f"adam_{name}": value for name, value in ADAM.items() if name != "lr"}
        return gradchain.Optimizer(params, gradchain.recipe("muon", **MUON, **options), role=roles, compile=compile)

    return Side("muon" if compile else "muon eager", build, compiled=compile)


def torch_muon() -> Side:
    def build(params: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return references.MuonAndAdamW(params, TABLES, MUON, ADAM)

    return Side("torch Muon + AdamW(fused)", build, "torch")


def unfused(cls: type[references.Unfused], label: str, **options: Any) -> Side:
    return Side(f"unfused {label}", lambda params: cls(params, **options))
