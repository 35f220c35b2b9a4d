"""Runs the steps of many parameters in lockstep and answers their requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradchain._chain.program import Outcome, Program, Running
from gradchain._core.reduce import Totals
from gradchain._core.totals import Asked, reduce_requests


def resume(running: Running, answer: Totals | None = None) -> Asked | Outcome:
    """Run one parameter until it is done or asks for a total over other tensors or processes."""
    try:
        asked = next(running) if answer is None else running.send(answer)
        while asked[1].local:
            asked = running.send(asked[1].local_totals())
        return asked
    except StopIteration as stop:
        return stop.value


def run_lockstep(programs: Sequence[Program], runs: Sequence[Running], partition: Any = None) -> list[Outcome]:
    """The outcomes of all parameters, in order. Writes nothing. `partition` is as for `reduce_requests`."""
    states: list[Asked | Outcome] = [resume(running) for running in runs]
    while True:
        places = [index for index, state in enumerate(states) if not isinstance(state, Outcome)]
        waiting = [(programs[index], states[index]) for index in places]
        answered = reduce_requests(waiting, partition)  # type: ignore[arg-type]
        if answered is None:
            return [state for state in states if isinstance(state, Outcome)]
        for index, totals in zip(places, answered):
            if totals is not None:
                states[index] = resume(runs[index], totals)
