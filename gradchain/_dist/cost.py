"""What a step of sharded parameters costs in communication: it is run on meta tensors, and its requests are counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from gradchain._chain.elements import Composed
from gradchain._chain.lockstep import resume
from gradchain._chain.program import Outcome, Program, Running, State
from gradchain._chain.recipes import recipe
from gradchain._chain.tracing.watched import usual_numbers
from gradchain._core import totals
from gradchain._core.autocast import no_autocast
from gradchain._core.exchange import parts_of
from gradchain._core.matrices import MatrixRequest
from gradchain._core.shard import Shard
from gradchain._core.totals import Asked, complete
from gradchain._core.untraced import untraced
from gradchain.errors import OptionError, ParameterError, shown

STEP = 3
"""The step that is counted: all are alike."""

OTHERS = "the other processes"
"""Stands for the process group that a tensor is spread over."""


@dataclass(frozen=True)
class Cost:
    """The communication of one step, the same for each process.

    >>> from gradchain.distributed import Cost
    >>> Cost(rounds=2, collectives=2, numbers=100).sent(4)
    1200.0
    """

    rounds: int
    """How often the step waits for totals."""
    collectives: int
    """All-reduces, one for each round with sums and a second one where there are many maxima; and two all-to-alls for each
    round with whole matrices, to their owners and back, or two for each of the parts in which many bytes are sent."""
    numbers: int
    """The numbers in the buffers of the all-reduces together, each of 8 bytes."""
    matrix_bytes: int = 0
    """The bytes that the all-to-alls move, of all processes together, with what stays where it is."""

    def sent(self, world: int) -> float:
        """Count what each process sends, on average, in ring all-reduces and all-to-alls. Returns: bytes a step."""
        return (16 * self.numbers + self.matrix_bytes / world) * (world - 1) / world


@untraced
def cost(chain: str | Composed, params: nn.Module | Iterable[Sequence[int]], world: int) -> Cost:
    """Count the communication of one step under FSDP2.

    The step is run on meta tensors in this process, once for each shape: no memory is filled and nothing is sent.

    Args:
        chain: a chain, or the name of a recipe.
        params: a model, which may be on the meta device, or the shapes of its parameters.
        world: the number of processes that each tensor is split over; under HSDP, those of one copy.

    Returns:
        The rounds, all-reduces and numbers of a step in which all parameters have gradients.

    Raises:
        UnknownNameError: there is no recipe of this name.
        OptionError: `world` is not 1 or more.
        ParameterError: a shape is none.

    >>> from gradchain.distributed import cost
    >>> cost("adams", torch.nn.Linear(1024, 4096, device="meta"), 512)
    Cost(rounds=2, collectives=2, numbers=1025, matrix_bytes=0)
    """
    if not isinstance(world, int) or world < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"world = {shown(world)}: pass the number of processes, 1 or more.")
    chain = recipe(chain) if isinstance(chain, str) else chain
    alike: dict[tuple[Program, torch.Size, torch.dtype], int] = {}
    for name, param in _named(params):
        key = (chain.route(name, param), param.shape, param.dtype)
        alike[key] = alike.get(key, 0) + 1
    with torch.no_grad(), no_autocast():
        rounds = _rounds(chain, alike, world) if world > 1 else []
    collectives = numbers = moved = 0
    for sums, maxima, there, back, parts in rounds:
        apart = maxima * world > totals.FEW
        collectives += (sums > 0 or (maxima > 0 and not apart)) + apart + parts * ((there > 0) + (back > 0))
        numbers += sums + (maxima if apart else maxima * world)
        moved += there + back
    return Cost(len(rounds), collectives, numbers, moved)


def _named(params: nn.Module | Iterable[Sequence[int]]) -> list[tuple[str, torch.Tensor]]:
    if isinstance(params, nn.Module):
        return [(name, torch.empty_like(param, device="meta")) for name, param in params.named_parameters()]
    try:
        return [("", torch.empty(tuple(shape), device="meta")) for shape in params]
    except (TypeError, RuntimeError) as error:
        raise ParameterError(f"params = {shown(params)}: pass a model, or shapes such as (4, 3). {error}") from None


def _rounds(chain: Composed, alike: dict[tuple[Program, torch.Size, torch.dtype], int], world: int) -> list[list[int]]:
    """The sums and the maxima of each round, the bytes of matrices there and back, and in how many parts these go.

    `alike` are the parameters, and how many there are of each.
    """
    runs = [_started(*key, world) for key in alike]
    programs, times = [program for program, _, _ in alike], list(alike.values())
    states: list[Asked | Outcome] = [resume(run) for run in runs]
    rounds: list[list[int]] = []
    while waiting := {n: state for n, state in enumerate(states) if not isinstance(state, Outcome)}:
        ready = complete((programs[n], address) for n, (address, _) in waiting.items())
        asked = {n: (address, request) for n, (address, request) in waiting.items() if address in ready}
        rounds.append([*_numbers(asked, times), *_moved(asked, times, world)])
        states = [
            resume(runs[n], asked[n][1].local_totals()) if n in asked else state for n, state in enumerate(states)
        ]
    contributed = {
        name: value.numel()
        for state in states
        if isinstance(state, Outcome)
        for (name, kind), value in state.recorded.items()
        if kind == "total"
    }
    shared = [[sum(contributed.values()), 0, 0, 0, 0]] if chain.bindings.shared else []
    return [each for each in [*rounds, *shared] if any(each)]


def _numbers(asked: dict[int, Asked], times: Sequence[int]) -> list[int]:
    """The sums and the maxima that a round reduces: of each tensor its own, and of totals over several one set."""
    found = {"sum": 0, "max": 0}
    sizes: dict[tuple[str, str, Any], int] = {}
    for n, (address, request) in asked.items():
        if request.group is not None and not isinstance(request, MatrixRequest):
            size = sum(partial.numel() for partial in request.partials.values())
            alone = not request.joint
            sizes[request.combine, address, n if alone else request.label] = size * (times[n] if alone else 1)
    for (combine, *_), size in sizes.items():
        found[combine] += size
    return list(found.values())


def _moved(asked: dict[int, Asked], times: Sequence[int], world: int) -> tuple[int, int, int]:
    """The bytes of the matrices of a round: to their owners, or to everybody where nothing is computed; and back. And in how
    many parts they go."""
    there = back = shared = owned = 0
    for n, (_, request) in asked.items():
        if request.group is not None and isinstance(request, MatrixRequest):
            sizes = {x: request.whole_shape(x).numel() * y.element_size() for x, y in request.partials.items()}
            rows = times[n] * request.row_bytes
            if request.function is None:
                there += rows * world
                continue
            owned, shared = owned + times[n], shared + rows
            back += rows + times[n] * world * (sum(sizes.values()) - rows // times[n])
    there += shared
    return there, back, parts_of(shared, owned, world) if there else 0


def _started(program: Program, shape: torch.Size, dtype: torch.dtype, world: int) -> Running:
    """A step of the first process's rows of a parameter."""
    shard = Shard(shape, 0, math.ceil(shape[0] / world), OTHERS) if len(shape) else Shard.whole(shape)
    param = torch.empty(shard.here, dtype=dtype, device="meta")
    starting: Any = program.start(param, shard)
    state: Any = resume(starting)
    while not isinstance(state, dict):
        state = resume(starting, state[1].local_totals())
    key = torch.empty((), dtype=torch.int32, device="meta")
    numbers = usual_numbers(program, (STEP,))[STEP]
    return program.run(param, torch.empty_like(param), cast("State", state), numbers, noise_key=key, shard=shard)
