"""Muon's step beside AdamW's in a real training step: forward, backward and step of GPT-2."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import gradchain

WARMUP, LEAST = 4, 5


@dataclass(frozen=True)
class Size:
    width: int
    layers: int
    heads: int
    vocabulary: int
    length: int
    batch: int


SIZES = {"cuda": Size(768, 12, 12, 50_257, 1024, 8), "cpu": Size(32, 2, 2, 64, 16, 2)}
"""GPT-2 124M, and one that only shows that the code runs."""


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.heads = size.heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        attended = F.scaled_dot_product_attention(*split, is_causal=True)
        x = x + self.out(attended.transpose(-3, -2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class GPT(nn.Module):
    """GPT-2, Radford et al. (2019): the output layer is the table of tokens."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(size.vocabulary, size.width), nn.Embedding(size.length, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        hidden = self.norm(self.blocks(self.tokens(tokens) + self.places(places)))
        logits = hidden[:, :-1] @ self.tokens.weight.t()
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def compare(
    place: str, synchronize: Callable[[], None], rounds: int, seconds: float, *, compile: bool
) -> dict[str, Any]:
    """Ratios of whole training steps, Muon's over AdamW's, in turns."""
    size = SIZES[place]
    sides: dict[str, tuple[GPT, torch.optim.Optimizer]] = {}
    for name in ("muon", "adamw"):
        torch.manual_seed(0)
        model = GPT(size).to(place)
        sides[name] = (model, gradchain.optimizer(name, model, compile=compile))
    tokens = torch.randint(size.vocabulary, (size.batch, size.length), device=place)

    def step(name: str) -> float:
        model, optimizer = sides[name]
        synchronize()
        start = time.perf_counter()
        with torch.autocast(place, torch.bfloat16, enabled=place == "cuda"):
            loss = model(tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        return time.perf_counter() - start

    for _ in range(WARMUP):
        step("muon"), step("adamw")
    taken: list[dict[str, float]] = []
    while len(taken) < LEAST or (len(taken) < rounds and sum(sum(row.values()) for row in taken) < seconds):
        order = ("muon", "adamw") if len(taken) % 2 == 0 else ("adamw", "muon")
        taken.append({name: step(name) for name in order})
    ratios = [row["muon"] / row["adamw"] for row in taken]
    lower, ratio, upper = statistics.quantiles(ratios, n=4)
    times = {f"{name}_ms": 1e3 * statistics.median(row[name] for row in taken) for name in sides}
    return {"ratio": ratio, "quartiles": [lower, upper], "ratios": ratios, "rounds": len(taken), **times}
