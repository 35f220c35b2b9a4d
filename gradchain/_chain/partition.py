"""Routing: different stages for different parameters, as one element of a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gradchain._chain.elements import Composed, Partition, elements_of
from gradchain._chain.registry import LabelFunction
from gradchain._chain.registry import label as registered
from gradchain._chain.stage import NAME, Stage
from gradchain.errors import ChainError, shown


def partition(
    branches: Mapping[str, Composed | Stage | Sequence[Stage | Literal[False] | None]], label: LabelFunction | str
) -> Partition:
    """Route parameters to branches by a label function over `(name, parameter)`.

    A branch is a stage, a list of stages, or a chain; stages need not stand alone, since the chain around the
    partition completes them. An explicit role (the group key `role=`) that names a branch wins over the function.
    A label function that is registered with `@gradchain.label_function` may be given by its name.
    A stage of a branch is addressed as `label/stage`; the bare name will do where it is unique.

    >>> by_rank = gradchain.partition(
    ...     {"matrix": spectral_decay(0.1), "vector": decoupled_decay(0.1)},
    ...     lambda name, p: "matrix" if p.ndim == 2 else "vector",
    ... )
    """
    if not isinstance(branches, Mapping) or not branches:
        raise ChainError(f"partition takes branches as a dict of at least one label: stages; got {shown(branches)}.")
    label = registered(label) if isinstance(label, str) else label
    chains: list[tuple[str, Composed]] = []
    for name, branch in branches.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ChainError(f"partition: a branch cannot be called {shown(name)}; use letters, digits, '_' and '-'.")
        if branch is None or branch is False:  # pyright: ignore[reportUnnecessaryComparison]
            raise ChainError(f"partition: branch {name!r} is {shown(branch)}; pass stages, or [] for none.")
        chains.append((name, Composed(elements_of(branch))))
    return Partition(tuple(chains), label)
