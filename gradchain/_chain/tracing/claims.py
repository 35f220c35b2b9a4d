"""Check what a storage declares in its class body against what it does."""

from __future__ import annotations

from collections.abc import Mapping

from gradchain._chain.program import Program
from gradchain._chain.tracing.watch import NOISE, Deeds
from gradchain.errors import ChainError


def check_storages(program: Program, deeds: Mapping[str, Deeds]) -> None:
    """Raise `ChainError` if a storage declares itself elementwise and is not. Its rounding may depend on the place."""
    for name, (address, slot) in program.owners.items():
        found, storage = deeds.get(f"{address}.{name}"), slot.kept_as
        if found is None or storage is None or not storage.elementwise:
            continue
        if what := found.mixes or found.shapes or (found.draws and NOISE):
            raise ChainError(
                f"{type(storage).__name__} ({address}.{name}).elementwise = True, but {what}; elements are joined and cut "
                "by that. Leave `elementwise` out of the class body: it is found out.",
                stage=address,
            )
