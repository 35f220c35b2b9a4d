"""What is compared with what: a recipe of ours, a peer, the same hyperparameters on both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import references
from benchmarks.sides import ADAM, Side, muon, published, recipe, torch_adamw, torch_muon, unfused
from gradchain.storage import STORAGES

LARGE = ("gpt2",)
GPT2 = ("gpt2-124m",)
SAME = 2e-3
"""Updates of the same algorithm in fp32 differ by rounding: this much of their norm at most."""


@dataclass(frozen=True)
class Pair:
    """Two optimizers to time in turns.

    Args:
        lists: the parameter lists that a default run on a CPU measures.
        cuda: those that a default run on a GPU measures.
        targets: the largest ratio of times that we want, by list.
        quick: the lists that `make bench-quick` compares with the committed page.
        differs: why the two do not take the same steps; `None` if they do, which every run then checks.
        again: how many tensors of a parameter's size must be read a second time, as a total over the parameter has to be
            known before anything can be written. Counted in the bandwidth floor.
        why: what the profile shows where a target is missed; the page says it there.
    """

    name: str
    ours: Side
    peer: Side
    lists: tuple[str, ...] = LARGE
    targets: Mapping[str, float] = field(default_factory=dict)
    cuda: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    differs: str | None = None
    again: int = 0
    why: str = ""


LION: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}
GYRO: dict[str, Any] = {"lr": 1e-4, "warmup_steps": 0}
DECAY: dict[str, Any] = {"lr": 1e-4, "weight_decay": 1e-2}
FACTORED: dict[str, Any] = {**DECAY, "nnmf_factor": True}
UNBIASED: dict[str, Any] = {**DECAY, "use_bias_correction": False}  # with it adv-optm compiles anew at every step
ADOPT: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8}
PLAIN: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-4}
FULL = ("param", "fp32", "factored_vectors")
"""Storages that are fp32 for the parameters here, and one that is another for their matrices."""

UNCLIPPED = "adv-adopt unclipped"
ROUNDED = "moments are rounded in different ways"
OTHER = "another algorithm: what it costs beside AdamW"

CALLS = (
    "of large tensors, the arithmetic is as fast as the memory, and 7 of 350 microseconds are Python and the call of a "
    "kernel; of the perceptron's 43 microseconds the kernel and its call take 4, the numbers of the step and their packing "
    "9, the look whether all is as it was 5, hooks and modes of torch 14, as in the peer's 31"
)
ATAN = (
    "AdamW's arithmetic is two fifths, two products of the power iteration three tenths, arctangent and decay the rest"
)
PRODUCTS = (
    "nine tenths of both sides are Newton-Schulz, in products at nine tenths of what the processor can do; ours are fewer "
    "by the quarter of a symmetric one that is copied"
)
UNPACKED = "each moment is unpacked, and packed again with noise"
SIGNS = (
    "each moment is unpacked and averaged once, and written to memory, from which loops of their own add up its rows and "
    "columns and pack its signs"
)
TILES = (
    "thirty to seventy operations go over each tile one by one, some of them again in each pass; a tenth of the time is "
    "their Python"
)
SCALARS = "stages scale moments, roots and steps one after another, in a pass for each; the published step folds them"
TOTALS = (
    "loops for totals in float64 go over the gradient, and what it is compared with, before the loop that writes reads "
    "them again"
)
MOVES = (
    "small tensors are moved to where they stand in a row, and back: 7 of 21 calls of torch; and 40 microseconds go before "
    "the first of them, as in a compiled step"
)


def adv(
    name: str,
    cls: str,
    options: Mapping[str, Any],
    *,
    compile: bool = True,
    theirs: bool = False,
    label: str = "",
    **rest: Any,
) -> Pair:
    """One of our adv recipes against adv_optm's class with the same options. `theirs`: theirs is compiled as well."""
    asked = {**options, "compiled_optimizer": True} if theirs else dict(options)
    factored = "nnmf_factor" in options
    mine = (label or f"{name}{' factored' if factored else ''}") + ("" if compile else " eager")
    what = f"adv-optm {cls}{' factored' if factored else ''}, {'compiled' if theirs else 'uncompiled'}"
    side = recipe(name, mine, compile=compile, stored=factored, **options)
    tail = "-compiled" if theirs else ""
    return Pair(
        f"{mine.replace(' ', '-')}{tail}", side, published("adv-optm", f"adv_optm.{cls}", what, **asked), **rest
    )


def adamw(label: str = "adamw", **options: Any) -> Side:
    return recipe("adamw", label, **options, **ADAM)


ADAMW = [
    Pair(
        "adamw-fused",
        adamw(),
        torch_adamw("fused"),
        ("gpt2", "resnet50", "small", "matrix", "mlp"),
        {"gpt2": 1.05, "small": 0.9, "mlp": 1.0, "gpt2-124m": 1.05, "gpt2-1.5b": 1.05},
        ("gpt2-124m", "gpt2-1.5b", "small"),
        ("gpt2", "small", "mlp"),
        why=CALLS,
    ),
    Pair("adamw-foreach", adamw(), torch_adamw("foreach"), ("gpt2", "small"), cuda=GPT2),
    Pair(
        "adamw-eager",
        adamw("adamw eager", compile=False),
        torch_adamw("for-loop"),
        ("gpt2", "small", "matrix"),
        {"gpt2": 1.1, "small": 1.1},
        quick=("small",),
        why=SCALARS,
    ),
    Pair(
        "adamw-eager-foreach",
        adamw("adamw eager", compile=False),
        torch_adamw("foreach"),
        (),
        cuda=("gpt2-124m", "small"),
    ),
    Pair(
        "adamw-eager-fused",
        adamw("adamw eager", compile=False),
        torch_adamw("fused"),
        ("mlp",),
        {"mlp": 1.2},
        why=MOVES,
    ),
    Pair(
        "adamw-heavyball",
        adamw(),
        published("heavyball", "heavyball.AdamW", **ADAM),  # on `small` its compiler takes minutes
        targets={"gpt2": 0.9},
    ),
    Pair("adamw-optimi", adamw(), published("torch-optimi", "optimi.AdamW", **ADAM)),
]

STORED = [
    Pair(
        "adamw-bf16",
        adamw("adamw bf16", storage="bf16"),
        torch_adamw("fused"),
        targets={"gpt2": 0.8},
        cuda=GPT2,
        differs=ROUNDED,
        why=UNPACKED,
    ),
    Pair(
        "adamw-int8",
        adamw("adamw int8", storage="int8"),
        published("torchao", "torchao.optim.AdamW8bit", **ADAM),
        targets={"gpt2": 0.4},
        cuda=GPT2,
        differs=ROUNDED,
        why=UNPACKED,
    ),
    *(
        Pair(
            f"adamw-{name}-own",
            adamw(f"adamw {name}", storage=name),
            adamw("adamw, ours"),
            targets={"gpt2": 2.0} if name == "int8" else {},
            cuda=GPT2,
            differs=ROUNDED,
            why=UNPACKED,
        )
        for name in STORAGES
        if name not in FULL
    ),
]
"""AdamW with moments in each storage that there is: its time, what it keeps and what a step takes beside it."""

PEERS = [
    Pair(
        "sgd-heavyball",
        recipe("sgd", "sgd momentum", lr=1e-2, momentum=0.9),
        published("heavyball", "heavyball.SGD", lr=1e-2, beta=0.9),
        targets={"gpt2": 0.9},
    ),
    Pair("lion-optimi", recipe("lion", **LION), published("torch-optimi", "optimi.Lion", **LION), cuda=GPT2),
    Pair(
        "lion-pytorch-optimizer",
        recipe("lion", **LION),
        published("pytorch-optimizer", "pytorch_optimizer.Lion", **LION),
    ),
    Pair(
        "rose-fp32",
        recipe("rose", "rose fp32", lr=1e-3, compute_dtype="fp32"),
        unfused(references.Rose, "Rose fp32", lr=1e-3, dtype=torch.float32),
        targets={"gpt2": 0.5},
        cuda=GPT2,
        quick=LARGE,
        again=1,
        why=TOTALS,
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
        "rose-eager",
        recipe("rose", "rose eager", compile=False, lr=1e-3),
        unfused(references.Rose, "Rose fp64", lr=1e-3),
        targets={"gpt2": 1.3},
        again=1,
        why=TILES,
    ),
    Pair(
        "rose-eager-adamw",
        recipe("rose", "rose eager", compile=False, lr=1e-3),
        published("torch", "torch.optim.AdamW", "torch AdamW", **PLAIN),
        ("digits",),
        {"digits": 1.5},
        quick=("digits",),
        differs=OTHER,
        why="a call of torch for each of 50 operations of each tensor, of 2 microseconds each",
    ),
    Pair(
        "gyro-adam",
        recipe("gyro-adam", **GYRO),
        unfused(references.GyroAdam, "GYRO-Adam", **GYRO),
        ("gpt2", "resnet50"),
        targets={"gpt2": 0.3},
        cuda=GPT2,
        again=2,
        why=TOTALS,
    ),
    Pair(
        "gyro-adam-eager",
        recipe("gyro-adam", "gyro-adam eager", compile=False, **GYRO),
        unfused(references.GyroAdam, "GYRO-Adam", **GYRO),
        targets={"gpt2": 1.3},
        again=2,
        why=TILES,
    ),
    Pair("gyro-sgd", recipe("gyro-sgd", **GYRO), unfused(references.GyroSGD, "GYRO-SGD", **GYRO), again=2),
    Pair(
        "adams",
        recipe("adams", lr=1e-4),
        published("adams-torch", "adams.Adams_ZeRO", lr=1e-4),
        targets={"gpt2": 0.22},
        cuda=GPT2,
        quick=LARGE,
        again=2,
        why=ATAN,
    ),
    Pair(
        "adams-eager",
        recipe("adams", "adams eager", compile=False, lr=1e-4),
        published("adams-torch", "adams.Adams_ZeRO", lr=1e-4),
        targets={"gpt2": 1.3},
        again=2,
        why=TILES,
    ),
    Pair("muon", muon(), torch_muon(), targets={"gpt2": 0.9}, cuda=GPT2, why=PRODUCTS),
    Pair("muon-eager", muon(compile=False), torch_muon(), targets={"gpt2": 1.3}, why=PRODUCTS),
]

ADV = [
    adv("adv-adamw", "AdamW_adv", DECAY, lists=("gpt2", "resnet50"), targets={"gpt2": 0.4}),
    adv("adv-adamw", "AdamW_adv", DECAY, compile=False, targets={"gpt2": 1.3}, why=SCALARS),
    adv("adv-adamw", "AdamW_adv", DECAY, theirs=True, lists=()),  # fails: it compiles anew at every step
    adv("adv-adamw", "AdamW_adv", FACTORED, targets={"gpt2": 0.2}, cuda=GPT2, why=SIGNS),
    adv("adv-adamw", "AdamW_adv", FACTORED, compile=False, targets={"gpt2": 1.3}, why=TILES),
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
    adv("adv-prodigy", "Prodigy_adv", {}, targets={"gpt2": 0.4}, cuda=GPT2, again=1),
    Pair(
        "adv-prodigy-pytorch-optimizer",
        recipe("adv-prodigy", "adv-prodigy slice_p=1", slice_p=1),
        published("pytorch-optimizer", "pytorch_optimizer.Prodigy"),
        again=2,
    ),
    adv("adv-lion", "Lion_adv", LION),
    adv("adv-adamw", "AdamW_adv", UNBIASED, theirs=True, label="adv-adamw unbiased"),
    adv("adv-prodigy", "Prodigy_adv", {}, theirs=True, lists=(), again=1),  # fails likewise
]

PAIRS = [*ADAMW, *STORED, *PEERS, *ADV]
"""All pairs, in the order of the tables."""


def pair(name: str) -> Pair:
    known = {pair.name: pair for pair in PAIRS}
    if name not in known:
        raise ValueError(f"unknown pair {name!r}; there are {', '.join(known)}.")
    return known[name]
