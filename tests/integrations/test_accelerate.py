"""accelerate: `prepare`, gradient accumulation, `save_state` and `load_state`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.integrations.tiny import OPTIMIZERS, batches, differing, perceptron, values

accelerate = pytest.importorskip("accelerate", reason="pip install gradchain[integrations]")

BATCHES = 8


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Every test configures the process anew."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Run:
    """What a training script prepares."""

    def __init__(self, name: str, **options: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, **options)
        model, (cls, keywords) = perceptron(), OPTIMIZERS[name]
        optimizer = cls(model.parameters(), **keywords)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        inputs, labels = (torch.cat(parts) for parts in zip(*batches(BATCHES)))
        loader = DataLoader(TensorDataset(inputs, labels), batch_size=4)
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            model, optimizer, loader, schedule
        )

    def train(self, count: int, skip: int = 0) -> dict[str, torch.Tensor]:
        """The batches after the first `skip`; `count` of them. Returns: what the model holds then."""
        loader = self.accelerator.skip_first_batches(self.loader, skip) if skip else self.loader
        for _, (inputs, labels) in zip(range(count), loader):
            with self.accelerator.accumulate(self.model):
                loss = nn.functional.cross_entropy(self.model(inputs), labels)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()
        return values(self.model)


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}],
    ids=["plain", "accumulated", "bf16"],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_that_is_loaded_goes_on_the_same(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    whole = Run(name, **options)
    start = values(whole.model)
    half = whole.train(BATCHES // 2)
    assert differing(start, half) == list(start)
    whole.accelerator.save_state(str(tmp_path / "state"))
    end = whole.train(BATCHES // 2, skip=BATCHES // 2)
    resumed = Run(name, **options)
    resumed.accelerator.load_state(str(tmp_path / "state"))
    assert differing(half, values(resumed.model)) == []
    assert differing(end, resumed.train(BATCHES // 2, skip=BATCHES // 2)) == []


def test_accumulated_gradients_make_one_step() -> None:
    run = Run("AdamW_adv", gradient_accumulation_steps=2)
    run.train(BATCHES)
    steps = {int(state["step"]) for state in run.optimizer.state.values()}
    assert steps == {BATCHES // 2}


def test_prepared_optimizers_are_still_ours() -> None:
    run = Run("Rose")
    assert run.optimizer.optimizer.name == "Rose"
    assert run.optimizer.optimizer.chain.names[0] == "promote"
    run.train(2)
    assert not run.optimizer.step_was_skipped
