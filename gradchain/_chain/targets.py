"""What the names that people write mean in a chain: stages by address or bare name, and fields by option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradchain._chain.elements import Composed
from gradchain.errors import UnknownOptionError, kind_of, nearest, shown


def resolve(names: Sequence[str], name: str) -> str:
    """The full address of a stage given by its address or its bare name."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnknownOptionError(
            f"stage name {shown(name)} is {kind_of(name)}; pass the name of a stage: {', '.join(names)}."
        )
    if name in names:
        return name
    matches = [address for address in names if address.rpartition("/")[2] == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownOptionError(f"stage name {shown(name)} is ambiguous; say which: {', '.join(matches)}.")
    raise UnknownOptionError(f"the chain has no stage {shown(name)}. {nearest(name, names)}")


def targets(stages: Composed, name: str, value: Any) -> list[tuple[str, str, Any]]:
    """The fields that an option name means: `(address, field, value)`."""
    address, dot, field = name.rpartition(".")
    bound = [] if dot else [b for b in stages.bindings.bindings if name == b.key and not b.spec.follows]
    if bound:
        stages.bindings.check_length(name, value)
        return [(b.address, b.field, b.pick({name: value})) for b in bound]
    if dot:
        address = resolve(stages.names, address)
    found = [
        (at, field, value)
        for at, stage in stages.addressed
        if at == (address or at) and any(f.name == field and f.init for f in stage.fields())
    ]
    if len(found) == 1:
        return found
    if found:
        qualified = ", ".join(f"{at}.{field}" for at, _, _ in found)
        raise UnknownOptionError(f"option {name!r} is ambiguous; say which: {qualified}.")
    fields = [
        f.name for _, stage in stages.addressed for f in stage.fields() if f.init and f.name not in ("name", "keys")
    ]
    known = nearest(name, {*stages.hyperparameters, *fields})
    raise UnknownOptionError(f"the chain has no option {shown(name)}. {known}")
