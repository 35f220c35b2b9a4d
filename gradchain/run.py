"""Drives the steps of many parameters in lockstep and answers their reductions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from gradchain.program import Outcome, Running
from gradchain.reduce import Request, Totals

Asked = tuple[str, Request]


def advance(running: Running, answer: Totals | None = None) -> Asked | Outcome:
    """Run one parameter until it is done or asks for a total that needs other parameters."""
    try:
        asked = next(running) if answer is None else running.send(answer)
        while asked[1].scope == "tensor":
            asked = running.send(asked[1].local_totals())
        return asked
    except StopIteration as stop:
        return stop.value


def total_up(requests: Iterable[Asked]) -> dict[tuple[str, str | None], Totals]:
    """Add up the partials of those that asked at the same stage, and for the same label."""
    sums: dict[tuple[str, str | None], dict[str, torch.Tensor]] = {}
    for address, request in requests:
        held = sums.setdefault((address, request.label), {})
        for name, partial in request.partials.items():
            combine = torch.add if request.combine == "sum" else torch.maximum
            held[name] = combine(held[name], partial.to(held[name].device)) if name in held else partial
    return {key: Totals(**partials) for key, partials in sums.items()}


def drive(runs: Sequence[Running]) -> list[Outcome]:
    """The outcomes of all parameters, in order. Writes nothing."""
    states: list[Asked | Outcome] = [advance(running) for running in runs]
    while waiting := [state for state in states if not isinstance(state, Outcome)]:
        totals = total_up(waiting)
        states = [
            state if isinstance(state, Outcome) else advance(running, totals[state[0], state[1].label].near(state[1]))
            for running, state in zip(runs, states)
        ]
    return [state for state in states if isinstance(state, Outcome)]
