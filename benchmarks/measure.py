"""One measurement in this process: `python -m benchmarks.measure TASK RESULT`, both JSON files.

A process for each pair, so that no peer's caches, compiler limits or imports weigh on another's. Within it both sides step
in turns, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import bandwidth, memory
from benchmarks.pairs import SAME, Build, pair
from benchmarks.shapes import LISTS, Shape
from gradchain.errors import CompileWarning

WARMUP = 4
"""Steps before anything is timed; some peers compile again at their second and third."""

GRADIENTS = 3
LEAST = 5
"""Rounds, however slow they are."""

Result = dict[str, Any]


class Runner:
    """An optimizer with its own copy of the parameters."""

    def __init__(self, build: Build, start: Sequence[torch.Tensor]) -> None:
        self.params = [torch.nn.Parameter(value.clone()) for value in start]
        self.optimizer = build(self.params)

    def receive(self, gradients: Sequence[torch.Tensor], others: Sequence[torch.Tensor], signs: Sequence[int]) -> None:
        """New gradient tensors, as a backward pass leaves them."""
        for param, gradient, other, sign in zip(self.params, gradients, others, signs):
            param.grad = torch.add(other, gradient, alpha=2 * sign)

    def step(self) -> None:
        self.optimizer.step()

    def moved(self, start: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [param.detach() - value for param, value in zip(self.params, start)]


class Gradients:
    """Which gradients come next: sums of two of a few, one with a random sign, so that they agree and conflict in turns."""

    def __init__(self, shapes: Sequence[Shape], device: str) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.pool = [[0.01 * x for x in normal(shapes, self.generator, device)] for _ in range(GRADIENTS)]

    def hand_out(self, *runners: Runner) -> None:
        one, other = torch.randperm(GRADIENTS, generator=self.generator)[:2].tolist()
        signs = (2 * torch.randint(2, (len(self.pool[0]),), generator=self.generator) - 1).tolist()
        for runner in runners:
            runner.receive(self.pool[one], self.pool[other], signs)


def normal(shapes: Sequence[Shape], generator: torch.Generator, device: str) -> list[torch.Tensor]:
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


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
    result |= time_in_turns(ours, peer, gradients, device, rounds, seconds)
    for label, runner in {"ours": ours, "peer": peer}.items():
        prepare = lambda runner=runner: gradients.hand_out(runner)  # noqa: E731
        result[f"{label}_state"] = memory.state_bytes(runner.optimizer)
        result[f"{label}_extra"] = memory.extra_bytes(runner.step, device, prepare)
    sizes = [param.numel() * param.element_size() for param in ours.params]
    return {
        **result,
        "largest": max(sizes),
        "must_move": bandwidth.must_move(sum(sizes), result["ours_state"], both.again),
    }


def difference(ours: Sequence[torch.Tensor], peer: Sequence[torch.Tensor]) -> float:
    """How far the two sides are apart, as a share of how far the peer went."""
    apart = sum((float((a - b).double().square().sum()) for a, b in zip(ours, peer)), 0.0)
    return (apart / sum(float(b.double().square().sum()) for b in peer)) ** 0.5


def time_in_turns(ours: Runner, peer: Runner, gradients: Gradients, device: str, rounds: int, seconds: float) -> Result:
    """Rounds of a step each, the first to go taking turns too, until there are enough or the time is up."""
    taken: list[tuple[tuple[float, float], tuple[float, float]]] = []
    spent = 0.0
    while len(taken) < LEAST or (len(taken) < rounds and spent < seconds):
        gradients.hand_out(ours, peer)
        order = (ours, peer) if len(taken) % 2 == 0 else (peer, ours)
        times = {runner: timed(runner.step, device) for runner in order}
        taken.append((times[ours], times[peer]))
        spent += times[ours][0] + times[peer][0]
    walls = [(mine[0], theirs[0]) for mine, theirs in taken]
    lower, ratio, upper = statistics.quantiles([mine / theirs for mine, theirs in walls], n=4)
    return {
        "rounds": len(taken),
        "ours_ms": 1e3 * statistics.median(mine for mine, _ in walls),
        "peer_ms": 1e3 * statistics.median(theirs for _, theirs in walls),
        "ratio": ratio,
        "quartiles": [lower, upper],
        "cpu_ratio": statistics.median(mine[1] / max(theirs[1], 1e-9) for mine, theirs in taken),
    }


def run(task: dict[str, Any]) -> Result:
    """Do a task. A failure is a result too."""
    torch.set_num_threads(task["threads"])
    device = task["device"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CompileWarning)
        try:
            if task["what"] == "bandwidth":
                result = bandwidth.triad(device)
            elif task["what"] == "first step":
                result = first_step(task["pair"], LISTS[task["list"]], device)
            else:
                result = compare(task["pair"], LISTS[task["list"]], device, task["rounds"], task["seconds"])
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
