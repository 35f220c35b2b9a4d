"""timm makes an optimizer of gradchain once its class is in timm's registry."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from tests.integrations.cases import NAMED, loaded, parameters, same

factory = pytest.importorskip("timm.optim", reason="pip install gradchain[integrations]")
schedulers = pytest.importorskip("timm.scheduler", reason="pip install gradchain[integrations]")
vision_transformer = pytest.importorskip("timm.models.vision_transformer", reason="pip install gradchain[integrations]")
registries = pytest.importorskip("timm.optim._optim_factory", reason="pip install gradchain[integrations]")

NAMES = {f"gradchain{name.replace('-', '')}": name for name in NAMED}
"""timm reads a name from after its last underscore."""

GUESTS = r".*the chain does not use (lr_scale|weight_decay)"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user runs once; here it is taken back."""
    monkeypatch.setattr(registries.default_registry, "_optimizers", {**registries.default_registry._optimizers})
    for theirs, name in NAMES.items():
        path, arguments = NAMED[name]
        options = {key: value for key, value in arguments.items() if key not in ("lr", "weight_decay")}
        info = registries.OptimInfo(theirs, loaded(path), "of gradchain", has_betas=True, defaults=options)
        registries.default_registry.register(info)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3
    )


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, scheduler: Any = None
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step_update(step + 1)
    return parameters(model)


def rate(theirs: str) -> float:
    return 1.0 if theirs.endswith("prodigy") else 0.01


def made(name: str, model: nn.Module, **more: Any) -> torch.optim.Optimizer:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", GUESTS)
        return factory.create_optimizer_v2(model, name, **{"lr": rate(name), "weight_decay": 0.0, **more})


@pytest.mark.parametrize("theirs", NAMES)
def test_it_is_made_by_name(theirs: str) -> None:
    path, arguments = NAMED[NAMES[theirs]]
    one, other = vit(), vit()
    optimizer = made(theirs, one)
    assert type(optimizer) is loaded(path)
    plain = loaded(path)(other.parameters(), **{**arguments, "weight_decay": 0.0})
    start = parameters(one)
    trained = train(one, optimizer)
    assert same(trained, train(other, plain))
    assert not any(map(torch.equal, start[:1], trained[:1]))


@pytest.mark.parametrize("theirs", [theirs for theirs, name in NAMES.items() if name != "edited"])
def test_weight_decay_leaves_out_biases(theirs: str) -> None:
    one, other = vit(), vit()
    optimizer = made(theirs, one, weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]
    assert {param.ndim > 1 for param in optimizer.param_groups[1]["params"]} == {True}
    assert not same(train(one, optimizer), train(other, made(theirs, other)))


def test_decay_without_a_stage_for_it_is_an_error() -> None:
    with pytest.raises(gradchain.OptionError, match=r"weight_decay = 0\.1 would change nothing"):
        made("gradchainedited", vit(), weight_decay=0.1)


@pytest.mark.parametrize("theirs", NAMES)
def test_layer_decay(theirs: str) -> None:
    """Groups carry `lr_scale`, which timm's schedulers multiply into `lr`."""
    decay = 0.0 if NAMES[theirs] == "edited" else 0.1
    model = vit()
    with pytest.warns(UserWarning, match=GUESTS) as caught:
        optimizer = factory.create_optimizer_v2(model, theirs, lr=rate(theirs), weight_decay=decay, layer_decay=0.5)
    assert len([warning for warning in caught if "does not use" in str(warning.message)]) == 1
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert scales == {0.125, 0.25, 0.5, 1.0}
    scheduler, _ = schedulers.create_scheduler_v2(optimizer, num_epochs=2, updates_per_epoch=3, step_on_epochs=False)
    train(model, optimizer, 2, scheduler)
    rates = {group["lr"] / group["lr_scale"] for group in optimizer.param_groups}
    assert max(rates) - min(rates) < 1e-9
    assert 0 < max(rates) < rate(theirs)


@pytest.mark.parametrize("theirs", NAMES)
def test_a_run_is_resumed(theirs: str) -> None:
    decay = 0.0 if NAMES[theirs] == "edited" else 0.1

    def fresh() -> tuple[nn.Module, Any]:
        model = vit()
        return model, made(theirs, model, weight_decay=decay, layer_decay=0.5)

    model, optimizer = fresh()
    train(model, optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    wanted = train(model, optimizer)
    again, resumed = fresh()
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert same(train(again, resumed), wanted)
    assert same(resumed.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("theirs", NAMES)
def test_lookahead_wraps_it(theirs: str) -> None:
    """`lookahead_` before a name: entries of its own in the groups, and in the state of each parameter."""
    model = vit()
    optimizer = made(f"lookahead_{theirs}", model)
    train(model, optimizer, 7)
    saved = copy.deepcopy(optimizer.state_dict())
    weights = copy.deepcopy(model.state_dict())
    wanted = train(model, optimizer, 6)
    again = vit()
    again.load_state_dict(weights)
    resumed = made(f"lookahead_{theirs}", again)
    resumed.load_state_dict(saved)
    assert same(train(again, resumed, 6), wanted)


def test_foreach_is_refused_as_any_unknown_option() -> None:
    with pytest.raises(gradchain.UnknownOptionError, match="foreach"):
        made("gradchainrose", vit(), foreach=True)


def test_by_the_name_of_its_class() -> None:
    """`OptimInfo` takes an import path as well."""
    info = registries.OptimInfo("gradchainpath", "gradchain.optim.Lion", has_eps=False, has_betas=True)
    registries.default_registry.register(info)
    optimizer = made("gradchainpath", vit(), betas=[0.9, 0.98], eps=1e-6)
    assert (optimizer.name, optimizer.param_groups[0]["betas"]) == ("Lion", (0.9, 0.98))
