"""Entries of a group that are not the chain's: those of the training loop are kept, saved and have no effect."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from typing import Any

from gradchain._chain import registry
from gradchain.errors import OptionError, nearest, shown

WRITTEN_BY_TORCH = frozenset({
    "name", "initial_lr", "max_lr", "min_lr", "base_lr", "max_momentum", "base_momentum", "swa_lr",
    "constructor_lr", "param_names", "params",
})  # fmt: skip
"""What schedulers and training loops of torch write."""

OF_TORCH = frozenset({
    "alpha", "amsgrad", "betas", "centered", "dampening", "decoupled_weight_decay", "eps", "etas", "lr", "lr_decay",
    "momentum", "momentum_decay", "nesterov", "rho", "step_sizes", "weight_decay",
})  # fmt: skip
"""What changes the step of some optimizer of torch: whoever sets it wants an effect."""

OFF = (None, False, 0)


def check_guests(
    group: Mapping[str, Any], own: Container[str], chain_keys: Mapping[str, Any], where: str, known: set[str]
) -> None:
    """Raise for an entry that is there to change the step and cannot; warn of others, once for each name.

    Args:
        group: a new group.
        own: entries that the optimizer uses.
        chain_keys: the hyperparameters of its chain.
        where: which group this is, for messages.
        known: names that have been warned of; they are added to.

    Raises:
        OptionError: the entry is a hyperparameter of other optimizers, and is on.
    """
    guests = [key for key in group if key not in own and key not in WRITTEN_BY_TORCH]
    for key in guests:
        value = group[key]
        if key in (OF_TORCH | _hyperparameters()) and not any(value is off or value == off for off in OFF):
            raise OptionError(
                f"{where}{key} = {shown(value)} would change nothing: the chain has no such hyperparameter (it has: "
                f"{', '.join(chain_keys) or 'none'}). Leave it out, or use a chain with a stage for it."
            )
    if fresh := [key for key in guests if key not in known]:
        known.update(fresh)
        hints = [nearest(key, chain_keys) for key in fresh]
        hint = next((f" {text}" for text in hints if text.startswith("Did you mean")), "")
        warnings.warn(
            f"{where}the chain does not use {', '.join(fresh)}: kept and saved with the group, without an effect on its "
            f"steps.{hint}",
            UserWarning,
            stacklevel=5,
        )


def _hyperparameters() -> frozenset[str]:
    """The names of the hyperparameters of all stages."""
    specs = ((name, spec) for stage in registry.stages().values() for name, spec in stage.dynamic_fields().items())
    return frozenset((spec.key or name).partition("[")[0] for name, spec in specs)
