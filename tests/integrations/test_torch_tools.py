"""What torch itself puts around an optimizer: GradScaler, weight averaging, torch.compile, distributed checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from gradchain import optim
from tests.integrations.tiny import OPTIMIZERS, batches, differing, perceptron, values

Batch = tuple[torch.Tensor, torch.Tensor]


def made(name: str, **more: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, (cls, options) = perceptron(), OPTIMIZERS[name]
    return model, cls(model, **options, **more)


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Batch]) -> dict[str, torch.Tensor]:
    for batch in data:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return values(model)


# Gradients that are scaled.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_grad_scaler_leaves_out_the_step_that_overflows(name: str) -> None:
    model, optimizer = made(name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    data = batches(4)
    for number, batch in enumerate(data):
        optimizer.zero_grad()
        scaler.scale(loss(model, batch)).backward()
        if number == 1:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}

    plain, reference = made(name)
    train(plain, reference, data[:1])
    with torch.no_grad():
        plain(data[1][0])  # the batch of the step that was left out is in the statistics of the batch norm
    wanted = train(plain, reference, data[2:])
    assert differing(wanted, values(model)) == []


# Averages of weights.


@pytest.mark.parametrize("name", ["Rose", "AdamW_adv", "Prodigy_adv", "FromRecipe"])
def test_averages_and_their_schedule(name: str) -> None:
    model, optimizer = made(name)
    rate = optimizer.param_groups[0]["lr"]
    mean, ema = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    schedule = SWALR(optimizer, swa_lr=rate / 10, anneal_epochs=2, anneal_strategy="linear")
    rates, seen = [], []
    for batch in batches(4):
        seen.append(train(model, optimizer, [batch])["0.weight"])
        mean.update_parameters(model)
        ema.update_parameters(model)
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([rate * 0.55, rate / 10, rate / 10, rate / 10])
    torch.testing.assert_close(mean.module[0].weight, torch.stack(seen).mean(0))
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * (expected + weight)
    torch.testing.assert_close(ema.module[0].weight, expected)
    update_bn([batch[0] for batch in batches(4)], mean)
    assert mean(batches(1)[0][0]).isfinite().all()

    other, resumed = made(name)
    again = SWALR(resumed, swa_lr=rate / 10, anneal_epochs=2, anneal_strategy="linear")
    other.load_state_dict(values(model))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(schedule.state_dict())
    assert resumed.param_groups[0]["swa_lr"] == rate / 10
    assert differing(train(model, optimizer, batches(2)), train(other, resumed, batches(2))) == []


# A train step that is compiled.


# torch 2.14 warns where a graph starts with the loss after its backward.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", ["Rose", "AdamW_adv", "Prodigy_adv", "FromRecipe"])
def test_a_train_step_that_is_compiled(name: str) -> None:
    def train_step(
        model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor
    ) -> Any:
        optimizer.zero_grad()
        value = loss(model, (inputs, labels))
        value.backward()
        optimizer.step()
        return value.detach()

    compiled = torch.compile(train_step, backend="aot_eager")
    model, optimizer = made(name)
    for inputs, labels in batches(4):
        assert compiled(model, optimizer, inputs, labels).isfinite()
    plain, reference = made(name)
    wanted = train(plain, reference, batches(4))
    torch.testing.assert_close(values(model), wanted, rtol=1e-6, atol=1e-7)
    assert {int(state["step"]) for state in optimizer.state.values()} == {4}


# Checkpoints of torch.distributed.


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """One process alone."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


Saving = Callable[[nn.Module, torch.optim.Optimizer], dict[str, Any]]
Loading = Callable[[nn.Module, torch.optim.Optimizer, dict[str, Any]], object]


def pair(options: StateDictOptions) -> tuple[Saving, Loading]:
    """Model and optimizer together."""

    def saving(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        weights, state = get_state_dict(model, optimizer, options=options)
        return {"model": weights, "optimizer": state}

    def loading(model: nn.Module, optimizer: torch.optim.Optimizer, held: dict[str, Any]) -> None:
        weights, state = held["model"], held["optimizer"]
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state, options=options)

    return saving, loading


def alone(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}


def set_alone(model: nn.Module, optimizer: torch.optim.Optimizer, held: dict[str, Any]) -> None:
    model.load_state_dict(held["model"])
    set_optimizer_state_dict(model, optimizer, held["optimizer"])


def own(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def set_own(model: nn.Module, optimizer: torch.optim.Optimizer, held: dict[str, Any]) -> None:
    model.load_state_dict(held["model"])
    optimizer.load_state_dict(held["optimizer"])


FORMS: dict[str, tuple[Saving, Loading]] = {
    "together": pair(StateDictOptions()),
    "full": pair(StateDictOptions(full_state_dict=True, cpu_offload=True)),
    "flat": pair(StateDictOptions(flatten_optimizer_state_dict=True)),
    "optimizer": (alone, set_alone),
    "own": (own, set_own),
}

KEEPS_TENSORS = ["AdamW_adv", "Prodigy_adv", "Lion_adv"]
CHECKPOINTED = [
    (name, form)
    for form in FORMS
    for name in [*KEEPS_TENSORS, "Rose", "FromRecipe"]
    if form != "full" or name in KEEPS_TENSORS
]


@pytest.mark.parametrize("saved", ["save", "async_save"])
@pytest.mark.parametrize(("name", "form"), CHECKPOINTED)
@pytest.mark.usefixtures("process_group")
def test_distributed_checkpoints(name: str, form: str, saved: str, tmp_path: Path) -> None:
    saving, loading = FORMS[form]
    model, optimizer = made(name)
    half = train(model, optimizer, batches(2))
    pending = getattr(dcp, saved)(saving(model, optimizer), checkpoint_id=str(tmp_path / "saved"))
    if saved == "async_save":
        pending.result()
    other, resumed = made(name)
    held = saving(other, resumed)
    dcp.load(held, checkpoint_id=str(tmp_path / "saved"))
    loading(other, resumed, held)
    assert differing(half, values(other)) == []
    assert differing(train(model, optimizer, batches(4)[2:]), train(other, resumed, batches(4)[2:])) == []


@pytest.mark.parametrize("cls", [optim.Rose, torch.optim.SGD])
@pytest.mark.usefixtures("process_group")
def test_torch_places_no_full_state_of_counters_alone(cls: type[torch.optim.Optimizer]) -> None:
    """It takes the device from the first tensor with a dimension. Such states are loaded in the other forms."""
    saving, loading = FORMS["full"]
    model = perceptron()
    optimizer = cls(model.parameters(), lr=1e-2)
    train(model, optimizer, batches(2))
    held = saving(model, optimizer)
    with pytest.raises(AssertionError, match="Expected device to be set"):
        loading(model, optimizer, held)
    FORMS["together"][1](model, optimizer, held)
