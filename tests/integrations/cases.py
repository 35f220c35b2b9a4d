"""Optimizers by the names that configs give them, a small model, and runs to compare."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "rose": ("gradchain.optim.Rose", {"lr": 0.01, "weight_decay": 0.1}),
    "adv-adamw": ("gradchain.optim.AdamW_adv", {"lr": 0.01, "betas": [0.9, 0.95], "use_atan2": True}),
    "adams": ("gradchain.optim.Adams", {"lr": 0.01, "weight_decay": 0.05}),
    "prodigy": ("gradchain.optim.Prodigy_adv", {"lr": 1.0, "d_coef": 2.0}),
    "edited": (
        "gradchain.optim.FromRecipe",
        {
            "recipe": "adamw",
            "lr": 0.01,
            "without": ["decoupled_decay"],
            "replace": {"divide": "atan2_scale(a=1.27)"},
            "insert_before": {"first_moment": [{"stage": "clip_by_norm", "max_norm": 1.0}, "centralize"]},
            "options": {"betas": [0.9, 0.95]},
        },
    ),
}
"""Import path and arguments, as YAML holds them, of each optimizer that every loader is tested with."""

EDITED = ["clip_by_norm", "centralize", "first_moment", "second_moment", "atan2_scale", "scale_by_learning_rate"]
"""The chain of `edited`."""


def loaded(path: str) -> Any:
    """What an import path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batches(steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 4, generator=generator)
        yield x, x[:, :2].sin()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> list[torch.Tensor]:
    """The parameters after some steps."""
    for x, y in batches(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return parameters(model)


def expected(name: str, steps: int = 4, **more: Any) -> list[torch.Tensor]:
    """The parameters where the optimizer is made without any loader."""
    model, (path, arguments) = net(), NAMED[name]
    return train(model, loaded(path)(model.parameters(), **{**arguments, **more}), steps)


def parameters(model: nn.Module) -> list[torch.Tensor]:
    return [param.detach().clone() for param in model.parameters()]


def same(one: Any, other: Any) -> bool:
    """Whether two nests of tensors, dicts and lists are equal bit for bit."""
    if torch.is_tensor(one):
        return torch.is_tensor(other) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
