"""Floats of 24 bits (a sign, 8 bits of exponent, 15 of the significand) as a bfloat16 number and 8 bits beside it.

They are the upper three bytes of a float32. The bfloat16 number is the nearest one, away from zero at ties, and the code,
-128 to 127, is the distance from it in 1/256 of that to the next. Floats without their signs are ordered as the integers
are that have the same bits: so this is integer arithmetic, and needs no care at powers of 2, zeros and subnormals.
"""

from __future__ import annotations

import torch

from gradchain._core.noise import QUIET, SIZE

_INFINITE = 0x7F80 << 16


def split_fp24(value: torch.Tensor, bits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round float32 to 24 bits, up or down in magnitude with probability equal to the dropped fraction.

    Numbers that have 24 bits stay. Where the bfloat16 number is infinite or NaN, the code has no meaning.

    Returns: the nearest bfloat16 number, and the code as int8.
    """
    digits = value.view(torch.int32)
    size = torch.where(value == value, (digits & SIZE) + (bits & 0xFF), _INFINITE + QUIET) >> 8
    nearest = (size + 128) >> 8
    param = ((nearest << 16) | (digits & ~SIZE)).view(torch.float32).to(torch.bfloat16)
    return param, (size - (nearest << 8)).to(torch.int8)


def join_fp24(param: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """The inverse of `split_fp24`. Whatever the code is, the result rounds to `param`. Returns: a float32 tensor."""
    wide = param.to(torch.float32)
    digits = wide.view(torch.int32)
    size = digits & SIZE
    whole = (size + (code.to(torch.int32) << 8)).clamp_min(0)
    return torch.where(size < _INFINITE, whole | (digits & ~SIZE), digits).view(torch.float32)
