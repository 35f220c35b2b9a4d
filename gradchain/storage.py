"""How a slot is kept between steps, apart from what it means.

| storage | kept as | bytes per element |
|---|---|---|
| `param` | the parameter's dtype | 2, 4 or 8 |
| `fp32` | float32 | 4 |
| `bf16` | bfloat16, stochastically rounded | 2 |

A storage applies to the floating slots of a stage that have the parameter's shape; others are kept as `init` made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from gradchain.noise import round_to_bf16

Bits = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Storage:
    """Keeps a dense tensor in the parameter's own dtype; the base of the other storages."""

    random = False

    def store(self, dense: torch.Tensor, param: torch.Tensor, bits: Bits) -> torch.Tensor:
        """The tensor to keep for `dense`; `bits()` gives int32 noise of its shape."""
        return dense.to(param.dtype)


@dataclass(frozen=True)
class _Float32(Storage):
    def store(self, dense: torch.Tensor, param: torch.Tensor, bits: Bits) -> torch.Tensor:
        return dense.to(torch.float32)


@dataclass(frozen=True)
class _RoundedBfloat16(Storage):
    random = True

    def store(self, dense: torch.Tensor, param: torch.Tensor, bits: Bits) -> torch.Tensor:
        return dense if dense.dtype == torch.bfloat16 else round_to_bf16(dense, bits())


STORAGES: Mapping[str, Storage] = {"param": Storage(), "fp32": _Float32(), "bf16": _RoundedBfloat16()}
