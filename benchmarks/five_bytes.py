"""How AdamW trains in 5 bytes a weight, against float32: `python -m benchmarks.five_bytes digits --seeds 8`.

Networks begin with the same weights and see the same batches. All but the first train in bfloat16; the loss of the test
part is that of the float32 network that `optimizer.master_param` gives, and besides that of the network as it was trained.
Runs are kept in `runs/five_bytes.jsonl` and not repeated: delete it after a change of what they do.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import gradchain
from gradchain import Chain, Optimizer, master_weights, promote, stochastic_round
from gradchain.ablation.builtin import charlm, text
from gradchain.ablation.statistics import judged, paired_difference
from gradchain.ablation.task import Task, find_task
from gradchain.ablation.trial import Trial

RATES = {"digits": 1e-3, "charlm": 3e-3}
BUDGETS = {"digits": 30, "charlm": charlm.STEPS}
MARGIN = 0.01
"""Of the loss; that of both tasks."""


def adamw(lr: float, first: Any, storage: str, last: Any = None) -> Chain:
    chain = gradchain.recipe("adamw", lr=lr).with_options(
        **{"first_moment.storage": storage, "second_moment.storage": storage}
    )
    chain = chain if first is None else chain.insert_before("first_moment", first)
    return chain if last is None else chain.insert_after("scale_by_learning_rate", last)


ARMS: dict[str, Callable[[float], Chain]] = {
    "float32": lambda lr: adamw(lr, None, "fp32"),
    "float32 master and moments": lambda lr: adamw(lr, master_weights(), "fp32"),
    "8 more bits, float32 moments": lambda lr: adamw(lr, master_weights("fp24"), "fp32"),
    "8 more bits, int8": lambda lr: adamw(lr, master_weights("fp24"), "int8"),
    "rounded stochastically, int8": lambda lr: adamw(lr, promote("fp32"), "int8", stochastic_round()),
    "rounded to nearest, int8": lambda lr: adamw(lr, promote("fp32"), "int8"),
}
STARTS = dict.fromkeys(ARMS, torch.bfloat16) | {"float32": torch.float32}


class InFloat32(nn.Module):
    """Logits in float32, whatever they are computed in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).float()


class Maker:
    """Makes the optimizer that steps in the backward pass, and keeps the network."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def __call__(self, model: Any, **options: Any) -> Optimizer:
        self.model, self.optimizer = model, Optimizer(model, self.chain, compile=False, **options)
        gradchain.step_in_backward(self.optimizer)
        return self.optimizer

    def exported(self) -> nn.Module:
        """The network with its masters as weights, in float32."""
        model = copy.deepcopy(self.model).float()
        masters = {name: self.optimizer.master_param(name) for name, _ in self.model.named_parameters()}
        model.load_state_dict(masters)
        return model

    def bytes(self) -> float:
        """Of weights and state, for each weight."""
        params = list(self.model.parameters())
        held = [x for state in self.optimizer.state.values() for x in state.values()]
        return sum(x.numel() * x.element_size() for x in [*params, *held]) / sum(p.numel() for p in params)


def run(job: tuple[str, str, int, int]) -> dict[str, float]:
    """Train one network. Returns: its losses, and bytes for each weight."""
    name, arm, seed, budget = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    maker = Maker(ARMS[arm](RATES[name]))
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        trial = Trial(seed, arm, budget, Path(folder))
        if name == "charlm":
            model = InFloat32(charlm.build(seed).to(STARTS[arm]))
            seen = charlm.fit(model, maker(model), trial, text.parts())["loss"]
            loss = charlm.measured(maker.exported(), text.parts()["test"], 512)
        else:
            task = find_task(name)
            assert isinstance(task, Task)
            dtype = "bf16" if STARTS[arm] == torch.bfloat16 else "fp32"
            seen = dataclasses.replace(task, dtype=dtype).train(maker, trial)["loss"]
            test = task.split(seed).test
            with torch.no_grad():
                loss = float(task.loss(maker.exported()(test.inputs), test.targets))
    return {"loss": loss, "seen": seen, "bytes": maker.bytes()}


Job = tuple[str, str, int, int]


def kept(path: Path) -> dict[Job, dict[str, float]]:
    """The runs that a file has."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {tuple(job): found for job, found in map(json.loads, lines)}


def run_all(jobs: Sequence[Job], path: Path, workers: int) -> dict[Job, dict[str, float]]:
    """Run those that the file has not, and add them to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = kept(path)
    with ProcessPoolExecutor(workers) as pool, path.open("a") as file:
        running = {pool.submit(run, job): job for job in jobs if job not in known}
        for done in as_completed(running):
            file.write(json.dumps([running[done], done.result()]) + "\n")
            file.flush()
    return kept(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.five_bytes")
    parser.add_argument("task", choices=RATES)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--arms", nargs="+", choices=[*ARMS][1:], default=[*ARMS][1:], help="beside float32")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args(arguments)
    base, others, budget = next(iter(ARMS)), given.arms, BUDGETS[given.task]
    jobs = [(given.task, arm, seed, budget) for seed in range(given.seeds) for arm in (base, *others)]
    results = run_all(jobs, Path("runs") / "five_bytes.jsonl", given.jobs)

    def column(arm: str, what: str) -> list[float]:
        return [results[given.task, arm, seed, budget][what] for seed in range(given.seeds)]

    found = [paired_difference(column(arm, "loss"), column(base, "loss"), margin=MARGIN) for arm in others]
    verdicts = judged(found, higher_is_better=False)
    table = Table("weights", "bytes a weight", "loss", "as trained", "less float32", "verdict", "p of equivalence")
    for arm in (base, *others):
        numbers = [f"{statistics.fmean(column(arm, what)):.4f}" for what in ("bytes", "loss", "seen")]
        difference = "", "", ""
        if arm != base:
            d, verdict = found[others.index(arm)], verdicts[others.index(arm)].verdict
            difference = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]", verdict, f"{d.p_equivalent:.2g}"
        table.add_row(arm, *numbers, *difference)
    console = Console(width=140)
    console.print(
        f"{given.task}, {given.seeds} seeds, budget {budget}, margin {MARGIN} of loss, torch {torch.__version__}"
    )
    console.print(table)


if __name__ == "__main__":
    main()
