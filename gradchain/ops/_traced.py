"""Whether operations are recorded instead of run."""

from __future__ import annotations

from typing import Any

import torch

torch_c: Any = torch._C  # pyright: ignore[reportPrivateUsage]


def is_traced() -> bool:
    """Whether a compiler, or a mode under every operation, looks on."""
    return torch.compiler.is_compiling() or torch_c._len_torch_dispatch_stack() > 0
