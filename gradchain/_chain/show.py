"""A chain as a table: stage, hyperparameters, slots, storage."""

from __future__ import annotations

from typing import Any

from gradchain._chain.elements import Composed
from gradchain._chain.stage import Stage
from gradchain._core.text import aligned

HEADER = ("stage", "hyperparameters", "slots", "storage")


def show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def stage_row(address: str, stage: Stage) -> tuple[str, str, str, str]:
    """The four cells of one stage."""
    keys = {field: stage.key_of(field) for field, spec in stage.live_fields().items() if not spec.follows}
    chosen = [name for name in stage.options() if name not in (*stage.dynamic_fields(), "name", "keys", "storage")]
    options = [f"{name}={show(getattr(stage, name))}" for name in chosen]
    options += [
        f"{name}={show(getattr(stage, name))}" + (f" [{key}]" if key != name else "")
        for name, key in keys.items()
        if getattr(stage, name) is not None
    ]
    slots = stage.known_slots
    storage = getattr(stage, "storage", "plain") if slots else ""
    return address, ", ".join(options), ", ".join(slots), storage


def chain_table(chain: Composed) -> str:
    """The chain as aligned text."""
    return aligned(HEADER, [stage_row(address, stage) for address, stage in chain.addressed])
