"""State dicts that are damaged, of something else, or nonsense: an error that says so, and nothing has changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradchain as gc

Edit = Callable[[dict[str, Any]], Any]


def make(recipe: str = "adv-prodigy", seed: int = 0, **options: Any) -> gc.Optimizer:
    generator = torch.Generator().manual_seed(seed)
    named = [
        (name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in (("a", (4, 3)), ("b", (3,)))
    ]
    extra = [("c", nn.Parameter(torch.randn(2, generator=generator)))]
    return gc.optimizer(recipe, [{"params": named}, {"params": extra}], compile=False, **options)


def params_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def train(optimizer: torch.optim.Optimizer, seed: int, steps: int = 2) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in params_of(optimizer):
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()


def saved_dict(recipe: str = "adv-prodigy") -> dict[str, Any]:
    source = make(recipe)
    train(source, 1, 3)
    return copy.deepcopy(source.state_dict())


def everything(optimizer: gc.Optimizer) -> list[Any]:
    held: list[Any] = [(param, param.detach().clone()) for param in params_of(optimizer)]
    for param in params_of(optimizer):
        held += [(key, value, copy.deepcopy(value)) for key, value in optimizer.state[param].items()]
    for group in optimizer.param_groups:
        held += [(key, value, copy.deepcopy(value)) for key, value in group.items() if key != "params"]
    return held


def unchanged(before: list[Any], after: list[Any]) -> bool:
    """The same objects with the same values."""
    return len(before) == len(after) and all(
        all(a is b for a, b in zip(one[:-1], other[:-1], strict=True))
        and (torch.equal(one[-1], other[-1]) if isinstance(one[-1], torch.Tensor) else one[-1] == other[-1])
        for one, other in zip(before, after)
    )


def put(*path: Any, value: Any) -> Edit:
    """Set an entry."""

    def edit(saved: dict[str, Any]) -> Any:
        held: Any = saved
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = value
        return saved

    return edit


def drop(*path: Any) -> Edit:
    def edit(saved: dict[str, Any]) -> Any:
        held: Any = saved
        for key in path[:-1]:
            held = held[key]
        del held[path[-1]]
        return saved

    return edit


def become(value: Any) -> Edit:
    return lambda saved: value


def strings(saved: dict[str, Any]) -> Any:
    saved["state"] = {str(index): state for index, state in saved["state"].items()}
    return saved


def slot(change: Callable[[torch.Tensor], Any], name: str = "first_moment.exp_avg") -> Edit:
    def edit(saved: dict[str, Any]) -> Any:
        saved["state"][0][name] = change(saved["state"][0][name])
        return saved

    return edit


def shares(**numbers: Any) -> Edit:
    def edit(saved: dict[str, Any]) -> Any:
        for group in saved["param_groups"]:
            group.update(numbers)
        return saved

    return edit


nan, inf = float("nan"), float("inf")
STATE: dict[str, tuple[Edit, str]] = {
    "string indices": (strings, "JSON"),
    "an index too many": (put("state", 7, value={"step": 1}), "parameter 7, which no group lists"),
    "an index that is a float": (put("state", 0.5, value={"step": 1}), r"parameter 0\.5, which no group lists"),
    "an index that is None": (put("state", None, value={"step": 1}), "parameter None"),
    "None for a state": (put("state", 1, value=None), "state of b is a dict, not None"),
    "a list for a state": (put("state", 1, value=[1]), "state of b is a dict, not a list"),
    "a tensor for a state": (put("state", 1, value=torch.ones(3)), "state of b is a dict, not a Tensor"),
    "an empty state": (put("state", 1, value={}), "state of b was saved, and is not there"),
    "a state is missing": (drop("state", 1), "state of b was saved, and is not there"),
    "all states are missing": (put("state", value={}), "state of a was saved"),
    "no step": (drop("state", 0, "step"), "state of a has no 'step'"),
    "a negative step": (put("state", 0, "step", value=torch.tensor(-1.0)), r"'step' of a is -1\.0; a count"),
    "half a step": (put("state", 0, "step", value=1.5), r"'step' of a is 1\.5"),
    "a step that is NaN": (put("state", 0, "step", value=torch.tensor(nan)), "'step' of a is nan"),
    "infinitely many steps": (put("state", 0, "step", value=inf), "'step' of a is inf"),
    "more steps than can be counted": (put("state", 0, "step", value=2**60), "'step' of a is 1152921504606846976"),
    "a step that is a string": (put("state", 0, "step", value="3"), "'step' of a is a str"),
    "a step that is None": (put("state", 0, "step", value=None), "'step' of a is None"),
    "a step that is a bool": (put("state", 0, "step", value=True), "'step' of a is a bool"),
    "a step that is a bool tensor": (put("state", 0, "step", value=torch.tensor(True)), "dtype bool"),
    "a step that is complex": (put("state", 0, "step", value=torch.tensor(1j)), "dtype complex64"),
    "two steps": (put("state", 0, "step", value=torch.ones(2)), r"'step' of a is a tensor of shape \(2,\)"),
    "no steps": (put("state", 0, "step", value=torch.ones(0)), r"'step' of a is a tensor of shape \(0,\)"),
    "a step on meta": (put("state", 0, "step", value=torch.ones((), device="meta")), "on the meta device"),
    "a key that is no string": (put("state", 0, 5, value=torch.ones(2)), "the key 5, which is not a string"),
    "another shape": (slot(lambda x: x[:2]), r"shape \(2, 3\) .* shape \(4, 3\)"),
    "a list for a slot": (slot(lambda x: x.tolist()), r"exp_avg is a list .* shape \(4, 3\)"),
    "numpy for a slot": (slot(lambda x: x.numpy()), "exp_avg is a ndarray"),
    "a number for a slot": (slot(lambda x: 0.0), "exp_avg is a float"),
    "a string for a slot": (slot(lambda x: "x"), "exp_avg is a str"),
    "integers for a slot": (slot(lambda x: x.int()), "dtype int32 .* dtype float32"),
    "bools for a slot": (slot(lambda x: x.bool()), "dtype bool .* dtype float32"),
    "complex numbers for a slot": (slot(lambda x: x + 1j), "dtype complex64"),
    "a sparse slot": (slot(lambda x: x.to_sparse()), "sparse_coo"),
    "a slot on meta": (slot(lambda x: x.to("meta")), "on the meta device"),
    "another floating dtype": (slot(lambda x: x.double()), r"torch\.float64, is kept as torch\.float32"),
    "a slot is missing": (drop("state", 0, "first_moment.exp_avg"), "first_moment.exp_avg"),
    "a slot is None": (put("state", 0, "first_moment.exp_avg", value=None), "first_moment.exp_avg"),
    "a slot too many": (put("state", 0, "nope.slot", value=torch.ones(1)), "nope.slot"),
    "state is a list": (put("state", value=[]), "'state' is a dict, not a list"),
    "state is None": (put("state", value=None), "'state' is a dict, not None"),
    "no state": (drop("state"), "has no state"),
}
GROUPS: dict[str, tuple[Edit, str]] = {
    "no groups": (drop("param_groups"), "no param_groups"),
    "groups are None": (put("param_groups", value=None), "a list of dicts, not None"),
    "groups are a dict": (put("param_groups", value={"a": 1}), "a list of dicts, not a dict"),
    "groups are a string": (put("param_groups", value="ab"), "a list of dicts, not a str"),
    "no group": (put("param_groups", value=[]), r"groups of \[\] tensors"),
    "a group too many": (lambda s: put("param_groups", value=[*s["param_groups"], {"params": []}])(s), "groups of"),
    "a group is None": (put("param_groups", 0, value=None), "group 0 of the state dict is a dict, not None"),
    "a group is a list": (put("param_groups", 0, value=[1]), "group 0 of the state dict is a dict, not a list"),
    "no params": (drop("param_groups", 0, "params"), "under 'params', which is None"),
    "params are None": (put("param_groups", 0, "params", value=None), "under 'params', which is None"),
    "params are a number": (put("param_groups", 0, "params", value=2), "under 'params', which is an int"),
    "params are tensors": (put("param_groups", 0, "params", value=[torch.ones(1)] * 2), "not an index"),
    "params are floats": (put("param_groups", 0, "params", value=[0.0, 1.0]), "not an index"),
    "params are bools": (put("param_groups", 0, "params", value=[False, True]), "not an index"),
    "params are lists": (put("param_groups", 0, "params", value=[[0], [1]]), "not an index"),
    "fewer params": (put("param_groups", 1, "params", value=[]), "groups of|not a list of 0 names"),
    "the same index twice": (put("param_groups", 0, "params", value=[0, 0]), "both list parameter 0"),
    "the same index in two groups": (
        put("param_groups", 1, "params", value=[0]),
        "groups 0 and 1 both list parameter 0",
    ),
    "a key of a group that is no string": (put("param_groups", 0, 3, value=1), "key 3, which is not a string"),
    "fewer names": (put("param_groups", 0, "param_names", value=["a"]), "not a list of 2 names"),
    "names that are numbers": (put("param_groups", 0, "param_names", value=[1, 2]), "not a list of 2 names"),
    "other names": (put("param_groups", 0, "param_names", value=["a", "x"]), "'x' are not here, and 'b' are not in it"),
    "no lr": (drop("param_groups", 0, "lr"), "hyperparameter 'lr' is not in the state dict"),
    "a negative lr": (put("param_groups", 0, "lr", value=-1.0), "lr"),
    "an lr that is None": (put("param_groups", 0, "lr", value=None), "lr"),
    "an lr that is a string": (put("param_groups", 0, "lr", value="0.1"), "lr"),
    "an lr that is a list": (put("param_groups", 0, "lr", value=[0.1]), "lr"),
    "betas that are one number": (put("param_groups", 0, "betas", value=0.9), "betas = 0.9 is a float"),
    "betas that are None": (put("param_groups", 0, "betas", value=None), "betas = None is None"),
    "one beta": (put("param_groups", 0, "betas", value=(0.9,)), "betas has 1 entries"),
    "a beta out of range": (put("param_groups", 0, "betas", value=(0.9, 2.0)), "2.0"),
    "disable is a number": (put("param_groups", 0, "disable", value=3), "disable"),
    "disable is a string": (put("param_groups", 0, "disable", value="divide"), "disable"),
    "disable names nothing": (put("param_groups", 0, "disable", value=["nope"]), "nope"),
    "a role that is a number": (put("param_groups", 0, "role", value=3), "role"),
    "maximize is a string": (put("param_groups", 0, "maximize", value="yes"), "maximize"),
    "a shared number is NaN": (shares(d=torch.tensor(nan)), r"\bd\b"),
    "a shared number is infinite": (shares(d=inf), r"\bd\b"),
    "a shared number is negative": (shares(d=torch.tensor(-1.0)), r"\bd\b"),
    "a shared number is a string": (shares(d="x"), r"\bd\b"),
    "a shared number is None": (shares(d=None), r"\bd\b"),
    "shared numbers are two": (shares(d=torch.ones(2)), r"\bd\b"),
    "a shared number is missing": (drop("param_groups", 0, "d"), r"\bd\b"),
}
WHOLE: dict[str, tuple[Edit, str]] = {
    "None": (become(None), "a state dict is a dict, not None"),
    "a list": (become([]), "a state dict is a dict, not a list"),
    "a string": (become("x"), "a state dict is a dict, not a str"),
    "an empty dict": (become({}), "no state and no param_groups"),
    "the chain is a list": (put("chain", value=[1]), "'chain' is damaged"),
    "the chain is a string": (put("chain", value="rose"), "'chain' is damaged"),
    "the chain is empty": (put("chain", value={}), "'chain' is damaged"),
    "the stages are None": (put("chain", "stages", value=None), "'chain' is damaged"),
    "a stage is None": (put("chain", "stages", 0, value=None), "'chain' is damaged"),
    "a stage without a name": (put("chain", "stages", 0, value={}), "'chain' is damaged"),
    "a stage of another kind": (put("chain", "stages", 0, "stage", value="nope"), "nope"),
    "a stage that is a number": (put("chain", "stages", 0, "stage", value=3), "stage|chain"),
    "with_state is a number": (put("with_state", value=3), "with_state"),
}
TABLE = STATE | GROUPS | WHOLE


@pytest.mark.parametrize("what", TABLE)
def test_strict(what: str) -> None:
    edit, words = TABLE[what]
    optimizer, twin = make(seed=5), make(seed=5)
    train(optimizer, 2), train(twin, 2)
    before = everything(optimizer)
    with pytest.raises(gc.StateError, match=words) as info:
        optimizer.load_state_dict(edit(saved_dict()))
    assert "othing was loaded" in str(info.value)
    assert len(str(info.value)) < 3000
    assert unchanged(before, everything(optimizer))
    train(optimizer, 3), train(twin, 3)
    assert all(torch.equal(a, b) for a, b in zip(params_of(optimizer), params_of(twin), strict=True))


@pytest.mark.parametrize("what", TABLE)
def test_lenient(what: str) -> None:
    """What can be used is, the rest is reported; what is no state dict at all is an error still."""
    optimizer = make(seed=5)
    train(optimizer, 2)
    before = everything(optimizer)
    try:
        report = optimizer.load_state_dict(TABLE[what][0](saved_dict()), strict=False)
    except gc.StateError:
        assert unchanged(before, everything(optimizer))
        return
    assert not report.clean
    train(optimizer, 3)
    assert all(param.isfinite().all() for param in params_of(optimizer))


def test_what_is_fine() -> None:
    """Neighbours of the above that must load."""
    good: dict[str, Edit] = {
        "as it is": lambda saved: saved,
        "steps as floats": lambda s: [put("state", i, "step", value=3.0)(s) for i in range(3)][-1],
        "steps as numpy": lambda s: [put("state", i, "step", value=np.float32(3))(s) for i in range(3)][-1],
        "steps as one-element vectors": lambda s: [
            put("state", i, "step", value=torch.tensor([3.0]))(s) for i in range(3)
        ][-1],
        "tuples for lists": lambda s: put("param_groups", value=tuple(s["param_groups"]))(s),
        "more entries": put("epoch", value=3),
        "another name for each index": lambda s: json_like(s),
        "wrapped names": put("param_groups", 0, "param_names", value=["module.a", "module.b"]),
    }
    for what, edit in good.items():
        source, optimizer = make(), make(seed=5)
        train(source, 1, 3)
        assert optimizer.load_state_dict(edit(copy.deepcopy(source.state_dict()))).clean, what
        for a, b in zip(params_of(source), params_of(optimizer), strict=True):
            b.data.copy_(a)
        train(source, 4), train(optimizer, 4)
        assert all(torch.equal(a, b) for a, b in zip(params_of(source), params_of(optimizer), strict=True)), what


def json_like(saved: dict[str, Any]) -> dict[str, Any]:
    """All indices as strings: what each belongs to is still known."""
    saved["state"] = {str(index): state for index, state in saved["state"].items()}
    saved["with_state"] = [str(index) for index in saved["with_state"]]
    for group in saved["param_groups"]:
        group["params"] = [str(index) for index in group["params"]]
    return saved


def test_names_in_another_order_find_their_state() -> None:
    params = {
        name: nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(n))) for n, name in enumerate("abc")
    }
    first = gc.optimizer("adv-adamw", params.items(), compile=False, role={"b": "vector"})
    train(first, 1, 3)
    turned = [(name, nn.Parameter(params[name].detach().clone())) for name in "cab"]
    second = gc.optimizer("adv-adamw", turned, compile=False)
    assert second.load_state_dict(copy.deepcopy(first.state_dict())).clean
    assert second.param_groups[0]["role"] == (None, None, "vector")
    assert second.param_groups[0]["param_names"] == ["c", "a", "b"]
    for name, param in turned:
        for key, value in first.state[params[name]].items():
            assert torch.equal(second.state[param][key], value)


def test_a_frozen_parameter_without_state_is_no_fault() -> None:
    optimizer = make()
    params_of(optimizer)[1].requires_grad_(False)
    frozen = gc.optimizer("adamw", params_of(optimizer), compile=False)
    saved = copy.deepcopy(frozen.state_dict())
    assert 1 not in saved["state"]
    params_of(optimizer)[1].requires_grad_(True)
    assert frozen.load_state_dict(saved).clean


def test_a_state_dict_of_a_dtype_that_differs_says_so() -> None:
    optimizer = make("adamw")
    saved = saved_dict("adamw")
    saved["state"][1]["first_moment.exp_avg"] = torch.ones(3, dtype=torch.uint8)
    with pytest.raises(gc.StateError, match=r"dtype uint8 .* dtype float32"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("result", [5, [], "x", False, {"state": {}}])
def test_a_hook_that_returns_something_else(result: Any) -> None:
    optimizer = make()
    optimizer.register_load_state_dict_pre_hook(lambda held, state_dict: result)
    before = everything(optimizer)
    with pytest.raises(gc.StateError):
        optimizer.load_state_dict(saved_dict())
    assert unchanged(before, everything(optimizer))


rubbish = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**60), st.floats(), st.text(max_size=3), st.binary(max_size=2),
    st.just([]), st.just({}), st.just(()), st.just(object()), st.just(torch.ones(2)), st.just(torch.tensor(nan)),
    st.just({"a": 1}), st.just([None]), st.just(np.ones(2)), st.just(print),
)  # fmt: skip


def places(held: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All entries of a nest, by their paths."""
    keys = list(held) if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else []
    return [place for key in keys for place in ((*path, key), *places(held[key], (*path, key)))]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.data())
def test_any_entry_may_be_rubbish(data: st.DataObject) -> None:
    saved = saved_dict(data.draw(st.sampled_from(["adv-prodigy", "adamw", "adams"])))
    optimizer = make("adv-prodigy", seed=5)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(saved)))
        edit = data.draw(
            st.one_of(st.just(drop(*place)), rubbish.map(lambda value, place=place: put(*place, value=value)))
        )
        try:
            edit(saved)
        except (KeyError, TypeError, IndexError):
            return
    strict, before = data.draw(st.booleans()), everything(optimizer)
    try:
        optimizer.load_state_dict(saved, strict=strict)
    except gc.StateError:
        assert unchanged(before, everything(optimizer))


def test_counts_that_no_float_holds() -> None:
    for count in (10**400, -(10**400), torch.ones(()).to_sparse()):
        saved, optimizer = saved_dict(), make(seed=5)
        saved["state"][0]["step"] = count
        with pytest.raises(gc.StateError, match="'step' of a is"):
            optimizer.load_state_dict(saved)


def test_a_hook_that_raises_afterwards_leaves_everything_as_it_was() -> None:
    def refuse(held: Any) -> None:
        raise RuntimeError("not today")

    optimizer, twin = make(seed=5), make(seed=5)
    train(optimizer, 2), train(twin, 2)
    before = everything(optimizer)
    handle = optimizer.register_load_state_dict_post_hook(refuse)
    with pytest.raises(RuntimeError, match="not today"):
        optimizer.load_state_dict(saved_dict())
    handle.remove()
    assert unchanged(before, everything(optimizer))
    train(optimizer, 3), train(twin, 3)
    assert all(torch.equal(a, b) for a, b in zip(params_of(optimizer), params_of(twin), strict=True))


def test_a_load_in_inference_mode_can_be_stepped_outside() -> None:
    optimizer = make(seed=5)
    with torch.inference_mode():
        optimizer.load_state_dict(saved_dict())
    train(optimizer, 3)
    assert all(param.isfinite().all() for param in params_of(optimizer))


def test_shared_numbers_are_the_optimizer_s_own_and_alike_in_all_groups() -> None:
    saved, optimizer = saved_dict(), make(seed=5)
    optimizer.load_state_dict(saved)
    for held in optimizer.param_groups:
        for theirs in saved["param_groups"]:
            assert held["d"].data_ptr() != theirs["d"].data_ptr()
    saved["param_groups"][1]["d"] = saved["param_groups"][1]["d"] * 2
    with pytest.raises(gc.StateError, match="differ in d"):
        optimizer.load_state_dict(saved)


def test_a_plain_dict_for_the_state_will_do() -> None:
    optimizer, twin = make(seed=5), make(seed=5)
    optimizer.state = dict(optimizer.state)  # type: ignore[assignment]
    train(optimizer, 2), train(twin, 2)
    assert all(torch.equal(a, b) for a, b in zip(params_of(optimizer), params_of(twin), strict=True))


@pytest.mark.parametrize(
    "edit",
    [
        become(None),
        become([]),
        put(3, value=1),
        put("chain", value=None),
        put("state", value=[]),
        put("param_groups", value=None),
        put("param_groups", value=[None]),
        put("param_groups", 0, "params", value=[0, 1]),
        put("fresh", value=[99]),
        put("fresh", value=["a"]),
        drop("defaults"),
        drop("nonfinite"),
    ],
)
def test_what_no_optimizer_is_pickled_as(edit: Edit) -> None:
    pickled = copy.deepcopy(make().__getstate__())
    with pytest.raises(gc.StateError):
        gc.Optimizer.__new__(gc.Optimizer).__setstate__(edit(pickled))


def test_setting_attributes_does_not_consume_them() -> None:
    pickled = make().__getstate__()
    kept = dict(pickled)
    gc.Optimizer.__new__(gc.Optimizer).__setstate__(pickled)
    assert pickled.keys() == kept.keys()
