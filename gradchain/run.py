"""Drives the steps of many parameters in lockstep and answers their reductions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from gradchain.program import Outcome, Program, Running
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


def complete(waiting: Iterable[tuple[Program, str]]) -> set[str]:
    """The stages whose requests can be answered: nobody waits at an earlier stage and has yet to come to them."""
    held = list(waiting)
    return {at for _, at in held} - {later for program, at in held for later in program.after(at)}


def drive(programs: Sequence[Program], runs: Sequence[Running]) -> list[Outcome]:
    """The outcomes of all parameters, in order. Writes nothing."""
    states: list[Asked | Outcome] = [advance(running) for running in runs]
    while waiting := [(p, state) for p, state in zip(programs, states) if not isinstance(state, Outcome)]:
        answered = complete((program, address) for program, (address, _) in waiting)
        totals = total_up(asked for _, asked in waiting if asked[0] in answered)
        for index, state in enumerate(states):
            if not isinstance(state, Outcome) and state[0] in answered:
                address, request = state
                states[index] = advance(runs[index], totals[address, request.label].near(request))
    return [state for state in states if isinstance(state, Outcome)]
