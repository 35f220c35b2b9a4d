"""The eager step: in flat batches where stages treat each element by itself, and otherwise tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradchain._chain.context import Recorded
from gradchain._chain.lockstep import run_lockstep
from gradchain._engine import batches
from gradchain._engine.work import Work, check_purity, commit, versions_of


def run(works: Sequence[Work], partition: Any = None) -> list[Recorded]:
    """Step all works; what can fail fails before anything is written.

    One batch of each kind is computed before the first write, and the others of its kind are the same computation. Where
    a program has third-party stages, which may fail at any batch, all batches are computed first.
    """
    inside, outside = batches.divided(works)
    inputs = [work.inputs() for work in works]
    versions = [versions_of(tensors) for tensors in inputs]
    outcomes = run_lockstep([work.program for work in outside], [work.task.start() for work in outside], partition)
    kinds = batches.batches(inside)
    ready = [
        [batch.compute() for batch in (kind if kind[0].works[0].program.third_party else kind[:1])] for kind in kinds
    ]
    for work, tensors, before in zip(works, inputs, versions):
        check_purity(work.program, before, versions_of(tensors))
    commit([work.task for work in outside], outcomes)
    for kind, computed in zip(kinds, ready):
        for batch, made in zip(kind, computed):
            batch.commit(*made)
        for batch in kind[len(computed) :]:
            batch.commit(*batch.compute())
    recorded = {id(work): outcome.recorded for work, outcome in zip(outside, outcomes)}
    return [recorded.get(id(work), {}) for work in works]
