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

    A branch is a stage, a list of stages, or a chain. It may be incomplete: the stages around the partition complete it.
    A role (the group key `role=`) that names a branch takes precedence over the function; for others it gets the role, if it
    has a parameter `role`, as `hidden_matrices` does. A function registered with
    `@gradchain.label_function` may be given by its name. Stages are addressed as `label/stage`, or by a unique bare name.

    Returns: an element for `chain(...)`.
    Raises: ChainError: no branches, a branch's name or stages are invalid, or `label` is no function of name and parameter.

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
