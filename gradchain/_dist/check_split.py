"""Steps of a small tensor, in one piece and split into rows: whether stages yield what they have to, before it matters.

A stage that sums over its tensor by hand (`g.sum()`), and does not yield, is right until its parameter is sharded, and
then silently wrong. Here it is found out in one process, without any communication.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch

from gradchain._chain.program import Numbers, Outcome, Program, State
from gradchain._chain.tracing import traits_of
from gradchain._core.matrices import MatrixRequest
from gradchain._core.noise import parameter_key
from gradchain._core.reduce import Request, Totals
from gradchain._core.shard import Shard
from gradchain.errors import ChainError

ROWS, PARTS = 4, 3  # two rows, two rows, and none
WIDEST = 3
RTOL = 1e-3

T = TypeVar("T")
Run = Generator[tuple[str, Request], Totals, T]


class Uneven(Exception):
    """Parts of one tensor ask for different things."""


def check_split(program: Program, shape: torch.Size, numbers: Sequence[Numbers], name: str) -> None:
    """Raise `ChainError` if stages make something else of a split tensor than of a whole one.

    `numbers` are those of the first steps. A program that cannot step a small tensor at all is not judged.
    """
    small = torch.Size((ROWS, *(min(size, WIDEST) for size in shape[1:])))
    try:
        (whole,) = _steps(program, small, [Shard.whole(small)], numbers)
    except Exception:  # it wants another shape than a small one
        return
    shards = [Shard(small, first, min(2, ROWS - first), "rehearsal") for first in (0, 2, 4)]
    try:
        fault = _fault(program, small, whole, _steps(program, small, shards, numbers))
    except (Uneven, RuntimeError, IndexError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        raise ChainError(
            f"parameter {name or '(unnamed)'} is split into rows, and these stages do something else to a split tensor "
            f"than to a whole one: {', '.join(program.third_party)} ({fault}). Sums over a whole tensor are asked for: `t = "
            "yield whole_tensor(g=g)` and not `g.sum()`; its size is `ctx.shape` and `ctx.numel`; a slot with one row for "
            "each row of the parameter is declared with per_row=True.",
            stage=next(iter(program.third_party), None),
        )


def _steps(
    program: Program, shape: torch.Size, shards: Sequence[Shard], numbers: Sequence[Numbers]
) -> list[tuple[torch.Tensor, State, float]]:
    """Parameter, state and contributions of each part after some steps."""
    whole = [_normal(shape, seed) for seed in range(len(numbers) + 1)]
    params = [shard.cut(whole[0]).clone() for shard in shards]
    states = _together([program.start(param, shard) for param, shard in zip(params, shards)])
    contributed = [0.0] * len(shards)
    for step, values in enumerate(numbers, 1):
        key = torch.tensor(parameter_key(step, 0), dtype=torch.int32) if traits_of(program, whole[0]).draws else None
        runs: list[Run[Outcome]] = [
            program.run(param, shard.cut(whole[step]), state, values, noise_key=key, shard=shard)
            for param, state, shard in zip(params, states, shards)
        ]
        outcomes = _together(runs)
        params = [outcome.param for outcome in outcomes]
        states = [{**state, **outcome.state} for state, outcome in zip(states, outcomes)]
        for number, outcome in enumerate(outcomes):
            totals = (value for (_, reduce), value in outcome.recorded.items() if reduce == "total")
            contributed[number] += sum(float(value) for value in totals)
    return list(zip(params, states, contributed))


def _normal(shape: torch.Size, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _together(runs: Sequence[Run[T]]) -> list[T]:
    """The results of all parts, each request answered by what all of them ask about."""
    answers: list[Any] = [None for _ in runs]
    while True:
        asked: list[tuple[str, Request]] = []
        results: list[T] = []
        for run, answer in zip(runs, answers):
            try:
                asked.append(run.send(answer))
            except StopIteration as stop:
                results.append(stop.value)
        if not asked:
            return results
        if results or len({(at, request.scope, *request.partials) for at, request in asked}) > 1:
            raise Uneven("parts of one tensor, one of them empty, ask for different totals")
        answers = _answers([request for _, request in asked])


def _answers(requests: Sequence[Request]) -> list[Totals]:
    """What each part is answered with."""
    if all(request.group is None for request in requests):  # about what all have alike
        return [request.local_totals() for request in requests]
    matrices = [request for request in requests if isinstance(request, MatrixRequest)]
    if not matrices:
        return [_combined(requests) for _ in requests]
    first = matrices[0]
    whole = [
        torch.cat([x.partials[n] for x in matrices]) if n in first.split else first.partials[n] for n in first.partials
    ]
    made = dict(zip(first.partials, first.applied(whole)))
    if first.function is None:
        return [Totals(**made) for _ in requests]
    return [Totals(**{name: _rows_here(request, name, x) for name, x in made.items()}) for request in matrices]


def _rows_here(request: MatrixRequest, name: str, whole: torch.Tensor) -> torch.Tensor:
    return whole if request.shard is None or name not in request.split else request.shard.cut(whole)


def _combined(requests: Sequence[Request]) -> Totals:
    totals: dict[str, torch.Tensor] = {}
    for name in requests[0].partials:
        stacked = torch.stack([request.partials[name] for request in requests])
        total = stacked.sum(0) if requests[0].combine == "sum" else stacked.amax(0)
        totals[name] = total.to(stacked.dtype)
    return Totals(**totals)


def _fault(program: Program, shape: torch.Size, whole: Any, parts: Sequence[Any]) -> str | None:
    """In what the parts differ from the whole."""
    param, state, contributed = whole
    plan = program.plan(shape, param.dtype)
    if not _alike(torch.cat([part for part, _, _ in parts]), param):
        return "the step is another one"
    for key, slot in state.items():
        split = plan[key][1]
        pieces = (
            [torch.cat([theirs[key] for _, theirs, _ in parts])] if split else [theirs[key] for _, theirs, _ in parts]
        )
        if not all(_alike(piece, slot) for piece in pieces):
            return f"slot {key} is another one"
    total = sum(theirs for _, _, theirs in parts)
    return None if abs(total - contributed) <= RTOL * abs(contributed) + 1e-6 else "the contributions are others"


def _alike(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape:
        return False
    if not right.is_floating_point():
        return torch.equal(left, right)
    return torch.allclose(left, right, rtol=RTOL, atol=1e-6, equal_nan=True)
