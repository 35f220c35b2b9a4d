"""Real training in several processes, optimizers in the backward pass, and the errors of wrong use."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import gradchain
from tests.distributed import explaining, training, worlds

NAMES = ["adamw", "rose", "gyro-adam", "clip_by_global_norm", "prodigy", "factored_moment", "first_moment/int8"]


JOBS: list[worlds.Job] = [
    (training.equals, {"names": NAMES}),
    (training.own_stages, {}),
    (training.telemetry_is_of_the_whole_model, {}),
    (training.states_change_places, {}),
    (training.refusals, {}),
    (training.layouts_are_found_once, {}),
    (explaining.explains_rows, {"names": ["adamw", "gyro-adam", "clip_by_global_norm"]}),
]


def test_two_processes() -> None:
    """FSDP2, DDP and steps in the backward pass agree with one process, and the rest of the jobs find nothing wrong."""
    found = worlds.run_all(JOBS, 2)
    assert found == [[[]] * len(JOBS)] * 2


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


def test_a_scaler_of_gradients_finds_none() -> None:
    """One step of scaled gradients cannot be helped; torch's own loop ends there."""
    model, scaler = layers(1), torch.amp.GradScaler("cpu")
    optimizer = gradchain.optimizer("adamw", model.parameters(), compile=False)
    with gradchain.step_in_backward(optimizer):
        scaler.scale(model(torch.ones(1, 16)).sum()).backward()
        with pytest.raises(AssertionError, match="No inf checks were recorded"):
            scaler.step(optimizer)


def test_a_stage_that_needs_all_gradients_is_refused() -> None:
    chain = gradchain.recipe("adamw").insert_before("first_moment", gradchain.clip_by_global_norm(1.0))
    with pytest.raises(gradchain.ChainError, match="clip_by_global_norm needs the gradients of all"):
        gradchain.step_in_backward(gradchain.Optimizer(layers(1), chain))


def test_a_stage_need_not_say_that_it_is_joint() -> None:
    class unsaid(gradchain.Stage):
        def update(self, update: gradchain.Update, ctx: gradchain.Context) -> gradchain.Yields:
            yield gradchain.all_parameters(g=update.value)
            return update

    model = layers(1)
    optimizer = gradchain.Optimizer(model, gradchain.chain(unsaid()), compile=False)
    model(torch.ones(1, 16)).sum().backward()
    optimizer.step()
    with pytest.raises(gradchain.ChainError, match="unsaid needs the gradients of all"):
        gradchain.step_in_backward(optimizer)
