"""What is compared with what: a recipe of ours, a peer, the same hyperparameters on both sides.

A peer is imported where it is built, so that a missing package costs its own pair only.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import gradchain
from benchmarks import references
from benchmarks.shapes import TABLES

Build = Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]

EVERY = ("gpt2", "resnet50", "small", "matrix")
LARGE = ("gpt2",)
SAME = 2e-3
"""Updates of the same algorithm in fp32 differ by rounding: this much of their norm at most."""


@dataclass(frozen=True)
class Side:
    """One side of a pair: a label, how to build it, the package it needs, whether we compile it."""

    label: str
    build: Build
    package: str | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Pair:
    """Two optimizers to time in turns.

    Args:
        lists: the parameter lists that a default run measures.
        targets: the largest ratio of times that we want, by list.
        differs: why the two do not take the same steps; `None` if they do, which every run then checks.
        again: how many tensors of a parameter's size must be read a second time, as a total over the parameter has to be
            known before anything can be written. Counted in the bandwidth floor.
    """

    name: str
    ours: Side
    peer: Side
    lists: tuple[str, ...] = LARGE
    targets: Mapping[str, float] = field(default_factory=dict)
    differs: str | None = None
    again: int = 0


def recipe(name: str, label: str = "", *, compile: bool = True, storage: str | None = None, **options: Any) -> Side:
    """A side of ours; `storage` is that of both moments."""

    def build(params: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        chain = gradchain.recipe(name, **options)
        if storage is not None:
            chain = chain.with_options(**{"first_moment.storage": storage, "second_moment.storage": storage})
        return gradchain.Optimizer(params, chain, compile=compile)

    return Side(label or name, build, compiled=compile)


def published(package: str, path: str, label: str = "", **options: Any) -> Side:
    """A class of an installed package, by module and name."""

    def build(params: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        module, name = path.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)(params, **options)

    return Side(label or f"{package} {path.rsplit('.', 1)[1]}", build, package)


def muon(*, compile: bool = True) -> Side:
    """Muon for the hidden matrices of the GPT-2-like list, AdamW for its embeddings and all else."""

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


ADAM: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
MUON: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "ns_steps": 5}
LION: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}
GYRO: dict[str, Any] = {"lr": 1e-4, "warmup_steps": 0}
DECAY: dict[str, Any] = {"lr": 1e-4, "weight_decay": 1e-2}
FACTORED: dict[str, Any] = {**DECAY, "nnmf_factor": True}
UNBIASED: dict[str, Any] = {**DECAY, "use_bias_correction": False}  # with it adv-optm compiles anew at every step
ADOPT: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8}
UNCLIPPED = "adv-adopt unclipped"
ROUNDED = "codes of 8 bits are rounded in different ways"


def adv(
    name: str, cls: str, options: Mapping[str, Any], *, compiled: bool = False, label: str = "", **rest: Any
) -> Pair:
    """One of our adv recipes against adv_optm's class with the same options."""
    mode = "compiled" if compiled else "uncompiled"
    theirs = {**options, "compiled_optimizer": True} if compiled else dict(options)
    mine = label or name
    suffix = "-compiled" if compiled else ""
    what = f"adv-optm {cls}{' factored' if 'factored' in mine else ''}, {mode}"
    peer = published("adv-optm", f"adv_optm.{cls}", what, **theirs)
    return Pair(f"{mine.replace(' ', '-')}{suffix}", recipe(name, mine, **options), peer, **rest)


PAIRS = [
    Pair(
        "adamw-fused",
        recipe("adamw", **ADAM),
        published("torch", "torch.optim.AdamW", "torch AdamW(fused)", fused=True, **ADAM),
        EVERY,
        {"gpt2": 1.05, "small": 1.0},
    ),
    Pair(
        "adamw-foreach",
        recipe("adamw", **ADAM),
        published("torch", "torch.optim.AdamW", "torch AdamW(foreach)", foreach=True, **ADAM),
        ("gpt2", "small"),
    ),
    Pair(
        "adamw-eager",
        recipe("adamw", "adamw eager", compile=False, **ADAM),
        published("torch", "torch.optim.AdamW", "torch AdamW(for-loop)", foreach=False, **ADAM),
        ("gpt2", "small"),
        {"gpt2": 1.5, "small": 1.5},
    ),
    Pair(
        "adamw-heavyball",
        recipe("adamw", **ADAM),
        published("heavyball", "heavyball.AdamW", **ADAM),
        LARGE,  # on `small` its compiler takes minutes
        dict.fromkeys(EVERY, 0.9),
    ),
    Pair("adamw-optimi", recipe("adamw", **ADAM), published("torch-optimi", "optimi.AdamW", **ADAM)),
    Pair(
        "adamw-int8",
        recipe("adamw", "adamw int8", storage="int8", **ADAM),
        published("torchao", "torchao.optim.AdamW8bit", **ADAM),
        differs=ROUNDED,
    ),
    Pair(
        "sgd-heavyball",
        recipe("sgd", "sgd momentum", lr=1e-2, momentum=0.9),
        published("heavyball", "heavyball.SGD", lr=1e-2, beta=0.9),
        targets={"gpt2": 0.9},
    ),
    Pair("lion-optimi", recipe("lion", **LION), published("torch-optimi", "optimi.Lion", **LION)),
    Pair(
        "lion-pytorch-optimizer",
        recipe("lion", **LION),
        published("pytorch-optimizer", "pytorch_optimizer.Lion", **LION),
    ),
    Pair(
        "rose-fp32",
        recipe("rose", "rose fp32", lr=1e-3, compute_dtype="fp32"),
        unfused(references.Rose, "Rose fp32", lr=1e-3, dtype=torch.float32),
        LARGE,
        {"gpt2": 0.5},
        again=1,
    ),
    Pair(
        "rose",
        recipe("rose", "rose fp64", lr=1e-3),
        unfused(references.Rose, "Rose fp64", lr=1e-3),
        targets={"gpt2": 0.3},
        again=1,
    ),
    Pair(
        "rose-pytorch-optimizer",
        recipe("rose-1.0.2", "rose-1.0.2 fp64", lr=1e-3),
        published("pytorch-optimizer", "pytorch_optimizer.ROSE", lr=1e-3),
        again=1,
    ),
    Pair(
        "gyro-adam",
        recipe("gyro-adam", **GYRO),
        unfused(references.GyroAdam, "GYRO-Adam", **GYRO),
        LARGE,
        {"gpt2": 0.3},
        again=2,
    ),
    Pair("gyro-sgd", recipe("gyro-sgd", **GYRO), unfused(references.GyroSGD, "GYRO-SGD", **GYRO), again=2),
    Pair(
        "adams",
        recipe("adams", lr=1e-4),
        published("adams-torch", "adams.Adams_ZeRO", lr=1e-4),
        LARGE,
        {"gpt2": 0.35},
        again=2,
    ),
    Pair("muon", muon(), torch_muon(), targets={"gpt2": 0.9}),
    Pair("muon-eager", muon(compile=False), torch_muon()),
    adv("adv-adamw", "AdamW_adv", DECAY, targets={"gpt2": 0.4}),
    adv("adv-adamw", "AdamW_adv", DECAY, compiled=True, lists=LARGE),
    adv("adv-adamw", "AdamW_adv", FACTORED, label="adv-adamw factored", targets={"gpt2": 0.2}),
    adv("adv-adopt", "Adopt_adv", DECAY, targets={"gpt2": 0.4}),
    Pair(
        "adv-adopt-heavyball",
        recipe("adv-adopt", UNCLIPPED, clip_lambda=None, **ADOPT),
        published("heavyball", "heavyball.ADOPT", **ADOPT),
        targets={"gpt2": 0.9},
        differs="its first steps are up to ten times as long",
    ),
    Pair(
        "adv-adopt-pytorch-optimizer",
        recipe("adv-adopt", UNCLIPPED, clip_lambda=None, **ADOPT),
        published("pytorch-optimizer", "pytorch_optimizer.ADOPT", clip_lambda=lambda step: math.inf, **ADOPT),
    ),
    adv("adv-prodigy", "Prodigy_adv", {}, targets={"gpt2": 0.4}, again=1),
    Pair(
        "adv-prodigy-pytorch-optimizer",
        recipe("adv-prodigy", "adv-prodigy slice_p=1", slice_p=1),
        published("pytorch-optimizer", "pytorch_optimizer.Prodigy"),
        again=2,
    ),
    adv("adv-lion", "Lion_adv", LION),
    adv("adv-adamw", "AdamW_adv", UNBIASED, compiled=True, label="adv-adamw unbiased", lists=LARGE),
    adv("adv-prodigy", "Prodigy_adv", {}, compiled=True, lists=LARGE, again=1),
]
"""All pairs, in the order of the tables."""


def pair(name: str) -> Pair:
    known = {pair.name: pair for pair in PAIRS}
    if name not in known:
        raise ValueError(f"unknown pair {name!r}; there are {', '.join(known)}.")
    return known[name]
