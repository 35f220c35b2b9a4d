"""Roles of the weights that the real peft library makes, in tiny models that are initialised at random."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain.roles import from_peft

os.environ["HF_HUB_OFFLINE"] = "1"
peft = pytest.importorskip("peft", reason="pip install gradchain[parity]")
transformers = pytest.importorskip("transformers", reason="pip install gradchain[parity]")

# transformers 5.23 warns about its own attribute whenever a model is made.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RANK, WIDTH, INNER, WORDS = 4, 16, 32, 24
ATTENTION = ["q_proj", "v_proj"]


def llama() -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=WORDS, max_position_embeddings=32, tie_word_embeddings=False,
    ))  # fmt: skip


class Convolutional(nn.Module):
    """An embedding, a convolution, one in two groups, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(WORDS, 9)
        self.conv = nn.Conv2d(1, 6, 3)
        self.grouped = nn.Conv2d(6, 8, 1, groups=2)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        images = self.embed(input_ids).unflatten(2, (3, 3)).flatten(0, 1)[:, None]
        logits = self.head(self.norm(self.grouped(self.conv(images)).flatten(1)))
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits, labels.flatten() % 2))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: param for name, param in model.named_parameters() if param.requires_grad}


def labels(model: nn.Module) -> dict[str, tuple[tuple[int, ...], str | None]]:
    """Shape and role of each trainable parameter."""
    roles = from_peft(model)
    return {name: (tuple(param.shape), roles.get(param)) for name, param in trainable(model).items()}


def ending(
    found: Mapping[str, tuple[tuple[int, ...], str | None]], *ends: str
) -> set[tuple[tuple[int, ...], str | None]]:
    picked = {label for name, label in found.items() if name.endswith(ends)}
    assert picked, f"{ends} in {list(found)}"
    return picked


def loss(model: nn.Module) -> torch.Tensor:
    words = torch.arange(20).view(2, 10)
    return model(input_ids=words, labels=words).loss


# What gets which role.


def test_lora_of_linears() -> None:
    found = labels(peft.get_peft_model(llama(), peft.LoraConfig(r=RANK, target_modules=[*ATTENTION, "down_proj"])))
    assert len(found) == 2 * 3 * 2
    assert ending(found, "q_proj.lora_A.default.weight") == {((RANK, WIDTH), "lora_A")}
    assert ending(found, "down_proj.lora_A.default.weight") == {((RANK, INNER), "lora_A")}
    assert ending(found, "lora_B.default.weight") == {((WIDTH, RANK), "lora_B")}


def test_dora_adds_a_magnitude_for_each_output() -> None:
    found = labels(peft.get_peft_model(llama(), peft.LoraConfig(r=RANK, target_modules=ATTENTION, use_dora=True)))
    assert len(found) == 2 * 2 * 3
    assert ending(found, "lora_magnitude_vector.default.weight") == {((WIDTH,), "dora_scale")}


def test_oft_keeps_a_row_for_each_block() -> None:
    modules = ["q_proj", "down_proj", "embed_tokens"]
    found = labels(peft.get_peft_model(llama(), peft.OFTConfig(oft_block_size=4, target_modules=modules)))
    assert len(found) == 2 * 2 + 1
    assert ending(found, "q_proj.oft_R.default.weight") == {((WIDTH // 4, 4 * 3 // 2), "oft")}
    assert ending(found, "down_proj.oft_R.default.weight") == {((INNER // 4, 4 * 3 // 2), "oft")}
    assert ending(found, "oft_embedding_R.default.weight") == {((WIDTH // 4, 4 * 3 // 2), "oft")}


def test_oft_shared_between_blocks() -> None:
    config = peft.OFTConfig(oft_block_size=8, target_modules=["q_proj"], block_share=True)
    assert set(labels(peft.get_peft_model(llama(), config)).values()) == {((1, 8 * 7 // 2), "oft")}


def test_adalora() -> None:
    config = peft.AdaLoraConfig(init_r=RANK, total_step=10, target_modules=ATTENTION)
    found = labels(peft.get_peft_model(llama(), config))
    assert ending(found, "lora_A.default") == {((RANK, WIDTH), "lora_A")}
    assert ending(found, "lora_B.default") == {((WIDTH, RANK), "lora_B")}
    assert ending(found, "lora_E.default") == {((RANK, 1), None)}


def test_convolutions_and_embeddings() -> None:
    config = peft.LoraConfig(r=RANK, target_modules=["embed", "conv"], use_dora=True)
    found = labels(peft.get_peft_model(Convolutional(), config))
    assert ending(found, "embed.lora_embedding_A.default") == {((RANK, WORDS), "lora_A")}
    assert ending(found, "embed.lora_embedding_B.default") == {((9, RANK), "lora_B")}
    assert ending(found, "embed.lora_magnitude_vector.default.weight") == {((9,), "dora_scale")}
    assert ending(found, "conv.lora_A.default.weight") == {((RANK, 1, 3, 3), "lora_A")}
    assert ending(found, "conv.lora_B.default.weight") == {((6, RANK, 1, 1), "lora_B")}
    assert ending(found, "conv.lora_magnitude_vector.default.weight") == {((1, 6, 1, 1), "dora_scale")}


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_a_factor_in_groups_has_no_column_for_each_rank() -> None:
    found = labels(peft.get_peft_model(Convolutional(), peft.LoraConfig(r=RANK, target_modules=["grouped"])))
    assert ending(found, "lora_A.default.weight") == {((RANK, 6, 1, 1), "lora_A")}
    assert ending(found, "lora_B.default.weight") == {((8, RANK // 2, 1, 1), None)}


def test_what_is_trained_besides_has_no_role() -> None:
    config = peft.LoraConfig(
        r=RANK, target_modules=["conv"], lora_bias=True, bias="all", modules_to_save=["norm", "head"]
    )
    found = labels(peft.get_peft_model(Convolutional(), config))
    assert {role for _, role in found.values()} == {"lora_A", "lora_B", None}
    assert ending(found, "conv.lora_B.default.bias", "grouped.bias") == {((6,), None), ((8,), None)}
    assert ending(found, "norm.modules_to_save.default.weight", "head.modules_to_save.default.weight") == {
        ((8,), None),
        ((2, 8), None),
    }


# Several adapters, none, frozen ones.


def test_only_the_active_of_several_adapters() -> None:
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=RANK, target_modules=["q_proj"]))
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["v_proj"], use_dora=True))
    assert {name.split(".")[-2] for name in labels(model)} == {"default"}
    model.set_adapter("other")
    found = labels(model)
    assert set(found.values()) == {((2, WIDTH), "lora_A"), ((WIDTH, 2), "lora_B"), ((WIDTH,), "dora_scale")}
    model.base_model.set_adapter(["default", "other"])
    assert len(from_peft(model)) == 2 * 2 + 2 * 3


def test_a_mixed_model() -> None:
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=RANK, target_modules=["q_proj"]), mixed=True)
    model.add_adapter("other", peft.OFTConfig(oft_block_size=4, target_modules=["v_proj"]))
    model.set_adapter(["default", "other"])
    assert set(from_peft(model).values()) == {"lora_A", "lora_B", "oft"}


def test_injected_into_a_part_of_a_model() -> None:
    model = llama()
    peft.inject_adapter_in_model(peft.LoraConfig(r=RANK, target_modules=["q_proj"]), model.model.layers[1])
    assert list(from_peft(nn.ModuleList([model, nn.Linear(2, 2)])).values()) == ["lora_A", "lora_B"]


def test_a_model_without_adapters() -> None:
    with pytest.raises(gc.OptionError, match=r"LlamaForCausalLM has no layer .* lora_A, .* oft_R, .*get_peft_model"):
        from_peft(llama())


def test_tuners_without_roles() -> None:
    with pytest.raises(gc.OptionError, match="has no layer"):
        from_peft(peft.get_peft_model(llama(), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])))


def test_frozen_adapters() -> None:
    config = peft.LoraConfig(r=RANK, target_modules=["q_proj"], inference_mode=True)
    with pytest.raises(gc.OptionError, match=r"the 4 adapter weights .* are frozen"):
        from_peft(peft.get_peft_model(llama(), config))


# Training with them.

LORA_PLUS = gc.chain(
    gc.partition(
        {"lora_B": gc.scale_by_learning_rate(0.16, name="fast"), "rest": gc.scale_by_learning_rate(0.01)},
        lambda name, param: "rest",
    ),
)


@pytest.mark.parametrize("given", ["model", "trainable", "named"])
def test_routes_follow_the_roles(given: str) -> None:
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=RANK, target_modules=ATTENTION))
    params = {"model": model, "trainable": trainable(model).values(), "named": trainable(model).items()}[given]
    optimizer = gc.Optimizer(params, LORA_PLUS, role=from_peft(model))
    loss(model).backward()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimizer.step()
    for name, param in model.named_parameters():
        rate = 0.16 if "lora_B" in name else 0.01
        torch.testing.assert_close(param, before[name] if param.grad is None else before[name] - rate * param.grad)


CONFIGS = {
    "lora": lambda: peft.get_peft_model(llama(), peft.LoraConfig(r=RANK, target_modules=ATTENTION)),
    "dora": lambda: peft.get_peft_model(llama(), peft.LoraConfig(r=RANK, target_modules=ATTENTION, use_dora=True)),
    "oft": lambda: peft.get_peft_model(llama(), peft.OFTConfig(oft_block_size=4, target_modules=ATTENTION)),
    "mixed": lambda: peft.get_peft_model(
        Convolutional(), peft.LoraConfig(r=RANK, target_modules=["embed", "conv"], modules_to_save=["head"])
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_few_steps(name: str) -> None:
    model = CONFIGS[name]()
    frozen = {key: param.clone() for key, param in model.named_parameters() if not param.requires_grad}
    seen: set[str | None] = set()

    class note_role(gc.Stage):
        def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
            seen.add(ctx.role)
            return update

    adam = gc.chain(note_role, gc.first_moment(0.9), gc.second_moment(), gc.divide(1e-8), gc.scale_by_learning_rate())
    optimizer = gc.Optimizer(model, adam, lr=1e-2, role=from_peft(model))
    seen.clear()  # the stages are watched once when the optimizer is made, for frozen parameters too
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        (value := loss(model)).backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]
    assert seen == {from_peft(model).get(param) for param in trainable(model).values()}
    for key, param in model.named_parameters():
        assert key not in frozen or torch.equal(param, frozen[key])


BY_ROLE: dict[str, dict[str, object]] = {
    "adv-adamw-scaled": {},
    "adv-adamw-orthograd": {},
    "adv-adamw": {"spectral_normalization": True, "kourkoutas_beta": True, "centered_wd": 0.01, "weight_decay": 0.01},
    "adv-adopt-factored": {},
    "adv-signsgd": {"stochastic_sign": True},
    "adv-lion": {"routed_wd": True, "centered_wd": 0.01, "weight_decay": 0.01},
}


@pytest.mark.parametrize("recipe", BY_ROLE)
@pytest.mark.parametrize("name", CONFIGS)
def test_recipes_that_go_by_roles(recipe: str, name: str) -> None:
    model = CONFIGS[name]().double()  # the first gradients of A are tiny, since B starts at 0
    before = {key: param.clone() for key, param in model.named_parameters()}
    optimizer = gc.optimizer(recipe, model, lr=1e-3, role=from_peft(model), **BY_ROLE[recipe])
    for _ in range(3):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    for key, param in model.named_parameters():
        assert param.isfinite().all()
        assert param.requires_grad != torch.equal(param, before[key]), key
