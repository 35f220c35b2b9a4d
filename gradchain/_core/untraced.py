"""Steps stay out of the graphs of callers who are compiled.

A step is Python for the most part: it looks up what it knows of each parameter, checks, counts, and runs kernels that
are compiled already, so a caller's graph would gain little by it. It would lose its numbers: in torch 2.13 a Python
float that changes, and that a graph both multiplies by and hands on as an argument
(`torch.add(beta * m, g, alpha=1 - beta)`), stays in inductor's cache of graphs at the value it had first (pytorch
issue 194976). `docs/design.md` tells how, `tests/test_user_compile.py` shows it.
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
    """The function, to be run as it is, with all that it calls, where the code that calls it is compiled."""
    run: Any = torch._disable_dynamo(function)  # pyright: ignore  # it does not import the compiler, as `disable` does
    run._torchdynamo_disable, run._torchdynamo_disable_msg = (
        True,
        REASON,
    )  # what `torch.compiler.disable(reason=...)` sets
    return run
