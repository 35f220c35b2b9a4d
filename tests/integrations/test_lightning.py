"""Lightning's Trainer and LightningCLI run an optimizer of gradchain, save it, are killed and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from tests.integrations.cases import EDITED, NAMED, batches, expected, loaded, net, parameters, same

lightning = pytest.importorskip("lightning", reason="pip install gradchain[integrations]")
cli = pytest.importorskip("lightning.pytorch.cli", reason="pip install gradchain[integrations]")
pytest.importorskip("jsonargparse", reason="pip install gradchain[integrations]")

pytestmark = [  # of Lightning 2.6 with newer torch and jsonargparse, and of a machine with a GPU or many cores
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]

STEPS, EPOCHS = 4, 3
QUIET = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class Killed(Exception):
    """Whoever runs the training loses patience."""


class Kill(lightning.Callback):
    """Ends the run in the middle of an epoch, after the last checkpoint."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, place: int) -> None:
        if (trainer.current_epoch, place) == (EPOCHS - 1, STEPS // 2):
            raise Killed


class Module(lightning.LightningModule):
    def __init__(self, name: str = "rose", scheduled: bool = True) -> None:
        super().__init__()
        self.net, self.name_of_optimizer, self.scheduled = net(), name, scheduled

    def training_step(self, batch: Any, place: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        path, arguments = NAMED[self.name_of_optimizer]
        optimizer = loaded(path)(self.parameters(), **arguments)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS * EPOCHS)
        with_it = {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return with_it if self.scheduled else optimizer


class Plain(lightning.LightningModule):
    """Its optimizer comes from the command line."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    training_step = Module.training_step


class Data(lightning.LightningDataModule):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(list(batches(STEPS)), batch_size=None)


def fitted(module: Any, folder: Path, *callbacks: Any, ckpt_path: Path | None = None, **options: Any) -> Any:
    """The trainer after a run with a checkpoint at the end of each epoch."""
    keep = lightning.pytorch.callbacks.ModelCheckpoint(folder, save_last=True, enable_version_counter=False)
    trainer = lightning.Trainer(
        **{**QUIET, "max_epochs": EPOCHS, "default_root_dir": folder, "callbacks": [keep, *callbacks], **options}
    )
    trainer.fit(module, datamodule=Data(), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


MANNERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "norm"},
    "accumulated": {"accumulate_grad_batches": 2},
    "bf16": {"precision": "bf16-mixed"},
}


@pytest.mark.parametrize("name", NAMED)
def test_a_fit_is_the_loop_written_by_hand(name: str, tmp_path: Path) -> None:
    module = Module(name, scheduled=False)
    trainer = fitted(module, tmp_path, max_epochs=1)
    assert type(trainer.optimizers[0]) is loaded(NAMED[name][0])
    assert same(parameters(module), expected(name, STEPS))


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("name", NAMED)
def test_a_run_that_was_killed_goes_on_bit_by_bit(name: str, manner: str, tmp_path: Path) -> None:
    calm, options = Module(name), MANNERS[manner]
    whole = fitted(calm, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        fitted(Module(name), tmp_path / "killed", Kill(), **options)
    again = Module(name)
    resumed = fitted(again, tmp_path / "killed", ckpt_path=tmp_path / "killed" / "last.ckpt", **options)
    assert resumed.global_step == whole.global_step
    assert same(parameters(again), parameters(calm))
    assert same(resumed.optimizers[0].state_dict(), whole.optimizers[0].state_dict())
    schedulers = [trainer.lr_scheduler_configs[0].scheduler.state_dict() for trainer in (resumed, whole)]
    assert schedulers[0] == schedulers[1]
    assert resumed.optimizers[0].param_groups[0]["lr"] < NAMED[name][1]["lr"]


def test_the_learning_rate_is_watched_under_the_name_of_the_optimizer(tmp_path: Path) -> None:
    monitor = lightning.pytorch.callbacks.LearningRateMonitor()
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)
    fitted(Module("adams"), tmp_path, monitor, max_epochs=1, logger=logger, log_every_n_steps=1)
    assert "lr-Adams" in (Path(logger.log_dir) / "metrics.csv").read_text(encoding="utf-8")


# LightningCLI.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """LightningCLI with arguments of a command line. Returns: it, after three steps."""
    monkeypatch.setattr("sys.argv", ["train.py"])

    def run(*arguments: str, file: dict[str, Any] | None = None) -> Any:
        (tmp_path / "config.yaml").write_text(json.dumps(file), encoding="utf-8")  # JSON is YAML
        defaults = {**QUIET, "max_steps": 3, "enable_checkpointing": False, "default_root_dir": str(tmp_path)}
        made = cli.LightningCLI(
            Plain, Data, run=False, save_config_callback=None, trainer_defaults=defaults, seed_everything_default=0,
            args=[*([f"--config={tmp_path / 'config.yaml'}"] if file else []), *arguments],
        )  # fmt: skip
        made.trainer.fit(made.model, made.datamodule)
        return made

    return run


def optimizer_of(made: Any) -> Any:
    return made.trainer.optimizers[0]


@pytest.mark.parametrize("name", NAMED)
def test_a_config_names_a_class(name: str, run: Any) -> None:
    path, arguments = NAMED[name]
    made = run(file={"optimizer": {"class_path": path, "init_args": arguments}})
    assert type(optimizer_of(made)) is loaded(path)
    assert same(parameters(made.model), expected(name, 3))
    if name == "edited":
        assert list(optimizer_of(made).chain.names) == EDITED


@pytest.mark.parametrize("name", ["rose", "adv-adamw", "adams", "prodigy"])
def test_a_command_line_names_a_class(name: str, run: Any) -> None:
    path, arguments = NAMED[name]
    made = run(f"--optimizer={path}", *(f"--optimizer.{key}={json.dumps(x)}" for key, x in arguments.items()))
    assert same(parameters(made.model), expected(name, 3))


def test_what_it_parses_is_the_signature(run: Any) -> None:
    made = run(
        "--optimizer=gradchain.optim.Rose", "--optimizer.lr=1e-3",
        "--lr_scheduler=torch.optim.lr_scheduler.StepLR", "--lr_scheduler.step_size=1",
    )  # fmt: skip
    parsed = made.config.optimizer
    assert parsed.class_path == "gradchain.optim.Rose"
    assert {"lr", "weight_decay", "centralize", "compute_dtype", "compile", "nonfinite"} <= {*parsed.init_args.keys()}
    assert (parsed.init_args.lr, parsed.init_args.weight_decay, parsed.init_args.compile) == (1e-3, 1e-4, "auto")


def test_an_edited_chain_on_a_command_line(run: Any) -> None:
    made = run(
        "--optimizer=gradchain.optim.FromRecipe", "--optimizer.recipe=adamw", "--optimizer.lr=0.01",
        "--optimizer.without=decoupled_decay", "--optimizer.replace=divide=atan2_scale(a=1.27)",
        "--optimizer.options=betas=(0.8, 0.9)",
    )  # fmt: skip
    assert list(optimizer_of(made).chain.names) == [
        "first_moment", "second_moment", "atan2_scale", "scale_by_learning_rate",
    ]  # fmt: skip
    assert optimizer_of(made).param_groups[0]["betas"] == (0.8, 0.9)


def test_further_options_of_an_edited_chain(run: Any) -> None:
    """They stand in `options`: LightningCLI drops jsonargparse's `dict_kwargs`."""
    edits = {"recipe": "adamw", "replace": {"divide": "atan2_scale"}, "options": {"betas": [0.8, 0.9], "a": 1.27}}
    made = run(file={"optimizer": {"class_path": "gradchain.optim.FromRecipe", "init_args": edits}})
    assert optimizer_of(made).param_groups[0]["betas"] == (0.8, 0.9)
    assert optimizer_of(made).param_groups[0]["a"] == 1.27


def test_keywords_of_every_optimizer_for_an_edited_chain(run: Any) -> None:
    made = run("--optimizer=gradchain.optim.FromRecipe", "--optimizer.recipe=adamw", "--optimizer.compile=false")
    assert optimizer_of(made).compile is False


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--optimizer.beta=0.9", "beta"),
        ("--optimizer.lr=fast", "lr"),
        ("--optimizer.nonfinite=hope", "nonfinite"),
    ],
)
def test_faults_are_told_before_anything_runs(argument: str, said: str, run: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        run("--optimizer=gradchain.optim.AdamW_adv", argument)
    assert said in capsys.readouterr().err


def test_a_value_out_of_range_teaches(run: Any) -> None:
    with pytest.raises(gradchain.OptionError, match=r"option betas: second_moment\.beta = 1\.5"):
        run("--optimizer=gradchain.optim.AdamW_adv", "--optimizer.betas=[0.9, 1.5]")
