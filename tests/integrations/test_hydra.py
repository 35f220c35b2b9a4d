"""hydra names an optimizer as `_target_`; its lists and dicts are of classes of their own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import gradchain
from tests.integrations.cases import EDITED, NAMED, expected, net, same, train

hydra = pytest.importorskip("hydra", reason="pip install gradchain[integrations]")
omegaconf = pytest.importorskip("omegaconf", reason="pip install gradchain[integrations]")


def composed(folder: Path, optimizer: dict[str, Any], overrides: list[str] | None = None) -> Any:
    """A config as an application has it: from a file, with changes from the command line."""
    (folder / "config.yaml").write_text(json.dumps({"optimizer": optimizer}), encoding="utf-8")  # JSON is YAML
    with hydra.initialize_config_dir(str(folder), version_base=None):
        return hydra.compose("config", overrides=overrides or [])


def partial(name: str, **more: Any) -> dict[str, Any]:
    path, arguments = NAMED[name]
    return {"_target_": path, "_partial_": True, **arguments, **more}


@pytest.mark.parametrize("convert", ["none", "partial", "object", "all"])
@pytest.mark.parametrize("name", NAMED)
def test_an_optimizer_is_a_target(name: str, convert: str, tmp_path: Path) -> None:
    config = composed(tmp_path, partial(name, _convert_=convert))
    model = net()
    optimizer = hydra.utils.instantiate(config.optimizer)(model.parameters())
    assert type(optimizer).__name__ == NAMED[name][0].rpartition(".")[2]
    assert same(train(model, optimizer), expected(name))


@pytest.mark.parametrize("name", NAMED)
def test_nothing_of_hydra_is_kept(name: str, tmp_path: Path) -> None:
    """Else a checkpoint could be read only where omegaconf is."""
    optimizer = hydra.utils.instantiate(composed(tmp_path, partial(name)).optimizer)(net().parameters())
    assert b"omegaconf" not in pickle.dumps(optimizer)
    assert b"omegaconf" not in pickle.dumps(optimizer.state_dict())


def test_overrides_from_the_command_line(tmp_path: Path) -> None:
    overrides = ["optimizer.lr=0.5", "optimizer.betas=[0.8,0.9]", "+optimizer.weight_decay=0.02"]
    config = composed(tmp_path, partial("adv-adamw"), overrides)
    group = hydra.utils.instantiate(config.optimizer)(net().parameters()).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.8, 0.9), 0.02)


def test_edits_from_the_command_line(tmp_path: Path) -> None:
    plain = {"_target_": "gradchain.optim.FromRecipe", "_partial_": True, "recipe": "adamw"}
    overrides = [
        "+optimizer.without=[decoupled_decay]",
        "+optimizer.replace.divide='atan2_scale(a=1.27)'",
        "+optimizer.insert_before={first_moment:[{stage:clip_by_norm,max_norm:1.0},centralize]}",
        "+optimizer.disable=[centralize]",
    ]
    optimizer = hydra.utils.instantiate(composed(tmp_path, plain, overrides).optimizer)(net().parameters())
    assert list(optimizer.chain.names) == EDITED
    assert optimizer.chain["atan2_scale"].a == 1.27
    assert optimizer.param_groups[0]["disable"] == ("centralize",)


def test_values_are_taken_from_elsewhere_in_the_config(tmp_path: Path) -> None:
    config = composed(tmp_path, partial("rose", lr="${base_lr}"), ["+base_lr=0.25"])
    assert hydra.utils.instantiate(config.optimizer)(net().parameters()).param_groups[0]["lr"] == 0.25


def test_groups_are_dict_configs_too(tmp_path: Path) -> None:
    """Settings of a group come from the config, its parameters from the model."""
    settings = omegaconf.OmegaConf.create({"betas": [0.8, 0.9], "disable": ["decoupled_decay"], "lr": 0.5})
    model = net()
    optimizer = gradchain.optim.AdamW([{"params": model.parameters(), **settings}])
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert b"omegaconf" not in pickle.dumps(optimizer.state_dict())
    train(model, optimizer, 1)


@pytest.mark.parametrize(
    ("kind", "said", "more"),
    [
        (gradchain.UnknownOptionError, "Did you mean 'betas'", {"beta": [0.9, 0.99]}),
        (gradchain.OptionError, "tuple of 2", {"betas": [0.9]}),
        (gradchain.OptionError, "lr = -1", {"lr": -1}),
    ],
)
def test_faults_of_a_config_reach_the_user(kind: type[Exception], said: str, more: Any, tmp_path: Path) -> None:
    config = composed(tmp_path, partial("adv-adamw", **more))
    make = hydra.utils.instantiate(config.optimizer)
    with pytest.raises(kind, match=said):
        make(net().parameters())
    config.optimizer._partial_ = False
    with pytest.raises(hydra.errors.InstantiationException, match=said) as caught:
        hydra.utils.instantiate(config.optimizer, net().parameters())
    assert isinstance(caught.value.__cause__, kind)
