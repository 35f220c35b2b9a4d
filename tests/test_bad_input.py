"""What is wrong with parameters, groups and hyperparameters of an optimizer is said, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradchain
from gradchain import transforms as t
from tests.bad_values import NEGATIVE, NO_NUMBERS, NUMBERS, refused

Table = list[tuple[str, Callable[[], Any], list[str]]]


def params() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3))]


def step(optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()


def table(rows: Table) -> Any:
    return pytest.mark.parametrize(("build", "words"), [row[1:] for row in rows], ids=[row[0] for row in rows])


# Hyperparameters: by recipe, by optimizer, by group, by hand, by function.

BAD_RATES = {**NO_NUMBERS, **NEGATIVE, "none": None}
ENTRIES: dict[str, Callable[[Any], Any]] = {
    "recipe": lambda lr: gradchain.recipe("adamw", lr=lr),
    "stage": lambda lr: t.scale_by_learning_rate(lr),
    "optimizer": lambda lr: gradchain.Optimizer(params(), gradchain.recipe("adamw"), lr=lr),
    "group": lambda lr: gradchain.Optimizer([{"params": params(), "lr": lr}], gradchain.recipe("adamw")),
    "late group": lambda lr: gradchain.optimizer("sgd", params()).add_param_group({"params": params(), "lr": lr}),
    "edit of a chain": lambda lr: gradchain.recipe("adamw").with_options(lr=lr),
    "function": lambda lr: functional_step(lr=lr),
}


def functional_step(**options: Any) -> Any:
    chain, tensors = gradchain.recipe("adamw"), {"w": torch.ones(3)}
    return chain.update(tensors, chain.init(tensors), tensors, **options)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("value", BAD_RATES.values(), ids=BAD_RATES)
def test_a_bad_learning_rate_is_refused_wherever_it_comes_in(entry: Callable[[Any], Any], value: Any) -> None:
    refused(lambda: entry(value), gradchain.OptionError, ["scale_by_learning_rate.lr"])


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
def test_a_good_learning_rate_is_taken_wherever_it_comes_in(entry: Callable[[Any], Any], value: Any) -> None:
    entry(value)


@pytest.mark.parametrize(
    ("name", "key"), [("adamw", "lr"), ("adamw", "eps"), ("adv-prodigy", "d_coef"), ("rose", "damping")]
)
@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_a_value_written_by_hand_is_refused_before_anything_changes(name: str, key: str, value: Any) -> None:
    optimizer = gradchain.optimizer(name, params(), compile=False)
    step(optimizer)
    group, held = optimizer.param_groups[0], optimizer.param_groups[0][key]
    before = [param.detach().clone() for param in group["params"]]
    group[key] = value
    for _ in range(2):
        refused(lambda: step(optimizer), gradchain.OptionError, ["group 0", key])
        assert all(torch.equal(old, new) for old, new in zip(before, group["params"]))
    group[key] = held
    step(optimizer)


@pytest.mark.parametrize("name", ["adamw", "rose", "adams", "gyro-adam", "adv-prodigy"])
def test_a_deleted_entry_is_missed_by_name(name: str) -> None:
    keys = gradchain.optimizer(name, params()).param_groups[0].keys() - {"params", "constructor_lr"}
    for key in sorted(keys):
        optimizer = gradchain.optimizer(name, params(), compile=False)
        step(optimizer)
        held = optimizer.param_groups[0].pop(key)
        refused(
            lambda optimizer=optimizer: step(optimizer), gradchain.OptionError, ["group 0", repr(key), "Put it back"]
        )
        optimizer.param_groups[0][key] = held
        step(optimizer)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_tensor_is_read_again_when_it_is_written_to(value: float, compile: bool) -> None:
    rate = torch.tensor(0.1)
    optimizer = gradchain.optimizer("adamw", params(), lr=rate, compile=compile)
    step(optimizer, 3)
    rate = optimizer.param_groups[0]["lr"]
    rate.fill_(value)
    refused(lambda: step(optimizer), gradchain.OptionError, ["group 0", "scale_by_learning_rate.lr", "[0, inf)"])
    rate.fill_(0.2)
    step(optimizer)


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)], ids=str)
@pytest.mark.parametrize("name", gradchain.recipes())
def test_a_tensor_of_one_element_is_a_number(name: str, shape: tuple[int, ...]) -> None:
    ends: list[torch.Tensor] = []
    for rate in (torch.tensor(0.125), torch.tensor([0.125]), torch.tensor([[0.125]])):
        param = nn.Parameter(torch.full(shape, 0.5))
        optimizer = gradchain.Optimizer([param], gradchain.recipe(name), lr=rate, compile=False)
        step(optimizer, 2)
        assert param.shape == shape
        ends.append(param.detach())
    assert all(torch.equal(end, ends[0]) for end in ends)


SHARED: dict[str, Any] = {**NO_NUMBERS, **NEGATIVE, "none": None, "infinity": math.inf}


@pytest.mark.parametrize("key", ["d", "d_max", "k"])
@pytest.mark.parametrize("value", SHARED.values(), ids=SHARED)
def test_a_shared_number_written_by_hand_is_checked(key: str, value: Any) -> None:
    optimizer = gradchain.optimizer("adv-prodigy", params(), compile=False)
    step(optimizer)
    held, optimizer.param_groups[0][key] = optimizer.param_groups[0][key], value
    refused(lambda: step(optimizer), gradchain.OptionError, [f"group 0: {key}"])
    optimizer.param_groups[0][key] = held
    step(optimizer)
    for build in (
        lambda: gradchain.optimizer("adv-prodigy", [{"params": params(), key: value}]),
        lambda: optimizer.add_param_group({"params": params(), key: value}),
    ):
        refused(build, gradchain.OptionError, [key])


def test_a_shared_number_written_as_a_float_is_a_tensor_again() -> None:
    written = []
    for value in (1e-3, np.float64(1e-3), torch.tensor([1e-3], dtype=torch.float64)):
        optimizer = gradchain.optimizer("adv-prodigy", params(), compile=False)
        step(optimizer)
        optimizer.param_groups[0]["d"] = value
        step(optimizer)
        written.append(optimizer.param_groups[0]["d"])
    assert all(torch.equal(d, written[0]) and d.shape == () for d in written)


@pytest.mark.parametrize(
    "betas",
    [0.9, None, "ab", (0.9,), (0.9, 0.99, 0.5), (0.9, None), (None, 0.9), (0.9, "x"), {0.9, 0.99}, torch.ones(2)],
    ids=str,
)
def test_betas_are_a_pair_of_numbers(betas: Any) -> None:
    optimizer = gradchain.optimizer("adamw", params(), compile=False)
    step(optimizer)
    optimizer.param_groups[0]["betas"] = betas
    for build in (
        lambda: gradchain.recipe("adamw", betas=betas),
        lambda: gradchain.recipe("adamw").with_options(betas=betas),
        lambda: gradchain.Optimizer(params(), gradchain.recipe("adamw"), betas=betas),
        lambda: step(optimizer),
    ):
        refused(build, gradchain.OptionError, ["beta"])


def test_a_scheduler_that_writes_nonsense_is_stopped() -> None:
    for factor in (-1.0, math.nan, math.inf):
        for rate in (0.1, torch.tensor(0.1)):
            optimizer = gradchain.optimizer("adamw", params(), lr=rate, compile=False)
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _, factor=factor: factor)
            refused(lambda optimizer=optimizer: step(optimizer), gradchain.OptionError, ["lr", "[0, inf)"])


# Parameters.

ONE = nn.Parameter(torch.ones(2))
BAD_PARAMS: dict[str, tuple[Any, list[str]]] = {
    "none": (None, ["None"]),
    "text": ("weights", ["'weights'"]),
    "number": (3, ["an int"]),
    "numbers": ([3], ["params[0] = 3"]),
    "nothing": ([], ["empty"]),
    "used up": (iter([]), ["generator"]),
    "one tensor": (ONE, ["(2,)", "[parameter]"]),
    "a set": ({ONE}, ["set", "order"]),
    "a dict": ({"a": ONE}, ["dict"]),
    "a group": ({"params": [ONE]}, ["[{'params'"]),
    "no parameters": (nn.ReLU(), ["no parameters"]),
    "a class": (nn.Linear, ["call it"]),
    "a method": (nn.Linear(2, 2).parameters, ["call it"]),
    "an optimizer": (torch.optim.SGD([ONE]), ["optimizer"]),
    "modules": ([nn.Linear(100, 100)], ["module: Linear"]),
    "lists": ([[ONE]], ["params[0]"]),
    "an array": ([np.ones(1000)], ["ndarray of shape (1000,)"]),
    "twice": ([ONE, ONE], ["twice"]),
    "in two groups": ([{"params": [ONE]}, {"params": [ONE]}], ["group 1", "another group"]),
    "not a leaf": ([ONE * 2], ["leaf", "detach"]),
    "integers": ([torch.ones(2, dtype=torch.long)], ["torch.int64"]),
    "complex": ([torch.ones(2, dtype=torch.cfloat)], ["complex64", "view_as_real"]),
    "float8": ([torch.ones(2).to(torch.float8_e4m3fn)], ["float8_e4m3fn", "bfloat16"]),
    "other float8": ([torch.ones(2).to(torch.float8_e5m2)], ["float8_e5m2"]),
    "bool": ([torch.ones(2, dtype=torch.bool)], ["torch.bool"]),
    "sparse": ([torch.ones(2).to_sparse().requires_grad_()], ["sparse", "to_dense"]),
    "lazy": (nn.LazyLinear(3), ["no shape", "once"]),
    "mixed": ([ONE, {"params": []}], ["bare"]),
    "half named": ([("a", ONE), nn.Parameter(torch.ones(1))], ["named"]),
    "names are numbers": ([(3, ONE)], ["(name, parameter)"]),
    "triples": ([("a", ONE, 3)], ["(name, parameter)"]),
    "one name": ([("a", ONE), ("a", nn.Parameter(torch.ones(1)))], ["'a'"]),
    "no params": ([{"lr": 0.1}], ["'params'"]),
    "params none": ([{"params": None}], ["group 0", "None"]),
    "a group of text": ([{"params": "abc"}], ["group 0", "'abc'"]),
    "a group in a set": ([{"params": {ONE}}], ["group 0", "set"]),
    "groups named and not": (
        [{"params": [nn.Parameter(torch.ones(1))]}, {"params": [("a", ONE)]}],
        ["group 1", "named"],
    ),
    "number keys": ([{"params": [ONE], 3: 4}], ["3"]),
}


@pytest.mark.parametrize(("given", "words"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_what_cannot_be_stepped_is_refused(given: Any, words: list[str]) -> None:
    refused(lambda: gradchain.optimizer("adamw", given), gradchain.ParameterError, words)


@pytest.mark.parametrize(
    "given", [[ONE], (ONE,), iter([ONE]), [("a", ONE)], [{"params": ONE}], [{"params": [("a", ONE)]}], nn.Linear(2, 2)]
)
def test_what_can_be_stepped_is_taken(given: Any) -> None:
    step(gradchain.optimizer("adamw", given))


LIVE: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], list[str]]] = {
    "params gone": (lambda groups: groups[0].pop("params"), ["group 0", "'params'"]),
    "params none": (lambda groups: groups[0].update(params=None), ["group 0", "params = None"]),
    "params a tuple": (lambda groups: groups[0].update(params=tuple(groups[0]["params"])), ["group 0", "list"]),
    "a string among them": (lambda groups: groups[0]["params"].append("x"), ["group 0", "'x'", "not a tensor"]),
    "integers": (
        lambda groups: groups[0]["params"].append(torch.ones(2, dtype=torch.long)),
        ["group 0", "torch.int64"],
    ),
    "twice": (lambda groups: groups[0]["params"].append(groups[0]["params"][0]), ["group 0", "twice"]),
    "in two groups": (lambda groups: groups[1]["params"].append(groups[0]["params"][0]), ["group 1", "another group"]),
    "a group is none": (lambda groups: groups.append(None), ["group 2", "None"]),
    "a group is empty": (lambda groups: groups.append({}), ["group 2", "'params'"]),
    "a group is bare": (lambda groups: groups.append({"params": []}), ["group 2", "no entry"]),
    "names too few": (lambda groups: groups[0].update(param_names=["a", "b", "c"]), ["group 0", "param_names"]),
    "names no list": (lambda groups: groups[0].update(param_names=3), ["group 0", "param_names"]),
    "disable none": (lambda groups: groups[0].update(disable=None), ["group 0", "disable"]),
    "disable the rate": (lambda groups: groups[0].update(disable=["scale_by_learning_rate"]), ["group 0", "lr"]),
    "role in capitals": (lambda groups: groups[0].update(role="Vector"), ["group 0", "'vector'"]),
    "maximize 1": (lambda groups: groups[0].update(maximize=1), ["group 0", "maximize = 1"]),
    "telemetry 0": (lambda groups: groups[0].update(telemetry=0), ["group 0", "telemetry = 0"]),
}


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("edit", "words"), LIVE.values(), ids=LIVE)
def test_a_group_that_is_edited_into_nonsense_is_refused_until_it_is_put_right(
    edit: Callable[[Any], Any], words: list[str], compile: bool
) -> None:
    held = params()
    optimizer = gradchain.optimizer("gyro-sgd", [{"params": [param]} for param in held], compile=compile)
    step(optimizer, 3)
    good = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    before = [param.detach().clone() for param in held]
    edit(optimizer.param_groups)
    for param in held:
        param.grad = torch.ones_like(param)
    for _ in range(2):
        refused(optimizer.step, gradchain.GradchainError, words)
    assert all(torch.equal(old, new) for old, new in zip(before, held))
    optimizer.param_groups[:] = good
    step(optimizer)


# Arguments.

CHAIN = gradchain.recipe("adamw")
ARGUMENTS: Table = [
    ("swapped", lambda: gradchain.Optimizer(CHAIN, params()), ["swapped", "Optimizer(params, chain)"]),
    ("swapped with a module", lambda: gradchain.Optimizer(CHAIN, nn.Linear(99, 99)), ["swapped"]),
    ("swapped by name", lambda: gradchain.optimizer(params(), "rose"), ["swapped", "'rose'"]),
    ("swapped by name with a module", lambda: gradchain.optimizer(nn.Linear(9, 9), "rose"), ["swapped"]),
    ("a chain for a name", lambda: gradchain.optimizer(CHAIN, params()), ["Optimizer(params, chain)"]),
    ("a chain last", lambda: gradchain.optimizer(params(), CHAIN), ["Optimizer(params, chain)"]),
    ("a name for a chain", lambda: gradchain.Optimizer(params(), "adamw"), ["recipe('adamw')"]),
    ("no chain", lambda: gradchain.Optimizer(params(), None), ["None"]),
    ("a recipe's function", lambda: gradchain.Optimizer(params(), gradchain.recipes.adamw), ["Call the recipe"]),
    ("tensors for a chain", lambda: gradchain.Optimizer(params(), torch.ones(1000)), ["shape (1000,)"]),
    ("stages", lambda: gradchain.Optimizer(params(), [t.sign()]), ["chain("]),
    ("compile 1", lambda: gradchain.Optimizer(params(), CHAIN, compile=1), ["compile = 1", "'auto'"]),
    ("compile array", lambda: gradchain.Optimizer(params(), CHAIN, compile=np.ones(2)), ["compile"]),
    ("capturable 1", lambda: gradchain.Optimizer(params(), CHAIN, capturable=1), ["capturable = 1"]),
    ("maximize", lambda: gradchain.Optimizer(params(), CHAIN, maximize=torch.ones(99)), ["maximize"]),
    ("telemetry", lambda: gradchain.Optimizer(params(), CHAIN, telemetry=None), ["telemetry = None"]),
    ("unknown", lambda: gradchain.Optimizer(params(), CHAIN, learning_rate=1), ["'learning_rate'"]),
    ("partition_of", lambda: gradchain.Optimizer(params(), CHAIN, partition_of="model"), ["partition_of", "'model'"]),
    ("closure", lambda: gradchain.Optimizer(params(), CHAIN).step(3), ["closure = 3"]),
    ("gather", lambda: gradchain.Optimizer(params(), CHAIN).telemetry("x"), ["gather = 'x'"]),
    ("backward", lambda: gradchain.step_in_backward(torch.optim.SGD(params())), ["SGD"]),
    ("disable text", lambda: gradchain.Optimizer(params(), CHAIN, disable="divide"), ["['divide']"]),
    ("disable numbers", lambda: gradchain.Optimizer(params(), CHAIN, disable=[3]), ["disable", "3"]),
    ("disable nothing known", lambda: gradchain.Optimizer(params(), CHAIN, disable=["x" * 10**5]), ["disable"]),
    ("role number", lambda: gradchain.Optimizer(params(), CHAIN, role=3), ["role = 3"]),
    ("role empty", lambda: gradchain.Optimizer(params(), CHAIN, role=""), ["role", "None"]),
    ("role typed badly", lambda: gradchain.Optimizer(params(), CHAIN, role="LORA-a"), ["'lora_A'"]),
    ("role of a branch", lambda: gradchain.optimizer("adams", params(), role="Matrix"), ["'matrix'"]),
    ("role fails", lambda: gradchain.Optimizer(params(), CHAIN, role=lambda n, p: 1 / 0), ["ZeroDivisionError"]),
    ("role of one argument", lambda: gradchain.Optimizer(params(), CHAIN, role=lambda n: None), ["name and the parameter"]),
    ("role of nothing", lambda: gradchain.Optimizer(params(), CHAIN, role={"nope": "vector"}), ["'nope'"]),
]  # fmt: skip


@table(ARGUMENTS)
def test_a_wrong_argument_is_explained(build: Callable[[], Any], words: list[str]) -> None:
    refused(build, gradchain.GradchainError, words)


RAW: Table = [
    ("no stage", lambda: gradchain.Optimizer(params(), gradchain.chain()), ["raw gradient"]),
    ("no stage, in functions", lambda: gradchain.chain().init(torch.ones(2)), ["raw gradient"]),
    ("disabled", lambda: gradchain.optimizer("adamw", params(), disable=["scale_by_learning_rate"]), ["lr"]),
    ("disabled, sgd", lambda: gradchain.optimizer("gyro-sgd", params(), disable=["scale_by_learning_rate"]), ["lr=0"]),
    (
        "an empty branch",
        lambda: gradchain.Optimizer(
            params(),
            gradchain.chain(gradchain.partition({"matrix": [t.sign()], "vector": []}, gradchain.matrix_or_vector)),
        ),
        ["raw gradient", "(3,)"],
    ),
]


@table(RAW)
def test_nobody_steps_by_the_raw_gradient(build: Callable[[], Any], words: list[str]) -> None:
    refused(build, gradchain.ChainError, words)


def test_a_role_of_your_own_is_taken() -> None:
    step(gradchain.optimizer("adamw", params(), role="mine"))
    step(gradchain.optimizer("adamw", params(), role="vector"))
