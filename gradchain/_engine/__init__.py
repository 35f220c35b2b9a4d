"""Chooses how a step runs: eagerly, tensor by tensor, or compiled."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import drive
from gradchain._engine import blocks
from gradchain._engine.compiled import run as run_compiled
from gradchain._engine.targets import check_targets
from gradchain._engine.work import Work, check_purity, commit, versions_of

AUTO_ELEMENTS = 10_000_000
"""`compile="auto"` compiles from this many elements on: below, the compiler takes longer than it saves."""


def run(works: Sequence[Work], *, compiled: bool, memory: dict[str, Any], partition: Any = None) -> list[Recorded]:
    """Step all works. Returns what each recorded, in order. `memory` is the compiled path's, of this optimizer.

    With a `partition`, totals over parameters are those over all members of this process group.
    """
    memory.pop("plan", None)  # what a step went by is good for the one after it, and nobody may have taken it up
    check_targets(works, memory)
    if not compiled:
        return run_eagerly(works, partition)
    return run_compiled(works, memory, partition)


def run_eagerly(works: Sequence[Work], partition: Any = None) -> list[Recorded]:
    """Step all works. What can fail fails before anything is written.

    Elementwise chains go in blocks: one block of each kind is computed before the first is written, and the others of
    its kind are the same computation. All other works are computed first and written afterwards; so are all blocks of a
    kind with stages that are not gradchain's own, which may fail at any of them.
    """
    inside, outside = blocks.divided(works)
    inputs = [work.inputs() for work in works]
    versions = [versions_of(tensors) for tensors in inputs]
    outcomes = drive([work.program for work in outside], [work.task.start() for work in outside], partition)
    kinds = blocks.blocks(inside)
    ready = [
        [block.compute() for block in (kind if kind[0].works[0].program.third_party else kind[:1])] for kind in kinds
    ]
    for work, tensors, before in zip(works, inputs, versions):
        check_purity(work.program, before, versions_of(tensors))
    commit([work.task for work in outside], outcomes)
    for kind, computed in zip(kinds, ready):
        for block, made in zip(kind, computed):
            block.commit(*made)
        for block in kind[len(computed) :]:
            block.commit(*block.compute())
    recorded = {id(work): outcome.recorded for work, outcome in zip(outside, outcomes)}
    return [recorded.get(id(work), {}) for work in works]


def worth_compiling(params: Iterable[torch.Tensor]) -> bool:
    """The rule of `compile="auto"`: enough elements, and a compiler for their device."""
    sizes: dict[str, int] = {}
    for param in params:
        if not param.requires_grad:  # frozen: it will never be stepped
            continue
        sizes[param.device.type] = sizes.get(param.device.type, 0) + param.numel()
    if sum(sizes.values()) < AUTO_ELEMENTS:
        return False
    return all(_has_compiler(device) for device in sizes)


@functools.cache
def _has_compiler(device: str) -> bool:
    if device == "cpu":
        return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    if device == "cuda":
        return importlib.util.find_spec("triton") is not None
    return False
