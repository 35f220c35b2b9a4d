"""Chooses how a step runs: eagerly, tensor by tensor, or compiled."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist

from gradchain._chain.context import Recorded
from gradchain._core.totals import APART
from gradchain._engine import eager
from gradchain._engine.batch_replay import BatchReplay
from gradchain._engine.compiled import CompiledSteps
from gradchain._engine.param_step import ParamStep
from gradchain._engine.replay import KernelReplay, Replayable
from gradchain._engine.targets import check_targets

AUTO_ELEMENTS = 10_000_000
"""`compile="auto"` compiles from this many elements on: below, the compiler takes longer than it saves."""

Mode = Literal["background"] | bool
Compile = Literal["auto"] | Mode


class Executor:
    """Steps the parameters of one optimizer, and remembers how.

    `replayable` is what the last step ran, if a step like it can run it again.
    """

    def __init__(self) -> None:
        self.compiled = CompiledSteps()
        self.replayable: Replayable | None = None
        self._checked: object = None

    def run(self, due: Sequence[ParamStep], *, compiled: Mode, partition: Any = None) -> list[Recorded]:
        """Step all that are due. Returns what each recorded, in order.

        With a `partition`, totals over parameters are those over all members of this process group. In the background,
        steps run eagerly until all kernels are there.
        """
        self.replayable, before = None, self._checked
        self._checked = check_targets(due, before)
        if not compiled:
            recorded, parts = eager.run(due, partition)
            apart = partition is None or partition is APART
            if parts is not None and apart and before == self._checked:
                self.replayable = BatchReplay.of(due, parts)
            return recorded
        stepped = self.compiled.run(due, partition, background=compiled == "background")
        if stepped is None:  # nor is the next step to be replayed: it may find the kernels compiled
            return eager.run(due, partition)[0]
        recorded, plan = stepped
        self.replayable = None if plan is None else KernelReplay(due, plan)
        return recorded


def mode(compile: Compile, params: Iterable[torch.Tensor]) -> Mode:
    """How parameters are stepped: compiled, eagerly, or compiled once another process has done it.

    Not the last where processes step replicas or parts of one model: each would change over at a step of its own.
    """
    if compile == "auto":
        return worth_compiling(params)
    if compile == "background" and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return True
    return compile


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
