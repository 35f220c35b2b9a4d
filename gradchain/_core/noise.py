"""Counter-based random bits: a hash of (seed, step, parameter, element index).

No generator is advanced and no global state is read, so the bits are the same eager or compiled, on any device,
after a resume, and whatever else draws random numbers in the process.
"""

from __future__ import annotations

import struct
import zlib

import torch

_MASK = 0xFFFFFFFF


def _signed(value: int) -> int:
    """The int32 with the bits of `value`."""
    value &= _MASK
    return value - (1 << 32) if value >= 1 << 31 else value


_MULTIPLIERS = (_signed(0x7FEB352D), _signed(0x846CA68B))


def mix(number: int) -> int:
    """A 32-bit integer hash (two rounds of xorshift and multiply) of a Python int."""
    number &= _MASK
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & _MASK
    number = ((number ^ (number >> 15)) * 0x846CA68B) & _MASK
    return number ^ (number >> 16)


def _shift(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Logical right shift of int32: the arithmetic one, with the copied sign bits cleared."""
    return (bits >> places) & ((1 << (32 - places)) - 1)


def mix_bits(bits: torch.Tensor) -> torch.Tensor:
    """`mix`, elementwise on int32; multiplication wraps."""
    bits = (bits ^ _shift(bits, 16)) * _MULTIPLIERS[0]
    bits = (bits ^ _shift(bits, 15)) * _MULTIPLIERS[1]
    return bits ^ _shift(bits, 16)


def parameter_key(step: int, index: int) -> int:
    """An int32 that identifies one parameter at one step, from both halves of the step count."""
    return _signed(mix(mix(step ^ mix(step >> 32)) + parameter_salt(index)))


def parameter_salt(index: int) -> int:
    """An int32 that identifies one parameter at all steps."""
    return _signed(index * 0x9E3779B9)


def parameter_key_tensor(step: torch.Tensor, salt: int | torch.Tensor) -> torch.Tensor:
    """`parameter_key` for an int64 tensor of steps, given the `parameter_salt` of each."""
    low = ((step ^ (1 << 31)) & _MASK) - (1 << 31)  # the lower half, as a signed number
    return mix_bits(mix_bits(low.to(torch.int32) ^ mix_bits((step >> 32).to(torch.int32))) + salt)


def salt_of(purpose: str, seed: int = 0) -> int:
    """An int32 that identifies one use of noise within one parameter and step."""
    return _signed(mix(zlib.crc32(purpose.encode()) + mix(seed)))


def random_bits(like: torch.Tensor, key: torch.Tensor, salt: int, offset: int = 0) -> torch.Tensor:
    """32 random bits for each element of `like`, as int32. `key` is a 0-d int32 tensor from `parameter_key`.

    Element `i` gets a hash of `i ^ k1` into which `k2` is added on the way, `k1` and `k2` being hashes of key and salt: so
    two keys never give the same bits in another order. `like` begins at element `offset`.
    """
    end = offset + like.numel()
    counter = torch.int64 if isinstance(end, int) and end >= 1 << 31 else torch.int32
    index = torch.arange(offset, end, device=like.device, dtype=counter).to(torch.int32).view(like.shape)
    first = mix_bits(key ^ salt)
    second = mix_bits(first + _signed(0x9E3779B9))
    bits = index ^ first
    bits = (bits ^ _shift(bits, 16)) * _MULTIPLIERS[0] + second
    bits = (bits ^ _shift(bits, 15)) * _MULTIPLIERS[1]
    return bits ^ _shift(bits, 16)


def round_to_bf16(value: torch.Tensor, bits: torch.Tensor, largest: float | None = None) -> torch.Tensor:
    """Round float32 `value` to bfloat16, up or down in magnitude with probability equal to the dropped fraction.

    It adds the low 16 bits of `bits` below the mantissa and cuts them off. bfloat16 values, infinities and NaNs stay; with
    `largest`, sizes above it become that, cut off. All of it in integers takes fewer instructions than in floats.
    """
    value = value.to(torch.float32)
    digits = value.view(torch.int32)
    raised = digits + (bits & 0xFFFF)  # infinities have no digits to be rounded
    if largest is not None:
        raised = (raised & SIZE).clamp_max(_digits(largest)) | (digits & ~SIZE)
    rounded = (torch.where(value == value, raised, digits | QUIET) & ~0xFFFF).view(torch.float32)
    return rounded.to(torch.bfloat16)


SIZE = (1 << 31) - 1
"""The bits of a float32 but for the sign."""

QUIET = 1 << 22
"""The bit that every NaN of ours has; else one could lose its last digits and pass for infinity."""


def _digits(number: float) -> int:
    return int.from_bytes(struct.pack("<f", number), "little")
