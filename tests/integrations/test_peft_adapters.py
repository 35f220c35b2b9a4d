"""Adapters of peft in training: from a checkpoint, added later, and with the names of kohya's scripts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import optim
from gradchain.roles import from_peft
from tests.integrations.tiny import OPTIMIZERS, differing, llama, sentences, values

peft = pytest.importorskip("peft", reason="pip install gradchain[integrations]")
pytest.importorskip("transformers", reason="pip install gradchain[integrations]")

# transformers 5.23 warns about its own attribute whenever a model is made.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CONFIGS: dict[str, dict[str, Any]] = {"lora": {}, "dora": {"use_dora": True}}


def adapted(kind: str = "lora") -> nn.Module:
    """A model with adapters whose B is not zero, so that all their weights have gradients."""
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **CONFIGS[kind])
    return peft.get_peft_model(llama(), config)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: param for name, param in model.named_parameters() if param.requires_grad}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> dict[str, torch.Tensor]:
    for row in sentences(start + steps)[start:]:
        optimizer.zero_grad()
        model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss.backward()
        optimizer.step()
    return values(model)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_adapters_go_on_from_a_checkpoint(name: str, kind: str) -> None:
    cls, options = OPTIMIZERS[name]
    model, other = adapted(kind), adapted(kind)
    optimizer, resumed = (cls(m, **options, role=from_peft(m)) for m in (model, other))
    start, half = values(model), train(model, optimizer, 2)
    assert {*differing(start, half)} == {*trainable(model)}
    roles = {role for group in optimizer.param_groups for role in group["role"]} - {None}
    assert roles == {"lora_A", "lora_B"} | ({"dora_scale"} if kind == "dora" else set())
    other.load_state_dict(half)
    resumed.load_state_dict(optimizer.state_dict())
    assert differing(train(model, optimizer, 2, start=2), train(other, resumed, 2, start=2)) == []


def test_rates_by_role() -> None:
    """LoRA+: the B factors learn sixteen times as fast."""
    chain = gradchain.chain(
        gradchain.sign(),
        gradchain.partition(
            {
                "lora_B": gradchain.scale_by_learning_rate(0.16, name="fast"),
                "rest": gradchain.scale_by_learning_rate(0.01),
            },
            lambda name, param: "rest",
        ),
    )
    model = adapted("dora")
    optimizer = gradchain.Optimizer(model, chain, role=from_peft(model))
    start, end = values(model), train(model, optimizer, 1)
    for name in trainable(model):
        rate = 0.16 if "lora_B" in name else 0.01
        torch.testing.assert_close((end[name] - start[name]).abs().max(), torch.tensor(rate), rtol=1e-4, atol=1e-5)


def with_a_second(model: nn.Module, optimizer: torch.optim.Optimizer, named: bool = False) -> list[nn.Parameter]:
    """Add an adapter, and its weights to the optimizer: mostly without names, as trainers do."""
    torch.manual_seed(2)
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    late = {name: param for name, param in trainable(model).items() if ".second." in name}
    roles = from_peft(model)
    params = list(late.items()) if named else list(late.values())
    optimizer.add_param_group({"params": params, "lr": 0.5, "role": [roles[param] for param in late.values()]})
    return list(late.values())


LATE = ["AdamW_adv", "Adams", "Rose", "FromRecipe"]


@pytest.mark.parametrize("name", LATE)
def test_an_adapter_that_is_added_later(name: str) -> None:
    cls, options = OPTIMIZERS[name]
    model = adapted("dora")
    optimizer = cls(model, **options, role=from_peft(model))
    train(model, optimizer, 2)
    late = with_a_second(model, optimizer)
    before = [param.detach().clone() for param in late]
    train(model, optimizer, 2, start=2)
    assert not any(map(torch.equal, before, late))
    assert optimizer.param_groups[-1]["role"] == ["lora_A", "lora_B"] * 2
    assert {int(optimizer.state[param]["step"]) for param in late} == {2}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("name", LATE)
def test_two_adapters_go_on_from_a_checkpoint(name: str, named: bool) -> None:
    cls, options = OPTIMIZERS[name]
    model, other = adapted("dora"), adapted("dora")
    optimizer, resumed = (cls(m, **options, role=from_peft(m)) for m in (model, other))
    train(model, optimizer, 2)
    for m, its in ((model, optimizer), (other, resumed)):
        with_a_second(m, its, named)
    other.load_state_dict(train(model, optimizer, 2, start=2))
    resumed.load_state_dict(optimizer.state_dict())
    assert differing(train(model, optimizer, 2, start=4), train(other, resumed, 2, start=4)) == []


class LoRAModule(nn.Module):
    """As in kohya's scripts: beside the layer, whose forward it takes over."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.lora_down = nn.Linear(layer.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, layer.out_features, bias=False)
        forward = layer.forward
        layer.forward = lambda x: forward(x) + self.lora_up(self.lora_down(x))  # type: ignore[method-assign]


KOHYA = {"lora_down": "lora_A", "lora_up": "lora_B"}


def kohya(model: nn.Module) -> nn.ModuleDict:
    """A network of adapters, by the names of the layers."""
    torch.manual_seed(3)
    layers = {name: layer for name, layer in model.named_modules() if name.endswith(("q_proj", "v_proj"))}
    model.requires_grad_(False)
    return nn.ModuleDict({"lora_unet_" + name.replace(".", "_"): LoRAModule(x, 4) for name, x in layers.items()})


def role(name: str, param: torch.Tensor) -> str | None:
    """`lora_down` is the A of peft, and `lora_up` the B."""
    return KOHYA.get(name.split(".")[-2])


@pytest.mark.parametrize("given", ["module", "groups", "trainable"])
def test_the_names_of_kohyas_scripts(given: str) -> None:
    """These hand over groups without names; a mapping gives roles to parameters themselves."""
    model = llama()
    network = kohya(model)
    named = dict(network.named_parameters())
    by_param = {param: KOHYA[name.split(".")[-2]] for name, param in named.items()}
    params: Any = {
        "module": network, "trainable": list(named.items()), "groups": [{"params": [*named.values()], "lr": 1e-3}]
    }[given]  # fmt: skip
    options = {"centered_wd": 0.01, "weight_decay": 0.01, "spectral_normalization": True}
    optimizer = optim.AdamW_adv(params, lr=1e-3, role=by_param if given == "groups" else role, **options)
    assert optimizer.param_groups[0]["role"] == ("lora_A", "lora_B") * 4
    start = values(network)
    train(model, optimizer, 2)
    assert differing(start, values(network)) == list(start)
