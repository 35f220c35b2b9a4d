"""Optimizers by class, as a trainer is given them, and a tiny model to train with them."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from gradchain import optim

os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = 24

EDITED = {
    "recipe": "rose",
    "lr": 1e-2,
    "without": ["cv_trust_gate"],
    "replace": {"divide": "atan2_scale(a=1.27)"},
    "options": "weight_decay=0.1",
}

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "Rose": (optim.Rose, {"lr": 1e-2}),
    "AdamW_adv": (optim.AdamW_adv, {"lr": 1e-2, "betas": [0.9, 0.99], "use_atan2": True, "weight_decay": 0.1}),
    "AdamW_adv_OrthoGrad": (optim.AdamW_adv_OrthoGrad, {"lr": 1e-2}),
    "Adams": (optim.Adams, {"lr": 1e-2}),
    "GYROAdam": (optim.GYROAdam, {"lr": 1e-2}),
    "Prodigy_adv": (optim.Prodigy_adv, {"lr": 1.0, "d0": 1e-3}),
    "Lion_adv": (optim.Lion_adv, {"lr": 1e-3}),
    "FromRecipe": (optim.FromRecipe, EDITED),
}
"""Classes with keywords, one or more of each family."""


def llama(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A language model of a few thousand parameters, the same each time."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=WORDS, max_position_embeddings=32, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(dtype)


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 4, 6, generator=generator)
    return [(x, x[:, :3].argmax(1)) for x in inputs]


def sentences(count: int = 8) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(3, WORDS, (count, 10), generator=generator)
    return [{"input_ids": row, "labels": row} for row in words]


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that are not equal bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
