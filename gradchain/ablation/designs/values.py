"""Other values of an option, and edits of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradchain._chain.chain import Chain
from gradchain.ablation.arms import Design
from gradchain.ablation.designs.collected import Collected
from gradchain.ablation.errors import StudyError
from gradchain.errors import shown


def sweep(chain: Chain, option: str, values: Sequence[Any]) -> Design:
    """The chain with each of some values of an option. Each arm is compared with the chain as it is.

    The option is named as for `Chain.with_options`: `lr`, `betas`, `divide.eps`.

    Returns: the design, the full chain first.
    Raises: StudyError: no other value; UnknownOptionError: no such option; OptionError: a value out of range.

    >>> from gradchain.ablation.designs import sweep
    >>> [arm.label for arm in sweep(gradchain.recipe("adamw"), "eps", [1e-8, 1e-6]).arms]
    ['full', 'eps = 1e-06']
    """
    if isinstance(values, str) or not isinstance(values, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"values = {shown(values)}: pass a list of values of {option}.")
    found = Collected(chain)
    for value in values:
        found.add(f"{option} = {value!r}", chain.with_options(**{option: value}))
    return found.design(f"Pass other values of {option}.")


def edited(chain: Chain, edits: Sequence[str]) -> Design:
    """The chain with each of some edits, in the grammar of `Chain.edit`. Each arm is compared with the chain as it is.

    Returns: the design, the full chain first.
    Raises: StudyError: no edits; ChainError, OptionError: one cannot be made.

    >>> from gradchain.ablation.designs import edited
    >>> design = edited(gradchain.recipe("adamw"), ["-decoupled_decay", "divide -> atan2_scale(); lr = 0.01"])
    >>> [arm.label for arm in design.arms]
    ['full', '-decoupled_decay', 'divide -> atan2_scale(); lr = 0.01']
    """
    if isinstance(edits, str) or not isinstance(edits, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"edits = {shown(edits)}: pass a list of edits, such as ['-centralize', 'lr = 0.1'].")
    found = Collected(chain)
    for text in edits:
        found.add(text.strip(), chain.edit(text))
    return found.design("Pass edits that change something.")
