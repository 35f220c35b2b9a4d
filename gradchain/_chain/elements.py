"""What chains are made of: stages, and partitions, which send each parameter through one of several branches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias, cast

import torch

from gradchain._chain.bindings import Bindings, bind_keys
from gradchain._chain.program import Program
from gradchain._chain.registry import LabelFunction, label_name, takes_role
from gradchain._chain.stage import Stage
from gradchain.errors import ChainError, ParameterError, nearest, shown

Element: TypeAlias = "Stage | Partition"
Route: TypeAlias = "Sequence[tuple[str, Stage]]"
Branches: TypeAlias = "tuple[tuple[str, Composed], ...]"

DEEPEST = 24
"""How deep partitions, and lists of stages, may be nested."""


@dataclass(frozen=True, repr=False)
class Composed:
    """Stages and partitions in order, unchecked: a branch of a partition, or a chain before it is checked."""

    elements: tuple[Element, ...]

    @functools.cached_property
    def addressed(self) -> tuple[tuple[str, Stage], ...]:
        """Every stage with its address, in order; stages of a partition are addressed as `label/stage`."""
        return tuple(addressed(self.elements))

    @property
    def names(self) -> tuple[str, ...]:
        """The addresses of the stages."""
        return tuple(address for address, _ in self.addressed)

    @functools.cached_property
    def bindings(self) -> Bindings:
        """Which name in `param_groups` sets which field."""
        return bind_keys(self.addressed)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The dynamic hyperparameters under the names that they have in `param_groups`, with their values."""
        return dict(self.bindings.defaults)

    def route(self, name: str, param: torch.Tensor, role: str | None = None) -> Program:
        """The stages that one parameter goes through, as a program. `ChainError` if there are none."""
        stages = tuple(addressed(self.elements, lambda partition: (partition.branch(name, param, role),)))
        if not stages:
            raise ChainError(
                f"no stage of the chain acts on parameter {name or '(unnamed)'} of shape {tuple(param.shape)}: it would "
                "step by the raw gradient. Add scale_by_learning_rate(...), or leave the parameter out."
            )
        return Program.of(stages, role)


@dataclass(frozen=True)
class Partition:
    """Sends each parameter through the branch that its label names. Made by `partition`.

    Raises: ChainError: no branches, nothing callable as label function, or partitions nested too deep.
    """

    branches: Branches
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

    def branch(self, name: str, param: torch.Tensor, role: str | None) -> tuple[str, Composed]:
        """Find the branch of a parameter. A role that names a branch takes precedence over the label function.

        Returns: the label and its branch.
        Raises: ChainError: the label function failed, or gave a label that no branch has; ParameterError: it refused.
        """
        branches = dict(self.branches)
        label: object = role if role in branches else self._labelled(name, param, role)
        if not isinstance(label, str) or label not in branches:
            raise ChainError(
                f"label function {self.label_name!r} gave {shown(label)} for parameter {name or '(unnamed)'} of shape "
                f"{tuple(param.shape)}, but the branches are {', '.join(branches)}. {nearest(str(label), branches)}"
            )
        return label, branches[label]

    def _labelled(self, name: str, param: torch.Tensor, role: str | None) -> object:
        label = cast("Callable[..., object]", self.label)
        try:
            return label(name, param, role=role) if self._by_role else label(name, param)
        except ParameterError:
            raise
        except Exception as error:
            raise ChainError(
                f"label function {self.label_name!r} failed for parameter {name or '(unnamed)'} of shape "
                f"{tuple(param.shape)}: {type(error).__name__}: {error}. It is called with the name and the parameter, "
                "and returns a label."
            ) from error

    @functools.cached_property
    def _by_role(self) -> bool:
        return takes_role(self.label)

    @property
    def depth(self) -> int:
        """How deep partitions are nested in this one, counting itself."""
        inner = (element for _, branch in self.branches for element in branch.elements)
        return 1 + max((element.depth for element in inner if isinstance(element, Partition)), default=0)

    @property
    def label_name(self) -> str:
        return label_name(self.label) or getattr(self.label, "__name__", shown(self.label))

    def __repr__(self) -> str:
        inner = ", ".join(f"{label!r}: {list(branch.elements)!r}" for label, branch in self.branches)
        name = label_name(self.label)
        return f"partition({{{inner}}}, {self.label_name if name is None else repr(name)})"


def _all_branches(partition: Partition) -> Branches:
    return partition.branches


def addressed(
    elements: Sequence[Element], chosen: Callable[[Partition], Branches] = _all_branches, prefix: str = ""
) -> Iterator[tuple[str, Stage]]:
    """The stages of a tree of elements with their addresses, in order: those of the `chosen` branches."""
    for element in elements:
        if isinstance(element, Partition):
            for label, branch in chosen(element):
                yield from addressed(branch.elements, chosen, f"{prefix}{label}/")
        else:
            yield prefix + element.address, element


def routes(elements: Sequence[Element], prefix: str = "") -> Iterator[list[tuple[str, Stage]]]:
    """Every way through a tree of elements: one branch of each partition."""
    choices: list[list[list[tuple[str, Stage]]]] = []
    for element in elements:
        if isinstance(element, Partition):
            branches = (routes(branch.elements, f"{prefix}{label}/") for label, branch in element.branches)
            choices.append([route for branch in branches for route in branch])
        else:
            choices.append([[(prefix + element.address, element)]])
    for parts in product(*choices):
        yield [pair for part in parts for pair in part]


def elements_of(item: object, depth: int = 0) -> tuple[Element, ...]:
    """The stages and partitions in a nest of chains and lists."""
    if isinstance(item, Composed):
        return item.elements
    if isinstance(item, type) and issubclass(item, Stage) and item is not Stage:
        return (item(),)
    if isinstance(item, (Stage, Partition)) and type(item) is not Stage:
        return (item,)
    if depth > DEEPEST:
        raise ChainError(f"lists of stages are nested more than {DEEPEST} deep. Flatten them.")
    if isinstance(item, (list, tuple)):
        present = [inner for inner in cast("Sequence[object]", item) if inner is not None and inner is not False]
        return tuple(element for inner in present for element in elements_of(inner, depth + 1))
    raise ChainError(
        f"{shown(item)} is not a stage. Pass stages such as centralize(), chains, or partitions; make a stage of a function "
        f"with @gradchain.stateless.{_instead(item)}"
    )


def _instead(item: object) -> str:
    """A hint at what was probably meant."""
    if isinstance(item, str):
        return " The chain of a recipe is gradchain.recipe(name)."
    if hasattr(item, "__next__") or isinstance(item, (set, frozenset)):
        return " Stages are in order: pass a list."
    if callable(item) and not isinstance(item, (type, torch.nn.Module)):
        return " A recipe's function has to be called."
    return ""
