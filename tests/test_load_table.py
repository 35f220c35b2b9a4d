"""What a state dict, a pickle or a hand can put into an optimizer: all of it fits, or an error says what does not."""

from __future__ import annotations

import fractions
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradchain as gc
from tests.loading import (
    AVG,
    CHAINS,
    GROUP,
    SHAPES,
    SLOT,
    STEP,
    Spoil,
    also,
    assert_goes_on,
    assert_steps_alike,
    assert_untouched,
    at,
    everything,
    keyed,
    made,
    spoilt,
    trained,
    without,
)  # fmt: skip
from tests.test_optimizer import assert_same, train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and still in old checkpoints
    QUANTIZED = torch.quantize_per_tensor(torch.zeros(4, 3), 0.1, 0, torch.qint8)
    QUANTIZED_STEP = torch.quantize_per_tensor(torch.ones(()), 1.0, 0, torch.qint8)
DEEP: Any = []
for _ in range(5000):
    DEEP = [DEEP]
NESTED: Any = {"gradchain": 1, "stages": []}
for _ in range(5000):
    NESTED = {"gradchain": 1, "stages": [{"partition": "matrix_or_vector", "branches": {"a": NESTED["stages"]}}]}

STRUCTURAL: dict[str, tuple[Spoil, list[str]]] = {
    "None": (lambda saved: None, ["is a dict, not None"]),
    "a list of its items": (lambda saved: list(saved.items()), ["list"]),
    "a string": (lambda saved: "state", ["str"]),
    "no state": (without("state"), ["no state"]),
    "no groups": (without("param_groups"), ["no param_groups"]),
    "state None": (also(state=None), ["'state'", "None"]),
    "state a list": (also(state=[{}, {}, {}, {}]), ["'state'", "list"]),
    "groups None": (also(param_groups=None), ["'param_groups'", "None"]),
    "groups a dict": (also(param_groups={}), ["'param_groups'", "dict"]),
    "groups a string": (also(param_groups="ab"), ["'param_groups'", "a str"]),
    "groups a number": (also(param_groups=2), ["'param_groups'", "an int"]),
    "groups of None": (also(param_groups=[None, None]), ["group 0", "None"]),
    "groups of lists": (also(param_groups=[[0, 1], [2, 3]]), ["group 0", "list"]),
    "no groups at all": (also(param_groups=[]), ["[2, 2]"]),
    "a group too many": (lambda saved: {**saved, "param_groups": [*saved["param_groups"], {"params": []}]}, ["groups of"]),
    "a group too few": (lambda saved: {**saved, "param_groups": saved["param_groups"][:1]}, ["[2]", "[2, 2]"]),
    "a group without params": (without(*GROUP, "params"), ["group 0", "'params'"]),
    "params None": (at(*GROUP, "params", to=None), ["group 0", "'params'", "None"]),
    "params a number": (at(*GROUP, "params", to=2), ["'params'", "an int"]),
    "params a string": (at(*GROUP, "params", to="01"), ["'params'", "a str"]),
    "params a dict": (at(*GROUP, "params", to={0: 0, 1: 1}), ["'params'", "dict"]),
    "params a tensor": (at(*GROUP, "params", to=torch.arange(2)), ["'params'", "a Tensor"]),
    "params of floats": (at(*GROUP, "params", to=[0.0, 1.0]), ["group 0", "0.0"]),
    "params of bools": (at(*GROUP, "params", to=[False, True]), ["group 0", "False"]),
    "params of None": (at(*GROUP, "params", to=[None, None]), ["group 0", "None"]),
    "params of lists": (at(*GROUP, "params", to=[[0], [1]]), ["group 0", "list"]),
    "params of tensors": (at(*GROUP, "params", to=[torch.zeros(3), torch.ones(3)]), ["group 0", "shape (3,)"]),
    "an index too many in a group": (at(*GROUP, "params", to=[0, 1, 4]), ["group 0", "3 names"]),
    "an index too few in a group": (at(*GROUP, "params", to=[0]), ["group 0", "1 names"]),
    "an index twice": (at(*GROUP, "params", to=[1, 1]), ["parameter 1"]),
    "an index in two groups": (at("param_groups", 1, "params", to=[0, 3]), ["groups 0 and 1", "parameter 0"]),
    "with_state a number": (also(with_state=3), ["with_state"]),
    "with_state of tensors": (also(with_state=[torch.ones(2)]), ["with_state"]),
    "with_state nested": (also(with_state=[[0]]), ["with_state"]),
    "a group entry None": (at(*GROUP, to=lambda x: {**x, None: 1}), ["group 0", "None"]),
    "a group entry 3": (at(*GROUP, to=lambda x: {**x, 3: 1}), ["group 0", "3"]),
    "names text": (at(*GROUP, "param_names", to="ab"), ["group 0", "param_names"]),
    "names too few": (at(*GROUP, "param_names", to=["weight"]), ["group 0", "param_names"]),
    "names twice": (at(*GROUP, "param_names", to=["weight", "weight"]), ["group 0", "param_names"]),
    "names of numbers": (at(*GROUP, "param_names", to=[0, 1]), ["group 0", "param_names"]),
    "names of lists": (at(*GROUP, "param_names", to=[["weight"], ["bias"]]), ["group 0", "param_names"]),
    "another name": (at(*GROUP, "param_names", to=["kernel", "bias"]), ["'weight'", "'kernel'"]),
    "a name of another group": (
        lambda saved: at("param_groups", 1, "param_names", to=["bias", "scale"])(
            at(*GROUP, "param_names", to=["weight", "head"])(saved)
        ), ["'bias'", "'head'"],
    ),
}  # fmt: skip
"""Wrong whatever `strict` says: without them nothing can be placed."""

LOCAL: dict[str, tuple[Spoil, list[str]]] = {
    # keys
    "string indices": (keyed(str), ["'0'", "which no group lists", "JSON"]),
    "float indices": (keyed(lambda key: key + 0.5), ["0.5", "which no group lists"]),
    "tuple indices": (keyed(lambda key: (key,)), ["which no group lists"]),
    "names for indices": (keyed(lambda key: list(SHAPES)[key]), ["'weight'", "which no group lists"]),
    "shifted indices": (keyed(lambda key: key + 1), ["parameter 4"]),
    "an index too many": (lambda saved: {**saved, "state": {**saved["state"], 4: saved["state"][3]}}, ["parameter 4"]),
    "a state of nobody": (lambda saved: {**saved, "state": {**saved["state"], None: {}}}, ["parameter None"]),
    "other indices in a group": (at(*GROUP, "params", to=[7, 8]), ["parameter 0"]),
    "string indices in a group": (at(*GROUP, "params", to=["0", "1"]), ["parameter 0"]),
    "a top-level number": (lambda saved: {**saved, 3: 1}, ["entry 3"]),
    "a top-level None": (lambda saved: {**saved, None: 1}, ["entry None"]),
    # states
    "a state of None": (at("state", 1, to=None), ["bias", "None"]),
    "a state that is a list": (at("state", 1, to=[1.0]), ["bias", "list"]),
    "a state that is a tensor": (at("state", 1, to=torch.ones(3)), ["bias", "a Tensor"]),
    "a state that is an array": (at("state", 1, to=np.ones(3)), ["bias", "ndarray"]),
    "a state that is a string": (at("state", 1, to="step"), ["bias", "a str"]),
    "no state of a parameter": (without("state", 1), ["state of bias was saved"]),
    "an empty state": (at("state", 1, to={}), ["state of bias was saved"]),
    "no states": (also(state={}), ["state of weight was saved", "state of scale was saved"]),
    "a slot without a name": (at("state", 0, to=lambda state: {**state, 3: torch.ones(3)}), ["weight", "3"]),
    "a slot too many": (at("state", 0, to=lambda state: {**state, "ema.fast": torch.ones(3)}), ["weight: ema.fast"]),
    "with_state of nobody": (also(with_state=[0, 1, 2, 3, 9]), ["9", "was saved"]),
    # steps
    "no step": (without(*STEP), ["state of weight has no 'step'"]),
    **{
        f"step {name}": (at(*STEP, to=value), ["'step' of weight", str(2**53)])
        for name, value in {
            "None": None, "negative": -1, "fractional": torch.tensor(2.5), "nan": torch.tensor(float("nan")),
            "inf": float("inf"), "minus inf": float("-inf"), "true": True, "a bool tensor": torch.tensor(True),
            "text": "3", "two": torch.tensor([3.0, 3.0]), "none at all": torch.empty(0), "complex": torch.tensor(3 + 0j),
            "a complex number": 3j, "too large": 2**53 + 2, "huge": 10**400, "endless": 10**6000, "a list": [3],
            "a dict": {}, "meta": torch.zeros((), device="meta"), "sparse": torch.ones(1).to_sparse(),
            "a half": fractions.Fraction(1, 2), "quantized": QUANTIZED_STEP,
        }.items()
    },
    # slots
    "a slot of None": (at(*SLOT, to=None), [AVG, "None"]),
    "a slot missing": (without(*SLOT), ["reset", f"weight: {AVG}"]),
    "a slot as a list": (at(*SLOT, to=lambda x: x.tolist()), [AVG, "list"]),
    "a slot as an array": (at(*SLOT, to=lambda x: x.numpy()), [AVG, "ndarray"]),
    "a slot as a number": (at(*SLOT, to=1.0), [AVG, "a float"]),
    "a slot as text": (at(*SLOT, to="x" * 10000), [AVG, "a str"]),
    "a slot of another shape": (at(*SLOT, to=torch.zeros(3, 4)), [AVG, "(3, 4)", "(4, 3)"]),
    "a flat slot": (at(*SLOT, to=torch.zeros(12)), [AVG, "(12,)", "(4, 3)"]),
    "a slot of one element": (at(*SLOT, to=torch.zeros(())), [AVG, "()", "(4, 3)"]),
    "a slot of integers": (at(*SLOT, to=lambda x: x.int()), [AVG, "int32", "float32"]),
    "a slot of bools": (at(*SLOT, to=lambda x: x > 0), [AVG, "bool", "float32"]),
    "a slot of codes": (at(*SLOT, to=lambda x: x.to(torch.float8_e4m3fn)), [AVG, "float8", "float32"]),
    "a slot in double": (at(*SLOT, to=lambda x: x.double()), [AVG, "torch.float64", "torch.float32"]),
    "a slot in half": (at(*SLOT, to=lambda x: x.half()), [AVG, "torch.float16", "torch.float32"]),
    "a complex slot": (at(*SLOT, to=lambda x: x + 0j), [AVG, "complex"]),
    "a sparse slot": (at(*SLOT, to=lambda x: x.to_sparse()), [AVG, "sparse"]),
    "a quantized slot": (at(*SLOT, to=QUANTIZED), [AVG, "qint8"]),
    "a slot on meta": (at(*SLOT, to=lambda x: x.to("meta")), [AVG, "meta"]),
    "a nested slot": (at(*SLOT, to=lambda x: torch.nested.as_nested_tensor([x, x[:2]], layout=torch.jagged)), [AVG]),
    # chains
    "chain None": (also(chain=None), ["'chain'", "None"]),
    "chain a list": (also(chain=[]), ["'chain'"]),
    "chain a string": (also(chain="adamw"), ["'chain'", "'adamw'"]),
    "chain empty": (also(chain={}), ["'chain'", "stages is None"]),
    "chain of another version": (at("chain", "gradchain", to=99), ["'chain'", "format 1"]),
    "chain of a version array": (at("chain", "gradchain", to=np.ones(3)), ["'chain'"]),
    "chain of a version tensor": (at("chain", "gradchain", to=torch.ones(3)), ["'chain'"]),
    "chain without stages": (without("chain", "stages"), ["'chain'", "stages is None"]),
    "chain with a number of stages": (at("chain", "stages", to=3), ["'chain'", "stages is 3"]),
    "chain with stages by name": (at("chain", "stages", to=["adamw"]), ["'chain'", "'adamw'"]),
    "chain with a nameless stage": (at("chain", "stages", 0, to={}), ["'chain'", "stage is None"]),
    "chain with a stage of lists": (at("chain", "stages", 0, "stage", to=[]), ["'chain'"]),
    "chain with a stage named 3": (at("chain", "stages", 0, "name", to=3), ["'chain'", "3"]),
    "chain with a key 3": (at("chain", "stages", 0, to=lambda x: {**x, 3: 3}), ["'chain'", "strings as keys"]),
    "chain with a stage twice": (at("chain", "stages", to=lambda x: [*x, x[0]]), ["first_moment", "twice"]),
    "chain with a stage less": (at("chain", "stages", to=lambda x: x[1:]), ["stage first_moment of this chain"]),
    "chain with a stage more": (at("chain", "stages", to=lambda x: [*x, {"stage": "sign"}]), ["stage sign"]),
    "chain with an unknown stage": (at("chain", "stages", 0, "stage", to="nope"), ["nope"]),
    "chain with a tensor": (at("chain", "stages", 0, "storage", to=torch.ones(3)), ["storage", "shape (3,)"]),
    "chain with an array": (at("chain", "stages", 0, "storage", to=np.ones(3)), ["storage", "ndarray"]),
    "chain with other storage": (at("chain", "stages", 0, "storage", to="int8"), ["storage", "'int8'"]),
    "chain with a deep list": (at("chain", "stages", 0, "storage", to=DEEP), ["storage", "list"]),
    "chain with branches None": (at("chain", "stages", 0, to={"partition": "x"}), ["branches", "None"]),
    "chain with branches of None": (
        at("chain", "stages", 0, to={"partition": "x", "branches": {1: None}}), ["stages is None"]
    ),
    "chain nested deeply": (also(chain=NESTED), ["first_moment"]),
    "chain of many": (at("chain", "stages", to=[{"stage": f"s{n}"} for n in range(20000)]), ["stage s0", "more"]),
    # groups
    **{
        f"lr {name}": (at(*GROUP, "lr", to=lambda _, value=value: value), ["group 0", "lr"])
        for name, value in {
            "negative": -1.0, "nan": float("nan"), "inf": float("inf"), "None": None, "text": "0.1", "list": [0.1],
            "true": True, "complex": 1j, "huge": 10**400, "array": np.ones(3), "tensor of two": torch.ones(2),
            "tensor nan": torch.tensor(float("nan")), "tensor negative": torch.tensor(-1.0),
            "tensor complex": torch.tensor(1j), "tensor meta": torch.ones((), device="meta"),
            "tensor sparse": torch.ones(1).to_sparse(), "tensor true": torch.tensor(True), "dict": {}, "function": len,
            "generator": (x for x in [0.1]), "lock": __import__("threading").Lock(), "class": int,
        }.items()
    },
    "no lr": (without(*GROUP, "lr"), ["group 0", "'lr'"]),
    "no betas": (without(*GROUP, "betas"), ["group 0", "'betas'"]),
    "betas a number": (at(*GROUP, "betas", to=0.9), ["group 0", "betas"]),
    "betas None": (at(*GROUP, "betas", to=None), ["group 0", "betas"]),
    "betas of one": (at(*GROUP, "betas", to=(0.9,)), ["group 0", "betas", "1 entries"]),
    "betas of three": (at(*GROUP, "betas", to=(0.9, 0.99, 0.999)), ["group 0", "betas", "3 entries"]),
    "betas out of range": (at(*GROUP, "betas", to=(0.9, 1.5)), ["group 0", "1.5"]),
    "betas text": (at(*GROUP, "betas", to="09"), ["group 0", "betas"]),
    "betas a dict": (at(*GROUP, "betas", to={0: 0.9, 1: 0.99}), ["group 0", "betas"]),
    "betas tensor nan": (at(*GROUP, "betas", to=(0.9, torch.tensor(float("nan")))), ["group 0", "betas"]),
    "maximize None": (at(*GROUP, "maximize", to=None), ["group 0", "maximize"]),
    "maximize a number": (at(*GROUP, "maximize", to=1), ["group 0", "maximize"]),
    "telemetry text": (at(*GROUP, "telemetry", to="yes"), ["group 0", "telemetry"]),
    "disable text": (at(*GROUP, "disable", to="divide"), ["group 0", "disable"]),
    "disable None": (at(*GROUP, "disable", to=None), ["group 0", "disable"]),
    "disable a number": (at(*GROUP, "disable", to=1), ["group 0", "disable"]),
    "disable of numbers": (at(*GROUP, "disable", to=[1]), ["group 0", "disable"]),
    "disable of lists": (at(*GROUP, "disable", to=[["divide"]]), ["group 0", "disable"]),
    "disable a tensor": (at(*GROUP, "disable", to=torch.tensor(1.0)), ["group 0", "disable"]),
    "disable of an unknown": (at(*GROUP, "disable", to=["nope"]), ["group 0", "nope"]),
    "disable of a needed one": (at(*GROUP, "disable", to=["divide"]), ["group 0", "divide"]),
    "no disable": (without("param_groups", 1, "disable"), ["group 1", "disable"]),
    "role a number": (at(*GROUP, "role", to=1), ["group 0", "role"]),
    "role a dict": (at(*GROUP, "role", to={"weight": "vector"}), ["group 0", "role"]),
    "role of numbers": (at(*GROUP, "role", to=(1, 2)), ["group 0", "role"]),
    "roles too many": (at(*GROUP, "role", to=("vector", None, None)), ["group 0", "role"]),
    "roles too few": (at(*GROUP, "role", to=["vector"]), ["group 0", "role"]),
    "no role": (without(*GROUP, "role"), ["group 0", "role"]),
}  # fmt: skip
"""What `strict=False` drops or starts afresh."""

SHARED: dict[str, tuple[str, Spoil, list[str]]] = {
    f"{kind}.{key} {name}": (kind, at(*GROUP, key, to=value), ["group 0", key, words])
    for kind, key, low in [("prodigy", "d", "(0, inf)"), ("prodigy", "k", "[0, inf)"), ("prodigy", "d_numerator", "finite"),
                           ("user", "travelled", "[0, inf)")]
    for name, value, words in [
        ("nan", torch.tensor(float("nan")), "nan"), ("inf", float("inf"), "inf"), ("None", None, "None"),
        ("text", "1", "'1'"), ("of two", torch.ones(2), "(2,)"), ("true", True, "True"), ("complex", 1j, "1j"),
        ("meta", torch.ones((), device="meta"), "meta"), ("huge", 10**400, "inf"), ("list", [1.0], "list"),
        *([("negative", -1.0, low)] if key != "d_numerator" else []),
    ]
}  # fmt: skip
SHARED |= {
    "prodigy.d zero": ("prodigy", at(*GROUP, "d", to=0.0), ["group 0", "d = 0", "(0, inf)"]),
    "prodigy.d of two minds": ("prodigy", at("param_groups", 1, "d", to=0.5), ["group 1", "d is 0.5", "in a group before"]),
    "prodigy.d missing": ("prodigy", without(*GROUP, "d"), ["group 0: d"]),
    "int8 codes in a float": (
        "int8", at("state", 0, to=lambda s: {k: v.float() if v.dtype == torch.int8 else v for k, v in s.items()}),
        ["float32", "int8"],
    ),
    "a part of a slot missing": (
        "int8", at("state", 0, to=lambda s: {k: v for k, v in s.items() if v.dtype != torch.int8}), ["reset", "weight"]
    ),
    "rate of a user's stage": ("user", at(*GROUP, "rate", to=1.0), ["drift.rate", "[0, 1)"]),
    "slot of a user's stage": ("user", at("state", 3, "drift.mean", to=torch.ones(2)), ["scale", "drift.mean", "(2,)"]),
}  # fmt: skip

TABLE = {
    **{name: ("adamw", *case) for name, case in {**STRUCTURAL, **LOCAL}.items()},
    **SHARED,
}


@pytest.mark.parametrize(("kind", "spoil", "words"), TABLE.values(), ids=TABLE)
def test_a_spoilt_state_dict_is_refused_and_changes_nothing(kind: str, spoil: Spoil, words: list[str]) -> None:
    subject = trained(kind)
    before = everything(subject[1])
    with pytest.raises(gc.StateError) as info:
        subject[1].load_state_dict(spoilt(kind, spoil))
    message = str(info.value)
    assert [word for word in words if word not in message] == []
    assert "othing was loaded" in message
    assert "cannot be read" not in message  # the net for what nobody thought of
    assert len(message) < 15000
    assert_untouched(subject[1], before)
    assert_goes_on(kind, *subject)


@pytest.mark.parametrize(("kind", "spoil", "words"), TABLE.values(), ids=TABLE)
def test_a_lenient_load_keeps_what_fits(kind: str, spoil: Spoil, words: list[str], request: Any) -> None:
    subject = trained(kind)
    before = everything(subject[1])
    if request.node.callspec.id in STRUCTURAL:
        with pytest.raises(gc.StateError):
            subject[1].load_state_dict(spoilt(kind, spoil), strict=False)
        assert_untouched(subject[1], before)
        return
    report = subject[1].load_state_dict(spoilt(kind, spoil), strict=False)
    assert not report.clean
    assert str(report)
    train(subject[1], subject[0], range(10, 12))
    assert all(p.isfinite().all() for p in subject[0])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", CHAINS)
def test_a_sound_state_dict_fits(kind: str, strict: bool) -> None:
    """The table's state dict without its fault: what is refused above is refused for its fault."""
    original, resumed = trained(kind), made(kind)
    for mine, theirs in zip(resumed[0], original[0]):
        mine.data.copy_(theirs)
    assert resumed[1].load_state_dict(spoilt(kind, lambda saved: saved), strict=strict).clean
    assert_steps_alike(original, resumed)


FITTING: dict[str, Spoil] = {
    "a step as a number": at(*STEP, to=3),
    "a step as an integer tensor": at(*STEP, to=torch.tensor(3)),
    "a step as a tensor of shape (1,)": at(*STEP, to=torch.tensor([3.0], dtype=torch.float64)),
    "a step of numpy": at(*STEP, to=np.int64(3)),
    "a slot with a history": at(*SLOT, to=lambda x: x.clone().requires_grad_() * 1),
    "a slot that is a parameter": at(*SLOT, to=lambda x: nn.Parameter(x)),
    "a slot with other strides": at(*SLOT, to=lambda x: x.t().contiguous().t()),
    "an ordered dict": lambda saved: OrderedDict(saved),
    "groups in a tuple": lambda saved: {**saved, "param_groups": tuple(saved["param_groups"])},
    "no chain": without("chain"),
    "an entry of a hook": also(epoch=3),
    "a scheduler's entry": at(*GROUP, to=lambda x: {**x, "initial_lr": 0.05}),
    "no disable, which was empty": without(*GROUP, "disable"),
    "no names": lambda saved: without(*GROUP, "param_names")(without("param_groups", 1, "param_names")(saved)),
    "other indices throughout": lambda saved: at("param_groups", 1, "params", to=[9, 7])(
        at(*GROUP, "params", to=[8, 6])(
            {
                **without("with_state")(saved),
                "state": {{0: 8, 1: 6, 2: 9, 3: 7}[key]: value for key, value in saved["state"].items()},
            }
        )
    ),
    "names for indices throughout": lambda saved: at("param_groups", 1, "params", to=["head", "scale"])(
        at(*GROUP, "params", to=["weight", "bias"])(keyed(lambda key: list(SHAPES)[key])(without("with_state")(saved)))
    ),
    "names of a wrapped model": lambda saved: at("param_groups", 1, "param_names", to=["module.head", "module.scale"])(
        at(*GROUP, "param_names", to=["module._orig_mod.weight", "module.bias"])(saved)
    ),
}


@pytest.mark.parametrize("spoil", FITTING.values(), ids=FITTING)
def test_what_says_the_same_in_another_way_fits(spoil: Spoil) -> None:
    original, resumed = trained(), made("adamw")
    for mine, theirs in zip(resumed[0], original[0]):
        mine.data.copy_(theirs)
    assert resumed[1].load_state_dict(spoil(spoilt("adamw", lambda saved: saved))).clean
    assert not any(x.requires_grad for state in resumed[1].state.values() for x in state.values())
    assert_steps_alike(original, resumed)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_slot_that_is_not_finite_is_resumed_as_it_is(value: float) -> None:
    """The run went bad; a resume continues it bit for bit."""
    saved = spoilt("adamw", at(*SLOT, to=lambda x: torch.full_like(x, value)))
    params, optimizer = made("adamw")
    assert optimizer.load_state_dict(saved).clean
    assert_same(optimizer.state[params[0]][AVG], torch.full((4, 3), value))
