"""Keep steps out of the graphs of compiled callers.

A step is mostly Python (look-ups, checks, counting) around kernels that are compiled already, so tracing it gains
little, and its numbers would go stale: in torch 2.13 a Python float that a graph both multiplies by and passes as an
argument (`torch.add(beta * m, g, alpha=1 - beta)`) keeps its first value in inductor's cache of graphs (pytorch issue
194976). See `docs/design.md` and `tests/test_user_compile.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

REASON = (
    "gradchain runs its steps between the graphs of a compiled caller, not inside them. Leave fullgraph=True out; or "
    "compile the forward and backward pass with it, and call the step from a function that is compiled without it, or not "
    "at all."
)


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function, and all that it calls, outside the caller's graph."""
    run: Any = torch._disable_dynamo(function)  # pyright: ignore  # it does not import the compiler, as `disable` does
    run._torchdynamo_disable, run._torchdynamo_disable_msg = (
        True,
        REASON,
    )  # what `torch.compiler.disable(reason=...)` sets
    return run
