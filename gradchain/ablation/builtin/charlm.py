"""A small transformer that predicts the next character of the Python documentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradchain.ablation.builtin import text
from gradchain.ablation.task import register_task
from gradchain.ablation.trial import MakeOptimizer, Metric, Training, Trial, seen

WIDTH, HEADS, LAYERS, LENGTH, BATCH = 64, 4, 2, 64, 8
STEPS = 600
EVERY = 25
"""Steps between looks at the validation part."""


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Turn pairs of numbers by angles that grow with the place (RoPE), so that attention sees distances. Returns: like x."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2]), 1000.0 ** (-torch.arange(half) / half))
    one, two = x.chunk(2, -1)
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    return torch.cat((one * cos - two * sin, one * sin + two * cos), -1)


class Block(nn.Module):
    """Attention, then two linear layers, both normalised before and added after."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.before_attention, self.before_layers = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        heads = self.qkv(self.before_attention(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        query, key, value = rotated(heads[0]), rotated(heads[1]), heads[2]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(nn.functional.gelu(self.up(self.before_layers(x))))


class Transformer(nn.Module):
    """Logits of the next character at each place; without `causal`, each place sees what comes after it too."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.characters = nn.Embedding(text.VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(*(Block(causal) for _ in range(LAYERS)))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, text.VOCABULARY, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.normal_(self.characters.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.characters(characters))))


def loss_of(model: nn.Module, pieces: torch.Tensor) -> torch.Tensor:
    """The mean of the next character's negative log-likelihood, in nats, for pieces `(n, length + 1)`. Returns: a number."""
    return nn.functional.cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())


@torch.no_grad()
def measured(model: nn.Module, part: torch.Tensor, count: int) -> float:
    """The loss on `count` pieces of a part. Returns: nats per character."""
    return loss_of(model, text.windows(part, LENGTH, count)).item()


def build(seed: int, causal: bool = True) -> Transformer:
    """The network with the weights of a seed. The global random state stays. Returns: it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(causal)


def warmed_up(done: float) -> float:
    """The multiple of the learning rate: up in the first twentieth, then in a straight line down to a tenth."""
    return min(done / 0.05, 1 - 0.9 * max(0.0, done - 0.05) / 0.95)


def fit(
    model: nn.Module, optimizer: torch.optim.Optimizer, trial: Trial, parts: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Train on random pieces. Returns: `loss`, of the test part, and `validation_loss`, in nats per character."""
    train, steps = parts["train"], trial.budget or 1
    generator = torch.Generator().manual_seed(trial.seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmed_up((step + 1) / (steps + 1)))
    offsets = torch.arange(LENGTH + 1)
    for step in range(1, steps + 1):
        starts = torch.randint(len(train) - LENGTH, (BATCH,), generator=generator)
        loss = loss_of(model, train[starts[:, None] + offsets])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        value = loss.item()
        trial.report(step, training_loss=value)
        if not math.isfinite(value):
            break
        if step % EVERY == 0 and step < steps:
            with seen(optimizer):
                trial.report(step, validation_loss=measured(model, parts["validation"], 64))
    with seen(optimizer):
        validation = measured(model, parts["validation"], 64)
        trial.report(steps, validation_loss=validation)
        return {"loss": measured(model, parts["test"], 512), "validation_loss": validation}


def charlm(make_optimizer: MakeOptimizer, trial: Trial) -> dict[str, float]:
    """Train a character transformer from nothing."""
    model = build(trial.seed)
    return fit(model, make_optimizer(model), trial, text.parts())


@dataclass(frozen=True)
class TextTraining(Training):
    """A training on a text; runs on the text of another version of Python are other runs."""

    text: str = "topics"

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "text": text.digest(self.text)}


register_task(
    TextTraining(
        charlm,
        "charlm",
        "the next character of Python's documentation, transformer of 2 layers and width 64; loss in nats per character",
        budget=STEPS,
        chosen_by=Metric("validation_loss"),
        threads=1,
        margin=0.01,
    )
)
