"""Optimizers that go by rows, columns and layers, next to the packages that publish them, as black boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain

SHAPES = ((6, 8), (6,), (1,), (4, 3, 2), (7, 11), (3, 2, 3, 3))
STEPS = 20


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def assert_same_steps(theirs: torch.optim.Optimizer, ours: gradchain.Optimizer, rtol: float = 1e-5) -> None:
    """Both take the same steps under gradients of very different sizes, one of them zero."""
    pairs = [[param for group in optimizer.param_groups for param in group["params"]] for optimizer in (theirs, ours)]
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(*pairs, strict=True):
            size = 0.0 if step == 5 else 10.0 ** (step % 5 - 2)
            a.grad = size * torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        theirs.step()
        ours.step()
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(b.detach(), a.detach(), rtol=rtol, atol=rtol)


TIMM: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lamb": ("Lamb", "lamb", {"lr": 0.02, "max_grad_norm": 1.0}),
    "lamb, plain": ("Lamb", "lamb", {"lr": 0.02, "max_grad_norm": None, "bias_correction": False, "weight_decay": 0.0}),
    "lamb, clipped": (
        "Lamb", "lamb", {"lr": 0.02, "trust_clip": True, "always_adapt": True, "weight_decay": 0.0, "max_grad_norm": 2.0}
    ),
    "lars": ("Lars", "lars", {"lr": 0.5, "weight_decay": 0.05}),
    "lars, plain": ("Lars", "lars", {"lr": 0.01}),
    "lars, momentum": (
        "Lars", "lars", {"lr": 0.5, "weight_decay": 0.05, "momentum": 0.9, "nesterov": True, "trust_coeff": 0.01}
    ),
    "lars, clipped": (
        "Lars", "lars", {"lr": 0.1, "momentum": 0.8, "dampening": 0.1, "trust_clip": True, "always_adapt": True}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    from tests import cpu_torchvision as cpu_torchvision

    peers = pytest.importorskip("timm.optim", reason="pip install gradchain[integrations]")
    kind, recipe, options = TIMM[name]
    theirs = getattr(peers, kind)(parameters(), **options)
    assert_same_steps(theirs, gradchain.optimizer(recipe, parameters(), **options))


CAME: dict[str, dict[str, Any]] = {
    "defaults": {"lr": 0.01},
    "all": {"lr": 0.02, "betas": (0.8, 0.95, 0.99), "clip_threshold": 0.5, "weight_decay": 0.1, "eps": (1e-2, 1e-3)},
}


@pytest.mark.parametrize("options", CAME.values(), ids=CAME)
def test_came_pytorch(options: dict[str, Any]) -> None:
    peers = pytest.importorskip("came_pytorch", reason="pip install gradchain[parity]")
    theirs = peers.CAME(parameters(), **options)
    assert_same_steps(theirs, gradchain.optimizer("came", parameters(), **options))


NAMED = {
    "tok_embeddings.weight": (10, 8),
    "layers.0.attention.wq.weight": (8, 8),
    "layers.0.attention.wk.weight": (8, 8),
    "layers.0.attention.wv.weight": (8, 8),
    "layers.0.attention.wo.weight": (8, 8),
    "layers.0.mlp.w1.weight": (12, 8),
    "layers.0.norm.weight": (8,),
    "output.weight": (10, 8),
}
"""What the package finds out from names, ours is told by roles. It steps biases as Adam does."""


def test_adam_mini() -> None:
    peers = pytest.importorskip("adam_mini", reason="pip install gradchain[parity]")
    options = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}

    def named() -> list[tuple[str, nn.Parameter]]:
        generator = torch.Generator().manual_seed(0)
        return [(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in NAMED.items()]

    theirs = peers.Adam_mini(named(), dim=8, n_heads=4, verbose=False, **options)
    roles = {"layers.0.attention.wq.weight": "query", "layers.0.attention.wk.weight": "key"}
    ours = gradchain.Optimizer(named(), gradchain.recipe("adam-mini", n_heads=4, **options), role=roles)
    assert_same_steps(theirs, ours)
