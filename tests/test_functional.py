"""A chain as pure functions: over any nest of tensors, equal to the optimizer, differentiable, and under torch.func."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import gradchain
from gradchain import chain, partition, recipe
from gradchain import transforms as t
from tests.test_optimizer import RECIPES, assert_same, make_params, recipe_optimizer, set_grads

Pair = namedtuple("Pair", "a b")


def tensors() -> list[torch.Tensor]:
    return [p.detach().clone() for p in make_params(shapes=[(4, 3), (3,), (), (2, 2)])]


def nest(kind: str, x: list[torch.Tensor]) -> Any:
    return {
        "tensor": x[0],
        "list": x,
        "tuple": tuple(x),
        "dict": {"w": x[0], "b": x[1]},
        "ordered": OrderedDict(w=x[0], b=x[1]),
        "namedtuple": Pair(x[0], x[1]),
        "deep": {"layers": [{"w": x[0]}, (x[1], x[2])], "empty": [], "head": Pair(x[3], {})},
        "empty": {},
    }[kind]


NESTS = ["tensor", "list", "tuple", "dict", "ordered", "namedtuple", "deep", "empty"]


@pytest.mark.parametrize("kind", NESTS)
def test_every_nest_gives_what_the_list_gives(kind: str) -> None:
    built = recipe("adamw", lr=0.1).insert_before("first_moment", t.clip_by_value())
    params, grads = nest(kind, tensors()), nest(kind, [x.cos() for x in tensors()])
    flat, flat_grads = pytree.tree_leaves(params), pytree.tree_leaves(grads)
    state, flat_state = built.init(params), built.init(flat)
    for _ in range(3):
        updates, state = built.update(grads, state, params)
        flat_updates, flat_state = built.update(flat_grads, flat_state, flat)
        assert pytree.tree_structure(updates) == pytree.tree_structure(params)
        params = gradchain.apply_updates(params, updates)
        flat = gradchain.apply_updates(flat, flat_updates)
    assert type(params) is type(nest(kind, tensors()))
    assert_same(pytree.tree_leaves(params), flat)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_optimizer_without_the_writing(name: str, dtype: torch.dtype) -> None:
    params = make_params(dtype)
    optimizer = recipe_optimizer(name, params, lr=0.05)
    built = recipe(name, lr=0.05)
    values = [p.detach().clone() for p in params]
    state = built.init(values)
    for step in range(4):
        set_grads(params, step)
        grads = [p.grad for p in params]
        before = copy.deepcopy((values, grads, state))
        updates, new_state = built.update(grads, state, values)
        assert_same((values, grads, state), before)
        values, state = gradchain.apply_updates(values, updates), new_state
        optimizer.step()
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    torch.testing.assert_close(values, [p.detach() for p in params], **tolerance)
    assert [v.dtype for v in values] == [dtype] * len(values)
    for held, param in zip(state["slots"].values(), params):
        assert held.keys() == optimizer.state[param].keys() - {"step"}


def test_hyperparameters_may_be_overridden_at_each_step() -> None:
    built = recipe("adamw", lr=0.1, weight_decay=0.0)
    params, grads = tensors(), tensors()
    frozen, _ = built.update(grads, built.init(params), params, lr=0.0)
    assert all(update.count_nonzero() == 0 for update in frozen)
    left, _ = built.update(grads, built.init(params), params, betas=(0.5, 0.6), eps=1e-3)
    right, _ = built.with_options(betas=(0.5, 0.6), eps=1e-3).update(grads, built.init(params), params)
    assert_same(left, right)


@pytest.mark.parametrize(
    ("hyperparameters", "words"),
    [
        ({"learning_rate": 0.1}, ["'learning_rate'", "lr"]),
        ({"lr": -1.0}, ["scale_by_learning_rate.lr", "-1.0", "[0, inf)"]),
        ({"lr": None}, ["scale_by_learning_rate.lr", "None"]),
        ({"betas": 0.9}, ["betas", "0.9", "tuple"]),
        ({"role": "vector"}, ["'role'"]),
    ],
    ids=str,
)
def test_a_bad_hyperparameter_is_explained(hyperparameters: dict[str, Any], words: list[str]) -> None:
    built, params = recipe("adamw"), tensors()
    with pytest.raises(gradchain.OptionError) as info:
        built.update(params, built.init(params), params, **hyperparameters)
    assert [word for word in words if word not in str(info.value)] == []


WRONG: dict[str, tuple[Any, Any, Any]] = {
    "fewer gradients": ({"w": 1}, {"w": 1, "b": 1}, {"w": 1, "b": 1}),
    "more gradients": ({"w": 1, "b": 1, "c": 1}, {"w": 1, "b": 1}, {"w": 1, "b": 1}),
    "other keys": ({"w": 1, "c": 1}, {"w": 1, "b": 1}, {"w": 1, "b": 1}),
    "list for tuple": ([1, 1], (1, 1), (1, 1)),
    "state of another nest": ({"w": 1, "b": 1}, {"w": 1}, {"w": 1, "b": 1}),
    "state of a larger nest": ({"w": 1}, {"w": 1, "b": 1}, {"w": 1}),
    "no gradient": ({"w": 1, "b": None}, {"w": 1, "b": 1}, {"w": 1, "b": 1}),
    "a number for a tensor": ({"w": 1, "b": 2.0}, {"w": 1, "b": 1}, {"w": 1, "b": 1}),
    "a number for a parameter": ({"w": 1, "b": 1}, {"w": 1, "b": 1}, {"w": 1, "b": 2.0}),
    "other shapes": ({"w": 1, "b": "long"}, {"w": 1, "b": 1}, {"w": 1, "b": 1}),
    "a sparse gradient": ({"w": 1, "b": "sparse"}, {"w": 1, "b": 1}, {"w": 1, "b": 1}),
    "a complex parameter": ({"w": 1, "b": "complex"}, {"w": 1, "b": 1}, {"w": 1, "b": "complex"}),
}


def _filled(tree: Any) -> Any:
    values: dict[Any, Any] = {
        1: torch.ones(3),
        "long": torch.ones(4),
        "sparse": torch.sparse_coo_tensor([[0]], torch.ones(1), (3,), check_invariants=True),
        "complex": torch.ones(3, dtype=torch.complex64),
    }
    return pytree.tree_map(lambda leaf: values.get(leaf, leaf), tree)


@pytest.mark.parametrize(("grads", "state", "params"), WRONG.values(), ids=WRONG)
def test_nests_that_do_not_match_are_refused(grads: Any, state: Any, params: Any) -> None:
    built = recipe("adamw")
    with pytest.raises(gradchain.GradchainError):
        built.update(_filled(grads), built.init(_filled(state)), _filled(params))


def test_the_order_of_keys_does_not_matter() -> None:
    """Neither for gradients nor for a state that was made from the same parameters in another order."""
    built = recipe("adamw", lr=0.1)
    w, b = torch.ones(3), torch.zeros(3)
    state = built.init({"w": w, "b": b})
    _updates, state = built.update({"w": w, "b": 5 * w}, state, {"w": w, "b": b})
    same_order, _ = built.update({"w": w, "b": -w}, state, {"w": w, "b": b})
    other_order, _ = built.update({"b": -w, "w": w}, state, {"b": b, "w": w})
    mixed, _ = built.update({"b": -w, "w": w}, state, {"w": w, "b": b})
    for name in ("w", "b"):
        assert_same(other_order[name], same_order[name])
        assert_same(mixed[name], same_order[name])


def test_totals_over_all_parameters_and_routing_by_name() -> None:
    built = chain(
        t.clip_by_global_norm(1.0),
        partition({"w": t.scale_by_learning_rate(1.0), "b": []}, lambda name, p: name.rpartition(".")[2]),
    )
    params = {"layer": {"w": torch.zeros(1), "b": torch.zeros(1)}}
    grads = {"layer": {"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}}
    updates, _ = built.update(grads, built.init(params), params, lr=2.0)
    torch.testing.assert_close(updates, {"layer": {"w": torch.tensor([-1.2]), "b": torch.tensor([-0.8])}})


# Differentiation.


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adam-atan2", "gyro-adam"])
def test_a_derivative_with_respect_to_the_rate(name: str) -> None:
    built = recipe(name)

    def loss(lr: torch.Tensor) -> torch.Tensor:
        w = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        state = built.init(w)
        for _ in range(3):
            updates, state = built.update(2 * w, state, w, lr=lr)
            w = gradchain.apply_updates(w, updates)
        return w.square().sum()

    lr = torch.tensor(1e-2, dtype=torch.float64)
    slope = torch.func.grad(loss)(lr)
    numeric = (loss(lr + 1e-6) - loss(lr - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-6)


def test_vmap_over_rates() -> None:
    built, w = recipe("adamw"), torch.tensor([1.0, -2.0])
    rates = torch.tensor([0.0, 0.1, 0.2])

    def step(lr: torch.Tensor) -> torch.Tensor:
        return gradchain.apply_updates(w, built.update(w, built.init(w), w, lr=lr)[0])

    torch.testing.assert_close(torch.func.vmap(step)(rates), torch.stack([step(lr) for lr in rates]))


def test_gradients_flow_to_the_parameters() -> None:
    built = recipe("sgd", lr=0.5)
    w = torch.ones(2, requires_grad=True)
    updates, _ = built.update(w * 3, built.init(w), w)
    gradchain.apply_updates(w, updates).sum().backward()
    assert_same(w.grad, torch.full((2,), 1 - 0.5 * 3))


def test_updates_are_applied_in_the_dtype_of_the_parameter() -> None:
    params = {"w": torch.ones(2, dtype=torch.bfloat16), "b": [torch.zeros(1)]}
    applied = gradchain.apply_updates(params, {"w": torch.full((2,), 0.25), "b": [torch.ones(1)]})
    assert_same(applied, {"w": torch.full((2,), 1.25, dtype=torch.bfloat16), "b": [torch.ones(1)]})
