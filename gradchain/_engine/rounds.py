"""Rounds of requests: which calls of a step can go on, once what their parameters ask for is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from gradchain._core.reduce import Totals
from gradchain._core.totals import Asked, Route, reduce_requests

K = TypeVar("K")

Waiting = tuple[int, Route, Asked]
"""A parameter that waits: its place among all, its program, and what it asks for."""


def answer(waiting: Mapping[K, Sequence[Waiting]], partition: Any) -> dict[K, list[Totals]] | None:
    """The totals for each call that can go on; `None` if nobody waits.

    Which parameters share a call may differ between processes that hold parts of one tensor, so they go in their own order.
    """
    rows = sorted((row for call in waiting.values() for row in call), key=lambda row: row[0])
    given = reduce_requests([(program, asked) for _, program, asked in rows], partition)
    if given is None:
        return None
    totals = {place: total for (place, _, _), total in zip(rows, given) if total is not None}
    ready = [call for call, members in waiting.items() if members[0][0] in totals]
    return {call: [totals[place] for place, _, _ in waiting[call]] for call in ready}
