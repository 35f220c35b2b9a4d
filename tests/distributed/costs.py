"""What runs in each process: the collectives of a step, counted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist

import gradchain
from gradchain._core import exchange, totals
from tests.distributed.sharded import USUAL, Counter, mesh_of, split
from tests.distributed.zero import zero
from tests.laws.cases import CASES
from tests.laws.running import build, gradients, tensors

SHAPES = [(12, 16), (33, 65), (7, 6), (13, 1009), (6,), (1009,)]
"""Uneven shards, a prime size, more than one block of int8."""

CASE_OF = {
    "storage='int8'": "first_moment/int8",
    "storage='fp16'": "first_moment/fp16",
    "storage='factored'": "first_moment/factored",
    "storage='factored_vectors'": "first_moment/factored_vectors",
    "orthograd(iterative)": "orthograd/iterative",
}


PARTS = (
    "orthogonalize",
    *CASE_OF, "clip_by_global_norm", "clip_by_norm", "freeze_on_flip", "kourkoutas_beta", "momentum_project", "orthograd",
    "prodigy", "scale_update", "spectral_decay", "stochastic_sign",
)  # fmt: skip
"""Storages of one slot, and stages."""


def chain_of(name: str) -> gradchain.Chain:
    """The chain that is counted."""
    return gradchain.recipe(name) if name in gradchain.recipes() else CASES[CASE_OF.get(name, name)].chain


def split_rows(names: Sequence[str], few: int = USUAL[0], part: int = USUAL[1]) -> dict[str, tuple[int, int]]:
    """The all-reduces of the third step under FSDP2, and their numbers."""
    warnings.simplefilter("ignore")
    totals.FEW, exchange.PART = few, part
    mesh, counts = mesh_of("fsdp"), {}
    for name in names:
        place = split if dist.get_world_size() > 1 else lambda x, _: x
        held = [torch.nn.Parameter(place(p, mesh)) for p in tensors(1, SHAPES)]
        optimizer = build(held, chain_of(name), compile=False)
        for step in gradients(3, SHAPES):
            for param, grad in zip(held, step, strict=True):
                param.grad = place(grad, mesh)
            with Counter() as counter:
                optimizer.step()
        counts[name] = (counter.count, counter.numbers, counter.bytes)
    totals.FEW, exchange.PART = USUAL
    return counts


def one_by_one(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The same, each parameter stepped by itself, as in the backward pass."""
    warnings.simplefilter("ignore")
    mesh, counts = mesh_of("fsdp"), {}
    for name in names:
        held = [torch.nn.Parameter(split(p, mesh)) for p in tensors(1, SHAPES)]
        optimizer = build(held, chain_of(name), compile=False)
        with gradchain.step_in_backward(optimizer):
            for _ in range(3):
                with Counter() as counter:
                    sum((p.sin() * p).to_local().sum() for p in held).backward()
        counts[name] = (counter.count, counter.numbers, counter.bytes)
    return counts


@contextmanager
def gathers() -> Iterator[list[Any]]:
    """Counts exchanges of objects."""
    seen: list[Any] = []
    original = dist.all_gather_object

    def counted(*args: Any, **kwargs: Any) -> None:
        seen.append(args)
        original(*args, **kwargs)

    dist.all_gather_object = counted
    try:
        yield seen
    finally:
        dist.all_gather_object = original


def partitioned(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The exchanges and all-reduces of the third step under ZeRO-1."""
    warnings.simplefilter("ignore")
    counts = {}
    for name in names:
        held = [torch.nn.Parameter(p) for p in tensors(1, SHAPES)]
        optimizer = zero(chain_of(name), held)
        for step in gradients(3, SHAPES):
            for param, grad in zip(held, step, strict=True):
                param.grad = grad
            with Counter() as counter, gathers() as seen:
                optimizer.step()
        counts[name] = (len(seen), counter.count)
    return counts
