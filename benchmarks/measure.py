"""One measurement in this process: `python -m benchmarks.measure TASK RESULT`, both JSON files.

A process for each pair, so that no peer's caches, compiler limits or imports weigh on another's. Within it both sides step
in turns, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import bandwidth, counts, gpu, memory
from benchmarks.pairs import SAME, pair
from benchmarks.shapes import LISTS, SERIAL, Shape
from benchmarks.sides import Build
from gradchain.errors import CompileWarning

WARMUP = 4
"""Steps before anything is timed; some peers compile again at their second and third."""

GRADIENTS = 3
LEAST = 5
"""Rounds, however slow they are."""

ROUND = 4e-3
"""Seconds of a round, at least: sides whose steps are shorter take several in each, since clocks and caches are noisy."""

SHARED = 1 << 28
"""From so many elements on, both sides are given the same gradient tensors."""

Result = dict[str, Any]


class Runner:
    """An optimizer with its own copy of the parameters."""

    def __init__(self, build: Build, start: Sequence[torch.Tensor]) -> None:
        self.params = [torch.nn.Parameter(value.clone()) for value in start]
        self.optimizer = build(self.params)

    def receive(self, gradients: Iterable[torch.Tensor]) -> None:
        for param, gradient in zip(self.params, gradients):
            param.grad = gradient

    def step(self) -> None:
        self.optimizer.step()

    def moved(self, start: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """How far each parameter went."""
        return (param.detach() - value for param, value in zip(self.params, start))


class Gradients:
    """Which gradients come next: sums of two of a few, one with a random sign, so that they agree and conflict in turns."""

    def __init__(self, shapes: Sequence[Shape], device: str) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.shared = sum(map(math.prod, shapes)) >= SHARED
        count = GRADIENTS - self.shared
        self.pool = [[0.01 * x for x in normal(shapes, self.generator, device)] for _ in range(count)]

    def hand_out(self, *runners: Runner) -> None:
        """New gradient tensors, as a backward pass leaves them."""
        one, other = torch.randperm(len(self.pool), generator=self.generator)[:2].tolist()
        signs = (2 * torch.randint(2, (len(self.pool[0]),), generator=self.generator) - 1).tolist()
        made: list[torch.Tensor] = []
        if self.shared:  # the old ones go first: there is no room for both
            for param in (param for runner in runners for param in runner.params):
                param.grad = None
        for runner in runners:
            if not (self.shared and made):
                rows = zip(self.pool[one], self.pool[other], signs)
                made = [torch.add(y, x, alpha=2 * sign) for x, y, sign in rows]
            runner.receive(made)


def normal(shapes: Sequence[Shape], generator: torch.Generator, device: str) -> list[torch.Tensor]:
    """Gaussian numbers, drawn where they are to be: a CPU takes a minute for those of a large model."""
    if device != "cpu":
        generator = torch.Generator(device).manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
    return [torch.randn(shape, generator=generator, device=device) for shape in shapes]


def start_of(shapes: Sequence[Shape], device: str) -> list[torch.Tensor]:
    return [0.02 * x for x in normal(shapes, torch.Generator().manual_seed(0), device)]


def timed(step: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds on the wall and seconds of this process, all threads."""
    bandwidth.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    bandwidth.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def first_step(name: str, shapes: Sequence[Shape], device: str) -> Result:
    """Seconds of the first step of our side of a pair, the import of the compiler included."""
    runner = Runner(pair(name).ours.build, start_of(shapes, device))
    Gradients(shapes, device).hand_out(runner)
    return {"first_s": timed(runner.step, device)[0]}


def compare(name: str, shapes: Sequence[Shape], device: str, rounds: int, seconds: float) -> Result:
    """All numbers of a pair, but for a cold compiler cache."""
    both, start, gradients = pair(name), start_of(shapes, device), Gradients(shapes, device)
    ours, peer = Runner(both.ours.build, start), Runner(both.peer.build, start)
    gradients.hand_out(ours, peer)
    result: Result = {"ours_first_s": timed(ours.step, device)[0], "peer_first_s": timed(peer.step, device)[0]}
    for _ in range(WARMUP - 1):
        gradients.hand_out(ours, peer)
        ours.step(), peer.step()
    result["update_difference"] = difference(ours.moved(start), peer.moved(start))
    if both.differs is None and not result["update_difference"] <= SAME:
        result["disagrees"] = f"updates differ by {result['update_difference']:.1g} of their norm"
    del start
    result |= time_in_turns(ours, peer, gradients, device, rounds, seconds)
    for label, runner in {"ours": ours, "peer": peer}.items():
        prepare = lambda runner=runner: gradients.hand_out(runner)  # noqa: E731
        result[f"{label}_state"] = memory.state_bytes(runner.optimizer)
        result[f"{label}_extra"] = memory.extra_bytes(runner.step, device, prepare)
    result |= counts.of(ours.optimizer, lambda: gradients.hand_out(ours))
    sizes = [param.numel() * param.element_size() for param in ours.params]
    return {
        **result,
        "largest": max(sizes),
        "must_move": bandwidth.must_move(sum(sizes), result["ours_state"], both.again),
    }


def difference(ours: Iterable[torch.Tensor], peer: Iterable[torch.Tensor]) -> float:
    """How far the two sides are apart, as a share of how far the peer went."""
    apart = whole = 0.0
    for a, b in zip(ours, peer, strict=True):
        apart += float((a - b).double().square().sum())
        whole += float(b.double().square().sum())
    return (apart / whole) ** 0.5


def time_in_turns(ours: Runner, peer: Runner, gradients: Gradients, device: str, rounds: int, seconds: float) -> Result:
    """Rounds of some steps each, the first to go taking turns too, until there are enough or the time is up."""
    gradients.hand_out(ours, peer)
    ours.step()
    steps = max(1, round(ROUND / timed(peer.step, device)[0]))
    taken: list[list[tuple[float, float]]] = []
    spent = 0.0
    while len(taken) < LEAST or (len(taken) < rounds and spent < seconds):
        totals = {ours: (0.0, 0.0), peer: (0.0, 0.0)}
        for _ in range(steps):
            gradients.hand_out(ours, peer)
            for runner in (ours, peer) if len(taken) % 2 == 0 else (peer, ours):
                wall, cpu = timed(runner.step, device)
                totals[runner] = (totals[runner][0] + wall, totals[runner][1] + cpu)
        taken.append([totals[ours], totals[peer]])
        spent += totals[ours][0] + totals[peer][0]
    ratios = [mine[0] / theirs[0] for mine, theirs in taken]
    lower, ratio, upper = statistics.quantiles(ratios, n=4)
    return {
        "rounds": len(taken),
        "steps": steps,
        "ours_ms": 1e3 * statistics.median(mine[0] / steps for mine, _ in taken),
        "peer_ms": 1e3 * statistics.median(theirs[0] / steps for _, theirs in taken),
        "ratio": ratio,
        "quartiles": [lower, upper],
        "ratios": ratios,
        "cpu_ratio": statistics.median(mine[1] / max(theirs[1], 1e-9) for mine, theirs in taken),
    }


def answer(task: dict[str, Any]) -> Result:
    """What a task asks for."""
    what, device = task["what"], "cpu" if task.get("rehearse") else task["device"]
    if what == "bandwidth":
        return bandwidth.triad(device, task.get("rehearse", False))
    if what == "check":
        return gpu.check(task)
    shapes = LISTS[task["list"]]
    if device == "cuda" and (lacking := gpu.lacking(shapes, GRADIENTS, SHARED)):
        return {"failure": lacking}
    if what == "first step":
        return first_step(task["pair"], shapes, device)
    return compare(task["pair"], shapes, device, task["rounds"], task["seconds"])


def run(task: dict[str, Any]) -> Result:
    """Do a task. A failure is a result too."""
    torch.set_num_threads(1 if task.get("list") in SERIAL else task["threads"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CompileWarning)
        try:
            result = answer(task)
        except ModuleNotFoundError as error:
            result = {"failure": f"not installed: {error.name}"}
        except Exception as error:
            result = {"failure": f"{type(error).__name__}: {first_line(error)}"}
    eager = [str(warning.message) for warning in caught if issubclass(warning.category, CompileWarning)]
    return {**result, "warnings": eager}


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else ""


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
