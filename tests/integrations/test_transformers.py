"""The Trainer of transformers: every way to hand it an optimizer; a run that goes on from a checkpoint ends the same."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import optim
from tests.integrations.tiny import OPTIMIZERS, differing, llama, sentences, values

transformers = pytest.importorskip("transformers", minversion="5.23", reason="pip install gradchain[integrations]")
pytest.importorskip("accelerate", reason="pip install gradchain[integrations]")

# transformers 5.23 warns about its own attribute whenever a model is made.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

Handed = Callable[[nn.Module], dict[str, Any]]
"""Makes the Trainer's keyword for the optimizer; each Trainer gets its own."""


def trainer(model: nn.Module, folder: Path, given: dict[str, Any], **more: Any) -> Any:
    arguments = transformers.TrainingArguments(**{
        "output_dir": str(folder), "max_steps": 4, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2,
        "use_cpu": True, "disable_tqdm": True, "report_to": [], "weight_decay": 0.05, "dataloader_pin_memory": False,
        **more,
    })  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=sentences(), **given)


def check_resumes(folder: Path, handed: Handed, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """Train 4 steps; from the checkpoint of step 2 on, new objects make the same steps. Returns: the first Trainer."""
    whole, resumed = llama(dtype), llama(dtype)
    start = values(whole)
    first = trainer(whole, folder, handed(whole), **more)
    first.train()
    end = values(whole)
    still = {name for name, x in start.items() if dtype == torch.bfloat16 and x.ndim == 1}  # all ones: rounded to these
    assert {*differing(start, end)} >= start.keys() - still
    losses = [entry["loss"] for entry in first.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    second = trainer(resumed, folder, handed(resumed), **more)
    second.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert second.state.global_step == 4
    assert differing(end, values(resumed)) == []
    return first


def by_class(name: str) -> Handed:
    cls, options = OPTIMIZERS[name]
    return lambda model: {"optimizer_cls_and_kwargs": (cls, copy.deepcopy(options))}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_class_and_its_keywords(name: str, tmp_path: Path) -> None:
    optimizer = check_resumes(tmp_path, by_class(name)).optimizer.optimizer
    assert type(optimizer) is OPTIMIZERS[name][0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


@pytest.mark.parametrize("name", ["Rose", "Prodigy_adv", "FromRecipe"])
def test_an_optimizer_that_was_made_before(name: str, tmp_path: Path) -> None:
    cls, options = OPTIMIZERS[name]
    optimizer = check_resumes(tmp_path, lambda model: {"optimizers": (cls(model, **options), None)}).optimizer.optimizer
    assert len(optimizer.param_groups) == 1
    assert "lm_head.weight" in optimizer.param_groups[0]["param_names"]


class ByModel:
    """A factory: the Trainer makes one of these and calls it with the model, so that the chain can go by names."""

    def __call__(self, model: nn.Module, **options: Any) -> gradchain.Optimizer:
        return gradchain.optimizer(
            "adv-adamw", model, role=lambda name, _: "vector" if "norm" in name else None, **options
        )


def test_a_factory(tmp_path: Path) -> None:
    given = {"optimizer_cls_and_kwargs": (ByModel, {"lr": 1e-2, "weight_decay": 0.1})}
    optimizer = check_resumes(tmp_path, lambda model: dict(given)).optimizer.optimizer
    roles = dict(zip(optimizer.param_groups[0]["param_names"], optimizer.param_groups[0]["role"]))
    assert roles["model.norm.weight"] == "vector"
    assert roles["lm_head.weight"] is None


@pytest.mark.parametrize("name", ["Rose", "AdamW_adv"])
def test_parameters_in_bfloat16(name: str, tmp_path: Path) -> None:
    check_resumes(tmp_path, by_class(name), torch.bfloat16, learning_rate=1e-2)


@pytest.mark.parametrize(
    "more",
    [
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"lr_scheduler_type": "cosine", "warmup_steps": 1},
        {"max_grad_norm": 0.1, "seed": 3},
    ],
    ids=lambda more: next(iter(more)),
)
def test_arguments_of_the_trainer(more: dict[str, Any], tmp_path: Path) -> None:
    check_resumes(tmp_path, by_class("AdamW_adv"), **more)


WITHOUT_DECAY = {"recipe": "adamw", "lr": 1e-2, "without": "decoupled_decay"}


@pytest.mark.filterwarnings("default:.*does not use weight_decay:UserWarning")
def test_a_chain_without_decay_where_the_trainer_asks_for_none(tmp_path: Path) -> None:
    given = {"optimizer_cls_and_kwargs": (optim.FromRecipe, WITHOUT_DECAY)}
    with pytest.warns(UserWarning, match="does not use weight_decay: kept and saved"):
        optimizer = check_resumes(tmp_path, lambda model: dict(given), weight_decay=0.0).optimizer.optimizer
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_a_chain_without_decay_where_the_trainer_asks_for_some(tmp_path: Path) -> None:
    made = trainer(llama(), tmp_path, {"optimizer_cls_and_kwargs": (optim.FromRecipe, WITHOUT_DECAY)}, weight_decay=0.1)
    with pytest.raises(gradchain.OptionError, match=r"group 0: weight_decay = 0.1 would change nothing"):
        made.train()


def test_the_trainer_logs_the_learning_rate_of_the_schedule(tmp_path: Path) -> None:
    made = trainer(llama(), tmp_path, {"optimizer_cls_and_kwargs": (optim.Rose, {"lr": 1e-2})})
    made.train()
    rates = [entry["learning_rate"] for entry in made.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
