"""Routing: different chains for different parameters, as one element of a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        label = role if role in branches else self.label(name, param)
        if label not in branches:
            raise ChainError(
                f"label function {self.label_name!r} gave {label!r} for parameter {name or '(unnamed)'} of shape "
                f"{tuple(param.shape)}, but the branches are {', '.join(branches)}. {nearest(str(label), branches)}"
            )
        return label, branches[label]

    @property
    def label_name(self) -> str:
        return label_name(self.label) or getattr(self.label, "__name__", repr(self.label))

    def __repr__(self) -> str:
        inner = ", ".join(f"{label!r}: {branch!r}" for label, branch in self.branches)
        return f"partition({{{inner}}}, {self.label_name})"


def partition(branches: Mapping[str, Chain | Stage | Sequence[Stage]], label: LabelFunction) -> Partition:
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

    if not branches:
        raise ChainError("partition has no branches; give at least one {label: chain}.")
    chains: list[tuple[str, Chain]] = []
    for name, branch in branches.items():
        stages = branch if isinstance(branch, (list, tuple)) else (branch,)
        chains.append((name, unchecked(tuple(element for stage in stages for element in elements_of(stage)))))
    return Partition(tuple(chains), label)
