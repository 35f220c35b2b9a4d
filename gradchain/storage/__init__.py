"""How a slot is kept between steps, independent of what it means.

| storage | kept as | bytes per element |
|---|---|---|
| `param` | the parameter's dtype; float32 for float16 parameters | 2, 4 or 8 |
| `fp32` | float32 | 4 |
| `fp16` | float16 in units of the largest element | 2 |
| `bf16` | bfloat16, stochastically rounded | 2 |
| `int8` | 8-bit integers with a scale for each 2048 elements, stochastically rounded | 1.002 |
| `factored` | row and column sums, and one bit for the sign; vectors in float32 | 1/8 and a little (0 if never negative) |
| `factored_vectors` | the same, vectors too | |
| `factored_compact` | the same with factors of 16 bits (8 if never negative), stochastically rounded | |

A storage applies to the floating slots of a stage that have the parameter's shape; others are kept as plain tensors.
Stages compute on dense tensors: slots are decoded before a stage runs and encoded after it.
"""

from __future__ import annotations

from collections.abc import Mapping

from gradchain.storage.anchors import Affine, Float8, ScaledFloat8
from gradchain.storage.base import Parts, SlotView, Storage, Storing, near_square
from gradchain.storage.dense import AsParameter, Float16, Float32, RoundedBfloat16
from gradchain.storage.factored import CompactFactored, Factored
from gradchain.storage.int8 import Int8

__all__ = ["ANCHORS", "STORAGES", "Parts", "SlotView", "Storage", "Storing", "near_square"]

STORAGES: Mapping[str, Storage] = {
    "param": AsParameter(),
    "fp32": Float32(),
    "fp16": Float16(),
    "bf16": RoundedBfloat16(),
    "int8": Int8(),
    "factored": Factored(),
    "factored_vectors": Factored(vectors=True),
    "factored_compact": CompactFactored(),
}

ANCHORS: Mapping[str, Storage] = {
    "full": AsParameter(),
    "float8": Float8(),
    "float8_scaled": ScaledFloat8(),
    "int8": Affine(bits=8, block=128),
    "int4": Affine(bits=4, block=32),
}
"""Storages of a frozen copy of the parameter, for decay towards it."""
