"""Optimizers by the names of their recipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gradchain._chain import recipes
from gradchain._chain.chain import Chain
from gradchain._engine import Compile
from gradchain._optim.nonfinite import Policy, Scope
from gradchain._optim.optimizer import Optimizer
from gradchain.errors import OptionError, shown
from gradchain.roles import Rule


def optimizer(
    name: str,
    params: nn.Module | Iterable[Any],
    *,
    disable: Iterable[str] = (),
    compile: Compile = "auto",
    telemetry: bool | int = False,
    maximize: bool = False,
    role: Rule = None,
    capturable: bool = False,
    nonfinite: Policy = "propagate",
    nonfinite_scope: Scope | None = None,
    partition_of: nn.Module | Iterable[torch.Tensor] | None = None,
    partition_group: Any = None,
    shadows: Mapping[str, Chain] | None = None,
    **options: Any,
) -> Optimizer:
    """Make an optimizer by the name of its recipe.

    Args:
        name: one of `gradchain.recipes()`.
        params: as for `Optimizer`, as are all keywords that it has.
        options: of the recipe.

    Returns: the optimizer.
    Raises: UnknownNameError, UnknownOptionError, OptionError: with the nearest names, or the allowed range.

    >>> optimizer = gradchain.optimizer("rose", model.parameters(), lr=1e-3, disable=("cv_trust_gate",))
    """
    if not isinstance(name, str) and isinstance(params, str):
        raise OptionError(
            f"the arguments are swapped: pass the name first, gradchain.optimizer({shown(params)}, params)."
        )
    if isinstance(name, Chain) or isinstance(params, Chain):
        raise OptionError("gradchain.optimizer takes the name of a recipe; for a chain use Optimizer(params, chain).")
    chain = recipes.recipe(name, **options)
    made = Optimizer(
        params,
        chain,
        disable=disable,
        compile=compile,
        telemetry=telemetry,
        maximize=maximize,
        role=role,
        capturable=capturable,
        nonfinite=nonfinite,
        nonfinite_scope=nonfinite_scope,
        partition_of=partition_of,
        partition_group=partition_group,
        shadows=shadows,
    )
    made.name = name
    return made
