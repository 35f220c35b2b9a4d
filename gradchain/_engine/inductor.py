"""The compiler: from a traced graph to a function, with the options that optimizers want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

SERIAL_ELEMENTS = 1 << 18
"""Below this many elements in all, use one thread."""

READS = 8
"""What is made of so many inputs is computed again where it is used again, and not written to memory in between."""


def options_for(examples: Sequence[torch.Tensor], *, inline: bool) -> list[dict[str, Any]]:
    """What to tell the compiler; where it does not go through, the next."""
    options: dict[str, Any] = {
        "size_asserts": False,
        "alignment_asserts": False,
    }  # layouts are checked by `cached_layout`
    if any(x.device.type != "cpu" for x in examples):
        return [options | {"combo_kernels": True}, options]  # small tensors in one launch
    if sum(x.numel() for x in examples) < SERIAL_ELEMENTS:
        options["cpp.threads"] = 1
    return [options | {"realize_reads_threshold": READS}, options] if inline else [options]


def trace(function: Callable[..., Any], examples: Sequence[torch.Tensor]) -> Any:
    """The graph of what a function does to tensors like these."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, tracing_mode="fake")(*examples)


def compile_graph(graph: Any, examples: Sequence[torch.Tensor], *, inline: bool = True) -> Callable[..., Any]:
    """A function that computes what a traced graph does. `inline`: rather compute anew than write to memory."""
    *others, last = options_for(examples, inline=inline)
    for options in others:
        try:
            return _compile(graph, examples, options)
        except Exception:  # a fusion that fails is no reason to do without a compiler
            continue
    return _compile(graph, examples, last)


def _compile(graph: Any, examples: Sequence[torch.Tensor], options: dict[str, Any]) -> Callable[..., Any]:
    import torch._inductor  # here, since the compiler takes a second to import
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    make = cast("Callable[..., Callable[..., Any]]", torch._inductor.compile)  # pyright: ignore[reportPrivateUsage]
    mode = FakeTensorMode(shape_env=ShapeEnv())  # without one, inductor does not look into its cache of graphs
    with tracing(TracingContext(mode)):
        return make(graph, [mode.from_tensor(x, static_shapes=True) for x in examples], options=options)
