"""What torch's operations do to the elements of a tensor."""

from __future__ import annotations

import functools
from typing import Any

import torch

NO_COMPUTE = frozenset({
    "__and__", "__or__", "__xor__", "_to_copy", "alias", "can_cast", "clone", "contiguous", "copy", "copy_",
    "detach", "empty", "empty_like", "fill", "fill_", "full", "full_like", "lift", "lift_fresh", "lift_fresh_copy",
    "masked_fill", "masked_fill_", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like",
    "promote_types", "result_type", "scalar_tensor", "to", "where", "zero_", "zeros", "zeros_like",
})  # fmt: skip
"""Operations without the tag `pointwise` which treat each element by itself all the same."""

RESHAPE = frozenset({"expand", "reshape", "view", "_reshape_alias", "_unsafe_view"})
"""Views: of no consequence if the shape stays."""

ROUNDED = frozenset({
    "__lshift__", "__rshift__", "abs", "add", "addcdiv", "addcmul", "bitwise_and", "bitwise_left_shift",
    "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "ceil", "clamp", "clamp_max", "clamp_min",
    "copysign", "div", "eq", "floor", "fmax", "fmin", "ge", "gt", "hardtanh", "isfinite", "isinf", "isnan",
    "isneginf", "isposinf", "le", "lerp", "logical_and", "logical_not", "logical_or", "logical_xor", "lt",
    "maximum", "minimum", "mul", "nan_to_num", "ne", "neg", "reciprocal", "relu", "round", "rsqrt", "rsub", "sgn",
    "sign", "signbit", "sqrt", "square", "sub", "threshold", "trunc",
})  # fmt: skip
"""Pointwise operations that round correctly, so that an element's result has the same bits wherever it stands. The others
(`atan2`, `exp`, `pow`, ...) are computed by other code at the ends of a tensor, which fill no vector register of a CPU."""

POWERS = (-2, -1, -0.5, 0, 0.5, 1, 2, 3)
"""Exponents for which `pow` is no general power."""

HALF = (torch.bfloat16, torch.float16)


def mixing(func: Any, leaves: list[torch.Tensor], known: set[torch.Size]) -> str | None:
    """The operation, if by it elements of tensors of the known shapes come together."""
    name = name_of(func)
    shapes = [leaf.shape for leaf in leaves]
    if name in RESHAPE and len({*shapes}) == 1:
        return None
    if torch.Tag.pointwise not in getattr(func, "tags", ()) and not (name in NO_COMPUTE and func.namespace == "aten"):
        return str(func)
    other = next((tuple(found) for found in shapes if found not in known), None)
    return None if other is None else f"{func} on a tensor of another shape"


def is_half(leaf: torch.Tensor) -> bool:
    return leaf.dtype in HALF


def tensors_in(*given: Any) -> list[torch.Tensor]:
    """The tensors in lists, tuples and dicts."""
    found: list[torch.Tensor] = []
    for value in given:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found


@functools.cache
def written(func: Any) -> tuple[tuple[int, str], ...]:
    """The places and names of the arguments that an operation writes into."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    arguments = enumerate(schema.arguments)
    return tuple((place, a.name) for place, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def is_exact(func: Any, args: Any) -> bool:
    name = name_of(func)
    if name in ("pow", "pow_"):
        return str(func).endswith("Tensor_Scalar") and args[1] in POWERS
    return name in NO_COMPUTE or name in RESHAPE or name.removesuffix("_") in ROUNDED


@functools.cache
def name_of(func: Any) -> str:
    packet = getattr(func, "overloadpacket", None)
    return "" if packet is None else packet.__name__
