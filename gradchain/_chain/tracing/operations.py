"""What torch's operations do to the elements of a tensor."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

NO_COMPUTE = frozenset({
    "__and__", "__or__", "__xor__", "_to_copy", "alias", "can_cast", "clone", "contiguous", "copy", "copy_",
    "detach", "empty", "empty_like", "fill", "fill_", "full", "full_like", "lift", "lift_fresh", "lift_fresh_copy",
    "masked_fill", "masked_fill_", "new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like",
    "promote_types", "result_type", "scalar_tensor", "to", "where", "zero_", "zeros", "zeros_like",
})  # fmt: skip
"""Elementwise operations without the tag `pointwise`."""

RESHAPE = frozenset({"expand", "reshape", "view", "_reshape_alias", "_unsafe_view"})
"""Views, which change nothing if the shape stays."""

ROUNDED = frozenset({
    "__lshift__", "__rshift__", "abs", "add", "addcdiv", "addcmul", "bitwise_and", "bitwise_left_shift",
    "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "ceil", "clamp", "clamp_max", "clamp_min",
    "copysign", "div", "eq", "floor", "fmax", "fmin", "ge", "gt", "hardtanh", "isfinite", "isinf", "isnan",
    "isneginf", "isposinf", "le", "lerp", "logical_and", "logical_not", "logical_or", "logical_xor", "lt",
    "maximum", "minimum", "mul", "nan_to_num", "ne", "neg", "reciprocal", "relu", "round", "rsqrt", "rsub", "sgn",
    "sign", "signbit", "sqrt", "square", "sub", "threshold", "trunc",
})  # fmt: skip
"""Pointwise operations that round correctly, so that an element's result has the same bits wherever it stands. The others
(`atan2`, `exp`, `pow`, ...) are computed by other code at the ends of a tensor, which fill no vector register of a CPU; for
`atan2` there is `gradchain.ops.arctangent`."""

POWERS = (-2, -1, -0.5, 0, 0.5, 1, 2, 3)
"""Exponents for which `pow` is no general power."""

HALF = (torch.bfloat16, torch.float16)


class Operation(NamedTuple):
    """What is known of one of torch's operations; found out once."""

    elementwise: bool
    """Whether it treats each element by itself."""
    reshape: bool
    computes: bool
    exact: bool
    """Whether an element's result has the same bits wherever it stands."""
    power: bool
    """Whether it is exact for some exponents only."""
    looks: bool
    """Whether it hands a value to the host."""
    draws: bool
    """Whether it draws from a generator of torch's."""
    written: tuple[tuple[int, str], ...]
    """The places and names of the arguments that it writes into."""


@functools.cache
def operation(func: Any) -> Operation:
    packet, tags = getattr(func, "overloadpacket", None), getattr(func, "tags", ())
    name = "" if packet is None else packet.__name__
    power = name in ("pow", "pow_")
    rounded = name.removesuffix("_") in ROUNDED
    return Operation(
        elementwise=torch.Tag.pointwise in tags  # `eq_` and its like have no tag
        or ((name in NO_COMPUTE or rounded) and func.namespace == "aten"),
        reshape=name in RESHAPE,
        computes=name not in NO_COMPUTE,
        exact=not power and (name in NO_COMPUTE or name in RESHAPE or rounded),
        power=power and str(func).endswith("Tensor_Scalar"),
        looks=torch.Tag.data_dependent_output in tags,
        draws=torch.Tag.nondeterministic_seeded in tags,
        written=_written(func),
    )


def _written(func: Any) -> tuple[tuple[int, str], ...]:
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    arguments = enumerate(schema.arguments)
    return tuple((place, a.name) for place, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def mixing(func: Any, leaves: list[torch.Tensor], known: set[torch.Size]) -> str | None:
    """The operation, if it combines elements of tensors of the known shapes."""
    about = operation(func)
    if about.reshape and len({leaf.shape for leaf in leaves}) == 1:
        return None
    if not about.elementwise:
        return str(func)
    other = next((leaf.shape for leaf in leaves if leaf.shape not in known), None)
    return None if other is None else f"{func} on a tensor of another shape"


def is_half(leaf: torch.Tensor) -> bool:
    return leaf.dtype in HALF


def tensors_in(given: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among these, and in lists, tuples and dicts among them."""
    found: list[torch.Tensor] = []
    for value in given:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
        elif isinstance(value, dict):
            found += tensors_in(value.values())
    return found


def is_exact(func: Any, args: Any) -> bool:
    """Whether an element's result has the same bits wherever it stands."""
    about = operation(func)
    return about.exact or (about.power and args[1] in POWERS)
