"""Rows and columns of matrices, which some transforms treat alike: the first axis of a tensor against all others."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._core.reduce import Request, Totals, whole_tensor
from gradchain.ops import arctan_ratio, root
from gradchain.transforms.adapters import sums

LEAST_VARIANCE = 1e-30
BY = ("element", "row_column")
"""How the spread of a momentum is measured: for each element, or for each row and each column of matrices."""

Weighing = Generator[Request, Totals, torch.Tensor]


def is_matrix(shape: torch.Size, role: str | None) -> bool:
    """Whether a parameter has rows and columns: two axes or more, and no role that makes it a vector.

    >>> from gradchain.transforms.lines import is_matrix
    >>> is_matrix(torch.Size([4, 3, 3]), None), is_matrix(torch.Size([4, 1]), "dora_scale"), is_matrix(torch.Size([4]), None)
    (True, False, False)
    """
    return len(shape) >= 2 and role not in ("dora_scale", "vector")


def sides(shape: torch.Size) -> tuple[int, int]:
    """The numbers of rows and of columns, 1 at least. Returns: both, of the whole parameter."""
    return max(shape[0], 1), max(shape[1:].numel(), 1)


def spread(squares: torch.Tensor, count: int) -> torch.Tensor:
    """The standard deviation of numbers of size 1, by the sum of the squares of `count` means of them."""
    return root((1 - squares / count).clamp(min=LEAST_VARIANCE))


def spreads(m: torch.Tensor, shape: torch.Size) -> Generator[Request, Totals, tuple[torch.Tensor, torch.Tensor]]:
    """The spread of each row and of each column of means; both broadcast against the parameter."""
    height, width = sides(shape)
    rows = yield from sums("rows", squares=m * m)
    columns = yield from sums("columns", squares=m * m)
    return spread(rows.squares, width), spread(columns.squares, height)


def evened(w: torch.Tensor, shape: torch.Size, m: torch.Tensor | None) -> Weighing:
    """A weight for each element: roots of the norms of its row and its column, over their mean.

    With means `m`, arctangents of these roots over the spread of the row and of the column.
    """
    height, width = sides(shape)
    rows = yield from sums("rows", squares=w * w)
    columns = yield from sums("columns", squares=w * w)
    rho = root(root(rows.squares).clamp(min=width**-0.5))
    kappa = root(root(columns.squares).clamp(min=height**-0.5))
    if m is not None:
        of_rows, of_columns = yield from spreads(m, shape)
        rho, kappa = arctan_ratio(rho, of_rows), arctan_ratio(kappa, of_columns)
    t = yield whole_tensor(rho=rho)
    mean = (t.rho / height).to(rho.dtype) * kappa.mean()
    return rho * kappa / mean.clamp(min=1e-12)
