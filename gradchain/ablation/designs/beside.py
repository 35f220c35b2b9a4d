"""Other recipes as arms: a comparison of optimizers rather than of the stages of one."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain._chain.chain import Chain
from gradchain._chain.recipes import load_chain
from gradchain.ablation.arms import Design
from gradchain.ablation.designs.collected import Collected
from gradchain.ablation.errors import StudyError
from gradchain.errors import shown


def beside(chain: Chain, others: Sequence[str]) -> Design:
    """The chain and some recipes beside it, each with its own defaults. Each is compared with the chain.

    Their learning rates have different units, so let `ablate` tune them: `tune=8` gives all arms as many trials.

    Returns: the design, the full chain first.
    Raises: StudyError: no other recipe; UnknownNameError: there is no recipe of this name.

    >>> from gradchain.ablation.designs import beside
    >>> [arm.label for arm in beside(gradchain.recipe("adamw"), ["lion", "muon"]).arms]
    ['full', 'lion', 'muon']
    """
    if isinstance(others, str) or not isinstance(others, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"others = {shown(others)}: pass a list of names of recipes, such as ['lion', 'muon'].")
    found = Collected(chain)
    for name in others:
        found.add(name, load_chain(name, {}))
    return found.design("Pass names of other recipes.")
