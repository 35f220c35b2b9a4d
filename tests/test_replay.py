"""A step that is like the last one is run without a look at each parameter: whatever differs must be noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import chain
from gradchain import transforms as t
from gradchain._engine import replay
from tests.test_optimizer import assert_same, frozen_copy

Optimizer = gradchain.Optimizer
SHAPES = [(4, 4), (3,), (2, 5), (4, 4)]


pytestmark = pytest.mark.usefixtures("traced")  # what is tested comes before the kernels


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the steps that were found to be like the last."""
    count: list[int] = []
    original = replay.ReplayPlan.run
    monkeypatch.setattr(replay.ReplayPlan, "run", lambda *args: count.append(1) or original(*args))
    return count


class rows_apart(gradchain.Stage):
    """A stage of somebody's: it asks for whole matrices."""

    def update(self, update: Any, ctx: Any) -> Any:
        if update.value.ndim < 2:
            return update
        M = yield gradchain.whole_matrix(update.value, function=apart)
        return update.replace(value=M)


def apart(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.solve(matrix @ matrix.mT + torch.eye(len(matrix)), matrix)


def make(compile: bool, recipe: str = "adamw") -> Optimizer:
    generator = torch.Generator().manual_seed(0)
    shapes = [(272, 272), *SHAPES[1:]] if recipe == "large" else SHAPES
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
    if recipe == "noisy":
        return Optimizer(groups, chain(t.first_moment(storage="int8"), t.scale_by_learning_rate(0.1)), compile=compile)
    if recipe == "asking":  # for matrices, and twice for a total over all
        stages = [
            rows_apart(),
            t.clip_by_global_norm(0.5),
            t.first_moment(0.9),
            t.clip_by_global_norm(0.4, name="again"),
        ]
        return Optimizer(groups, chain(*stages, t.scale_by_learning_rate(0.1)), compile=compile)
    return gradchain.optimizer("adamw" if recipe == "large" else recipe, groups, compile=compile)


def params_of(optimizer: Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def set_grads(optimizer: Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for param in params_of(optimizer):
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def first(optimizer: Optimizer) -> torch.Tensor:
    return params_of(optimizer)[0]


def group(optimizer: Optimizer) -> dict[str, Any]:
    return optimizer.param_groups[0]


def rate(optimizer: Optimizer) -> None:
    group(optimizer)["lr"] = 0.5


def betas(optimizer: Optimizer) -> None:
    group(optimizer)["betas"] = (0.5, 0.6)


def ascent(optimizer: Optimizer) -> None:
    group(optimizer)["maximize"] = True


def disabled(optimizer: Optimizer) -> None:
    group(optimizer)["disable"] = ("decoupled_decay",)


def tensor_rate(optimizer: Optimizer) -> None:
    group(optimizer)["lr"] = torch.tensor(0.3)


def missing_gradient(optimizer: Optimizer) -> None:
    first(optimizer).grad = None


def turned_gradient(optimizer: Optimizer) -> None:
    grad = first(optimizer).grad
    assert grad is not None
    first(optimizer).grad = grad.clone().t()


def own_gradient(optimizer: Optimizer) -> None:
    first(optimizer).grad = first(optimizer).detach()


def state_as_gradient(optimizer: Optimizer) -> None:
    first(optimizer).grad = optimizer.state[first(optimizer)]["first_moment.exp_avg"]


def moved_parameter(optimizer: Optimizer) -> None:
    first(optimizer).data = first(optimizer).detach().clone() * 2


def turned_parameter(optimizer: Optimizer) -> None:
    first(optimizer).data = first(optimizer).data.t()


def other_slot(optimizer: Optimizer) -> None:
    state = optimizer.state[first(optimizer)]
    state["first_moment.exp_avg"] = torch.ones_like(state["first_moment.exp_avg"])


def other_state(optimizer: Optimizer) -> None:
    optimizer.state[first(optimizer)] = {
        key: value.clone() * 2 for key, value in optimizer.state[first(optimizer)].items()
    }


def no_state(optimizer: Optimizer) -> None:
    del optimizer.state[first(optimizer)]


def other_count(optimizer: Optimizer) -> None:
    optimizer.state[first(optimizer)]["step"].fill_(20)


def new_counter(optimizer: Optimizer) -> None:
    optimizer.state[first(optimizer)]["step"] = torch.tensor(20.0)


def more_parameters(optimizer: Optimizer) -> None:
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer.add_param_group({"params": [param]})


def fewer_parameters(optimizer: Optimizer) -> None:
    group(optimizer)["params"] = group(optimizer)["params"][1:]


def exchanged_parameter(optimizer: Optimizer) -> None:
    param = nn.Parameter(torch.ones(4, 4))
    param.grad = torch.ones(4, 4)
    group(optimizer)["params"][0] = param


def loaded(optimizer: Optimizer) -> None:
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["first_moment.exp_avg"] += 1
    optimizer.load_state_dict(saved)


CHANGES = [
    rate, betas, ascent, disabled, tensor_rate, missing_gradient, turned_gradient, own_gradient, state_as_gradient,
    moved_parameter, turned_parameter, other_slot, other_state, no_state, other_count, new_counter, more_parameters,
    fewer_parameters, exchanged_parameter, loaded,
]  # fmt: skip


def train(compile: bool, change: Callable[[Optimizer], None], recipe: str = "adamw") -> Any:
    optimizer = make(compile, recipe)
    for step in range(9):
        set_grads(optimizer, step)
        if step == 5:
            change(optimizer)
        optimizer.step()
    return frozen_copy(optimizer)


def check_noticed(
    change: Callable[[Optimizer], None],
    compile: bool,
    ran: list[int],
    monkeypatch: pytest.MonkeyPatch,
    recipe: str = "adamw",
) -> None:
    """Steps that may be found like the last come to what steps that look at each parameter come to."""
    with monkeypatch.context() as patch:
        patch.setattr(replay.ReplayPlan, "gradients", lambda *args: None)
        looked = train(False, change, recipe)
    assert not ran
    torch.testing.assert_close(train(compile, change, recipe), looked, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_steps_is_noticed(
    change: Callable[[Optimizer], None], compile: bool, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_noticed(change, compile, ran, monkeypatch)
    # Eager steps are replayed in flat batches, and a tensor that is not contiguous fits in none.
    assert len(ran) >= (3 if change is turned_parameter and not compile else 4)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_where_kernels_see_tensors_in_other_shapes(
    change: Callable[[Optimizer], None], ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_noticed(change, True, ran, monkeypatch, "large")
    assert len(ran) >= 4


FOR_ADAMW = [disabled, betas]
"""These name what the other chain has in another form."""


@pytest.mark.parametrize("change", [change for change in CHANGES if change not in FOR_ADAMW])
def test_a_change_is_noticed_where_stages_ask(
    change: Callable[[Optimizer], None], ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_noticed(change, True, ran, monkeypatch, "asking")
    assert len(ran) >= 4


STEPS = [
    ("noisy", True),
    ("adv-prodigy", True),
    ("gyro-adam", True),
    ("asking", True),
    ("adamw", True),
    ("adamw", False),
]


@pytest.mark.parametrize(("recipe", "compile"), STEPS)
def testreplayed_steps_are_the_same_steps(
    recipe: str, compile: bool, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[Any] = []
    for looks in (False, True):
        if looks:
            monkeypatch.setattr(replay.ReplayPlan, "gradients", lambda *args: None)
        optimizer = make(compile, recipe)
        for step in range(7):
            set_grads(optimizer, step)
            optimizer.step()
        results.append(frozen_copy(optimizer))
    assert len(ran) == 5
    assert_same(*results)


def test_values_are_checked_inreplayed_steps() -> None:
    optimizer = make(True)
    for step in range(4):
        set_grads(optimizer, step)
        optimizer.step()
    before = frozen_copy(optimizer)
    group(optimizer)["lr"] = -1.0
    with pytest.raises(gradchain.OptionError, match=r"lr"):
        optimizer.step()
    group(optimizer)["lr"] = 1e-3
    assert_same(frozen_copy(optimizer), before)
    optimizer.step()
    assert int(optimizer.state[first(optimizer)]["step"]) == 5


def test_a_copy_goes_its_own_way() -> None:
    optimizer = make(True)
    for step in range(4):
        set_grads(optimizer, step)
        optimizer.step()
    before, twin = frozen_copy(optimizer), copy.deepcopy(optimizer)
    set_grads(twin, 9)
    twin.step()
    assert_same(frozen_copy(optimizer), before)


def test_no_gradient_is_kept_alive() -> None:
    import weakref

    optimizer = make(True)
    for step in range(4):
        set_grads(optimizer, step)
        optimizer.step()
    held = weakref.ref(first(optimizer).grad)
    optimizer.zero_grad()
    assert held() is None


def test_a_plan_of_steps_in_backward_is_not_taken_up_by_a_step_of_all() -> None:
    results: list[Any] = []
    for compile in (False, True):
        params = [nn.Parameter(torch.full(shape, 0.5)) for shape in ((3,), (5, 5), (5, 5))]
        optimizer = gradchain.optimizer("adamw", params, compile=compile)

        def backward(some: list[nn.Parameter]) -> None:
            torch.stack([(param * param).sum() for param in some]).sum().backward()

        with gradchain.step_in_backward(optimizer):
            for _ in range(3):
                backward(params)
        for some in (params, params[:1]):
            backward(some)
            optimizer.step()
            optimizer.zero_grad()
            plan = optimizer._replay_plan  # pyright: ignore[reportPrivateUsage]
            assert plan is None or len(plan.params) == len(some)
        results.append(frozen_copy(optimizer))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_steps_without_any_gradient() -> None:
    optimizer = make(True)
    for step in range(8):
        if step == 4:
            set_grads(optimizer, step)
        optimizer.step()
        optimizer.zero_grad()
    assert float(optimizer.state[first(optimizer)]["step"]) == 1


@pytest.mark.parametrize("compile", [False, True])
def test_a_rate_of_two_elements_is_refused_whatever_it_was_before(compile: bool) -> None:
    optimizer = make(compile)
    for rate in (0.1, torch.tensor(0.1), torch.tensor(0.2)):
        group(optimizer)["lr"] = rate
        set_grads(optimizer, 0)
        optimizer.step()
        group(optimizer)["lr"] = torch.ones(2)
        with pytest.raises(gradchain.OptionError, match=r"shape \(2,\)"):
            optimizer.step()


@pytest.mark.parametrize("compile", [False, True])
def test_a_parameter_that_has_left_is_let_go(compile: bool) -> None:
    import gc
    import weakref

    optimizer = make(compile)
    gone: Any = None
    for step in range(6):
        if step == 4:
            left = optimizer.param_groups[-1]["params"].pop()
            del optimizer.state[left]
            gone = weakref.ref(left)
            del left
        set_grads(optimizer, step)
        optimizer.step()
    gc.collect()
    assert gone() is None


def test_a_slot_that_was_turned_in_place_is_not_taken_for_the_old_one() -> None:
    optimizer = make(True)
    for step in range(6):
        set_grads(optimizer, step)
        if step == 4:
            slot = optimizer.state[first(optimizer)]["first_moment.exp_avg"]
            slot.data = slot.t()
        optimizer.step()
    buckets = [ids for ids, *_ in optimizer._executor.compiled.kernels]  # pyright: ignore[reportPrivateUsage]
    assert any(stride == (1, 4) for ids in buckets for known in ids for _, stride, *_ in known.layout.tensors)
