"""Trains as users do under torch.compile: run in processes of its own by test_user_compile.py, with a cache they share.

    python -m tests.user_compile '[{"recipe": "adamw", "how": "whole", "compile": true}]'

prints a line of JSON for each case: for each of two optimizers in a row how far it is from the same steps run without
torch.compile, in units of the largest move; and how many frames were compiled late.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gradchain
from gradchain import _engine as engine
from gradchain._core.fields import hyper

STEPS = 8
LATE = 5
"""Nothing is compiled from here on."""

Step = Callable[[], Any]
Made = tuple[nn.Module, gradchain.Optimizer]


class bounded(gradchain.Stage):
    """A user's stage: a Python float that changes from step to step, multiplied and handed on as an argument."""

    scale = "any"
    rate: float = hyper(default=0.5, ge=0, lt=1)

    def scalars(self, step: Any) -> dict[str, Any]:
        return {"bound": 1 - self.rate**step}

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=(update.value * ctx["bound"]).clamp(max=0.3 * ctx["bound"]))


def chain_of(recipe: str) -> gradchain.Chain:
    if recipe == "own":
        return gradchain.recipe("adamw", lr=0.01).insert_before("scale_by_learning_rate", bounded())
    return gradchain.recipe(recipe, lr=0.01)


def made(case: dict[str, Any], user: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    lr = {"lr": torch.tensor(0.01)} if case.get("at") == "tensor-lr" else {}
    options = {"capturable": case.get("at") == "capturable", "compile": case["compile"] if user else False}
    return model, gradchain.Optimizer(model, chain_of(case["recipe"]), **options, **lr)


def compiled(case: dict[str, Any], function: Step) -> Step:
    return torch.compile(function, **case.get("options", {"backend": "inductor"}))


def loss_of(model: nn.Module) -> torch.Tensor:
    x = torch.linspace(-1, 1, 18).view(3, 6)
    return (model(x) - 1).square().mean()


def train(case: dict[str, Any], user: bool) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """The parameters before and after, and the frames that were compiled late."""
    model, optimizer = made(case, user)
    before = [p.detach().clone() for p in model.parameters()]
    at, whole = case.get("at", "plain"), case["how"] == "whole"
    step: Step = optimizer.step
    if at == "step_parameter":

        def step() -> None:
            for param in model.parameters():
                optimizer.step_parameter(param)

    elif at == "closure":

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        def step() -> Any:
            return optimizer.step(closure)

    elif at == "hooks":  # the gradient is doubled before, and the parameters halved after the step

        def double(*_: Any) -> None:
            for param in model.parameters():
                param.grad.mul_(2)

        def halve(*_: Any) -> None:
            with torch.no_grad():
                for param in model.parameters():
                    param.mul_(0.5)

        optimizer.register_step_pre_hook(double)
        optimizer.register_step_post_hook(halve)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1)) if at == "scheduler" else None
    if scheduler is not None:
        step = optimizer.step  # patched by the scheduler
    if user and not whole:
        step = compiled(case, step)

    def iteration() -> None:
        if at != "closure":
            loss_of(model).backward()
        if at != "in_backward":
            step()
        optimizer.zero_grad()

    run = compiled(case, iteration) if user and whole else iteration
    frames = 0
    with gradchain.step_in_backward(optimizer) if at == "in_backward" else contextlib.nullcontext():
        for number in range(STEPS):
            if number == LATE:
                frames = _frames()
            run()
            if scheduler is not None:
                scheduler.step()
            if at == "edited":
                optimizer.param_groups[0].update(lr=0.01 / (number + 1), betas=(0.9 - 0.05 * number, 0.99))
            if at == "resume" and number == 2:
                optimizer.load_state_dict(optimizer.state_dict())
    return before, [p.detach().clone() for p in model.parameters()], _frames() - frames


def _frames() -> int:
    return torch._dynamo.utils.counters["frames"]["total"]


def train_pure(case: dict[str, Any], user: bool) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """The same with the pure functions; hyperparameters as numbers that change, and then another chain."""

    def update(chain: gradchain.Chain, grads: Any, state: Any, params: Any, numbers: Any) -> Any:
        updates, state = chain.update(grads, state, params, **numbers)
        return gradchain.apply_updates(params, updates), state

    function: Any = compiled(case, update) if user else update
    model, _ = made(case, user)
    params = [p.detach().clone() for p in model.parameters()]
    before, frames = params, 0
    first = chain_of(case["recipe"])
    second = first.with_options(**{f"{name}.beta": 0.7 for name in first.names if "beta" in first[name].live_fields()})
    for chain in (first, second, first):
        state = chain.init(params)
        for number in range(STEPS):
            grads = [p.cos() for p in params]
            numbers: dict[str, Any] = {"lr": 0.01 / (number + 1)} if case["at"] == "numbers" else {}
            if case["at"] == "numbers" and "betas" in chain.hyperparameters:
                numbers["betas"] = (0.9 - 0.02 * number, *chain.hyperparameters["betas"][1:])
            if number == LATE:
                frames = _frames()
            params, state = function(chain, grads, state, params, numbers)
    return before, params, _frames() - frames


def average_alone(case: dict[str, Any], user: bool) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Torch's fault without gradchain: `1 - beta` stays what it was when `beta` became symbolic."""

    def average(old: torch.Tensor, new: torch.Tensor, beta: float) -> torch.Tensor:
        return torch.add(beta * old, new, alpha=1 - beta)

    function = torch.compile(average) if user else average
    old, new = torch.zeros(4), torch.ones(4)
    return [old], [function(old, new, beta) for beta in (0.9, 0.8, 0.5)], 0


TRAINS = {"whole": train, "step": train, "pure": train_pure, "torch": average_alone}


def report(case: dict[str, Any]) -> dict[str, Any]:
    engine.AUTO_ELEMENTS = 0  # `auto` compiles
    torch._dynamo.config.compiled_autograd = case.get("compiled_autograd", False)
    train_it = TRAINS[case["how"]]
    before, expected, _ = train_it(case, user=False)
    move = max(float((a - before[i % len(before)]).abs().max()) for i, a in enumerate(expected))
    errors: list[float] = []
    for _ in range(2):
        _, result, late = train_it(case, user=True)
        errors.append(max(float((a - b).abs().max()) for a, b in zip(expected, result)) / move)
    return {"case": case, "errors": errors, "late": late}


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
    for case in json.loads(sys.argv[1]):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        print(json.dumps(report(case)), flush=True)
