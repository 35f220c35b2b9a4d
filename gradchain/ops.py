"""Arithmetic that works alike on Python floats and on 0-d tensors, so that one formula runs eager and compiled."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradchain._angle import angle, full_angle


def ema(old: torch.Tensor, new: torch.Tensor, beta: Any) -> torch.Tensor:
    """Average `beta * old + (1 - beta) * new`. Returns: a tensor; no lerp, which would turn an overflow into NaN."""
    if isinstance(beta, torch.Tensor):
        return beta * old + (1 - beta) * new
    return torch.add(beta * old, new, alpha=1 - beta)


def widest(device: torch.device) -> torch.dtype:
    """Find the widest floating dtype of a device. Returns: float64, or float32 where there is none (mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


def wide(x: torch.Tensor) -> torch.Tensor:
    """Cast to float32 at least, so that squares neither overflow nor vanish. Returns: a tensor of `x`'s shape."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """Choose the dtype to step a parameter in. Returns: `stored`; float32 for float16, too narrow for squares."""
    return torch.float32 if stored == torch.float16 else stored


def finite(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Clamp to a quarter of the largest number of `dtype` and of `x`, so that sums and shared scales stay finite.

    Returns: a tensor like `x`, with its NaNs. Else one gradient of 1e20 would make NaN of the others.
    """
    if not x.is_floating_point():
        return x
    largest = min(torch.finfo(dtype or x.dtype).max, torch.finfo(x.dtype).max) / 4
    return x.clamp(-largest, largest)


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast to another dtype, clamped to its range. Returns: a tensor of `x`'s shape."""
    if x.dtype == dtype or not (x.is_floating_point() and dtype.is_floating_point):
        return x.to(dtype)
    largest = torch.finfo(dtype).max
    return x.to(dtype) if largest >= torch.finfo(x.dtype).max else x.clamp(-largest, largest).to(dtype)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Select `yes if condition else no`. Returns: one of the two; for a tensor condition, a tensor without a sync."""
    if not isinstance(condition, torch.Tensor):
        return yes if condition else no
    options = [option if isinstance(option, torch.Tensor) else _scalar(option, condition) for option in (yes, no)]
    return torch.where(condition, *options)


def _scalar(number: float, like: torch.Tensor) -> torch.Tensor:
    return torch.full((), number, dtype=torch.float64, device=like.device)


def power(base: Any, exponent: Any) -> Any:
    """Compute `base ** exponent`. Returns: a number or tensor; infinity where Python would raise `OverflowError`."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def rounded(number: Any) -> Any:
    """Round to the nearest integer, ties to even. Returns: a number, or a tensor like `number`."""
    return number.round() if isinstance(number, torch.Tensor) else round(number)


def root(x: torch.Tensor) -> torch.Tensor:
    """Take the square root, with slope 0 (not infinity) at 0 under autograd. Returns: a tensor like `x`."""
    if not torch.is_grad_enabled():
        return x.sqrt()
    return torch.where(x == 0, torch.zeros_like(x), torch.where(x == 0, torch.ones_like(x), x).sqrt())


def arctangent(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Compute `atan2(y, x)`, with the same bits wherever an element stands in a tensor, eager or compiled.

    At most 2 units in the last place off. `torch.atan2` is as near, but rounds the ends of a tensor in another way. Under
    autograd its slopes are those of `atan2`, and at (0, 0) zero.

    Returns: a tensor of the shape that `y` and `x` broadcast to.

    >>> gradchain.ops.arctangent(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, -1.0, 0.0]))
    tensor([ 0.7854,  3.1416, -1.5708])
    """
    value = full_angle(y, x)
    return _with_slope(value, y, x) if torch.is_grad_enabled() else value


def arctan_ratio(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Compute the arctangent of `y / x` for `x >= 0`: `arctangent(y, x)` in half of the time. 0 / 0 counts as 0.

    Returns: a tensor of the shape that `y` and `x` broadcast to, in [-pi/2, pi/2].

    >>> gradchain.ops.arctan_ratio(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, 0.0, 0.0]))
    tensor([ 0.7854,  0.0000, -1.5708])
    """
    value = angle(y, x)
    return _with_slope(value, y, x) if torch.is_grad_enabled() else value


def _with_slope(value: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Give a value the derivatives of `atan2(y, x)`, all of them 0 at (0, 0). The value stays the same to the last bit."""
    none = (y == 0) & (x == 0)
    slope = torch.atan2(torch.where(none, y.detach(), y), torch.where(none, torch.ones_like(x), x))
    return slope - (slope - value).detach()  # what is near is subtracted exactly


def minimum(left: Any, right: Any) -> Any:
    """Take the smaller of two scalars. Returns: a number, or a tensor if one of them is a tensor."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        like = left if isinstance(left, torch.Tensor) else right
        both = (x if isinstance(x, torch.Tensor) else _scalar(x, like) for x in (left, right))
        return torch.minimum(*(x.to(like.device, like.dtype) for x in both))
    return min(left, right)


def nonzero(divisor: torch.Tensor) -> torch.Tensor:
    """Replace exact zeros of a divisor by 1, which leaves what they divide unchanged. Returns: a tensor like `divisor`."""
    return torch.where(divisor == 0, 1.0, divisor)
