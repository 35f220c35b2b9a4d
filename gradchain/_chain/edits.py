"""Stages and edits of chains from strings and literals, as they stand in config files and on command lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast

from gradchain._chain.chain import Chain
from gradchain._chain.reading import StageSpec, call_from, stage_from
from gradchain._chain.stage import Stage
from gradchain.errors import OptionError, kind_of, shown

StageSpecs: TypeAlias = "StageSpec | Iterable[StageSpec]"


def options_from(given: object) -> dict[str, Any]:
    """Options from a dict, or from text such as `"lr=1e-3, betas=(0.9, 0.95)"`."""
    if given is None:
        return {}
    if isinstance(given, str):
        return call_from(f"options({given})")[2]
    if isinstance(given, Mapping) and all(isinstance(key, str) for key in cast("Mapping[Any, Any]", given)):
        return dict(cast("Mapping[str, Any]", given))
    raise OptionError(
        f"options = {shown(given)} is {kind_of(given)}; pass a dict, or text such as 'lr=1e-3, eps=1e-8'."
    )


def names_from(given: object) -> tuple[str, ...]:
    """Names from a list, or from text such as `"divide, sign"`."""
    if given is None:
        return ()
    if isinstance(given, str):
        return tuple(name.strip() for name in given.split(",") if name.strip())
    if isinstance(given, Iterable) and not isinstance(given, Mapping):
        names = tuple(cast("Iterable[Any]", given))
        if all(isinstance(name, str) for name in names):
            return cast("tuple[str, ...]", names)
    raise OptionError(f"without = {shown(given)} is {kind_of(given)}; pass a list of stage names.")


def edited(
    chain: Chain,
    without: object = (),
    replace: Mapping[str, StageSpecs] | str | None = None,
    insert_before: Mapping[str, StageSpecs] | str | None = None,
    insert_after: Mapping[str, StageSpecs] | str | None = None,
) -> Chain:
    """A chain with edits: what is put in or exchanged first, then what is left out.

    Raises:
        OptionError, UnknownNameError, UnknownOptionError: an edit names what there is not.
        ChainError: what comes of them does not fit together.
    """
    for what, edits in (("replace", replace), ("insert_before", insert_before), ("insert_after", insert_after)):
        for name, specs in _table(what, edits).items():
            chain = getattr(chain, what)(name, _stages(specs))
    names = names_from(without)
    return chain.without(*names) if names else chain


def _table(what: str, edits: Any) -> dict[str, Any]:
    """`{"divide": "sign"}`, also given as `"divide=sign"`."""
    if edits is None:
        return {}
    if isinstance(edits, str):
        name, separator, spec = edits.partition("=")
        edits = {name.strip(): spec.strip()} if separator and name.strip() and spec.strip() else edits
    if isinstance(edits, Mapping) and all(isinstance(key, str) for key in cast("Mapping[Any, Any]", edits)):
        return dict(cast("Mapping[str, Any]", edits))
    raise OptionError(f"{what} = {shown(edits)}: pass a dict of stage: other stage, or text such as 'divide=sign'.")


def _stages(specs: Any) -> list[Stage]:
    if isinstance(specs, (str, Stage, Mapping)):
        return [stage_from(cast("StageSpec", specs))]
    if isinstance(specs, Iterable):
        return [stage_from(spec) for spec in cast("Iterable[Any]", specs)]
    return [stage_from(specs)]
