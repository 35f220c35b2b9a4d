"""Gradients that are not finite: what is skipped leaves no trace, and what is raised has written nothing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from tests.laws.cases import RECIPES
from tests.test_capturable import NoSync

SHAPES = [(6, 4), (4,), (2, 3, 4), ()]
BAD = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
MODES: dict[str, dict[str, Any]] = {
    "eager": {"compile": False},
    "compiled": {"compile": True},
    "capturable": {"compile": False, "capturable": True},
    "compiled-capturable": {"compile": True, "capturable": True},
}
FEW = ["adamw", "adv-prodigy", "lion", "rose", "adv-adopt-factored"]
"""The last takes seconds to compile: it is skipped by the parameter."""


class drift(gc.SharedNumbers):
    """A stage of a user's: a norm over all parameters, a slot, and a number that all share."""

    beta: float = gc.hyper(default=0.5, ge=0, lt=1)

    def slots(self, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        return {"seen": gc.Slot()}

    def init_shared(self) -> dict[str, float]:
        return {"mass": 1.0}

    def share(self, totals: Any) -> dict[str, torch.Tensor]:
        return {"mass": self.mass + totals["squares"]}  # type: ignore[attr-defined]

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        totals = yield gc.all_parameters(squares=update.value * update.value)
        ctx.contribute(squares=(update.value * update.value).sum(dtype=torch.float64))
        seen = self.beta * ctx.read("seen") + update.value
        return update.replace(value=seen / (1 + totals.squares.sqrt()).to(seen.dtype)), {"seen": seen}


def chain_of(name: str) -> gc.Chain:
    return gc.chain(drift(), gc.scale_by_learning_rate(0.1)) if name == "drift" else RECIPES[name].chain


def make(name: str, mode: str, dtype: torch.dtype = torch.float32, **options: Any) -> gc.Optimizer:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stages that do nothing for these shapes
        return gc.Optimizer(params, chain_of(name), nonfinite="skip", **{**MODES[mode], **options})


def params_of(optimizer: gc.Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def step(optimizer: gc.Optimizer, seed: int, bad: dict[int, float | None] = {}) -> None:  # noqa: B006
    """One step; `bad` puts something into the gradient of a parameter, or takes it away."""
    generator = torch.Generator().manual_seed(seed)
    for place, param in enumerate(params_of(optimizer)):
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        if place in bad:
            value = bad[place]
            if value is None:
                param.grad = None
            else:
                param.grad.view(-1)[-1] = value
    optimizer.step()


def bits(optimizer: gc.Optimizer) -> dict[str, Any]:
    """All that a step changes."""
    params = params_of(optimizer)
    found: dict[str, Any] = {f"{place}": param.detach().clone() for place, param in enumerate(params)}
    for place, param in enumerate(params):
        found |= {f"{place} {key}": value.clone() for key, value in optimizer.state[param].items()}
    for number, group in enumerate(optimizer.param_groups):
        found |= {f"group {number} {k}": copy.deepcopy(v) for k, v in group.items() if k != "params"}
    return found


def differ(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    assert left.keys() == right.keys()
    return [
        key
        for key in left
        if not (torch.equal(left[key], right[key]) if isinstance(left[key], torch.Tensor) else left[key] == right[key])
    ]


@pytest.mark.parametrize(
    ("mode", "bad"), [(mode, bad) for mode in MODES for bad in (BAD if mode == "eager" else ["nan"])]
)
@pytest.mark.parametrize("name", [*FEW[:4], "drift"])
def test_a_step_that_is_skipped_leaves_no_trace(name: str, mode: str, bad: str) -> None:
    ours, twin = make(name, mode), make(name, mode)
    for seed in (1, 2):
        step(ours, seed)
        step(twin, seed)
    before = bits(ours)
    step(ours, 3, {1: BAD[bad]})
    assert differ(bits(ours), before) == []
    for seed in (4, 5):
        step(ours, seed)
        step(twin, seed)
    assert differ(bits(ours), bits(twin)) == []
    assert differ(bits(ours), before) != []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("mode", ["eager", "capturable"])
@pytest.mark.parametrize("name", list(RECIPES))
def test_all_recipes(name: str, mode: str, scope: str, dtype: torch.dtype) -> None:
    ours, twin = (make(name, mode, dtype, nonfinite_scope=scope) for _ in range(2))
    step(ours, 1, {0: float("nan")})
    for seed in (2, 3):
        step(ours, seed)
        step(twin, seed)
    step(ours, 4, {2: float("inf")})
    if scope == "parameter":
        step(twin, 4, {2: None})
    assert scope == "parameter" or differ(bits(ours), bits(twin)) == []
    assert all(param.isfinite().all() for param in params_of(ours))


def skipping() -> Iterator[Any]:
    """Factors take a minute to compile."""
    for name in (*FEW, "drift"):
        for mode in MODES:
            yield pytest.param(
                name, mode, marks=[pytest.mark.slow] if "factored" in name and "compiled" in mode else []
            )


@pytest.mark.parametrize(("name", "mode"), list(skipping()))
def test_one_parameter_that_is_skipped(name: str, mode: str) -> None:
    """As if it had had no gradient."""
    ours, twin = make(name, mode, nonfinite_scope="parameter"), make(name, mode, nonfinite_scope="parameter")
    for seed, bad in enumerate([{}, {1: float("nan")}, {}, {0: float("inf"), 3: float("nan")}, {}]):
        before = bits(ours)
        step(ours, seed, bad)
        step(twin, seed, dict.fromkeys(bad))
        after = bits(ours)
        assert not [key for key in differ(after, before) if key[0] in map(str, bad) and key[:2] != "gr"]
    ours_bits, twin_bits = bits(ours), bits(twin)
    if mode == "eager":
        assert differ(ours_bits, twin_bits) == []
    for key, value in ours_bits.items():  # kernels for other companies of tensors may round otherwise
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, twin_bits[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_all_parameters_are_skipped_in_the_scope_of_a_parameter(mode: str) -> None:
    optimizer = make("adv-prodigy", mode, nonfinite_scope="parameter")
    step(optimizer, 1)
    before = bits(optimizer)
    step(optimizer, 2, dict.fromkeys(range(4), float("nan")))
    assert differ(bits(optimizer), before) == []


@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("mode", ["eager", "compiled", "capturable"])
@pytest.mark.parametrize(
    ("dtype", "large"),
    [(torch.float32, 3e38), (torch.float64, 1e308), (torch.bfloat16, 3e38), (torch.float16, 6e4)],
    ids=str,
)
def test_large_gradients_are_finite(dtype: torch.dtype, large: float, mode: str, scope: str) -> None:
    params = [nn.Parameter(torch.zeros(100, dtype=dtype)), nn.Parameter(torch.zeros(5000, dtype=dtype))]
    optimizer = gc.optimizer("sign-sgd" if "sign-sgd" in gc.recipes() else "lion", params, lr=0.5, nonfinite="skip",
                             nonfinite_scope=scope, **MODES[mode])  # fmt: skip
    for param in params:
        param.grad = torch.full_like(param, large)
    optimizer.step()
    assert all((param < 0).all() for param in params)
    assert optimizer.nonfinite_report().steps == 0


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_an_error_names_the_parameter_and_writes_nothing(mode: str) -> None:
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    named = gc.optimizer("adv-prodigy", [("a", params[0]), ("b", params[1])], nonfinite="error", **MODES[mode])
    step(named, 1)
    before = bits(named)
    with pytest.raises(gc.GradientError, match=r"gradient of b is not finite; nothing was written"):
        step(named, 2, {1: float("inf")})
    assert differ(bits(named), before) == []
    unnamed = gc.optimizer("adamw", params, nonfinite="error", **MODES[mode])
    with pytest.raises(gc.GradientError, match="parameter 0 of group 0"):
        step(unnamed, 2, {0: float("nan")})


@pytest.mark.parametrize("mode", MODES)
def test_the_report(mode: str) -> None:
    optimizer = make("adamw", mode, nonfinite_scope="parameter")
    assert optimizer.nonfinite_report().steps == 0
    for seed, bad in enumerate([{2: 0.0}, {0: float("nan"), 2: float("nan")}, {}, {2: float("inf")}, {}]):
        step(optimizer, seed, bad)
    report = optimizer.nonfinite_report()
    names = {f"parameter {place} of group 0": count for place, count in ((0, 1), (2, 2))}
    assert (report.steps, report.parameters, report.first) == (2, names, "parameter 2 of group 0")
    assert "parameter 2 of group 0: 2 steps" in str(report)
    told = optimizer.telemetry()
    assert (told["nonfinite_steps"], told["nonfinite_first"]) == (2, 2)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    step(optimizer, 9, {4: float("nan")})
    report = optimizer.nonfinite_report()
    assert (report.steps, report.first) == (3, "parameter 0 of group 1")
    assert copy.deepcopy(optimizer).nonfinite_report().steps == 0


@gc.stateless
def logarithm(value):
    return value.log()


def test_the_first_stage_that_is_not_finite() -> None:
    params = [("good", nn.Parameter(torch.ones(2))), ("bad", nn.Parameter(torch.ones(2)))]
    chain = gc.chain(gc.clip_by_value(10.0), logarithm(), gc.first_moment(0.9), gc.scale_by_learning_rate(0.1))
    optimizer = gc.Optimizer(params, chain, compile=False)
    params[0][1].grad, params[1][1].grad = torch.ones(2), torch.tensor([1.0, -1.0])
    before = bits(optimizer)
    assert optimizer.nonfinite_report(origins=True).origins == {"bad": "first in stage logarithm, in its direction"}
    assert differ(bits(optimizer), before) == []
    optimizer.step()
    after = optimizer.nonfinite_report(origins=True)
    assert after.origins == {"bad": "first in the parameter itself"}
    assert "not counted" in str(after)
    params[1][1].data = torch.ones(2)
    assert optimizer.nonfinite_report(origins=True).origins == {
        "bad": "first in slot first_moment.exp_avg, as the last step left it"
    }
    params[1][1].grad = torch.tensor([1.0, float("nan")])
    assert optimizer.nonfinite_report(origins=True).origins == {"bad": "first in its gradient"}


def test_one_nan_under_a_norm_of_all() -> None:
    """`clip_by_global_norm` would make every parameter NaN."""
    for scope, moved in (("model", [False, False]), ("parameter", [False, True])):
        params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
        chain = gc.chain(gc.clip_by_global_norm(1.0), gc.scale_by_learning_rate(0.1))
        optimizer = gc.Optimizer(params, chain, nonfinite="skip", nonfinite_scope=scope, compile=False)
        step(optimizer, 1, {0: float("nan")})
        assert [bool((param != 1).all()) for param in params] == moved


def test_torch_clip_grad_norm_spreads_a_nan() -> None:
    optimizer = make("adamw", "eager", nonfinite_scope="parameter")
    before = bits(optimizer)
    for param in params_of(optimizer):
        param.grad = torch.ones_like(param)
    params_of(optimizer)[0].grad.view(-1)[0] = float("nan")
    torch.nn.utils.clip_grad_norm_(params_of(optimizer), 1.0)
    optimizer.step()
    assert differ(bits(optimizer), before) == []


def test_in_the_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    plain = copy.deepcopy(model)
    optimizer = gc.optimizer("adamw", model, nonfinite="skip", nonfinite_scope="parameter", compile=False)
    reference = gc.optimizer("adamw", plain, nonfinite="skip", nonfinite_scope="parameter", compile=False)
    with gc.step_in_backward(optimizer):
        for x in (torch.ones(2, 3), torch.full((2, 3), float("inf")), torch.ones(2, 3)):
            model(x).sum().backward()
            reference.zero_grad()
            plain(x).sum().backward()
            reference.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert all(param.isfinite().all() for param in model.parameters())
    assert optimizer.nonfinite_report().steps > 0


def test_a_model_wide_decision_cannot_be_made_in_the_backward_pass() -> None:
    model = nn.Linear(3, 1)
    optimizer = gc.optimizer("adamw", model, nonfinite="skip")
    with pytest.raises(gc.OptionError, match="nonfinite_scope='parameter'"):
        gc.step_in_backward(optimizer)
    model.weight.grad = torch.ones(1, 3)
    with pytest.raises(gc.OptionError, match="nonfinite_scope='parameter'"):
        optimizer.step_parameter(model.weight)


def test_with_a_grad_scaler() -> None:
    model = nn.Linear(3, 1)
    optimizer = gc.optimizer("adamw", model, nonfinite="skip")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for x, moves in ((1.0, True), (float("inf"), False), (1.0, True)):
        before = bits(optimizer)
        optimizer.zero_grad()
        scaler.scale(model(torch.full((2, 3), x)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert (differ(bits(optimizer), before) != []) == moves


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scope", ["model", "parameter"])
@pytest.mark.parametrize("name", [*FEW, "drift"])
def test_the_host_never_waits(name: str, scope: str) -> None:
    """Parameters elsewhere than on the CPU have their counters there, without being asked to."""
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    optimizer = gc.Optimizer(params, chain_of(name), compile=False, nonfinite="skip", nonfinite_scope=scope)
    assert optimizer.capturable
    assert all(state["step"].device.type == "meta" for state in optimizer.state.values())
    for number in range(3):
        for param in params:
            param.grad = torch.empty_like(param)
        if number == 0:
            optimizer.step()
            continue
        with NoSync():
            optimizer.step()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonfinite": "ignore"}, "'propagate', 'skip', 'error'"),
        ({"nonfinite": True}, "'propagate', 'skip', 'error'"),
        ({"nonfinite": "skip", "nonfinite_scope": "layer"}, "'model', 'parameter'"),
        ({"nonfinite": "error", "capturable": True}, "capturable"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(gc.OptionError, match=words):
        gc.optimizer("adamw", [nn.Parameter(torch.ones(2))], **options)


def test_a_scope_without_a_policy_would_change_nothing() -> None:
    with pytest.raises(gc.OptionError, match="nonfinite='skip'"):
        gc.optimizer("adamw", [nn.Parameter(torch.ones(2))], nonfinite_scope="parameter")
