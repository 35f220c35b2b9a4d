"""Real training in several processes, optimizers in the backward pass, and the errors of wrong use."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import gradchain
from tests.distributed import training, worlds, zero

NAMES = ["adamw", "rose", "gyro-adam", "clip_by_global_norm", "prodigy", "factored_moment", "first_moment/int8"]


def test_fsdp_ddp_and_the_backward_pass_agree_with_one_process() -> None:
    assert worlds.run(training.equals, 2, names=NAMES) == [[], []]


@pytest.mark.parametrize("job", [training.own_stages, training.telemetry_is_of_the_whole_model, training.refusals])
def test_two_processes(job: object) -> None:
    assert worlds.run(job, 2) == [[], []]  # type: ignore[arg-type]


def test_zero_steps_as_one_optimizer_does() -> None:
    names = ["adamw", "clip_by_global_norm", "kourkoutas_beta", "prodigy", "first_moment/int8", "stochastic_sign"]
    assert worlds.run(zero.equals, 2, names=names) == [[], []]


def test_zero_with_more_processes_than_parameters() -> None:
    names = ["adamw", "clip_by_global_norm", "kourkoutas_beta", "prodigy"]
    assert worlds.run(zero.equals, 3, names=names, shapes=[(7, 6), (6,)]) == [[], [], []]


def layers(count: int = 12) -> torch.nn.Module:
    return torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(count)])


@pytest.mark.parametrize("name", ["adamw", "rose", "gyro-adam"])
def test_in_the_backward_pass_of_one_process(name: str) -> None:
    one = layers()
    other = copy.deepcopy(one)
    ours, theirs = (gradchain.optimizer(name, m.parameters(), lr=1e-2, compile=False) for m in (one, other))
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) for optimizer in (ours, theirs)]
    largest = 0

    def measure(param: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, sum(p.grad is not None for p in one.parameters()))

    for param in one.parameters():
        param.register_post_accumulate_grad_hook(measure)
    with gradchain.step_in_backward(ours), warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(4):
            x = torch.randn(3, 16, generator=torch.Generator().manual_seed(step))
            one(x).square().sum().backward()
            theirs.zero_grad()
            other(x).square().sum().backward()
            theirs.step()
            for scheduler in schedulers:
                scheduler.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert largest <= 2  # of 24: those of one layer
    one(x).sum().backward()
    assert all(p.grad is not None for p in one.parameters())  # the hooks are gone


def test_hooks_are_put_up_once() -> None:
    optimizer = gradchain.optimizer("adamw", layers(1).parameters())
    with gradchain.step_in_backward(optimizer), pytest.raises(gradchain.OptionError, match="already"):
        gradchain.step_in_backward(optimizer)
    gradchain.step_in_backward(optimizer).remove()


def test_a_stage_that_needs_all_gradients_is_refused() -> None:
    chain = gradchain.recipe("adamw").insert_before("first_moment", gradchain.clip_by_global_norm(1.0))
    with pytest.raises(gradchain.ChainError, match="clip_by_global_norm needs the gradients of all"):
        gradchain.step_in_backward(gradchain.Optimizer(layers(1), chain))


def test_a_stage_says_that_it_is_joint() -> None:
    class unsaid(gradchain.Stage):
        def update(self, update: gradchain.Update, ctx: gradchain.Context) -> gradchain.stage.Yields:
            yield gradchain.all_parameters(g=update.value)
            return update

    model = layers(1)
    optimizer = gradchain.Optimizer(model, gradchain.chain(unsaid()), compile=False)
    model(torch.ones(1, 16)).sum().backward()
    with pytest.raises(gradchain.ChainError, match="joint = True"):
        optimizer.step()
