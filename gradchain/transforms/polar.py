"""Ways to make a matrix orthogonal: polynomials in it that bring all its singular values near 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Coefficients = tuple[float, float, float]

QUINTIC: Coefficients = (3.4445, -4.7750, 2.0315)
"""Fast rather than exact: singular values end between about 0.7 and 1.2 (Jordan et al., 2024)."""

POLAR_EXPRESS: tuple[Coefficients, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""The best quintic polynomial of each step for singular values from 1e-3 to 1 (Amsel et al., 2025); the last one repeats."""

SAFETY = 1.01
"""By how much all but the last polynomials of Polar Express are stretched, so that rounding does not leave the interval."""


@dataclass(frozen=True)
class Polar:
    """A function from matrices, or stacks of them, to nearly orthogonal ones, in the dtype of the input.

    `floor` is the least divisor of the Frobenius norm; `None`: 1/sqrt(the numbers in a matrix).
    """

    method: str = "quintic"
    steps: int = 5
    coefficients: Coefficients = QUINTIC
    floor: float | None = 1e-7
    precision: torch.dtype | None = torch.bfloat16
    bound: float | None = None
    """For `cans`: what the singular values are at least, once the norm is 1; `None` for a guess by the shape."""

    def __call__(self, M: torch.Tensor) -> torch.Tensor:
        m, n = M.shape[-2:]
        if M.numel() == 0:
            return M
        x = M.to(self.precision or torch.promote_types(M.dtype, torch.float32))
        x = x.mT if m > n else x
        floor = 1 / math.sqrt(m * n) if self.floor is None else self.floor
        x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=floor)
        x = METHODS[self.method](self, x, m, n)
        return (x.mT if m > n else x).to(M.dtype)

    def flops(self, m: int, n: int) -> int:
        """The floating-point operations of the matrix products, for one matrix on a CPU, not in a stack."""
        m, n = min(m, n), max(m, n)
        computed = sum(rows * stop for rows, stop in _halves(m, torch.device("cpu")))
        if self.method == "gram":
            return 2 * (computed + m * m) * n + self.steps * 2 * (computed + 3 * m * m) * m
        return self.steps * (2 * (computed + m * m) * n + (0 if self.method == "cans" else 2 * computed * m))


def _product(
    left: torch.Tensor,
    x: torch.Tensor,
    of_x: float,
    of_ax: float,
    add: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`of_x * add + of_ax * left @ x`, rounded once; `add` is x if not given."""
    add = x if add is None else add
    if x.ndim == 2:
        return torch.addmm(add, left, x, beta=of_x, alpha=of_ax, out=out)
    return torch.baddbmm(add, left, x, beta=of_x, alpha=of_ax)


BLOCK = 256
"""Rows of a symmetric product that a CPU computes at a time."""


def _halves(size: int, device: torch.device) -> list[tuple[int, int]]:
    """How many rows of a symmetric product are computed at a time, and up to which column."""
    block = BLOCK if device.type == "cpu" else size
    return [(min(block, size - start), min(start + block, size)) for start in range(0, size, max(block, 1))]


def _gram_of(x: torch.Tensor) -> torch.Tensor:
    """`x @ x.mT`."""
    return _symmetric(x, lambda rows, stop, out: torch.mm(x[rows], x[:stop].mT, out=out)) if _in_blocks(x) else x @ x.mT


def _polynomial(gram: torch.Tensor, first: float, second: float) -> torch.Tensor:
    """`first * gram + second * gram @ gram` of a symmetric matrix."""
    if not _in_blocks(gram):
        return _product(gram, gram, first, second)
    return _symmetric(
        gram, lambda rows, stop, out: _product(gram[rows], gram[:stop].mT, first, second, gram[rows, :stop], out)
    )


def _in_blocks(x: torch.Tensor) -> bool:
    return x.ndim == 2 and len(_halves(x.shape[0], x.device)) > 1


Block = Callable[[slice, int, torch.Tensor | None], torch.Tensor]
"""Some rows of a product up to a column, written into a tensor if there is one."""


def _symmetric(x: torch.Tensor, product_of: Block) -> torch.Tensor:
    """A symmetric product with as many rows as x: blocks above the diagonal are copied from those below."""
    product = x.new_empty(x.shape[0], x.shape[0])
    # Neither autograd nor torch.func knows products that are written into a given tensor.
    recorded = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()  # pyright: ignore
    for rows, stop in _halves(x.shape[0], x.device):
        start = stop - rows
        out = product[start:stop, :stop]
        done = product_of(slice(start, stop), stop, None if recorded else out)
        if recorded:
            product[start:stop, :stop] = done
        product[:start, start:stop] = done[:, :start].mT
    return product


def _quintic(polar: Polar, x: torch.Tensor, m: int, n: int) -> torch.Tensor:
    return _iterated(x, [polar.coefficients] * polar.steps)


def _polar_express(polar: Polar, x: torch.Tensor, m: int, n: int) -> torch.Tensor:
    return _iterated(x / SAFETY, polar_express(polar.steps))


def polar_express(steps: int) -> list[Coefficients]:
    """The polynomials of so many steps of Polar Express."""
    first = POLAR_EXPRESS[: min(steps, len(POLAR_EXPRESS) - 1)]
    stretched = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in first]
    return stretched + [POLAR_EXPRESS[-1]] * (steps - len(first))


def _iterated(x: torch.Tensor, polynomials: Sequence[Coefficients]) -> torch.Tensor:
    for a, b, c in polynomials:
        gram = _gram_of(x)
        x = _product(_polynomial(gram, b, c), x, a, 1.0)
    return x


def _gram(polar: Polar, x: torch.Tensor, m: int, n: int) -> torch.Tensor:
    """The same polynomials, multiplied up as small square matrices: x appears in two products only."""
    gram, made = _gram_of(x), torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    for _ in range(polar.steps):
        a, b, c = polar.coefficients
        step = _polynomial(gram, b, c) + a * torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        gram, made = step @ gram @ step, step @ made
    return made @ x


def _cans(polar: Polar, x: torch.Tensor, m: int, n: int) -> torch.Tensor:
    for first, third in cans(polar.steps, _least(m, n) if polar.bound is None else polar.bound):
        x = _product(_gram_of(x), x, first, third)
    return x


def _least(m: int, n: int) -> float:
    return max(1 / math.sqrt(m * n), abs(1 / math.sqrt(n) - 1 / math.sqrt(m)))


def cans(steps: int, low: float, high: float = 1.0) -> list[tuple[float, float]]:
    """The best cubic polynomials, one after another, for singular values from `low` to `high`."""
    found: list[tuple[float, float]] = []
    for _ in range(steps):
        e = (low**2 + low * high + high**2) / 3
        peak, product = 2 * e**1.5, low * high * (low + high)
        alpha = 6 / (peak + product)
        found.append((alpha * e, -alpha / 3))
        off = (peak - product) / (peak + product)
        low, high = 1 - off, 1 + off
    return found


def _svd(polar: Polar, x: torch.Tensor, m: int, n: int) -> torch.Tensor:
    """Exactly; singular values that are 0 stay 0."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    U, S, V = torch.linalg.svd(wide, full_matrices=False)
    rank = S[..., :1] * max(m, n) * torch.finfo(wide.dtype).eps < S
    return (U * rank[..., None, :]) @ V


METHODS: dict[str, Callable[[Polar, torch.Tensor, int, int], torch.Tensor]] = {
    "quintic": _quintic,
    "polar_express": _polar_express,
    "gram": _gram,
    "cans": _cans,
    "svd": _svd,
}


@dataclass(frozen=True)
class Blocks:
    """A function of matrices, for each of some that stand one above the other, or side by side."""

    polar: Polar
    parts: int
    side_by_side: bool = False

    def __call__(self, M: torch.Tensor) -> torch.Tensor:
        if self.parts == 1:
            return self.polar(M)
        if self.side_by_side:
            pieces = M.unflatten(-1, (self.parts, -1)).movedim(-2, 0)
            return self.polar(pieces.flatten(0, -3)).view(pieces.shape).movedim(0, -2).reshape(M.shape)
        return self.polar(M.unflatten(-2, (self.parts, -1)).flatten(0, -3)).reshape(M.shape)


@dataclass(frozen=True)
class Sketched:
    """A function of matrices, in the span of a sketch."""

    function: Blocks

    def __call__(self, M: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        basis = torch.linalg.qr((M @ sketch).float()).Q.to(M.dtype)
        return basis @ self.function(basis.mT @ M), sketch


def is_number(value: Any, kind: Any = (int, float)) -> bool:
    """Whether an option is a finite number of a kind. Returns: true or false; `True` is none."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def only_tuples(value: Any) -> Any:
    """Refuse what is neither a list nor a tuple, such as an array. Returns: the value.

    Raises: TypeError: it is none.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"it is {type(value).__name__}; pass a tuple.")
    return value  # pyright: ignore[reportUnknownVariableType]
