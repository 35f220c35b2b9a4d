"""Chains as dicts, JSON and TOML: every chain comes back equal, and nothing in a file is ever executed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gradchain
from gradchain import transforms as t
from gradchain._chain.chain import Chain
from tests.test_optimizer import RECIPES


class config_optional(gradchain.Stage):
    """A stage whose optional field is not `None` by default."""

    bound: float | None = gradchain.hyper(default=1.0, optional=True)
    limit: float = gradchain.hyper(default=math.inf)
    sizes: tuple[int, ...] = (1, 2)
    tag: str | None = "x"
    label: str = 'a "quoted"\tname\\ \u00e9 \U0001f600'

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> gradchain.Update:
        return update


CHAINS: dict[str, Callable[[], Chain]] = {
    **{name: lambda name=name: gradchain.recipe(name) for name in RECIPES},
    "rose-options": lambda: gradchain.recipe("rose", wd_schedule=0.1, compute_dtype=None, stabilize=False, seed=7),
    "rose-no-decay": lambda: gradchain.recipe("rose-1.0.2", weight_decay=None, bf16_sr=False, skip_singletons=True),
    "adams-options": lambda: gradchain.recipe("adams", hat_inside=True, independent_vector_decay=True, restart=True),
    "gyro-options": lambda: gradchain.recipe("gyro-adam", warmup_steps=3, theta_base=0.5, eps=1e-30),
    "renamed": lambda: gradchain.chain(t.sign(name="first"), t.sign(name="second"), t.scale_by_learning_rate(1)),
    "exposed": lambda: gradchain.recipe("adamw").replace("first_moment", t.first_moment(0.5).rename(beta="momentum")),
    "disagreeing": lambda: gradchain.recipe("gyro-adam").with_options(**{"divide.eps": 1e-3}),
    "storage": lambda: gradchain.recipe("adamw").with_options(**{"first_moment.storage": "bf16"}),
    "tensor": lambda: gradchain.recipe("adamw").with_options(lr=torch.tensor(0.25).item()),
    "empty": lambda: gradchain.chain(),
    "user's": lambda: gradchain.chain(config_optional(), config_optional(2.0, 3.0, (4,), "", name="other")),
    "user's static None": lambda: gradchain.chain(config_optional(label="plain", tag=None)),
    "user's none": lambda: gradchain.chain(config_optional(label="none", tag="none")),
    "user's None": lambda: gradchain.chain(config_optional(None, label="plain")),
    "nested": lambda: gradchain.chain(
        gradchain.partition(
            {
                "matrix": gradchain.partition(
                    {"matrix": t.sign(), "vector": t.centralize()}, gradchain.matrix_or_vector
                ),
                "vector": gradchain.chain(),
            },
            gradchain.matrix_or_vector,
        )
    ),
}


def through_file(chain: Chain, path: Path) -> Chain:
    path.write_text(chain.to_toml() if path.suffix == ".toml" else chain.to_json(), encoding="utf-8")
    return gradchain.Chain.from_config(path if path.suffix == ".json" else str(path))


@pytest.mark.parametrize("form", ["dict", "json", "toml", "text"])
@pytest.mark.parametrize("build", CHAINS.values(), ids=CHAINS)
def test_every_chain_comes_back_equal(build: Callable[[], Chain], form: str, tmp_path: Path) -> None:
    chain = build()
    if form == "dict":
        back = gradchain.Chain.from_config(chain.to_config())
    elif form == "text":
        back = gradchain.Chain.from_config(json.loads(json.dumps(chain.to_config())))
    else:
        back = through_file(chain, tmp_path / f"chain.{form}")
    assert back == chain
    assert hash(back) == hash(chain)
    assert str(back) == str(chain)
    assert back.hyperparameters == chain.hyperparameters
    assert back.to_config() == chain.to_config()


def test_a_config_holds_plain_values_only() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (str, int, float, bool, type(None))

    assert all(plain(build().to_config()) for build in CHAINS.values())


def test_what_a_file_leaves_out_takes_its_default(tmp_path: Path) -> None:
    path = tmp_path / "adamw.toml"
    path.write_text(
        """
        # AdamW, with its defaults left out
        [[stages]]
        stage = "first_moment"
        [[stages]]
        stage = "second_moment"
        beta = 0.95
        [[stages]]
        stage = "divide"
        eps = 1e-8
        [[stages]]
        stage = "decoupled_decay"
        [[stages]]
        stage = "scale_by_learning_rate"
        lr = 1
        """
    )
    expected = gradchain.recipe("adamw").with_options(betas=(0.9, 0.95), lr=1.0)
    assert gradchain.Chain.from_config(path) == expected


def test_a_partition_by_an_unregistered_label_cannot_be_written_but_runs() -> None:
    chain = gradchain.chain(gradchain.partition({"all": t.sign()}, lambda name, p: "all"))
    for write in (chain.to_config, chain.to_json, chain.to_toml):
        with pytest.raises(gradchain.ConfigError, match="label_function"):
            write()
    optimizer = gradchain.Optimizer([torch.ones(2)], chain)
    optimizer.load_state_dict(optimizer.state_dict())


# Bad files.

SIGN = {"stage": "sign"}

BAD_CONFIGS: list[tuple[Any, list[str]]] = [
    ({"stages": [{"stage": "sine"}]}, ["stages[0]", "'sine'", "'sign'"]),
    ({"stages": [SIGN, {"stage": "divide", "epsilon": 1}]}, ["stages[1]", "divide", "'epsilon'", "eps"]),
    ({"stages": [{"stage": "first_moment", "beta": 1.0}]}, ["stages[0]", "first_moment.beta", "1.0", "[0, 1)"]),
    ({"stages": [{"stage": "first_moment", "beta": "0.9"}]}, ["stages[0]", "first_moment.beta", "'0.9'"]),
    ({"stages": [{"stage": "first_moment", "beta": True}]}, ["stages[0]", "first_moment.beta", "True"]),
    ({"stages": [{"stage": "first_moment", "beta": [0.9]}]}, ["stages[0]", "first_moment.beta", "0.9"]),
    ({"stages": [{"stage": "first_moment", "bias_correction": 1}]}, ["stages[0]", "bias_correction", "True or False"]),
    ({"stages": [{"stage": "first_moment", "storage": {}}]}, ["stages[0]", "first_moment.storage"]),
    ({"stages": [{"stage": "first_moment", "self": 1}]}, ["stages[0]", "'self'"]),
    ({"stages": [{"stage": "first_moment", "name": 5}]}, ["stages[0]", "name", "5"]),
    ({"stages": [{"stage": "first_moment", "keys": [1]}]}, ["stages[0]", "keys"]),
    ({"stages": [{"stage": "first_moment", "keys": {"alpha": "x"}}]}, ["stages[0]", "'alpha'", "beta"]),
    ({"stages": [{"stage": "first_moment", "keys": {"beta": 5}}]}, ["stages[0]", "beta", "5"]),
    ({"stages": [{"stage": "first_moment", "keys": {"beta": ["x"]}}]}, ["stages[0]", "beta"]),
    ({"stages": [{"stage": "first_moment", 5: 1}]}, ["stages[0]", "5"]),
    ({"stages": [{"stage": 5}]}, ["stages[0]", "5"]),
    ({"stages": [{"stage": None}]}, ["stages[0]", "None"]),
    ({"stages": [{"stage": ["sign"]}]}, ["stages[0]", "sign"]),
    ({"stages": [{"stage": {"stage": "sign"}}]}, ["stages[0]", "sign"]),
    ({"stages": ["sign"]}, ["stages[0]", "'sign'"]),
    ({"stages": [{}]}, ["stages[0]", "'stage'"]),
    ({"stages": [{"stage": "sign", "partition": "matrix_or_vector"}]}, ["stages[0]"]),
    ({"stages": {"stage": "sign"}}, ["stages", "list"]),
    ({"stages": "sign"}, ["stages", "list"]),
    ({"stages": None}, ["stages", "list"]),
    ({"stages": [], "version": 2}, ["'version'"]),
    ({"stages": [], 3: 1, "a": 2}, ["3"]),
    ({"stages": [], "gradchain": 99}, ["99"]),
    ({"stages": [], "gradchain": "1"}, ["'1'"]),
    ({}, ["stages"]),
    ([], ["list"]),
    (None, ["NoneType"]),
    ({"stages": [{"partition": "by_moon", "branches": {"a": [SIGN]}}]}, ["stages[0]", "'by_moon'"]),
    ({"stages": [{"partition": ["x"], "branches": {"a": [SIGN]}}]}, ["stages[0]"]),
    ({"stages": [{"partition": "matrix_or_vector"}]}, ["stages[0]", "branches"]),
    ({"stages": [{"partition": "matrix_or_vector", "branches": {}}]}, ["branches"]),
    ({"stages": [{"partition": "matrix_or_vector", "branches": [1]}]}, ["stages[0]", "branches"]),
    (
        {"stages": [{"partition": "matrix_or_vector", "branches": {"matrix": {"stage": "sign"}}}]},
        ["stages[0]", "matrix"],
    ),
    ({"stages": [{"partition": "matrix_or_vector", "branches": {"matrix": []}, "label": 1}]}, ["'label'"]),
]


@pytest.mark.parametrize(("data", "words"), BAD_CONFIGS, ids=[str(data) for data, _ in BAD_CONFIGS])
def test_a_bad_config_is_explained(data: Any, words: list[str]) -> None:
    with pytest.raises((gradchain.ConfigError, gradchain.ChainError)) as info:
        gradchain.Chain.from_config(data)
    assert [word for word in words if word not in str(info.value)] == []


def test_an_unsound_chain_in_a_config_is_a_chain_error() -> None:
    with pytest.raises(gradchain.ChainError, match="cv_trust_gate needs a pending scale"):
        gradchain.Chain.from_config({"stages": [{"stage": "cv_trust_gate"}]})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chain.json", b"[[stages]]\nstage = 'sign'", ["not valid JSON", "chain.json"]),
        ("chain.toml", b'{"stages": []}', ["not valid TOML", "chain.toml"]),
        ("chain.toml", b"stages = [", ["not valid TOML"]),
        ("chain.json", b"", ["not valid JSON"]),
        ("chain.toml", b"", ["stages"]),
        ("chain.json", b"null", ["stages"]),
        ("chain.json", b"\xff\xfe\x00\x80", ["chain.json"]),
        ("chain.toml", b"\xff\xfe\x00\x80", ["chain.toml"]),
        ("chain.json", b"[" * 100_000, ["chain.json"]),
        ("chain.json", b'{"stages": [{"stage": "scale_by_learning_rate", "lr": NaN}]}', ["lr", "nan", "[0, inf)"]),
        ("chain.yaml", b"stages: []", [".json", ".toml"]),
        ("chain", b'{"stages": []}', [".json", ".toml"]),
        ("chain.toml", None, ["chain.toml", "No such file"]),
    ],
)
def test_a_bad_file_is_explained(name: str, content: bytes | None, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(gradchain.ConfigError) as info:
        gradchain.Chain.from_config(path)
    assert [word for word in words if word not in str(info.value)] == []


@pytest.mark.parametrize(
    "item",
    [
        {"stage": "os.system", "command": "touch {target}"},
        {"stage": "os.system", "args": ["touch {target}"]},
        {"stage": "__import__('os').system('touch {target}')"},
        {"stage": "__import__", "name": "os"},
        {"stage": "gradchain._chain.config.importlib"},
        {"stage": "Stage"},
        {"stage": "object"},
        {"stage": "subprocess.Popen", "args": ["touch", "{target}"], "shell": True},
        {"stage": "first_moment", "beta": "__import__('os').system('touch {target}')"},
        {"stage": "first_moment", "__class__": "os.system"},
        {"stage": "first_moment", "storage": "__import__('os').system('touch {target}')"},
        {"partition": "os.system", "branches": {"touch {target}": []}},
        {"partition": "lambda name, p: __import__('os').system('touch {target}')", "branches": {"0": []}},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["dict", "json"])
def test_a_hostile_config_is_rejected_and_executes_nothing(
    item: Any, form: str, tmp_path: Path, monkeypatch: Any
) -> None:
    target = tmp_path / "owned"
    text = json.dumps({"stages": [item]}).replace("{target}", str(target))
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"executed {command}"))
    (tmp_path / "chain.json").write_text(text)
    source = json.loads(text) if form == "dict" else tmp_path / "chain.json"
    with pytest.raises(gradchain.GradchainError, match=r"stages\[0\]"):
        gradchain.Chain.from_config(source)
    assert not target.exists()
