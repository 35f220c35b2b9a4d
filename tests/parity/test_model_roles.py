"""The roles that `from_model` finds in models of transformers and peft, and that a fused matrix is cut where theirs is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradchain.roles import from_model, from_peft

os.environ["HF_HUB_OFFLINE"] = "1"
peft = pytest.importorskip("peft", reason="pip install gradchain[parity]")
hf = pytest.importorskip("transformers", reason="pip install gradchain[parity]")

# transformers 5.23 warns about its own attribute whenever a model is made.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SMALL = {"vocab_size": 24, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
USUAL = {**SMALL, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(**SMALL, n_embd=8, n_layer=2, n_head=2, n_positions=16))


def llama() -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**USUAL, num_key_value_heads=1, tie_word_embeddings=False))


def neox() -> nn.Module:
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**USUAL, rotary_pct=1.0))


def mixtral() -> nn.Module:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**USUAL, num_key_value_heads=1, num_local_experts=3))


def phi3() -> nn.Module:
    return hf.Phi3ForCausalLM(hf.Phi3Config(**USUAL))


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(**USUAL))


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, set[str]]]] = {
    "gpt2": (
        gpt2,
        {
            "head": {"transformer.wte.weight"},
            "embedding": {"transformer.wpe.weight"},
            "qkv_columns": {f"transformer.h.{i}.attn.c_attn.weight" for i in range(2)},
            "matrix": {
                f"transformer.h.{i}.{at}.weight" for i in range(2) for at in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            },
        },
    ),
    "llama": (
        llama,
        {
            "head": {"lm_head.weight"},
            "embedding": {"model.embed_tokens.weight"},
            "matrix": {
                f"model.layers.{i}.{at}_proj.weight"
                for i in range(2)
                for at in (*(f"self_attn.{x}" for x in "qkvo"), *(f"mlp.{x}" for x in ("gate", "up", "down")))
            },
        },
    ),
    "mixtral": (
        mixtral,
        {
            "head": {"lm_head.weight"},
            "embedding": {"model.embed_tokens.weight"},
            "matrix": {f"model.layers.{i}.mlp.gate.weight" for i in range(2)}
            | {f"model.layers.{i}.self_attn.{x}_proj.weight" for i in range(2) for x in "qkvo"},
            "experts": {f"model.layers.{i}.mlp.experts.{x}_proj" for i in range(2) for x in ("gate_up", "down")},
        },
    ),
    "bert": (
        bert,
        {
            "head": {"classifier.weight"},
            "embedding": {f"bert.embeddings.{x}_embeddings.weight" for x in ("word", "position", "token_type")},
            "matrix": {
                f"bert.encoder.layer.{i}.{at}.weight"
                for i in range(2)
                for at in (
                    *(f"attention.self.{x}" for x in ("query", "key", "value")),
                    "attention.output.dense",
                    "intermediate.dense",
                    "output.dense",
                )
            }
            | {"bert.pooler.dense.weight"},
        },
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_the_role_that_one_would_give_it(name: str) -> None:
    make, expected = MODELS[name]
    model = make()
    roles = from_model(model).by_name
    assert set(roles) == {name for name, _ in model.named_parameters()}
    assert {role: {name for name in roles if roles[name] == role} for role in expected} == expected
    rest = {name: role for name, role in roles.items() if role not in expected}
    assert all(role == ("bias" if name.endswith(".bias") else "norm") for name, role in rest.items()), rest
    assert all(re.search("norm|ln_", name, flags=re.I) for name, role in rest.items() if role == "norm")


FUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "gpt2": (gpt2, "transformer.h.0.attn.c_attn.weight", "qkv_columns"),
    "phi3": (phi3, "model.layers.0.self_attn.qkv_proj.weight", "qkv"),
    "neox": (neox, "gpt_neox.layers.0.attention.query_key_value.weight", "matrix"),
}


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_matrix_is_cut_where_its_model_cuts_it(name: str) -> None:
    """A token that can look at itself only takes its own value, so that only the values' part has a gradient."""
    torch.manual_seed(0)
    make, weight, role = FUSED[name]
    model = make().eval()
    assert from_model(model).by_name[weight] == role
    param = model.get_parameter(weight)
    model(torch.tensor([[5]])).logits.square().sum().backward()
    assert param.grad is not None
    blocks = [bool(block.any()) for block in param.grad.chunk(3, int(role == "qkv_columns"))]
    assert (blocks == [False, False, True]) is (role != "matrix")


@pytest.mark.parametrize("kind", ["lora", "dora", "oft"])
def test_adapters_keep_the_roles_of_from_peft(kind: str) -> None:
    configs = {
        "lora": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        "dora": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], use_dora=True),
        "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    }
    model = peft.get_peft_model(llama(), configs[kind]())
    roles, adapters = from_model(model), from_peft(model)
    assert {param: roles[param] for param in adapters} == adapters
    trained = {name: roles[param] for name, param in model.named_parameters() if param.requires_grad}
    rest = {name: role for name, role in trained.items() if role not in adapters.values()}
    assert rest == ({"base_model.model.lm_head.modules_to_save.default.weight": "head"} if kind == "lora" else {})
