"""Arithmetic that works alike on Python floats and on 0-d tensors, so that one formula runs eager and compiled."""

from __future__ import annotations

import math
from typing import Any

import torch


def ema(old: torch.Tensor, new: torch.Tensor, beta: Any) -> torch.Tensor:
    """`beta * old + (1 - beta) * new`. Not a lerp: an overflow to infinity must not turn into a NaN."""
    if isinstance(beta, torch.Tensor):
        return beta * old + (1 - beta) * new
    return torch.add(beta * old, new, alpha=1 - beta)


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that have none wider (mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


def wide(x: torch.Tensor) -> torch.Tensor:
    """In float32 at least, where squares of half-precision numbers neither overflow nor vanish."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """The dtype that steps of a parameter are computed in, and its slots kept in, unless a stage says otherwise.

    That of the parameter; but squares of float16 gradients under 2e-4 vanish in float16 and those over 256 overflow, so
    float16 parameters get float32.
    """
    return torch.float32 if stored == torch.float16 else stored


def finite(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`x` with sizes beyond a quarter of the largest number (of a `dtype`, else its own) cut off there. A NaN stays one.

    The square of a gradient of 1e20 is infinite in float32. Where numbers have to do with each other, in a sum or a scale
    that they share, infinity would turn the others into NaN. A quarter, so that what is rounded up stays finite.
    """
    if not x.is_floating_point():
        return x
    largest = min(torch.finfo(dtype or x.dtype).max, torch.finfo(x.dtype).max) / 4
    return x.clamp(-largest, largest)


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` in another dtype; what is out of its range becomes the largest number."""
    if x.dtype == dtype or not (x.is_floating_point() and dtype.is_floating_point):
        return x.to(dtype)
    largest = torch.finfo(dtype).max
    return x.to(dtype) if largest >= torch.finfo(x.dtype).max else x.clamp(-largest, largest).to(dtype)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes if condition else no`; a tensor condition selects elementwise, without a sync."""
    if not isinstance(condition, torch.Tensor):
        return yes if condition else no
    options = [option if isinstance(option, torch.Tensor) else _scalar(option, condition) for option in (yes, no)]
    return torch.where(condition, *options)


def _scalar(number: float, like: torch.Tensor) -> torch.Tensor:
    return torch.full((), number, dtype=torch.float64, device=like.device)


def power(base: Any, exponent: Any) -> Any:
    """`base ** exponent`, infinity where that is no float: Python raises what tensors do not."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def rounded(number: Any) -> Any:
    """The nearest integer, ties to even."""
    return number.round() if isinstance(number, torch.Tensor) else round(number)


def root(x: torch.Tensor) -> torch.Tensor:
    """The square root; where autograd is on, its slope at 0 is taken as 0 and not as infinity."""
    if not torch.is_grad_enabled():
        return x.sqrt()
    return torch.where(x == 0, torch.zeros_like(x), torch.where(x == 0, torch.ones_like(x), x).sqrt())


def arctangent(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`atan2(y, x)` with `atan2(0, 0) = 0`; where autograd is on, its slope there is that of `atan2(y, 1)`."""
    if not torch.is_grad_enabled():
        return torch.atan2(y, x)
    return torch.atan2(y, torch.where((y == 0) & (x == 0), torch.ones_like(x), x))


def minimum(left: Any, right: Any) -> Any:
    """The smaller of two scalars, either of which may be a tensor."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        like = left if isinstance(left, torch.Tensor) else right
        both = (x if isinstance(x, torch.Tensor) else _scalar(x, like) for x in (left, right))
        return torch.minimum(*(x.to(like.device, like.dtype) for x in both))
    return min(left, right)


def nonzero(divisor: torch.Tensor) -> torch.Tensor:
    """The divisor with exact zeros replaced by one: what is divided by them passes unchanged."""
    return torch.where(divisor == 0, 1.0, divisor)
