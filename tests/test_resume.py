"""n steps are k steps, a save, a load and n - k steps, bit for bit: for every recipe, in this process and in a new one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs

import gradchain
from gradchain import transforms as t
from gradchain._chain.chain import Chain
from tests.processes import python
from tests.test_extend import extend_previous
from tests.test_optimizer import RECIPES, assert_same, make_params, recipe_optimizer, set_grads, train
from tests.test_state import saved_and_loaded, state_list

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOTAL, SAVED = 9, 4


def moment_chain(storage: str) -> Chain:
    return gradchain.chain(
        t.promote("fp32"),
        t.clip_by_global_norm(0.5),
        t.first_moment(0.9, storage=storage),
        t.second_moment(0.99, storage=storage),
        t.divide(1e-8),
        t.decoupled_decay(0.1),
        t.scale_by_learning_rate(0.05),
        t.stochastic_round(3),
    )


CASES: dict[str, Callable[[], Chain]] = {
    **{name: lambda name=name: gradchain.recipe(name, lr=0.05) for name in RECIPES},
    "sgd-nesterov": lambda: gradchain.recipe("sgd", lr=0.05, momentum=0.9, nesterov=True, dampening=0.0),
    "gyro-warm": lambda: gradchain.recipe("gyro-adam", lr=0.05, warmup_steps=SAVED, weight_decay=0.1),
    "rose-coupled": lambda: gradchain.recipe("rose", lr=0.05, wd_schedule=True, compute_dtype="fp32"),
    "adams-bf16": lambda: gradchain.recipe("adams", lr=0.05, master_dtype="bf16", restart=True),
    "bf16 storage": lambda: moment_chain("bf16"),
    "fp32 storage": lambda: moment_chain("fp32"),
}


class Run:
    """Parameters in two groups, an optimizer and a scheduler, with everything that a checkpoint holds."""

    def __init__(self, case: str, dtype: torch.dtype, compile: bool = False) -> None:
        self.params = make_params(dtype)
        groups = [
            {"params": self.params[:2], "telemetry": True},
            {"params": self.params[2:], "lr": 0.02, "maximize": True},
        ]
        self.optimizer = gradchain.Optimizer(groups, CASES[case](), compile=compile)
        cycles = {"betas", "momentum"} & self.optimizer.defaults.keys()
        self.scheduler = lrs.OneCycleLR(self.optimizer, 0.1, total_steps=TOTAL + 1, cycle_momentum=bool(cycles))
        self.telemetry: list[dict[str, float]] = []

    def train(self, start: int, stop: int) -> Run:
        for step in range(start, stop):
            set_grads(self.params, step)
            self.params[1].grad = None if step % 4 == 3 else self.params[1].grad
            self.optimizer.step()
            self.scheduler.step()
            self.telemetry.append(self.optimizer.telemetry())
        return self

    def checkpoint(self) -> dict[str, Any]:
        return {
            "params": [p.detach() for p in self.params],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {k: v for k, v in self.scheduler.state_dict().items() if k != "anneal_func"},
        }

    def restore(self, checkpoint: dict[str, Any]) -> Run:
        for param, value in zip(self.params, checkpoint["params"]):
            param.data.copy_(value)
        self.scheduler.load_state_dict(checkpoint["scheduler"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        return self

    def result(self) -> dict[str, Any]:
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        return {
            "params": [p.detach() for p in self.params],
            "state": [dict(sorted(s.items())) for s in state_list(self.optimizer)],
            "groups": [{k: v for k, v in g.items() if isinstance(v, (int, float, tuple))} for g in groups],
            "telemetry": self.telemetry[SAVED - TOTAL :],
        }


def assert_same_result(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert_same((left["params"], left["state"]), (right["params"], right["state"]))
    assert left["groups"] == right["groups"]
    assert left["telemetry"] == right["telemetry"]


@pytest.mark.filterwarnings("ignore:.*(does not decay|removes the whole).*:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_resume_in_this_process(case: str, dtype: str) -> None:
    run, checkpoints = Run(case, DTYPES[dtype]), {}
    for start, stop in pairwise((0, 1, SAVED, TOTAL)):
        checkpoints[start] = saved_and_loaded(run.checkpoint())
        run.train(start, stop)
    for saved, checkpoint in checkpoints.items():
        resumed = Run(case, DTYPES[dtype])
        resumed.train(0, 2).restore(checkpoint).train(saved, TOTAL)  # what it did before the load leaves no trace
        assert_same_result(resumed.result(), run.result())


CHILD = """
import sys, torch, warnings
warnings.simplefilter("ignore")
from tests.test_resume import CASES, SAVED, TOTAL, Run
torch.manual_seed(123), torch.rand(7)  # another state of the global generator
folder = sys.argv[1]
for case in reversed(CASES):  # in another order, should anything depend on it
    path = f"{folder}/{case}.pt"
    run = Run(case, torch.bfloat16).restore(torch.load(path, weights_only=True)).train(SAVED, TOTAL)
    torch.save(run.result(), path + ".done")
"""


@pytest.mark.filterwarnings("ignore:.*(does not decay|removes the whole).*:UserWarning")
def test_resume_in_a_new_process(tmp_path: Path) -> None:
    expected: dict[str, Any] = {}
    for case in CASES:
        run = Run(case, torch.bfloat16).train(0, SAVED)  # where noise is drawn
        torch.save(run.checkpoint(), tmp_path / f"{case}.pt")
        expected[case] = run.train(SAVED, TOTAL).result()
    done = python(CHILD, str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name, result in expected.items():
        assert_same_result(torch.load(tmp_path / f"{name}.pt.done", weights_only=True), result)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(does not decay|removes the whole).*:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_resume_compiled(case: str) -> None:
    whole = Run(case, torch.bfloat16, compile=True).train(0, TOTAL)
    first = Run(case, torch.bfloat16, compile=True).train(0, SAVED)
    resumed = Run(case, torch.bfloat16, compile=True).restore(saved_and_loaded(first.checkpoint()))
    assert_same_result(resumed.train(SAVED, TOTAL).result(), whole.result())


# What a step depends on has to survive a load, a copy and a change of `disable`.


def biases_undecayed(name: str, param: torch.Tensor) -> str:
    return "still" if name.endswith("bias") else "decay"


ROUTED = gradchain.chain(
    t.scale_by_learning_rate(0.5),
    gradchain.partition({"decay": t.decoupled_decay(0.5), "still": t.sign()}, biases_undecayed),
)


def _reload(optimizer: gradchain.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def _redisable(optimizer: gradchain.Optimizer) -> None:
    optimizer.param_groups[0]["disable"] = []


@pytest.mark.parametrize("event", [_reload, _redisable])
def test_a_route_by_name_survives(event: Callable[[gradchain.Optimizer], None]) -> None:
    net = nn.Linear(2, 2)
    nn.init.ones_(net.weight)
    nn.init.ones_(net.bias)
    optimizer = gradchain.Optimizer(net, ROUTED)
    event(optimizer)
    for param in net.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert_same((net.weight.detach(), net.bias.detach()), (torch.full((2, 2), 0.75), torch.ones(2)))


def test_noise_does_not_depend_on_global_generators() -> None:
    results: list[list[nn.Parameter]] = []
    for seed in (0, 1):
        params = make_params(torch.bfloat16)
        optimizer = recipe_optimizer("rose", params, lr=1e-3)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        train(optimizer, params, range(4))
        assert torch.equal(torch.get_rng_state(), state)
        results.append(params)
    assert_same(results[0], results[1])


def test_a_failed_first_step_does_not_pin_the_initial_state() -> None:
    """A model loaded after a failed first step is what the state is made of."""
    param, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = gradchain.Optimizer([param, other], gradchain.chain(extend_previous()))
    param.grad = torch.zeros(2)
    other.grad = torch.zeros(2).to_sparse()
    with pytest.raises(gradchain.GradientError):
        optimizer.step()
    param.data.fill_(5.0)
    other.grad = None
    optimizer.step()
    assert_same(param.detach(), torch.full((2,), 5.0))
