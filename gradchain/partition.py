"""Routing: different chains for different parameters, as one element of a chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from gradchain.errors import ChainError, nearest, shown
from gradchain.registry import LabelFunction, label_name
from gradchain.registry import label as registered
from gradchain.stage import NAME

if TYPE_CHECKING:
    from gradchain.chain import Chain
    from gradchain.stage import Stage


@dataclass(frozen=True)
class Partition:
    """Each parameter goes through the branch that its label names. Made by `partition`."""

    branches: tuple[tuple[str, Chain], ...]
    label: LabelFunction

    def __post_init__(self) -> None:
        if not isinstance(self.branches, tuple) or not self.branches:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ChainError(f"Partition({shown(self.branches)}, ...): make it with partition({{label: stages}}, ...).")
        if not callable(self.label) or isinstance(self.label, (type, torch.nn.Module)):
            raise ChainError(
                f"partition's label is {shown(self.label)}; pass a function of (name, parameter) that gives a label, or the "
                "name of a registered one."
            )
        if self.depth > DEEPEST:
            raise ChainError(
                f"partitions are nested more than {DEEPEST} deep. Use one label function with more labels."
            )

    def branch(self, name: str, param: torch.Tensor, role: str | None) -> tuple[str, Chain]:
        """The label and chain for a parameter. A role that names a branch wins over the label function."""
        branches = dict(self.branches)
        label: object = role if role in branches else self._labelled(name, param)
        if not isinstance(label, str) or label not in branches:
            raise ChainError(
                f"label function {self.label_name!r} gave {shown(label)} for parameter {name or '(unnamed)'} of shape "
                f"{tuple(param.shape)}, but the branches are {', '.join(branches)}. {nearest(str(label), branches)}"
            )
        return label, branches[label]

    def _labelled(self, name: str, param: torch.Tensor) -> object:
        try:
            return self.label(name, param)
        except Exception as error:
            raise ChainError(
                f"label function {self.label_name!r} failed for parameter {name or '(unnamed)'} of shape "
                f"{tuple(param.shape)}: {type(error).__name__}: {error}. It is called with the name and the parameter, "
                "and returns a label."
            ) from error

    @property
    def depth(self) -> int:
        """How deep partitions are nested in this one, itself included."""
        return 1 + max((depth_of(branch.elements) for _, branch in self.branches), default=0)

    @property
    def label_name(self) -> str:
        return label_name(self.label) or getattr(self.label, "__name__", shown(self.label))

    def __repr__(self) -> str:
        inner = ", ".join(f"{label!r}: {list(branch.elements)!r}" for label, branch in self.branches)
        name = label_name(self.label)
        return f"partition({{{inner}}}, {self.label_name if name is None else repr(name)})"


def partition(
    branches: Mapping[str, Chain | Stage | Sequence[Stage | Literal[False] | None]], label: LabelFunction | str
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
    from gradchain.chain import elements_of, unchecked

    if not isinstance(branches, Mapping) or not branches:
        raise ChainError(f"partition takes branches as a dict of at least one label: stages; got {shown(branches)}.")
    label = registered(label) if isinstance(label, str) else label
    chains: list[tuple[str, Chain]] = []
    for name, branch in branches.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ChainError(f"partition: a branch cannot be called {shown(name)}; use letters, digits, '_' and '-'.")
        if branch is None or branch is False:  # pyright: ignore[reportUnnecessaryComparison]
            raise ChainError(f"partition: branch {name!r} is {shown(branch)}; pass stages, or [] for none.")
        chains.append((name, unchecked(elements_of(branch))))
    return Partition(tuple(chains), label)


DEEPEST = 24
"""How deep partitions, and lists of stages, may be nested."""


def depth_of(elements: Sequence[Stage | Partition]) -> int:
    return max((element.depth for element in elements if isinstance(element, Partition)), default=0)
