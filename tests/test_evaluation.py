"""Parameters that are trained at one point and seen at another: `optimizer.train()` and `eval()`, and what is saved."""

from __future__ import annotations

import copy
import gc as garbage
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain.ablation import Task
from gradchain.ablation.task import find_task
from gradchain.ablation.trial import Trial
from gradchain.errors import ChainError, OptionError, StateError
from tests.laws.running import gradients, tensors

SHAPES = [(4, 3), (7,), ()]
LR = gc.scale_by_learning_rate(0.1)

CHAINS = {
    "schedule_free": gc.chain(
        gc.second_moment(0.9), gc.divide(), gc.decoupled_decay(0.1), LR, gc.schedule_free(0.8, 3)
    ),
    "average_weights": gc.chain(gc.first_moment(0.8), LR, gc.average_weights(0.7)),
    "lookahead": gc.chain(gc.first_moment(0.8), LR, gc.lookahead(3, 0.6)),
    "rounded": gc.chain(gc.promote("fp32"), LR, gc.schedule_free(dtype="fp32"), gc.stochastic_round()),
    "master": gc.chain(gc.master_weights(), LR, gc.schedule_free(dtype="fp32")),
    "wide": gc.chain(LR, gc.average_weights(0.7, dtype="fp64")),
    "partition": gc.chain(
        LR, gc.partition({"matrix": [gc.schedule_free()], "vector": [gc.multiply(0.5)]}, gc.matrix_or_vector)
    ),
}
over_chains = pytest.mark.parametrize("name", CHAINS)


def made(name: str, seed: int = 1, **options: Any) -> gc.Optimizer:
    dtype = torch.bfloat16 if name in ("rounded", "master") else torch.float32
    held = [nn.Parameter(p) for p in tensors(seed, SHAPES, dtype)]
    return gc.Optimizer(held, CHAINS[name], **{"compile": False, **options})


def params(optimizer: gc.Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def values(optimizer: gc.Optimizer) -> list[torch.Tensor]:
    return [param.detach().clone() for param in params(optimizer)]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, left, right))


def train(optimizer: gc.Optimizer, first: int, last: int) -> list[torch.Tensor]:
    for step in gradients(last, SHAPES, params(optimizer)[0].dtype)[first:]:
        for param, grad in zip(params(optimizer), step, strict=True):
            param.grad = grad.clone()
        optimizer.step()
    return values(optimizer)


def save_and_load(saved: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@over_chains
def test_what_eval_replaces_comes_back_bit_for_bit(name: str) -> None:
    optimizer = made(name)
    trained = train(optimizer, 0, 4)
    keys = [sorted(optimizer.state[param]) for param in params(optimizer)]
    optimizer.eval()
    seen = values(optimizer)
    assert not same(seen, trained)
    optimizer.eval()
    assert same(values(optimizer), seen)
    optimizer.train()
    assert same(values(optimizer), trained)
    assert [sorted(optimizer.state[param]) for param in params(optimizer)] == keys
    optimizer.train()
    assert same(values(optimizer), trained)


@over_chains
@pytest.mark.parametrize("options", [{}, {"compile": True}, {"capturable": True}], ids=str)
def test_a_run_that_is_looked_at_ends_where_one_that_is_not_does(name: str, options: dict[str, Any]) -> None:
    if "compile" in options and name != "schedule_free":
        pytest.skip("one is enough")
    watched, left_alone = made(name, **options), made(name, **options)
    for step in range(5):
        train(watched, step, step + 1)
        watched.eval()
        watched.train()
    assert same(values(watched), train(left_alone, 0, 5))


@over_chains
@pytest.mark.parametrize("saved_in", ["train", "eval"])
@pytest.mark.parametrize("loaded_in", ["fresh", "train", "eval"])
def test_checkpoints_are_right_in_either_mode(name: str, saved_in: str, loaded_in: str) -> None:
    expected = train(made(name), 0, 6)
    first = made(name)
    train(first, 0, 3)
    getattr(first, saved_in)()
    saved, model = save_and_load(first.state_dict()), values(first)

    second = made(name, seed=2)
    if loaded_in != "fresh":
        train(second, 0, 2)
        getattr(second, loaded_in)()
    with torch.no_grad():
        for param, value in zip(params(second), model, strict=True):
            param.copy_(value)
    second.load_state_dict(saved)
    assert same(values(second), model)  # loading never touches the parameters
    assert second.param_groups[0]["train_mode"] is (saved_in == "train")
    if saved_in == "eval":
        with pytest.raises(OptionError, match=r"optimizer\.train\(\)"):
            second.step()
    else:
        second.eval()
    second.train()
    assert same(train(second, 3, 6), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_copies_keep_the_mode(copied: Callable[[Any], Any], mode: str) -> None:
    optimizer = made("schedule_free")
    train(optimizer, 0, 3)
    getattr(optimizer, mode)()
    twin = copied(optimizer)
    assert same(values(twin), values(optimizer))
    if mode == "eval":
        with pytest.raises(OptionError, match="train"):
            twin.step()
    for both in (optimizer, twin):
        both.train()
    assert same(train(twin, 3, 5), train(optimizer, 3, 5))


def test_a_chain_without_such_a_stage_has_one_mode() -> None:
    optimizer = gc.optimizer("adamw", [nn.Parameter(torch.ones(2))])
    params(optimizer)[0].grad = torch.ones(2)
    optimizer.step()
    before = values(optimizer)
    optimizer.eval()
    optimizer.step()
    optimizer.train()
    assert not same(values(optimizer), before)
    assert "train_mode" not in optimizer.param_groups[0]
    assert "train_mode" not in optimizer.defaults


def test_a_step_in_eval_mode_says_what_to_do() -> None:
    optimizer = made("schedule_free")
    train(optimizer, 0, 2)
    optimizer.eval()
    seen = values(optimizer)
    first = params(optimizer)[0]
    for stepped in (optimizer.step, lambda: optimizer.step_parameter(first), lambda: optimizer.explain(first)):
        with pytest.raises(OptionError, match=r"optimizer\.train\(\)"):
            stepped()
    asked = []
    with pytest.raises(OptionError, match="train"):
        optimizer.step(lambda: asked.append(1))
    assert not asked
    with gc.step_in_backward(optimizer), pytest.raises(OptionError, match="train"):
        params(optimizer)[0].sum().backward()
    assert same(values(optimizer), seen)


def test_parameters_that_have_taken_no_step_are_seen_as_they_are() -> None:
    optimizer = made("schedule_free")
    optimizer.eval()
    with torch.no_grad():
        for param in params(optimizer):
            param.fill_(3.0)  # a model that is loaded after the optimizer is made
    with pytest.raises(OptionError, match="train"):
        optimizer.step()
    optimizer.train()
    assert all((value == 3).all() for value in values(optimizer))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer.add_param_group({"params": [frozen]})
    train_only = [p for p in params(optimizer) if p is not frozen]
    for param in train_only:
        param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.eval()
    assert (frozen == 1).all()


def test_groups_that_are_added_in_eval_mode() -> None:
    optimizer = made("average_weights")
    trained = train(optimizer, 0, 3)
    optimizer.eval()
    late = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [late]})
    assert (late == 1).all()
    assert optimizer.param_groups[1]["train_mode"] is False
    optimizer.train()
    assert same(values(optimizer)[:3], trained)
    assert optimizer.param_groups[1]["train_mode"] is True


def test_a_stage_that_is_switched_off_shows_nothing() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [first]}, {"params": [second], "disable": ["average_weights"]}]
    optimizer = gc.Optimizer(groups, gc.chain(LR, gc.average_weights(0.5)))
    for _ in range(2):
        first.grad = second.grad = torch.ones(2)
        optimizer.step()
    optimizer.eval()
    torch.testing.assert_close(first.detach(), torch.full((2,), -0.15))
    torch.testing.assert_close(second.detach(), torch.full((2,), -0.2))


def test_all_or_nothing() -> None:
    class cannot(gc.EvaluationPoint):
        def evaluated(self, param: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
            if ctx.shape == (7,):
                raise RuntimeError("no more")
            return param + 1

    held = [nn.Parameter(p) for p in tensors(1, SHAPES)]
    optimizer = gc.Optimizer(held, gc.chain(LR, cannot()))
    trained = train(optimizer, 0, 1)
    with pytest.raises(RuntimeError, match="no more"):
        optimizer.eval()
    assert same(values(optimizer), trained)
    assert not any("train_param" in key for param in held for key in optimizer.state[param])
    train(optimizer, 1, 2)  # still in train mode


def test_what_a_stage_may_return() -> None:
    class wrong(gc.EvaluationPoint):
        def evaluated(self, param: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
            return param.sum()

    optimizer = gc.Optimizer([nn.Parameter(torch.ones(3))], gc.chain(LR, wrong()))
    params(optimizer)[0].grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(ChainError, match=r"wrong: its `evaluated` returned .* for a parameter of shape \(3,\)"):
        optimizer.eval()


def test_a_parameter_is_seen_at_one_point() -> None:
    with pytest.raises(ChainError, match="lookahead and average_weights both say"):
        gc.chain(LR, *_points("lookahead", "average_weights"))
    gc.chain(LR, gc.partition({"matrix": [gc.lookahead()], "vector": [gc.average_weights()]}, gc.matrix_or_vector))


def _points(*names: str) -> list[gc.Stage]:
    class point(gc.EvaluationPoint):
        pass

    return [point(name=name) for name in names]


def test_a_slot_of_the_name_that_eval_uses_is_refused() -> None:
    class takes_it(gc.Stage):
        def slots(self, p: gc.ParamInfo) -> dict[str, gc.Slot]:
            return {"train_param": gc.Slot()}

    with pytest.raises(ChainError, match=r"eval\(\)"):
        gc.chain(LR, takes_it())


def test_a_checkpoint_that_lost_the_training_value_is_refused() -> None:
    """As torch.distributed.checkpoint loads it into an optimizer in train mode: what that has no room for is left out."""
    optimizer = made("schedule_free")
    train(optimizer, 0, 3)
    optimizer.eval()
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state.pop("schedule_free.train_param")
    other = made("schedule_free")
    with pytest.raises(StateError, match=r"saved after eval\(\).*call optimizer\.eval\(\) before you load"):
        other.load_state_dict(saved)
    report = other.load_state_dict(saved, strict=False)
    assert any("saved after eval()" in line for line in report.differences)
    other.step()  # from where it was seen: better than nothing


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2), "x", torch.zeros(4, 3, dtype=torch.int64)], ids=["shape", "text", "dtype"]
)
def test_a_training_value_that_is_none_is_refused(wrong: Any) -> None:
    optimizer = made("schedule_free")
    train(optimizer, 0, 3)
    optimizer.eval()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["schedule_free.train_param"] = wrong
    with pytest.raises(StateError, match="train_param is not a tensor"):
        made("schedule_free").load_state_dict(saved)


def test_a_chain_without_the_stage_says_what_it_drops() -> None:
    optimizer = made("average_weights")
    train(optimizer, 0, 3)
    optimizer.eval()
    plain = gc.Optimizer(
        [nn.Parameter(p) for p in tensors(1, SHAPES)], CHAINS["average_weights"].without("average_weights")
    )
    report = plain.load_state_dict(optimizer.state_dict(), strict=False)
    assert sum("average_weights.train_param" in line for line in report.dropped) == len(SHAPES)


@over_chains
def test_the_pure_function_sees_the_same_point(name: str) -> None:
    optimizer, chain = made(name), CHAINS[name]
    tensors_of = {str(at): value for at, value in enumerate(values(optimizer))}
    state = chain.init(tensors_of)
    before = chain.evaluated(tensors_of, state)
    assert all(torch.equal(before[key], value) for key, value in tensors_of.items())
    for step in gradients(3, SHAPES, tensors_of["0"].dtype):
        updates, state = chain.update({str(at): grad for at, grad in enumerate(step)}, state, tensors_of)
        tensors_of = gc.apply_updates(tensors_of, updates)
    train(optimizer, 0, 3)
    optimizer.eval()
    seen = chain.evaluated(tensors_of, state)
    torch.testing.assert_close([*seen.values()], values(optimizer), rtol=1e-5, atol=1e-6)


# Forgetting it.


class Model(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 2))


def trained_model() -> tuple[Model, gc.Optimizer]:
    model = Model()
    optimizer = gc.optimizer("schedule-free-sgd", model, lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_model_that_is_evaluated_without_eval_warns_once() -> None:
    model, optimizer = trained_model()
    model.eval()
    with pytest.warns(UserWarning, match=r"optimizer\.eval\(\)"):
        model(torch.ones(1, 3))
    model(torch.ones(1, 3))  # warnings are errors here
    assert not model._forward_pre_hooks
    del optimizer


def test_whoever_calls_eval_is_not_warned() -> None:
    model, optimizer = trained_model()
    model.eval()
    optimizer.eval()
    model(torch.ones(1, 3))
    model.train()
    optimizer.train()
    model(torch.ones(1, 3))


def test_before_the_first_step_nothing_is_forgotten() -> None:
    model = Model()
    optimizer = gc.optimizer("schedule-free-sgd", model)
    model.eval()
    model(torch.ones(1, 3))
    assert len(model._forward_pre_hooks) == 1
    del optimizer


def test_other_chains_watch_nothing() -> None:
    model = Model()
    optimizer = gc.optimizer("adamw", model)
    assert not model._forward_pre_hooks
    del optimizer


def test_the_reminder_goes_with_the_optimizer_and_not_with_copies() -> None:
    model, optimizer = trained_model()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        twin.eval()
        torch.testing.assert_close(twin(torch.ones(1, 3)), model(torch.ones(1, 3)))
    twin = copy.deepcopy(optimizer)
    del optimizer
    garbage.collect()
    assert not model._forward_pre_hooks
    del twin


def test_a_compiled_model_is_not_broken_by_the_reminder() -> None:
    model, _optimizer = trained_model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    model.eval()
    compiled(torch.ones(1, 3))


# Studies.


def test_a_study_measures_what_is_to_be_seen(tmp_path: Path) -> None:
    task = find_task("diabetes")
    assert isinstance(task, Task)
    made: list[tuple[nn.Module, gc.Optimizer]] = []

    def make(model: Any, **options: Any) -> gc.Optimizer:
        made.append((model, gc.Optimizer(model, gc.chain(LR, gc.average_weights(0.0 if len(made) else 1.0)))))
        return made[-1][1]

    trial = Trial(0, "base", 1, tmp_path)
    for same_point in (False, True):
        found = task.train(make, trial)["validation_loss"]
        model, optimizer = made[-1]
        part = task.split(0).validation
        trained = task.loss(model(part.inputs), part.targets).item()
        optimizer.eval()
        shown = task.loss(model(part.inputs), part.targets).item()
        assert found == pytest.approx(shown)
        assert (trained == pytest.approx(shown)) is same_point
