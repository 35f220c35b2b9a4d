"""Threads share the outermost loops.

Inductor (2.13) lets threads share an inner loop where that has many more steps than those around it, and takes a loop that
is shorter than a vector for one of no steps at all. Around a short loop in a long one it gathers all threads anew for each
step of the long one: packing the signs of 1024 rows of 256 took four times as long as the rest of AdamW's step.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

from gradchain._engine.replaced import replaced

LONGER = 300
"""By what factor an inner loop must be longer, as inductor has it."""


@contextlib.contextmanager
def outermost_loops() -> Generator[None, None, None]:
    """While a graph is compiled, count the steps of short loops as well. Other versions of inductor are left as they are."""
    from torch._inductor.codegen import cpp

    module: Any = cpp
    nest: Any = getattr(module, "LoopNest", object)
    if not hasattr(module, "ParallelDepth") or "max_parallel_depth" not in vars(nest):
        yield
        return
    with replaced(nest, "max_parallel_depth", _counted(nest.max_parallel_depth, module.ParallelDepth)):
        yield


def _counted(known: Any, depth: Any) -> Any:
    def max_parallel_depth(self: Any) -> Any:
        found = known(self)
        if found.start_depth == 0:
            return found
        try:
            around = math.prod(_steps(loop) for loop in self.loops[: found.start_depth])
            inner = _steps(self.loops[found.start_depth])
        except TypeError:  # how many there are is not known here
            return found
        if around * LONGER < inner:
            return found
        return depth(parallel_depth=found.start_depth, start_depth=0)

    return max_parallel_depth


def _steps(loop: Any) -> int:
    return -(-int(loop.size) // int(loop.steps))
