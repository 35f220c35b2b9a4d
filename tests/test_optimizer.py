"""The optimizer does what torch.optim does: groups, closures, hooks, copies, scaling. Also the helpers of its neighbours."""

from __future__ import annotations

import copy
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import _engine as engine

RECIPES = gradchain.recipes()
SHAPES = ((6, 4), (5,), (), (3, 2, 2, 2))


def make_params(dtype: torch.dtype = torch.float32, shapes: Iterable[Sequence[int]] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(tuple(shape), generator=generator).to(dtype)) for shape in shapes]


def set_grads(params: Iterable[torch.Tensor], step: int) -> None:
    """Gradients that depend on the step and on the parameters, so that any difference in either shows later."""
    for index, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + index)
        noise = torch.randn(param.shape, generator=generator)
        param.grad = (noise + 0.1 * param.detach().float()).to(param.dtype)


def train(optimizer: torch.optim.Optimizer, params: Sequence[torch.Tensor], steps: Iterable[int]) -> None:
    for step in steps:
        set_grads(params, step)
        optimizer.step()


def frozen_copy(optimizer: torch.optim.Optimizer) -> Any:
    """Everything that a failed step must leave alone."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    values = [(p.detach().clone(), None if p.grad is None else p.grad.detach().clone()) for p in params]
    state = [{k: v.clone() for k, v in optimizer.state.get(p, {}).items()} for p in params]
    return values, state


def assert_same(left: Any, right: Any) -> None:
    """Bit for bit, dtypes included."""
    torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


def recipe_optimizer(name: str, params: Any, **options: Any) -> gradchain.Optimizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice about shapes
        return gradchain.optimizer(name, params, **{"compile": False, **options})


def torch_twin(name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    twin = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    return twin(params, foreach=False, **options)


# The same numbers as torch.

TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("adamw", {"lr": 1e-2}),
    "adamw-options": ("adamw", {"lr": 1e-2, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.3}),
    "adamw-maximize": ("adamw", {"lr": 1e-2, "maximize": True}),
    "adamw-tensor-lr": ("adamw", {"lr": torch.tensor(1e-2)}),
    "adamw-frozen-rate": ("adamw", {"lr": 0.0}),
    "sgd": ("sgd", {"lr": 0.1}),
    "sgd-momentum": ("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "sgd-nesterov": ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "sgd-dampening": ("sgd", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
}


@pytest.mark.parametrize(("name", "options"), TWINS.values(), ids=TWINS)
def test_the_numbers_of_torch(name: str, options: dict[str, Any]) -> None:
    ours, theirs = make_params(), make_params()
    train(recipe_optimizer(name, ours, **options), ours, range(8))
    train(torch_twin(name, theirs, **options), theirs, range(8))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_groups_none_gradients_and_late_groups_as_torch() -> None:
    def run(make: Callable[..., torch.optim.Optimizer]) -> list[nn.Parameter]:
        params = make_params()
        late = nn.Parameter(torch.ones(3))
        frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        groups = [{"params": [params[0], frozen]}, {"params": params[1:], "lr": 0.1, "weight_decay": 0.0}]
        optimizer = make("adamw", groups, lr=1e-2, betas=(0.8, 0.9))
        for step in range(9):
            set_grads(params, step)
            if step % 3 == 1:
                params[2].grad = None
            if step == 3:
                optimizer.add_param_group({"params": late, "betas": (0.0, 0.5), "maximize": True})
            if step == 5:
                frozen.requires_grad_(True)
            late.grad = torch.full((3,), float(step))
            frozen.grad = torch.full((2,), float(step)) if step >= 5 else None
            optimizer.step()
        return [*params, late, frozen]

    torch.testing.assert_close(run(recipe_optimizer), run(torch_twin), rtol=1e-5, atol=1e-6)


def test_step_counts_are_per_parameter() -> None:
    params = make_params()
    optimizer = recipe_optimizer("adamw", params)
    for step in range(4):
        set_grads(params, step)
        params[1].grad = None if step < 3 else params[1].grad
        optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [4, 1, 4, 4]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_are_never_written(name: str, maximize: bool) -> None:
    params = make_params()
    optimizer = recipe_optimizer(name, params, maximize=maximize)
    for step in range(3):
        set_grads(params, step)
        grads = [p.grad for p in params]
        before = [(grad.clone(), grad._version) for grad in grads]
        optimizer.step()
        for param, grad, (value, version) in zip(params, grads, before):
            assert param.grad is grad
            assert grad._version == version
            assert_same(grad, value)


@pytest.mark.parametrize("name", RECIPES)
def test_maximize_ascends(name: str) -> None:
    down, up = make_params(), make_params()
    descent, ascent = recipe_optimizer(name, down), recipe_optimizer(name, up, maximize=True)
    for step in range(3):
        set_grads(down, step)
        for param, other in zip(up, down):
            param.grad = -other.grad
        descent.step()
        ascent.step()
    assert_same(up, down)


# Ways to name the parameters.

Pair = namedtuple("Pair", "name param")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.tied = self.inner.weight
        self.register_parameter("absent", None)


FORMS: dict[str, Callable[[Net], Any]] = {
    "module": lambda net: net,
    "parameters": lambda net: net.parameters(),
    "list": lambda net: list(net.parameters()),
    "generator": lambda net: (p for p in net.parameters()),
    "named": lambda net: net.named_parameters(),
    "named tuples": lambda net: [Pair(*pair) for pair in net.named_parameters()],
    "dicts": lambda net: [{"params": net.inner.parameters()}, {"params": net.scale}],
    "named dicts": lambda net: iter([{"params": net.named_parameters()}]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_pass_parameters(form: str) -> None:
    expected, net = Net(), Net()
    net.load_state_dict(expected.state_dict())
    for model, params in ((expected, list(expected.parameters())), (net, FORMS[form](net))):
        optimizer = recipe_optimizer("adamw", params)
        train(optimizer, sorted(model.parameters(), key=lambda p: (p.ndim, p.shape)), range(2))
    assert_same(net.state_dict(), expected.state_dict())
    names = [group.get("param_names") for group in optimizer.param_groups]
    named = form in ("module", "named", "named tuples", "named dicts")
    assert names == ([["scale", "tied", "inner.bias"]] if named else [None] * len(names))


WRONG: list[Callable[[torch.Tensor], Any]] = [
    lambda p: [],
    lambda p: p,
    lambda p: [p, 3],
    lambda p: [{"lr": 1.0}],
    lambda p: [{"params": {p}}],
    lambda p: [("a", p), torch.ones(2)],
    lambda p: [torch.ones(2, requires_grad=True) * 2],
    lambda p: [{"params": [torch.ones(1)]}, {"params": [("a", p)]}],
    lambda p: [{"params": [p]}, {"params": [p]}],
    lambda p: [{"params": p}, 3],
    lambda p: [p, p],
    lambda p: None,
]


@pytest.mark.parametrize("wrong", WRONG, ids=map(str, range(len(WRONG))))
def test_wrong_parameters_fail_where_torch_fails(wrong: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises((Exception, Warning)) as theirs:
        torch.optim.AdamW(wrong(torch.ones(2)))
    with pytest.raises(gradchain.ParameterError) as ours:
        gradchain.optimizer("adamw", wrong(torch.ones(2)))
    assert isinstance(theirs.value, (KeyError, UserWarning)) or isinstance(ours.value, type(theirs.value))


def test_a_failed_late_group_leaves_no_trace() -> None:
    params = make_params()
    optimizer = recipe_optimizer("adamw", params)
    train(optimizer, params, range(2))
    before, state = frozen_copy(optimizer), copy.copy(optimizer.state)
    for bad in ({"params": params[0]}, {"params": torch.ones(2, dtype=torch.complex64)}, {"params": 3}):
        with pytest.raises((TypeError, ValueError)):
            optimizer.add_param_group(bad)
    assert_same(frozen_copy(optimizer), before)
    assert len(optimizer.param_groups) == 1
    assert set(optimizer.state) == set(state)
    train(optimizer, params, range(2, 4))


# Between construction and the first step.


def prepared(prepare: Callable[[nn.Module], Any], start: torch.dtype, late: bool) -> list[Any]:
    torch.manual_seed(0)
    net = nn.Linear(4, 3).to(start)
    if not late:
        prepare(net)
    optimizer = recipe_optimizer("adams", net.parameters(), lr=0.1)
    if late:
        prepare(net)
    params = list(net.parameters())
    train(optimizer, params, range(3))
    return [(p.detach(), optimizer.state[p]) for p in params]


WEIGHTS = {"weight": torch.linspace(-1, 1, 12).view(3, 4), "bias": torch.zeros(3)}
PREPARATIONS: dict[str, tuple[Callable[[nn.Module], Any], torch.dtype]] = {
    "load": (lambda net: net.load_state_dict(WEIGHTS), torch.float32),
    "load bf16": (lambda net: net.load_state_dict(WEIGHTS), torch.bfloat16),
    "narrow": (lambda net: net.bfloat16(), torch.float32),
    "narrow and load": (lambda net: net.bfloat16().load_state_dict(WEIGHTS), torch.float32),
    "widen": (lambda net: net.float(), torch.bfloat16),
    "double": (lambda net: net.double(), torch.float32),
}


@pytest.mark.parametrize(("prepare", "start"), PREPARATIONS.values(), ids=PREPARATIONS)
def test_a_model_may_be_loaded_or_moved_before_the_first_step(prepare: Any, start: torch.dtype) -> None:
    assert_same(prepared(prepare, start, late=True), prepared(prepare, start, late=False))


def test_an_unfrozen_parameter_starts_from_its_value_then() -> None:
    param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)
    optimizer = recipe_optimizer("adams", [param, nn.Parameter(torch.ones(1))])
    assert param not in optimizer.state
    param.data.fill_(2.0)
    param.requires_grad_(True)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert optimizer.state[param]["master_weights.master_param"].min() > 1.9


# The rule of compile="auto".


@pytest.mark.parametrize(
    ("elements", "compiler", "expected"), [(29, True, True), (30, True, False), (1, False, False), (10**9, True, False)]
)
def test_auto_compiles_what_is_large_enough_and_has_a_compiler(
    elements: int, compiler: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "AUTO_ELEMENTS", elements)
    monkeypatch.setattr(engine, "_has_compiler", lambda device: compiler)
    params = make_params(shapes=[(6, 4), (5,)])
    assert engine.worth_compiling(params) is expected
    assert gradchain.Optimizer(params, gradchain.recipe("adamw"))._compiled() is expected
