"""What is wrong with stages, chains, partitions, configs and registries is said when they are made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import nn

import gradchain
from gradchain import transforms as t
from gradchain._chain import recipes
from gradchain._core.fields import spec_of
from tests.bad_values import NO_NUMBERS, LongRepr, NoRepr, refused
from tests.laws.grammar import chains

LR = t.scale_by_learning_rate(0.1)
ADAMW = gradchain.recipe("adamw")
Row = tuple[Callable[[], Any], list[str]]


def table(rows: dict[str, Row]) -> Any:
    return pytest.mark.parametrize(("build", "words"), rows.values(), ids=rows.keys())


# Every field of every stage, every option of every recipe.

FIELDS = [
    (getattr(t, name), field)
    for name in t.__all__
    for field in getattr(t, name).fields()
    if field.init and not spec_of(field).follows
]


def built(cls: type[gradchain.Stage], **options: Any) -> gradchain.Stage:
    needed = {
        f.name: 0.5 for f in cls.fields() if f.init and f.default is dataclasses.MISSING and f.name not in options
    }
    return cls(**needed, **options)


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=[f"{cls.__name__}.{field.name}" for cls, field in FIELDS])
def test_no_field_of_a_stage_takes_nonsense(cls: type[gradchain.Stage], field: Any) -> None:
    for name, value in NO_NUMBERS.items():
        if (name == "true" and field.type == "bool") or (name == "dict" and field.name == "keys"):
            continue
        refused(lambda value=value: built(cls, **{field.name: value}), gradchain.OptionError, [field.name])


OPTIONS = [(name, option) for name in gradchain.recipes() for option in recipes.find_recipe(name).parameters]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name}.{option.name}" for name, option in OPTIONS])
def test_no_option_of_a_recipe_takes_nonsense(name: str, option: Any) -> None:
    for kind, value in NO_NUMBERS.items():
        if kind == "true" and "bool" in str(option.annotation):
            continue
        refused(
            lambda value=value: gradchain.recipe(name, **{option.name: value}), gradchain.OptionError, [option.name[:4]]
        )


anything = st.one_of(
    st.floats(), st.integers(), st.text(max_size=5), st.none(), st.booleans(), st.complex_numbers(), st.binary(max_size=3),
    st.lists(st.floats(), max_size=3), st.decimals(), st.fractions(), st.integers(min_value=2**70),
)  # fmt: skip


@hypothesis.given(st.sampled_from(FIELDS), anything)
@hypothesis.settings(max_examples=400)
def test_a_field_takes_any_value_or_says_why_not(field: Any, value: Any) -> None:
    cls, its = field
    try:
        stage = built(cls, **{its.name: value})
    except gradchain.GradchainError:
        return
    assert hash(stage) == hash(stage)
    assert built(cls, **{its.name: getattr(stage, its.name)}) == stage


@hypothesis.given(st.sampled_from(OPTIONS), anything)
@hypothesis.settings(max_examples=400)
def test_an_option_takes_any_value_or_says_why_not(option: Any, value: Any) -> None:
    name, its = option
    try:
        made = gradchain.recipe(name, **{its.name: value})
    except gradchain.GradchainError:
        return
    gradchain.Optimizer([nn.Parameter(torch.ones(2, 2))], made)


NAMES = ["a\nb", "a=b", "a.b", "a/b", "a b", "a,b", "a'b", "a\0b", "a#b", "\ud800", "a\u202eb", "x" * 1000, "😀"]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:12] for name in NAMES])
def test_names_are_words(name: str) -> None:
    refused(lambda: t.sign(name=name), gradchain.OptionError, ["sign.name"])
    refused(lambda: gradchain.partition({name: t.sign()}, gradchain.matrix_or_vector), gradchain.ChainError, ["branch"])
    refused(lambda: t.first_moment().rename(beta=name), gradchain.OptionError, ["beta", "'betas[0]'"])
    if name != "a.b":
        refused(lambda: gradchain.register_recipe(name, source="none"), gradchain.OptionError, ["register_recipe"])


@pytest.mark.parametrize("name", ["a", "a-b", "a_1", "größe", "3"])
def test_good_names_are_taken(name: str) -> None:
    assert t.sign(name=name).address == name
    gradchain.partition({name: t.sign()}, gradchain.matrix_or_vector)


STAGES: dict[str, Row] = {
    "no such field": (lambda: t.first_moment(keys=(("nope", "momentum"),)), ["first_moment", "'nope'", "beta"]),
    "a static field": (lambda: t.first_moment(keys=(("storage", "x"),)), ["'storage'"]),
    "no pairs": (lambda: t.first_moment(keys=("beta",)), ["pairs"]),
    "a number for a key": (lambda: t.first_moment(keys=(("beta", 3),)), ["3"]),
    "none for a key": (lambda: t.first_moment(keys=(("beta", None),)), ["None"]),
    "a field twice": (lambda: t.first_moment(keys=(("beta", "a"), ("beta", "b"))), ["twice"]),
    "unknown keyword": (lambda: t.divide(esp=1.0), ["'esp'", "eps"]),
    "unknown long keyword": (lambda: t.divide(**{"x" * 10**5: 1}), ["divide"]),
    "nearest choice": (lambda: t.first_moment(storage="fp23"), ["'fp23'", "Did you mean 'fp32'"]),
    "nesterov alone": (lambda: t.heavy_ball(0.0, nesterov=True), ["nesterov", "momentum"]),
    "dampening alone": (lambda: t.heavy_ball(0.0, 0.5), ["dampening", "momentum"]),
    "nesterov alone, sgd": (lambda: gradchain.recipe("sgd", nesterov=True), ["nesterov", "momentum"]),
    "dampening alone, sgd": (lambda: gradchain.recipe("sgd", dampening=0.5), ["dampening", "momentum"]),
    "odd bound": (lambda: gradchain.hyper(default=0.5, ge="0"), ["ge='0'"]),
    "two bounds": (lambda: gradchain.hyper(default=0.5, ge=0, gt=0), ["one of ge and gt"]),
    "bounds exchanged": (lambda: gradchain.hyper(default=0.5, ge=1, le=0), ["Exchange"]),
    "odd key": (lambda: gradchain.hyper(default=0.5, key="a b"), ["'a b'"]),
    "odd choices": (lambda: gradchain.static(default="x", choices=3), ["choices=3"]),
    "default no choice": (
        lambda: made(__annotations__={"b": "str"}, b=gradchain.static(default="x", choices=("a",)))(),
        ["'x'"],
    ),
    "no annotation": (lambda: made(beta=gradchain.hyper(default=0.5)), ["Annotate"]),
    "odd scale": (lambda: made(scale="banana"), ["scale", "'resolved'"]),
    "names as text": (lambda: made(reads="exp_avg"), ["reads", "tuple"]),
    "names in a list": (lambda: made(reads=["exp_avg"]), ["reads", "earlier"]),
    "no function": (lambda: gradchain.stateless(3), ["@gradchain.stateless"]),
    "a builtin": (lambda: gradchain.stateless(torch.sign), ["def or lambda"]),
    "a class": (lambda: gradchain.stateless(nn.ReLU), ["def or lambda"]),
    "two directions": (lambda: gradchain.stateless(lambda a, b: a), ["`*`"]),
    "returns a number": (lambda: stepped(lambda value: 3), ["an int"]),
    "returns none": (lambda: stepped(lambda value: None), ["None"]),
    "returns an array": (lambda: stepped(lambda value: value.numpy()), ["numpy"]),
    "returns integers": (lambda: stepped(lambda value: value.long()), ["torch.int64"]),
    "returns complex": (lambda: stepped(lambda value: value * 1j), ["complex"]),
    "returns a sum": (lambda: stepped(lambda value: value.sum()), ["shape"]),
}  # fmt: skip


def made(**namespace: Any) -> type[gradchain.Stage]:
    return type("odd", (gradchain.Stage,), namespace)


def stepped(function: Callable[..., Any]) -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = gradchain.Optimizer([param], gradchain.chain(gradchain.stateless(function)(name="mine"), LR))
    param.grad = torch.ones(2)
    optimizer.step()


@table(STAGES)
def test_a_wrong_stage_is_explained(build: Callable[[], Any], words: list[str]) -> None:
    refused(build, gradchain.GradchainError, words)


# Chains.

NO_STAGES: dict[str, Any] = {
    "text": "adamw", "number": 3, "true": True, "tensor": torch.ones(1000), "function": lambda value: value, "class": int,
    "dict": {"stage": "sign"}, "generator": (s for s in [t.sign()]), "module": nn.Linear(100, 100), "set": {t.sign()},
    "recipe": gradchain.recipes.adamw, "no repr": NoRepr(), "long repr": LongRepr(), "array": np.ones(1000),
    "base": gradchain.Stage, "nested": [[["x" * 10**5]]],
}  # fmt: skip


@pytest.mark.parametrize("item", NO_STAGES.values(), ids=NO_STAGES)
def test_only_stages_make_a_chain(item: Any) -> None:
    for build in (
        lambda: gradchain.chain(item, LR),
        lambda: ADAMW.replace("divide", item),
        lambda: ADAMW.insert_before("divide", item),
        lambda: ADAMW.insert_after("divide", item),
        lambda: gradchain.partition({"a": item}, gradchain.matrix_or_vector),
        lambda: gradchain.Chain((item,)),
        lambda: gradchain.Chain(item),
    ):
        refused(build, gradchain.ChainError)


NO_NAMES: dict[str, Any] = {
    "number": 3, "none": None, "unknown": "nope", "list": ["divide"], "stage": t.divide(), "class": t.divide, "empty": "",
    "tensor": torch.ones(1000), "long": "x" * 10**5, "bytes": b"divide", "dict": {},
}  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES)
def test_only_names_find_a_stage(name: Any) -> None:
    for build in (
        lambda: ADAMW.without(name),
        lambda: ADAMW.dependents(name),
        lambda: ADAMW[name],
        lambda: ADAMW.replace(name, t.divide()),
        lambda: ADAMW.insert_after(name, t.sign()),
    ):
        refused(build, gradchain.UnknownOptionError, ["stage"])


def nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = gradchain.partition({"a": leaf}, gradchain.matrix_or_vector)
    return leaf


def listed(depth: int) -> Any:
    leaf: Any = t.sign()
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def endless() -> Any:
    stages: list[Any] = [t.sign()]
    stages.append(stages)
    return stages


CHAINS: dict[str, Row] = {
    "unknown option": (lambda: ADAMW.with_options(weigth_decay=0.1), ["'weight_decay'"]),
    "long option": (lambda: ADAMW.with_options(**{"x" * 10**5: 1}), ["no option"]),
    "no stage before the dot": (lambda: ADAMW.with_options(**{".eps": 1}), ["stage"]),
    "no field after the dot": (lambda: ADAMW.with_options(**{"divide.": 1}), ["divide"]),
    "another stage's number": (lambda: ADAMW.with_options(**{"decoupled_decay.lr": 1}), ["no option"]),
    "three betas": (lambda: ADAMW.with_options(betas=(0.1, 0.2, 0.3)), ["betas", "3 entries", "2"]),
    "900 partitions": (lambda: gradchain.chain(nested(900, t.sign()), LR), ["nested"]),
    "5000 lists": (lambda: gradchain.chain(listed(5000)), ["nested"]),
    "a list in itself": (lambda: gradchain.chain(endless()), ["nested"]),
    "branches none": (lambda: gradchain.partition(None, gradchain.matrix_or_vector), ["dict"]),
    "branches a list": (lambda: gradchain.partition([1], gradchain.matrix_or_vector), ["dict"]),
    "no branch": (lambda: gradchain.partition({}, gradchain.matrix_or_vector), ["dict"]),
    "a branch none": (lambda: gradchain.partition({"a": None}, gradchain.matrix_or_vector), ["'a'", "[]"]),
    "a number as branch": (lambda: gradchain.partition({3: t.sign()}, gradchain.matrix_or_vector), ["3"]),
    "label none": (lambda: gradchain.partition({"a": t.sign()}, None), ["None", "function"]),
    "label unknown": (lambda: gradchain.partition({"a": t.sign()}, "matrix_or_vectro"), ["'matrix_or_vector'"]),
    "label a class": (lambda: gradchain.partition({"a": t.sign()}, int), ["function"]),
    "label a module": (lambda: gradchain.partition({"a": t.sign()}, nn.Linear(99, 99)), ["function"]),
    "a raw partition": (lambda: gradchain.Partition((), None), ["partition("]),
    "registered number": (lambda: gradchain.label_function(3), ["label_function", "3"]),
    "registered lambda": (lambda: gradchain.label_function(lambda n, p: "a"), ["def"]),
    "label raises": (lambda: labelled(lambda n, p: 1 / 0), ["'<lambda>'", "parameter w", "ZeroDivisionError"]),
    "label of one argument": (lambda: labelled(lambda n: "a"), ["name and the parameter"]),
    "label a number": (lambda: labelled(lambda n, p: 3), ["3", "parameter w"]),
    "label a tensor": (lambda: labelled(lambda n, p: torch.ones(1000)), ["shape (1000,)"]),
    "label no branch": (lambda: labelled(lambda n, p: "aa"), ["'aa'", "a, b"]),
    "recipe a number": (lambda: gradchain.recipe(3), ["3"]),
    "recipe a tensor": (lambda: gradchain.recipe(torch.ones(1000)), ["shape (1000,)"]),
    "recipe long": (lambda: gradchain.recipe("x" * 10**5), ["Known"]),
    "recipe in capitals": (lambda: gradchain.recipe("AdamW"), ["unknown recipe 'AdamW'"]),
    "recipe no function": (lambda: gradchain.register_recipe("odd", source="none")(3), ["3", "function"]),
    "source no text": (lambda: gradchain.register_recipe("odd", source=3), ["source=3"]),
    "inert no dict": (lambda: gradchain.register_recipe("odd", source="none", inert=["lr"]), ["inert"]),
    "needs a number": (lambda: gradchain.register_recipe("odd", source="none", needs={"lr": 3}), ["needs"]),
}  # fmt: skip


def labelled(label: Any) -> Any:
    routed = gradchain.partition({"a": t.sign(), "b": t.sign()}, label)
    return gradchain.Optimizer([("w", nn.Parameter(torch.ones(2)))], gradchain.chain(routed, LR))


@table(CHAINS)
def test_a_wrong_chain_is_explained(build: Callable[[], Any], words: list[str]) -> None:
    refused(build, gradchain.GradchainError, words)


@pytest.mark.parametrize("returned", [3, None, [t.sign()]], ids=str)
def test_a_recipe_returns_a_chain(returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_recipes", dict(recipes._recipes))
    gradchain.register_recipe("odd", source="none")(lambda: returned)
    refused(lambda: gradchain.recipe("odd"), gradchain.ChainError, ["'odd'", "chain"])


def test_partitions_nest_as_deep_as_anyone_needs() -> None:
    deep = gradchain.chain(nested(20, t.sign()), LR)
    assert gradchain.Chain.from_config(json.loads(deep.to_json())) == deep


# Configs.


def config(depth: int) -> Any:
    stages: list[Any] = [{"stage": "sign"}]
    for _ in range(depth):
        stages = [{"partition": "matrix_or_vector", "branches": {"a": stages}}]
    return {"stages": stages}


def one(**entry: Any) -> Any:
    return {"stages": [entry]}


CONFIGS: dict[str, tuple[Any, list[str]]] = {
    "none": (None, ["table"]),
    "bytes": (b"x.toml", ["bytes"]),
    "stages none": ({"stages": None}, ["list"]),
    "stages text": ({"stages": "sign"}, ["list"]),
    "stages bytes": ({"stages": b"sign"}, ["list"]),
    "format true": ({"gradchain": True, "stages": []}, ["True"]),
    "format text": ({"gradchain": "1", "stages": []}, ["'1'"]),
    "format list": ({"gradchain": [1], "stages": []}, ["[1]"]),
    "an entry more": ({"stages": [], "x" * 10**5: 1}, ["unknown entry"]),
    "long item": ({"stages": [["x"] * 10**5]}, ["stages[0]"]),
    "unknown": (one(stage="x" * 10**5), ["unknown stage"]),
    "number for a stage": (one(stage=3), ["stages[0]"]),
    "field": (one(stage="divide", esp=4), ["'esp'"]),
    "value": (one(stage="divide", eps="x"), ["divide.eps"]),
    "long value": (one(stage="divide", eps="x" * 10**5), ["divide.eps"]),
    "large value": (one(stage="divide", eps=10**400), ["divide.eps", "401 digits"]),
    "tensor": (one(stage="divide", eps=torch.ones(1000)), ["divide.eps"]),
    "table": (one(stage="divide", eps={"a": 1}), ["divide.eps"]),
    "name": (one(stage="sign", name="a\nb"), ["sign.name"]),
    "keys": (one(stage="first_moment", keys={"nope": "x"}), ["'nope'"]),
    "number in keys": (one(stage="first_moment", keys={3: "x"}), ["3"]),
    "branch": (one(partition="matrix_or_vector", branches={"a/b": []}), ["'a/b'"]),
    "no branch": (one(partition="matrix_or_vector", branches={}), ["stages[0]"]),
    "label": (one(partition="matrix_or_vectro", branches={"a": []}), ["'matrix_or_vector'"]),
    **{f"{depth} partitions": (config(depth), ["nested"]) for depth in (30, 200, 330, 900, 5000)},
}


@pytest.mark.parametrize(("source", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_wrong_config_is_explained(source: Any, words: list[str]) -> None:
    refused(lambda: gradchain.Chain.from_config(source), gradchain.ConfigError, words)


FILES: dict[str, bytes] = {
    "binary.toml": b"\xff\xfe\0", "binary.json": b"\xff\xfe", "empty.json": b"", "empty.toml": b"", "list.json": b"[]",
    "long.json": b'{"stages":[{"stage":"divide","eps":1' + b"0" * 5000 + b"}]}",
    "long.toml": b'[[stages]]\nstage="divide"\neps=1' + b"0" * 5000, "deep.json": b"[" * 100_000,
    "deep.toml": b"a=" + b"[" * 100_000, "nan.json": b'{"stages":[{"stage":"divide","eps":NaN}]}',
    "inf.json": b'{"stages":[{"stage":"divide","eps":1e999}]}', "date.toml": b'[[stages]]\nstage="divide"\neps=1979-05-27',
    "cut.json": b'{"stages":', "other.yaml": b"", "none": b"",
    "nested.json": json.dumps(config(150)).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_explained(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    refused(lambda: gradchain.Chain.from_config(tmp_path / name), gradchain.ConfigError)


@pytest.mark.parametrize(
    "name", ["absent.toml", "folder.toml", "a\0b.toml", "x" * 5000 + ".toml"], ids=lambda n: ascii(n)[:12]
)
def test_a_path_to_nothing_is_explained(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    refused(lambda: gradchain.Chain.from_config(tmp_path / name), gradchain.ConfigError, ["cannot be read"])


# What is printed can be read back.


def read(text: str) -> Any:
    namespace: dict[str, Any] = {}
    exec("from gradchain import *", namespace)
    return eval(text, namespace)


@pytest.mark.parametrize("name", gradchain.recipes())
def test_a_printed_recipe_evaluates(name: str) -> None:
    assert read(repr(gradchain.recipe(name))) == gradchain.recipe(name)


def test_printed_numbers_are_plain() -> None:
    chain = gradchain.chain(t.first_moment(np.float32(0.5)).rename(beta="x"), t.scale_by_learning_rate(np.float64(0.1)))
    routed = gradchain.chain(gradchain.partition({"matrix": [chain], "vector": [LR]}, gradchain.matrix_or_vector))
    assert read(repr(routed)) == routed
    assert "np." not in repr(routed)


@hypothesis.given(chains)
@hypothesis.settings(max_examples=60, suppress_health_check=list(hypothesis.HealthCheck))
def test_a_printed_chain_evaluates(chain: gradchain.Chain) -> None:
    assert read(repr(chain)) == chain
