"""The roles that `from_model` finds, in models of torch; tests/parity has those of other libraries."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain.roles import Roles, from_model
from gradchain.roles.names import thirds


def found(model: nn.Module, **given: Any) -> dict[str, str]:
    return from_model(model, **given).by_name


class Residual(nn.Module):
    """A block of a ResNet."""

    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 1)


class Resnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(Residual(8), Residual(8, groups=8))
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.squeeze = nn.Conv2d(4, 1, 1)
        self.group = nn.GroupNorm(2, 4)
        self.fc = nn.Linear(8, 5)


def test_a_convolutional_network() -> None:
    assert found(Resnet()) == {
        "conv1.weight": "convolution",
        "conv1.bias": "bias",
        **{f"layer1.{i}.conv1.weight": "convolution" for i in range(2)},
        **{f"layer1.{i}.bn1.weight": "norm" for i in range(2)},
        **{f"layer1.{i}.bn1.bias": "bias" for i in range(2)},
        **{f"layer1.{i}.conv2.weight": "convolution" for i in range(2)},
        **{f"layer1.{i}.conv2.bias": "bias" for i in range(2)},
        "up.weight": "convolution",
        "up.bias": "bias",
        "squeeze.weight": "vector",
        "squeeze.bias": "bias",
        "group.weight": "norm",
        "group.bias": "bias",
        "fc.weight": "head",
        "fc.bias": "bias",
    }


def test_torchs_transformer() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    roles = found(encoder)
    assert {name.removeprefix("layers.1."): role for name, role in roles.items() if name.startswith("layers.1.")} == {
        "self_attn.in_proj_weight": "qkv",
        "self_attn.in_proj_bias": "bias",
        "self_attn.out_proj.weight": "matrix",
        "self_attn.out_proj.bias": "bias",
        **{f"linear{i}.weight": "matrix" for i in (1, 2)},
        **{f"linear{i}.bias": "bias" for i in (1, 2)},
        **{f"norm{i}.weight": "norm" for i in (1, 2)},
        **{f"norm{i}.bias": "bias" for i in (1, 2)},
    }
    assert "No output head was found; from_model(model, head=...)" in str(from_model(encoder))


def test_attention_with_other_widths() -> None:
    assert found(nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True)) == {
        **{f"{which}_proj_weight": "matrix" for which in "qkv"},
        **dict.fromkeys(("in_proj_bias", "bias_k", "bias_v", "out_proj.bias"), "bias"),
        "out_proj.weight": "matrix",
    }


class RMSNorm(nn.Module):
    """One of the many classes of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))


class Gpt(nn.Module):
    """As nanoGPT, with some more of what one meets."""

    def __init__(self, *, tied: bool = True, words: int = 30, heads: int = 3) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, 8), nn.Embedding(16, 8)
        self.h = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln": RMSNorm(8),
                    "c_attn": nn.Linear(8, 8 * heads),
                    "gate": nn.Linear(8, 1),
                    "c_proj": nn.Linear(8, 16),
                }
            )
            for _ in range(2)
        )
        self.to_logits = nn.Linear(8, words, bias=False)
        if tied:
            self.to_logits.weight = self.wte.weight


INNER = {
    f"h.{i}.{name}": role
    for i in range(2)
    for name, role in {
        "ln.scale": "norm",
        "c_attn.weight": "qkv",
        "c_attn.bias": "bias",
        "gate.weight": "vector",
        "gate.bias": "bias",
        "c_proj.weight": "matrix",
        "c_proj.bias": "bias",
    }.items()
}


def test_a_tied_head() -> None:
    roles = from_model(Gpt())
    assert roles.by_name == {"wte.weight": "head", "wpe.weight": "embedding", **INNER}
    assert re.search(r"^wte.weight +30 x 8 +head +tied: wte and to_logits$", str(roles), flags=re.M)


def test_the_last_linear_of_the_size_of_the_vocabulary() -> None:
    model = Gpt(tied=False)
    model.extra = nn.Linear(8, 4)  # comes after the head
    roles = from_model(model)
    assert roles.by_name == {
        "wte.weight": "embedding",
        "wpe.weight": "embedding",
        **INNER,
        "to_logits.weight": "head",
        "extra.weight": "matrix",
        "extra.bias": "bias",
    }
    assert "the last linear with 30 outputs, the size of the vocabulary" in str(roles)


def test_fused_heads_of_unequal_size_are_one_matrix() -> None:
    """Grouped queries: the blocks are no thirds."""
    roles = from_model(Gpt(heads=2))
    assert roles.by_name["h.0.c_attn.weight"] == "matrix"
    assert "called c_attn, but not of three equal squares" in str(roles)


@pytest.mark.parametrize(
    ("shape", "role"),
    [((24, 8), "qkv"), ((8, 24), "qkv_columns"), ((8, 8), None), ((24,), None), ((0, 0), None), ((9, 3, 1), None)],
)
def test_thirds(shape: tuple[int, ...], role: str | None) -> None:
    assert thirds(shape) == role


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 8, 4)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
        self.blocks = nn.Sequential(
            *(nn.ModuleDict({"qkv": nn.Linear(8, 24), "mlp": nn.Linear(8, 8)}) for _ in range(2))
        )
        self.gamma = nn.Parameter(torch.ones(8))
        self.logit_scale = nn.Parameter(torch.ones(()))


def test_a_vision_transformer_with_and_without_a_head() -> None:
    model = Vit()
    roles = found(model)
    assert {name: role for name, role in roles.items() if "bias" not in name} == {
        "cls_token": "embedding",
        "pos_embed": "embedding",
        "gamma": "vector",
        "logit_scale": "vector",
        "patch_embed.proj.weight": "embedding",
        **{f"blocks.{i}.qkv.weight": "qkv" for i in range(2)},
        **{f"blocks.{i}.mlp.weight": "matrix" for i in range(2)},
    }
    model.head = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model.norm = nn.LayerNorm([2, 8])
    roles = found(model)
    assert (roles["head.0.weight"], roles["head.1.weight"], roles["norm.weight"]) == ("matrix", "head", "norm")


class SparseMoe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4, bias=False)
        self.up = nn.Parameter(torch.zeros(4, 16, 8))
        self.up_bias = nn.Parameter(torch.zeros(4, 16))
        self.experts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2))


def test_experts() -> None:
    model = nn.Sequential(SparseMoe(), SparseMoe(), nn.Linear(8, 2))
    assert {name: role for name, role in found(model).items() if name.startswith("1.")} == {
        "1.gate.weight": "matrix",
        "1.up": "experts",
        "1.up_bias": "bias",
        "1.experts.0.weight": "matrix",
        "1.experts.1.weight": "matrix",
    }


def test_recurrent_layers_and_a_network_of_linears() -> None:
    lstm = found(nn.LSTM(4, 8))
    assert set(lstm.values()) == {"matrix", "bias"}
    mlp = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert found(mlp) == {"0.weight": "matrix", "0.bias": "bias", "2.weight": "head", "2.bias": "bias"}


def test_parametrized_weights() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
    assert found(layer, head=()) == {
        "bias": "bias",
        "parametrizations.weight.original0": "vector",
        "parametrizations.weight.original1": "matrix",
    }


def test_the_head_may_be_given() -> None:
    model = Resnet()
    assert found(model, head="squeeze")["squeeze.weight"] == "head"
    roles = found(model, head=["layer1.0", model.fc])
    assert [name for name, role in roles.items() if role == "head"] == [
        "layer1.0.conv1.weight",
        "layer1.0.conv2.weight",
        "fc.weight",
    ]
    assert "head" not in found(model, head=()).values()
    with pytest.raises(gc.OptionError, match=r"head = 'f' is not in the model.*'fc'"):
        from_model(model, head="f")
    with pytest.raises(gc.OptionError, match=r"head = <a module: Linear> is not in the model"):
        from_model(model, head=nn.Linear(2, 2))


# Rules.


def test_rules_go_first_and_the_first_of_them_counts() -> None:
    rules = {
        "h.0.c_proj.*": "vector",
        re.compile(r"\.c_proj\."): "mine",
        "*.ln.scale": "matrix",
        "to_logits.*": "embedding",
    }
    roles = from_model(Gpt(), rules=rules)
    expected = {
        **INNER,
        **{f"h.0.c_proj.{name}": "vector" for name in ("weight", "bias")},
        **{f"h.1.c_proj.{name}": "mine" for name in ("weight", "bias")},
        **{f"h.{i}.ln.scale": "matrix" for i in range(2)},
    }
    assert roles.by_name == {"wte.weight": "embedding", "wpe.weight": "embedding", **expected}
    assert r"rule \.c_proj\." in str(roles)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"*.c_prj.weight": "matrix"}, [r"'\*.c_prj.weight' matches no parameter", "c_proj.weight"]),
        ({re.compile("c_prj"): "matrix"}, ["'c_prj' matches no parameter"]),
        ({"h.*": "mine", "h.1.*": "matrix"}, [r"'h.1.\*' has no effect", "Move it up"]),
        ({"h.*": "Matrix"}, [r"'h.\*'", "'Matrix' is not known", "'matrix'"]),
        ({"h.*": ""}, ["is empty"]),
        ({"h.*": None}, ["None"]),
        ({3: "matrix"}, ["3 is an int"]),
        ({"*.c_proj.weight": "qkv"}, [r"h.0.c_proj.weight: \(16, 8\) is no qkv, of shape \(3n, n\)", "'matrix'"]),
        ({"*.c_attn.weight": "qkv_columns"}, [r"\(24, 8\) is no qkv_columns", "'qkv'"]),
        ({"*.c_proj.weight": "experts"}, [r"h.0.c_proj.weight: \(16, 8\) is no stack of experts"]),
    ],
)
def test_a_rule_that_does_nothing_or_does_not_fit(rules: Any, words: list[str]) -> None:
    with pytest.raises(gc.OptionError) as info:
        from_model(Gpt(), rules=rules)
    assert [word for word in words if not re.search(word, str(info.value))] == []


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4, 3))
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.fc = nn.Linear(3, 2)


def test_who_gets_no_role_is_told() -> None:
    with pytest.raises(gc.OptionError) as info:
        from_model(Odd())
    assert re.search(
        r"role of 2 parameters: table of shape \(4, 3\) in Odd; bilinear.weight of shape \(4, 2, 3\) in Bilinear\. .*"
        r"rules=\{'table': 'matrix'\}, or one of: embedding, head",
        str(info.value),
    )
    roles = found(Odd(), rules={"table": "embedding", "bilinear.weight": "experts"})
    assert (roles["table"], roles["bilinear.weight"]) == ("embedding", "experts")
    frozen = Odd()
    frozen.table.requires_grad_(False)
    frozen.bilinear.requires_grad_(False)
    assert found(frozen) == {"bilinear.bias": "bias", "fc.weight": "head", "fc.bias": "bias"}


def test_no_model() -> None:
    model: Any = Gpt().state_dict()
    with pytest.raises(gc.OptionError, match=r"takes a model; got .*wte"):
        from_model(model)


# In an optimizer.


def test_roles_are_a_mapping_for_an_optimizer() -> None:
    model = Gpt()
    roles = from_model(model)
    assert len(roles) == len(list(model.parameters()))
    assert list(roles) == list(model.parameters())
    assert repr(roles) == "Roles(bias: 6, embedding: 1, head: 1, matrix: 2, norm: 2, qkv: 2, vector: 2)"
    for given in (roles, roles.by_name):
        table = gc.optimizer("adams", model, role=given).routing_table().splitlines()
        assert [row.split()[0] for row in str(roles).splitlines()] == [
            row.split()[0] for row in table[: len(roles) + 2]
        ]
        assert re.search(r"^h.1.c_attn.weight +24 x 8 +qkv +1 ", "\n".join(table), flags=re.M)


def test_frozen_parameters_may_be_left_out() -> None:
    model = Gpt()
    model.wte.requires_grad_(False)
    roles = from_model(model)
    assert roles.by_name["wte.weight"] == "head"
    trained = [param for param in model.parameters() if param.requires_grad]
    gc.optimizer("adamw", trained, role=roles)
    with pytest.raises(gc.OptionError, match="not among"):
        gc.optimizer("adamw", trained[1:], role=roles)


def test_compiled_and_wrapped_models() -> None:
    model = Gpt()
    wrapped = nn.Module()
    wrapped.module = model
    compiled: Any = torch.compile(wrapped, backend="eager")
    assert found(compiled) == {f"_orig_mod.module.{name}": role for name, role in found(model).items()}


def test_roles_are_copied_with_their_model() -> None:
    model = Gpt()
    twin, roles = copy.deepcopy((model, from_model(model)))
    assert isinstance(roles, Roles)
    weight: Any = twin.wte.weight
    assert roles[weight] == "head"


def test_flat_parameters_are_refused() -> None:
    model = Gpt()
    model.wpe.weight.ds_id = 3  # type: ignore[assignment]
    with pytest.raises(gc.ParameterError, match=r"wpe.weight of shape \(16, 8\) is partitioned by DeepSpeed ZeRO"):
        from_model(model)


def test_the_roles_agree_with_hidden_matrices() -> None:
    """What has a role goes where a partition by hidden matrices sends it without one, but for what only the model tells."""
    for model in (Gpt(), Gpt(tied=False), Vit(), Resnet(), nn.Sequential(SparseMoe(), nn.Linear(8, 2))):
        for item in from_model(model).found:
            by_role = gc.hidden_matrices("", item.param, item.role)
            told = item.role == "head" or gc.hidden_matrices(item.name, item.param) == by_role
            assert told, item.name
