"""Steps stay out of the graphs of a caller who is compiled.

A step is Python for the most part: it looks up what it knows of each parameter, checks values, counts, and runs kernels that are
compiled already. Tracing it gains nothing. It did harm: traced by torch.compile (2.11 to 2.13), a Python float that is multiplied
and also handed on as an argument, as in `torch.add(beta * m, g, alpha=1 - beta)`, comes out of the cache of compiled graphs
with the value of whoever filled it (pytorch issue 194976). `tests/test_user_compile.py` has it in six lines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

REASON = (
    "a gradchain optimizer is not traced into the graph of its caller; it runs its step, and kernels that it compiles itself, "
    "between two graphs. Leave fullgraph=True out, or compile the forward and backward pass and call optimizer.step() after "
    "them. To have the step in your own graph, use chain.update."
)


def untraced(step: Callable[P, T]) -> Callable[P, T]:
    """A function that runs as it is, with all that it calls, also when the code that calls it is compiled."""
    disabled = torch.compiler.disable(step, reason=REASON)

    # A function of its own: torch.compile looks through what `disable` returns.
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return disabled(*args, **kwargs)

    return functools.update_wrapper(run, step)
