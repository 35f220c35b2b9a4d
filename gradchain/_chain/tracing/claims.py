"""What a stage says of itself in its class body must agree with what it does."""

from __future__ import annotations

from collections.abc import Mapping

from gradchain._chain.program import Program
from gradchain._chain.tracing.watch import Deeds
from gradchain.errors import ChainError


def check_claims(program: Program, deeds: Mapping[str, Deeds], storages: Mapping[str, Deeds]) -> None:
    """Raise `ChainError` if a stage says something that is not so.

    That it may draw noise or ask about others, and then does not, is no contradiction; nor that it is elementwise, and only
    its rounding depends on the place.
    """
    for address, stage in program.stages:
        deed = deeds[address]
        if stage.elementwise and (deed.mixes or deed.shapes):
            raise _contradiction(
                address, "elementwise", True, deed.mixes or deed.shapes or "", "elements are joined and cut by that"
            )
        if stage.random is False and deed.draws:
            raise _contradiction(address, "random", False, "it draws ctx.random_bits", "no noise would be made for it")
        if stage.joint is False and deed.asks:
            raise _contradiction(address, "joint", False, deed.asks, "it would be stepped apart from the others")
        for slot in stage.slots:
            found, storage = storages.get(f"{address}.{slot}"), stage.storage_of(slot)
            if (
                found is not None
                and storage is not None
                and storage.elementwise
                and (what := found.mixes or found.shapes)
            ):
                where = f"{type(storage).__name__} ({address}.{slot})"
                raise _contradiction(where, "elementwise", True, what, "elements are joined and cut by that")


def _contradiction(address: str, attribute: str, claim: bool, fact: str, why: str) -> ChainError:
    return ChainError(
        f"{address}.{attribute} = {claim}, but {fact}; {why}. Leave `{attribute}` out of the class body: it is found out.",
        stage=address,
    )
