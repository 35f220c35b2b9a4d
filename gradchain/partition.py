"""Routing: different chains for different parameters, as one element of a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from gradchain.errors import ChainError, nearest
from gradchain.registry import LabelFunction, label_name

if TYPE_CHECKING:
    from gradchain.chain import Chain
    from gradchain.stage import Stage


@dataclass(frozen=True)
class Partition:
    """Each parameter goes through the branch that its label names. Made by `partition`."""

    branches: tuple[tuple[str, Chain], ...]
    label: LabelFunction

    def branch(self, name: str, param: torch.Tensor, role: str | None) -> tuple[str, Chain]:
        """The label and chain for a parameter. A role that names a branch wins over the label function."""
        branches = dict(self.branches)
        label: object = role if role in branches else self.label(name, param)
        if not isinstance(label, str) or label not in branches:
            raise ChainError(
                f"label function {self.label_name!r} gave {label!r} for parameter {name or '(unnamed)'} of shape "
                f"{tuple(param.shape)}, but the branches are {', '.join(branches)}. {nearest(str(label), branches)}"
            )
        return label, branches[label]

    @property
    def label_name(self) -> str:
        return label_name(self.label) or getattr(self.label, "__name__", repr(self.label))

    def __repr__(self) -> str:
        inner = ", ".join(f"{label!r}: {list(branch.elements)!r}" for label, branch in self.branches)
        return f"partition({{{inner}}}, {self.label_name})"


def partition(
    branches: Mapping[str, Chain | Stage | Sequence[Stage | Literal[False] | None]], label: LabelFunction
) -> Partition:
    """Route parameters to branches by a label function over `(name, parameter)`.

    A branch is a stage, a list of stages, or a chain; stages need not stand alone, since the chain around the
    partition completes them. An explicit role (the group key `role=`) that names a branch wins over the function.
    A stage of a branch is addressed as `label/stage`; the bare name will do where it is unique.

    >>> by_rank = gradchain.partition(
    ...     {"matrix": spectral_decay(0.1), "vector": decoupled_decay(0.1)},
    ...     lambda name, p: "matrix" if p.ndim == 2 else "vector",
    ... )
    """
    from gradchain.chain import elements_of, unchecked

    if not isinstance(branches, Mapping) or not branches:
        raise ChainError(f"partition takes branches as a dict of at least one label: stages; got {branches!r}.")
    if not callable(label):
        raise ChainError(f"partition's label is {label!r}; pass a function of (name, parameter) that gives a label.")
    chains: list[tuple[str, Chain]] = []
    for name, branch in branches.items():
        if not isinstance(name, str) or set("/. ") & set(name):
            raise ChainError(f"partition: a branch cannot be called {name!r}; use letters, digits, '_' and '-'.")
        chains.append((name, unchecked(elements_of(branch))))
    return Partition(tuple(chains), label)
