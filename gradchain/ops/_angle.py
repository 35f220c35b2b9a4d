r"""The arctangent of a quotient by two polynomials, of operations that round alike wherever an element stands.

With $t = \min(|y|, x) / \max(|y|, x)$ in $[0, 1]$ and $s = t^2$,

$$\arctan t \approx t + t s \frac{P(s)}{Q(s)}$$

and $\pi/2$ minus that where $|y| > x$. A math library has one arctangent for full vector registers and another for the
elements that are left over, so that cutting or joining tensors changes last bits. Sums, products and quotients have none of
that, in C++ as in Triton. What is done to special values is arithmetic too: a choice by `torch.where` costs a CPU as much as
five products.

The coefficients for float32 are the minimax ones (Remez) of the relative error in $\arctan t$ over $[0, 1]$, moved by some
last places to make up for the rounding of $\pi/2$ and of each other. Their error is less than 2 units in the last place,
over all $t$ and any quotient that $t$ is the rounding of. Those for float64 interpolate at Chebyshev's points, to $2^{-55}$.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from gradchain.ops._traced import is_traced

torch_c: Any = torch._C  # pyright: ignore[reportPrivateUsage]

HALF_PI = math.pi / 2

COEFFICIENTS: dict[torch.dtype, tuple[tuple[float, ...], tuple[float, ...]]] = {
    torch.float32: (
        (-0.8233577013015747, -5.674566745758057, -6.565028190612793),
        (11.33493423461914, 28.84062957763672, 19.695091247558594),
    ),
    torch.float64: (
        (-0.9024525862982413, -28.6344514670043, -230.9790943899718, -709.2810809323058, -905.3726290655958,
         -404.44958201411697),
        (39.96465648522898, 423.8789826719409, 1825.9201295139483, 3674.312918256491, 3444.127134821938,
         1213.3487460423516),
    ),
}  # fmt: skip
"""$P$ and $Q$ by falling powers; the first coefficient of $Q$, which is 1, is left out."""

PLAIN = (torch.Tensor, torch.nn.Parameter)

TILE = 1 << 17
"""The most elements that are computed at a time where it can be chosen: all steps find their data in a CPU's cache."""


def angle(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`arctan_ratio` without a derivative."""
    return _computed(_angle, y, x)


def full_angle(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`arctangent` without a derivative."""
    return _computed(_full_angle, y, x)


def _computed(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], y: Any, x: Any) -> torch.Tensor:
    """Compute in float32 or float64, and large tensors in tiles where there are any."""
    if torch.is_grad_enabled():  # elsewhere it is no use, and cuts kernels in pieces
        y, x = y.detach(), x.detach()
    dtype = torch.result_type(y, x)
    wide = torch.promote_types(dtype, torch.float32)
    y, x = y.to(wide), x.to(wide)
    if not _is_large(y, x):
        return function(y, x).to(dtype)
    pieces = zip(y.reshape(-1).split(TILE), x.reshape(-1).split(TILE))
    return torch.cat([function(*piece) for piece in pieces]).view(y.shape).to(dtype)


def _angle(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    corner, rest = parts(y, x)
    return corner.sub_(rest).copysign(y)


def _full_angle(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    corner, rest = parts(y, x.abs())
    behind = torch.where(corner == 0, math.pi - rest, corner + rest)
    return torch.where(torch.signbit(x), behind, corner - rest).copysign(y)


def parts(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the angle of `(x, |y|)`, `x >= 0`: it is `|corner - rest|`, with pi/2 for the corner where `|y| > x`, else 0.

    It writes into tensors of its own only, and into none that has another's shape.
    """
    p, q = COEFFICIENTS[y.dtype]
    size = y.abs()
    larger, smaller = torch.maximum(size, x), torch.minimum(size, x)
    t = smaller.clamp(max=torch.finfo(y.dtype).max)
    del size
    t.div_(_flag(larger.clone(), "eq", 0.0).add_(larger))  # 0 / 0 is 0
    t.add_(_flag(smaller, "eq", math.inf))  # and of two infinities 1
    del smaller
    corner = _flag(larger, "gt", x).mul_(HALF_PI)
    s = t * t
    top = s * p[0]
    for c in p[1:-1]:
        top.add_(c).mul_(s)
    top.add_(p[-1]).mul_(s).mul_(t)
    bottom = s + q[0]
    for c in q[1:]:
        bottom.mul_(s).add_(c)
    return corner, top.div_(bottom).add_(t)


def _flag(left: torch.Tensor, comparison: str, right: Any) -> torch.Tensor:
    """1 where a comparison holds, else 0. It writes into `left`: a tensor of bools takes a CPU five times as long."""
    if torch_c._functorch.peek_interpreter_stack() is None:
        return getattr(left, f"{comparison}_")(right)
    return getattr(left, comparison)(right).to(left.dtype)  # functorch has no such operations


def _is_large(y: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether there are tiles to choose: on a CPU, where nobody records what is done."""
    if is_traced() or torch_c._len_torch_function_stack():
        return False
    plain = type(y) in PLAIN and type(x) in PLAIN
    return plain and y.device.type == "cpu" and y.shape == x.shape and y.numel() > TILE
