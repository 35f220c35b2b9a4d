"""Whether operations are recorded instead of run, and how what is compiled of them is laid out."""

from __future__ import annotations

import math
from typing import Any

import torch

torch_c: Any = torch._C  # pyright: ignore[reportPrivateUsage]

LANES = 16
"""The most elements that a processor takes at once: loops over fewer, or over neighbours of fewer, do not go in vectors."""


def is_traced() -> bool:
    """Whether a compiler, or a mode under every operation, looks on."""
    return torch.compiler.is_compiling() or torch_c._len_torch_dispatch_stack() > 0


def apart(made: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What is made, in another shape. A compiler for a CPU makes it in a loop of its own, and need not divide to find it."""
    if made.device.type != "cpu":
        return made.reshape(shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return made.contiguous().as_strided(shape, strides)
