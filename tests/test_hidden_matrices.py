"""Which parameters a partition takes for hidden matrices: by role, by shape, by name; and refuses, if nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import gradchain as gc
from gradchain import hidden_matrices
from gradchain.roles import PLACES, ROLES, from_model

ROUTED = gc.chain(
    gc.partition({"matrix": gc.sign(), "other": gc.centralize()}, hidden_matrices), gc.scale_by_learning_rate(0.1)
)


def label(name: str, *shape: int, role: str | None = None) -> str:
    return hidden_matrices(name, torch.empty(shape, device="meta"), role)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", (8, 4), "matrix"),
        ("transformer.h.3.attn.c_attn.weight", (4, 12), "matrix"),
        ("layer1.0.conv1.weight", (8, 4, 3, 3), "matrix"),
        ("stem.weight", (8, 1, 3), "matrix"),
        ("experts.up", (3, 8, 4), "matrix"),
        ("", (8, 4), "matrix"),
        ("layers.0.attn.head.weight", (8, 4), "matrix"),
        ("model.norm.weight", (8,), "other"),
        ("logit_scale", (), "other"),
        ("empty.weight", (0, 4), "other"),
        ("gate.weight", (1, 4), "other"),
        ("squeeze.weight", (4, 1, 1, 1), "other"),
        ("model.embed_tokens.weight", (9, 4), "other"),
        ("transformer.wte.weight", (9, 4), "other"),
        ("transformer.wpe.weight", (9, 4), "other"),
        ("tok_embeddings.weight", (9, 4), "other"),
        ("pos_embed", (1, 9, 4), "other"),
        ("cls_token", (1, 2, 4), "other"),
        ("patch_embed.proj.weight", (8, 3, 2, 2), "other"),
        ("lm_head.weight", (9, 4), "other"),
        ("_orig_mod.module.lm_head.weight", (9, 4), "other"),
        ("classifier.1.weight", (9, 4), "other"),
        ("experts.gate_up_proj_bias", (3, 8), "other"),
    ],
)
def test_by_shape_and_name(name: str, shape: tuple[int, ...], expected: str) -> None:
    assert label(name, *shape) == expected


MATRICES = {"matrix", "qkv", "qkv_columns", "experts", "convolution", "lora_A", "lora_B"}


@pytest.mark.parametrize("role", [*ROLES, *PLACES])
def test_a_role_decides_before_the_name(role: str) -> None:
    for name in ("wte.weight", "fc.weight"):
        assert label(name, 6, 4, role=role) == ("matrix" if role in MATRICES else "other")
    assert label("fc.weight", 6, role=role) == "other"


def test_a_role_of_your_own_says_nothing() -> None:
    assert label("wte.weight", 6, 4, role="block 3") == "other"
    assert label("fc.weight", 6, 4, role="block 3") == "matrix"


def test_experts_are_as_wide_as_each_of_them() -> None:
    assert label("experts.gain", 8, 1, 4, role="experts") == "other"
    assert label("experts.up", 1, 8, 4, role="experts") == "matrix"


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 6)
        self.lm_head = nn.Linear(6, 9, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.fc(self.norm(self.wte(x))))


def taken(optimizer: gc.Optimizer) -> dict[str, str]:
    """The branch of each parameter, by its routing table."""
    table, stages = optimizer.routing_table().split("\n\n")
    routes = {line.split(":")[0].split()[1]: line.split(": ")[1].split("/")[0] for line in stages.splitlines()}
    rows = [line.split() for line in table.splitlines()[2:-1]]
    return {row[0]: routes[row[-2]] for row in rows}


def test_in_a_partition() -> None:
    assert taken(gc.Optimizer(Tiny(), ROUTED)) == {
        "wte.weight": "other",
        "norm.weight": "other",
        "norm.bias": "other",
        "fc.weight": "matrix",
        "fc.bias": "other",
        "lm_head.weight": "other",
    }


def test_roles_reach_it() -> None:
    roles = {"wte.weight": "matrix", "fc.weight": "embedding", "lm_head.weight": "qkv"}
    routed = taken(gc.Optimizer(Tiny(), ROUTED, role=roles))
    assert {name: routed[name] for name in roles} == {
        "wte.weight": "matrix",
        "fc.weight": "other",
        "lm_head.weight": "matrix",
    }


def test_any_label_function_may_take_the_role() -> None:
    def by_role(name: str, param: torch.Tensor, role: str | None = None) -> str:
        return "matrix" if role == "mine" else "other"

    routed = gc.chain(gc.partition({"matrix": gc.sign(), "other": []}, by_role), gc.scale_by_learning_rate(0.1))
    optimizer = gc.Optimizer(nn.Linear(2, 2), routed, role={"weight": "mine"})
    assert taken(optimizer)["weight"] == "matrix"


def test_it_is_saved_by_its_name() -> None:
    assert gc.Chain.from_config(ROUTED.to_config()) == ROUTED


# Flat parameters.


@pytest.mark.parametrize("mark", ["ds_id", "ds_shape", "ds_numel", "_fsdp_flattened", "_is_flat_param"])
def test_a_parameter_that_hides_its_matrix_is_refused(mark: str) -> None:
    param = nn.Parameter(torch.zeros(24))
    setattr(param, mark, 24)
    with pytest.raises(gc.ParameterError, match=r"flat\.weight of shape \(24,\) is (flattened|partitioned) by"):
        gc.Optimizer([("flat.weight", param)], ROUTED)
    gc.Optimizer([("flat.weight", param)], ROUTED, role="vector")  # who says so, knows
    gc.Optimizer([("flat.weight", param)], gc.recipe("adamw"))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore:FSDP:UserWarning", "ignore::FutureWarning", "ignore:.*NO_SHARD.*")
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fsdp1_is_refused(use_orig_params: bool) -> None:
    wrapped: Any = FullyShardedDataParallel(Tiny(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    with pytest.raises(gc.ParameterError, match=r"flattened by FSDP1 .*fully_shard \(FSDP2\)"):
        gc.Optimizer(wrapped, ROUTED)


@pytest.mark.usefixtures("one_process")
def test_fsdp2_shows_the_shapes() -> None:
    model, plain = Tiny(), taken(gc.Optimizer(Tiny(), ROUTED))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    assert taken(gc.Optimizer(model, ROUTED)) == plain
    assert from_model(model).by_name == from_model(Tiny()).by_name
