"""Adapters of low rank on a character transformer that was trained before: from Python's documentation to its sources."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import tempfile
from pathlib import Path

import torch
from torch import nn

from gradchain.ablation.builtin import charlm, text
from gradchain.ablation.task import register_task
from gradchain.ablation.trial import MakeOptimizer, Metric, Trial

RANK, SCALE = 4, 8.0
BASE_STEPS, BASE_LR = 1000, 3e-3


class Adapted(nn.Module):
    """`W x + scale · B A x`, with `W` frozen, `A` random and `B` zero at first."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.whole = whole.requires_grad_(False)
        self.a = nn.Linear(whole.in_features, RANK, bias=False)
        self.b = nn.Linear(RANK, whole.out_features, bias=False)
        nn.init.normal_(self.a.weight, std=whole.in_features**-0.5)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.whole(x) + SCALE * self.b(self.a(x))


def adapted(model: nn.Module, seed: int) -> nn.Module:
    """Freeze a model and give all linear layers of its blocks adapters. Returns: the same model."""
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for block in model.modules():
            if isinstance(block, charlm.Block):
                for name, layer in [*block.named_children()]:
                    if isinstance(layer, nn.Linear):
                        setattr(block, name, Adapted(layer))
    return model


def base() -> charlm.Transformer:
    """The transformer trained on the documentation, once for all seeds. Returns: a new copy of it."""
    model = charlm.build(seed=0)
    model.load_state_dict(_base())
    return model


@functools.cache
def _base() -> dict[str, torch.Tensor]:
    """The weights: from memory, from the folder of the user's caches, or trained now, which takes some seconds."""
    path = cache_folder() / f"charlm-{key()}.pt"
    with contextlib.suppress(Exception):  # not there, or not whole: it is made again
        return torch.load(path, weights_only=True)
    weights = _trained()
    with contextlib.suppress(OSError):  # no place to keep it
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, half = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            torch.save(weights, file)
        Path(half).replace(path)
    return weights


def _trained() -> dict[str, torch.Tensor]:
    """Deterministically, whatever goes on around."""
    model, threads = charlm.build(seed=0), torch.get_num_threads()
    optimizer = torch.optim.AdamW(model.parameters(), lr=BASE_LR)
    torch.set_num_threads(1)
    try:
        charlm.fit(model, optimizer, Trial(0, "base", BASE_STEPS, Path()), text.parts())
    finally:
        torch.set_num_threads(threads)
    return model.state_dict()


def key() -> str:
    """What the base depends on: its settings and code, the text, and torch. Returns: a fingerprint."""
    facts = (inspect.getsource(charlm), BASE_STEPS, BASE_LR, text.digest(), torch.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where the base is kept: `gradchain` in `$XDG_CACHE_HOME`, `%LOCALAPPDATA%` or `~/.cache`. Returns: the folder."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(folder).expanduser() / "gradchain"


def lora_charlm(make_optimizer: MakeOptimizer, trial: Trial) -> dict[str, float]:
    """Train adapters on a character transformer that was trained before."""
    model = adapted(base(), trial.seed)
    optimizer = make_optimizer((name, p) for name, p in model.named_parameters() if p.requires_grad)
    return charlm.fit(model, optimizer, trial, text.parts("sources"))


register_task(
    charlm.TextTraining(
        lora_charlm,
        "lora-charlm",
        f"adapters of rank {RANK} take a charlm from Python's documentation to its sources; loss in nats per character",
        budget=400,
        chosen_by=Metric("validation_loss"),
        threads=1,
        margin=0.01,
        text="sources",
    )
)
