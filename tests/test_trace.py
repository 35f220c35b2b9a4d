"""The waterfall from gradient to parameter change: its last row is the change, bit for bit, and nothing is touched."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradchain as gc
from tests.test_optimizer import RECIPES, SHAPES, make_params, set_grads


def changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """New less old, as the update of the functional form has it."""
    half = after.dtype in (torch.bfloat16, torch.float16)
    return after.float() - before.float() if half else after - before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_last_row_is_the_change(name: str, dtype: torch.dtype) -> None:
    """From before the first step on, with state, over all shapes."""
    params = make_params(dtype)
    named = [(f"p{number}", param) for number, param in enumerate(params)]
    optimizer = gc.Optimizer(named, gc.recipe(name), compile=False)
    for step in range(4):
        set_grads(params, step)
        traces = [optimizer.explain(label) for label, _ in named]
        before = [param.detach().clone() for param in params]
        optimizer.step()
        for old, param, trace in zip(before, params, traces):
            assert torch.equal(trace.change, changed(old, param.detach()))
            assert [row.stage for row in trace.rows] == ["gradient", *_acting(optimizer.chain, param), "parameter"]
            assert trace.title.endswith(f"step {step + 1}")


def _acting(chain: gc.Chain, param: torch.Tensor) -> list[str]:
    return [address for address, _ in chain.route("p", param).stages]


@pytest.mark.parametrize("name", RECIPES)
def test_a_trace_is_an_update(name: str) -> None:
    chain = gc.recipe(name)
    (param,) = make_params(shapes=SHAPES[:1])
    value, state = param.detach(), chain.init(param.detach())
    for step in range(3):
        set_grads([param], step)
        trace = chain.trace(param.grad, value, state)
        update, state = chain.update(param.grad, state, value)
        assert torch.equal(trace.change, update)
        value = gc.apply_updates(value, update)


@pytest.mark.parametrize("name", ["rose", "adv-lion-prodigy"])
def test_with_counters_on_the_device(name: str) -> None:
    """And with noise, which goes by the count."""
    params = make_params(torch.bfloat16)
    optimizer = gc.Optimizer(params, gc.recipe(name), compile=False, capturable=True)
    for step in range(3):
        set_grads(params, step)
        trace = optimizer.explain(params[0])
        old = params[0].detach().clone()
        optimizer.step()
        assert torch.equal(trace.change, changed(old, params[0].detach()))
        assert trace.title.endswith(f"step {step + 1}")


@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"nonfinite": "skip"}, {"capturable": True}])
def test_explaining_changes_nothing(options: dict[str, object]) -> None:
    runs = []
    for explains in (False, True):
        params = make_params()
        optimizer = gc.Optimizer(params, gc.recipe("gyro-adam"), compile=False, **options)
        for step in range(3):
            set_grads(params, step)
            if explains:
                saved = copy.deepcopy(optimizer.state_dict())
                grads = [param.grad.clone() for param in params]
                trace = optimizer.explain(params[0])
                assert _same(saved, optimizer.state_dict())
                assert all(torch.equal(one, param.grad) for one, param in zip(grads, params))
                old = params[0].detach().clone()
            optimizer.step()
            if explains:
                assert torch.equal(trace.change, params[0].detach() - old)
        runs.append([param.detach().clone() for param in params])
    assert all(map(torch.equal, *runs))


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))  # type: ignore[arg-type]
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other  # type: ignore[arg-type]


def test_the_numbers() -> None:
    """A gradient of two elements by hand: clipped to 1, smoothed, decayed."""
    chain = gc.chain(gc.clip_by_value(1.0), gc.multiply(0.5), gc.scale_by_learning_rate(0.1), gc.decoupled_decay(0.5))
    trace = chain.trace(torch.tensor([3.0, -1.0]), torch.tensor([-2.0, 4.0]))
    clip, half, rate, decay = (row.value.tolist() for row in trace.rows[1:5])
    assert trace.rows[0].value.tolist() == [-3.0, 1.0]
    assert clip == [-1.0, 1.0]
    assert half == [-0.5, 0.5]
    assert rate == pytest.approx([-0.05, 0.05])
    assert decay == pytest.approx([-0.05 + 0.1, 0.05 - 0.2])
    assert [row.rms for row in trace.rows[:4]] == pytest.approx([math.sqrt(5), 1.0, 0.5, 0.05])
    assert trace["clip_by_value"].cosine == pytest.approx(4 / (math.sqrt(2) * math.sqrt(10)))
    assert trace["clip_by_value"].moved == pytest.approx(math.sqrt(2) / math.sqrt(5))
    assert [row.flips for row in trace.rows[1:]] == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert trace["decoupled_decay"].cosine < 0
    assert trace.change.tolist() == pytest.approx(decay, rel=1e-5)


def test_a_pending_scale_is_divided_out() -> None:
    trace = gc.recipe("rose").trace(torch.tensor([[1.0, 2.0], [3.0, -4.0]]), torch.zeros(2, 2))
    assert [row.stage for row in trace.rows if row.pending] == ["range_normalize", "cv_trust_gate"]
    assert "scale pending" in str(trace)
    assert torch.allclose(trace["cv_trust_gate"].value, trace["divide"].value)


def test_what_stages_record_is_shown() -> None:
    chain = gc.recipe("gyro-sgd", warmup_steps=0)
    param = torch.ones(3)
    _, state = chain.update(torch.tensor([1.0, 2.0, 3.0]), chain.init(param), param)
    recorded = chain.trace(torch.tensor([1.0, 2.0, -3.0]), param, state)["momentum_project"].recorded
    assert recorded["mean_norm_g"] == pytest.approx(math.sqrt(14))
    assert "mean_cos" in str(chain.trace(torch.ones(3), param, state))


def test_hyperparameters() -> None:
    chain = gc.recipe("sgd")
    assert chain.trace(torch.ones(2), torch.zeros(2), lr=0.25).change.tolist() == [-0.25, -0.25]


@pytest.mark.parametrize("grad", [torch.zeros(3), torch.tensor([math.nan, 1.0, 2.0]), torch.zeros(0)])
def test_odd_gradients(grad: torch.Tensor) -> None:
    for name in ("rose", "adamw"):
        text = str(gc.recipe(name).trace(grad, torch.ones(grad.shape)))
        assert "parameter" in text


def test_by_name_or_by_itself() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    optimizer = gc.optimizer("adamw", model, compile=False)
    with pytest.raises(gc.GradientError, match=r"parameter 0\.weight has no gradient. Call loss\.backward"):
        optimizer.explain("0.weight")
    model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(optimizer.explain("0.weight").change, optimizer.explain(model[0].weight).change)
    with pytest.raises(gc.OptionError, match=r"no parameter '0\.wight'. Did you mean '0\.weight'"):
        optimizer.explain("0.wight")
    with pytest.raises(gc.OptionError, match="no parameter <Tensor of shape"):
        optimizer.explain(torch.ones(2))
    with pytest.raises(gc.OptionError, match="3 is an int; pass a name"):
        optimizer.explain(3)  # type: ignore[arg-type]


def test_unnamed_parameters_and_groups_with_stages_off() -> None:
    params = make_params()
    groups = [{"params": params[:1], "lr": 0.5, "disable": ["decoupled_decay"]}, {"params": params[1:]}]
    optimizer = gc.optimizer("adamw", groups, compile=False)
    set_grads(params, 0)
    trace = optimizer.explain(params[0])
    assert "decoupled_decay" not in [row.stage for row in trace.rows]
    assert trace.title.startswith("parameter 0 of group 0")
    old = params[0].detach().clone()
    optimizer.step()
    assert torch.equal(trace.change, params[0].detach() - old)


def test_stages_that_look_at_all_parameters() -> None:
    params = make_params()
    optimizer = gc.Optimizer(params, gc.chain(gc.clip_by_global_norm(1e-3), gc.recipe("sgd")), compile=False)
    set_grads(params, 0)
    trace = optimizer.explain(params[1])
    old = params[1].detach().clone()
    optimizer.step()
    assert torch.equal(trace.change, params[1].detach() - old)


def test_a_step_that_would_be_skipped() -> None:
    for scope, name, skipped in (("model", "a", True), ("parameter", "a", False), ("parameter", "b", True)):
        params = {"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))}
        chain = gc.chain(gc.clip_by_global_norm(1.0), gc.recipe("sgd"))
        optimizer = gc.Optimizer(params.items(), chain, nonfinite="skip", nonfinite_scope=scope, compile=False)
        params["a"].grad, params["b"].grad = torch.ones(2), torch.tensor([1.0, math.inf])
        if skipped:
            with pytest.raises(gc.GradientError, match="would not be taken"):
                optimizer.explain(name)
        else:
            change = optimizer.explain(name).change
            optimizer.step()
            assert torch.equal(change, params[name].detach() - 1)


def test_it_is_refused_what_is_no_parameter() -> None:
    chain = gc.recipe("sgd")
    with pytest.raises(gc.OptionError, match="param is a dict; trace takes the gradient and the value of one"):
        chain.trace(torch.ones(2), {"a": torch.ones(2)})  # type: ignore[arg-type]
    with pytest.raises(gc.GradientError, match="has shape"):
        chain.trace(torch.ones(2), torch.ones(3))
    with pytest.raises(gc.OptionError, match="no stage 'divid'"):
        chain.trace(torch.ones(2), torch.ones(2))["divid"]


@pytest.mark.parametrize("name", ["rose", "adams", "sgd"])
def test_a_picture(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trace = gc.recipe(name).trace(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.ones(4, 3))
    trace.plot(tmp_path / "deep" / "trace.png")
    assert (tmp_path / "deep" / "trace.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(gc.OptionError, match=r"End its name in \.png"):
        trace.plot(tmp_path / "trace.jpgg")


def test_a_picture_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = gc.recipe("sgd").trace(torch.ones(2), torch.ones(2))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        trace.plot(tmp_path / "trace.png")
