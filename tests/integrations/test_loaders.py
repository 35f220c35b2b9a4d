"""How trainers without a package here load an optimizer, in a few lines each (docs/trainers)."""

from __future__ import annotations

import argparse
import ast
import copy
import inspect
import pickle
import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from tests.integrations.cases import EDITED, NAMED, batches, expected, loaded, net, parameters, same, train

over_all = pytest.mark.parametrize("name", NAMED)
over_recipes = pytest.mark.parametrize("name", [name for name in NAMED if name != "edited"])
over_separable = pytest.mark.parametrize("name", [name for name in NAMED if name != "prodigy"])
"""Those that step one parameter without the others."""

TEXT = {
    "rose": ["weight_decay=0.1"],
    "adv-adamw": ["betas=(0.9, 0.95)", "use_atan2=True"],
    "adams": ["weight_decay=0.05"],
    "prodigy": ["d_coef=2.0"],
    "edited": [
        "recipe='adamw'", "without=['decoupled_decay']", "replace={'divide': 'atan2_scale(a=1.27)'}",
        "insert_before={'first_moment': [{'stage': 'clip_by_norm', 'max_norm': 1.0}, 'centralize']}",
        "options={'betas': (0.9, 0.95)}",
    ],
}  # fmt: skip
"""The arguments as `key=value`, each value a literal of Python."""


# kohya's scripts and musubi: a dotted name, and `key=value` arguments.


def kohya(params: Any, optimizer_type: str, lr: float, optimizer_args: list[str]) -> Any:
    options = {key: ast.literal_eval(value) for key, value in (text.split("=", 1) for text in optimizer_args)}
    return loaded(optimizer_type)(params, lr=lr, **options)


@over_all
def test_a_dotted_name_and_arguments_as_text(name: str) -> None:
    path, arguments = NAMED[name]
    model = net()
    optimizer = kohya(model.parameters(), path, arguments["lr"], TEXT[name])
    assert same(train(model, optimizer), expected(name))


def test_the_distance_of_prodigy_is_logged() -> None:
    """Of an optimizer with `prodigy` in its name, kohya's scripts log `d * lr`."""
    model = net()
    optimizer = kohya(model.parameters(), "gradchain.optim.Prodigy_adv", 1.0, ["d0=1e-5"])
    train(model, optimizer, 6)
    assert "prodigy" in type(optimizer).__name__.lower()
    group = optimizer.param_groups[0]
    assert float(group["d"]) * group["lr"] > 1e-5


@over_all
def test_train_and_eval_are_called_only_where_they_are(name: str) -> None:
    """`ScheduleFree` at the end of a name asks for both; others are asked with `hasattr`."""
    optimizer = loaded(NAMED[name][0])(net().parameters(), **NAMED[name][1])
    assert not type(optimizer).__name__.lower().endswith("schedulefree")
    for mode in ("train", "eval"):
        if hasattr(optimizer, mode):
            getattr(optimizer, mode)()


# Fused backward passes: OneTrainer calls `step_parameter(p, group, i)`, kohya's scripts `step_param(p, group)`.


def fused(model: nn.Module, optimizer: Any, hook: str) -> None:
    for group in optimizer.param_groups:
        for place, param in enumerate(group["params"]):
            extra = (place,) if hook == "step_parameter" else ()

            def step(tensor: torch.Tensor, group: Any = group, extra: Any = extra) -> None:
                torch.nn.utils.clip_grad_norm_(tensor, 0.5)
                getattr(optimizer, hook)(tensor, group, *extra)
                tensor.grad = None

            param.register_post_accumulate_grad_hook(step)


@pytest.mark.parametrize("hook", ["step_parameter", "step_param"])
@over_separable
def test_a_fused_backward_pass(name: str, hook: str) -> None:
    path, arguments = NAMED[name]
    model, other = net(), net()
    optimizer = loaded(path)(model.parameters(), **arguments)
    fused(model, optimizer, hook)
    plain = loaded(path)(other.parameters(), **arguments)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(x, 0.9) for x in (optimizer, plain)]
    for x, y in batches(4):
        nn.functional.mse_loss(model(x), y).backward()
        nn.functional.mse_loss(other(x), y).backward()
        for param in other.parameters():
            torch.nn.utils.clip_grad_norm_(param, 0.5)
        plain.step()
        plain.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
    assert same(parameters(model), parameters(other))
    assert same(optimizer.state_dict(), plain.state_dict())


def test_prodigy_says_that_it_needs_all_parameters() -> None:
    optimizer = gradchain.optim.Prodigy_adv(net().parameters())
    param = optimizer.param_groups[0]["params"][0]
    param.grad = torch.ones_like(param)
    with pytest.raises(gradchain.ChainError, match="prodigy"):
        optimizer.step_parameter(param, optimizer.param_groups[0], 0)


# diffusion-pipe: one optimizer for each parameter, and a wrapper that looks like one.


@over_separable
def test_one_optimizer_for_each_parameter(name: str) -> None:
    path, arguments = NAMED[name]
    model = net()
    each = {param: loaded(path)([param], **arguments) for param in model.parameters()}

    def step(param: torch.Tensor) -> None:
        each[param].step()
        each[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(step)
    for x, y in batches(4):
        nn.functional.mse_loss(model(x), y).backward()
    assert same(parameters(model), expected(name))


# litgpt: what is not in the signature is left out.


def litgpt(optimizer: str | dict[str, Any], params: Any, **more: Any) -> Any:
    entry = {"class_path": optimizer} if isinstance(optimizer, str) else optimizer
    cls = loaded(entry["class_path"])
    known = inspect.signature(cls).parameters
    kept = {key: value for key, value in more.items() if key in known}
    return cls(params, **{**entry.get("init_args", {}), **kept})


@over_all
def test_arguments_are_filtered_by_the_signature(name: str) -> None:
    path, arguments = NAMED[name]
    model = net()
    optimizer = litgpt({"class_path": path, "init_args": arguments}, model.parameters(), fused=True, foreach=None)
    assert same(train(model, optimizer), expected(name))
    assert not {"fused", "foreach"} & optimizer.param_groups[0].keys()


@over_recipes
def test_what_training_loops_set_is_in_the_signature(name: str) -> None:
    path, _ = NAMED[name]
    optimizer = litgpt(path, net().parameters(), lr=0.5, weight_decay=0.25, betas=(0.8, 0.9), fused=True)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert group.get("betas", (0.8, 0.9)) == (0.8, 0.9)
    assert (name == "rose") is ("betas" not in inspect.signature(loaded(path)).parameters)


# torchtune and NeMo AutoModel: nested `_component_` (or `_target_`) dicts.


def component(config: Mapping[str, Any], *args: Any, **more: Any) -> Any:
    options = {
        key: component(value) if isinstance(value, Mapping) and "_component_" in value else value
        for key, value in config.items()
        if key != "_component_"
    }
    return loaded(config["_component_"])(*args, **{**options, **more})


@over_all
def test_components(name: str) -> None:
    path, arguments = NAMED[name]
    model = net()
    optimizer = component({"_component_": path, **arguments}, model.parameters())
    assert same(train(model, optimizer), expected(name))


def test_a_component_in_a_component() -> None:
    """A stage, and a chain, are components as well."""
    config = {
        "_component_": "gradchain.optim.FromRecipe",
        "recipe": "adamw",
        "lr": 0.01,
        "replace": {"divide": "atan2_scale(a=1.27)"},
    }
    nested = {
        "_component_": "gradchain.Optimizer",
        "chain": {"_component_": "gradchain.recipe", "name": "adamw", "lr": 0.01},
    }
    optimizer = component(config, net().parameters())
    assert "atan2_scale" in optimizer.chain
    model, other = net(), net()
    made = component(nested, model.parameters())
    assert same(train(model, made), train(other, gradchain.optim.AdamW(other.parameters(), lr=0.01)))


# axolotl: a plugin's `create_optimizer(cfg, trainer)`.


class Plugin:
    """As a user ships it: the optimizer named in the config, over the groups that the trainer makes."""

    def create_optimizer(self, cfg: Any, trainer: Any) -> Any:
        if not (path := cfg.get("gradchain_optimizer")):
            return None
        decayed = [param for param in trainer.model.parameters() if param.ndim > 1]
        rest = [param for param in trainer.model.parameters() if param.ndim <= 1]
        decay = cfg.get("weight_decay", 0.0)
        groups = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        return loaded(path)(groups, lr=cfg["learning_rate"], **cfg.get("optim_args", {}))


@over_all
def test_a_plugin_makes_it_from_the_config(name: str) -> None:
    path, arguments = NAMED[name]
    options = {key: value for key, value in arguments.items() if key not in ("lr", "weight_decay")}
    cfg = {"gradchain_optimizer": path, "learning_rate": arguments["lr"], "optim_args": options}
    cfg["weight_decay"] = 0.0 if name == "edited" else 0.05
    trainer = SimpleNamespace(model=net())
    with warnings.catch_warnings():
        warnings.filterwarnings("error" if name != "edited" else "ignore", ".*does not use weight_decay")
        optimizer = Plugin().create_optimizer(cfg, trainer)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [cfg["weight_decay"], 0.0]
    start = parameters(trainer.model)
    assert not same(train(trainer.model, optimizer), start)
    assert Plugin().create_optimizer({}, trainer) is None


# torchtitan: factories, and groups with `fused`, `foreach` and `param_names`.


@over_all
def test_groups_of_a_factory(name: str) -> None:
    path, arguments = NAMED[name]
    model = net()
    groups = [
        {"params": [param], "param_names": [at], "fused": True, "foreach": False}
        for at, param in model.named_parameters()
    ]
    with pytest.warns(UserWarning, match="does not use fused, foreach") as caught:
        optimizer = loaded(path)(groups, **arguments)
    assert len(caught) == 1
    assert [group["param_names"] for group in optimizer.param_groups] == [[at] for at, _ in model.named_parameters()]
    assert same(train(model, optimizer), expected(name))


@over_all
def test_states_are_loaded_flat_as_distributed_checkpoints_do(name: str) -> None:
    """`torch.distributed.checkpoint.state_dict` with flattened optimizers: keys of names, one number for each entry."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    path, arguments = NAMED[name]
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    model = net()
    optimizer = loaded(path)(model.parameters(), **arguments)
    train(model, optimizer)
    weights, flat = copy.deepcopy(model.state_dict()), get_optimizer_state_dict(model, optimizer, options=options)
    flat = copy.deepcopy(flat)
    wanted = train(model, optimizer)
    again = net()
    again.load_state_dict(weights)
    resumed = loaded(path)(again.parameters(), **arguments)
    set_optimizer_state_dict(again, resumed, flat, options=options)
    assert same(train(again, resumed), wanted)


# SimpleTuner, ai-toolkit and others: a registry of classes with default settings.


@over_all
def test_a_registry_holds_the_class(name: str) -> None:
    path, arguments = NAMED[name]
    registry = {f"gradchain-{name}": {"class": loaded(path), "default_settings": dict(arguments)}}
    copied = pickle.loads(pickle.dumps(registry))[f"gradchain-{name}"]
    model = net()
    settings = {**copied["default_settings"], "lr": arguments["lr"]}
    optimizer = copied["class"](params=[{"params": list(model.parameters())}], **settings)
    assert same(train(model, optimizer), expected(name))


# Any script: a factory of `torch.optim.Optimizer`s by argparse.


def test_an_edited_chain_from_argparse() -> None:
    parser = argparse.ArgumentParser()
    for option in ("recipe", "without", "replace", "insert-before", "options"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--lr", type=float)
    line = [
        "--recipe", "adamw", "--lr", "0.01", "--without", "decoupled_decay", "--replace", "divide=atan2_scale(a=1.27)",
        "--options", "betas=(0.9, 0.95)", "--insert-before", "first_moment=centralize",
    ]  # fmt: skip
    given = vars(parser.parse_args(line))
    optimizer = gradchain.optim.FromRecipe(net().parameters(), **given)
    assert list(optimizer.chain.names) == [name for name in EDITED if name != "clip_by_norm"]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)


def test_arguments_that_were_not_given_are_none() -> None:
    """argparse hands `None` over for what stands on no command line."""
    nothing: dict[str, Any] = dict.fromkeys(["lr", "replace", "insert_before", "insert_after", "options", "without"])
    optimizer = gradchain.optim.FromRecipe(net().parameters(), recipe="adamw", **nothing)
    assert optimizer.chain == gradchain.recipe("adamw")


@over_all
def test_every_loader_makes_what_can_be_saved(name: str) -> None:
    """One optimizer's state is another's, whoever made them."""
    path, arguments = NAMED[name]
    makers: list[Callable[[nn.Module], Any]] = [
        lambda model: kohya(model.parameters(), path, arguments["lr"], TEXT[name]),
        lambda model: component({"_component_": path, **arguments}, model.parameters()),
    ]
    model = net()
    first = makers[0](model)
    train(model, first)
    saved, weights = copy.deepcopy(first.state_dict()), copy.deepcopy(model.state_dict())
    wanted = train(model, first)
    again = net()
    again.load_state_dict(weights)
    second = makers[1](again)
    second.load_state_dict(saved)
    assert same(train(again, second), wanted)
