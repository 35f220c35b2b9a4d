"""A user's own transforms: how little they take, that they do all that ours do, and what is said when they are wrong."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import chain, partition
from gradchain import transforms as t
from gradchain._chain.chain import Chain
from gradchain._chain.former import INSTEAD
from tests.test_optimizer import assert_same, frozen_copy, make_params, set_grads, train

LR = t.scale_by_learning_rate(0.1)
MODES = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


@gradchain.stateless
def extend_power(value, *, exponent: float = 0.5):
    return value.sign() * value.abs() ** exponent


class extend_sign_momentum(gradchain.Stage):
    """The sign of a running average."""

    beta: float = gradchain.hyper(default=0.9, ge=0, lt=1)

    def slots(self, p):
        return {"exp_avg": gradchain.Slot()}

    def update(self, update, ctx):
        m = self.beta * ctx.read("exp_avg") + (1 - self.beta) * update.value
        return update.average(m.sign()), {"exp_avg": m}


class extend_norms(gradchain.Stage):
    """Divide by the tensor's norm, then by the root of the norms of its layer and of everything: three rounds."""

    def update(self, update, ctx):
        g = update.value
        own = yield gradchain.whole_tensor(gg=g * g)
        g = g / own.gg.sqrt()
        layer = yield gradchain.labelled(ctx.role or "none", gg=g * g)
        everything = yield gradchain.all_parameters(gg=g * g, n=torch.ones_like(g))
        ctx.record("layer", layer.gg)
        return update.replace(value=g / (layer.gg * everything.gg + everything.n).sqrt())


class extend_joint_matrices(gradchain.Stage):
    """Divide matrices by their joint norm; vectors ask for nothing."""

    def update(self, update, ctx):
        if ctx.param.ndim < 2:
            return update
        everything = yield gradchain.all_parameters(gg=update.value.square())
        return update.replace(value=update.value / everything.gg.sqrt())


class extend_previous(gradchain.Stage):
    """Step by the way that the parameter came, with two slots that change places at each step."""

    def slots(self, p):
        return {"previous": gradchain.Slot("param"), "odd": gradchain.Slot(), "even": gradchain.Slot(1.0)}

    def update(self, update, ctx):
        way = ctx.param - ctx.read("previous")
        slots = {"previous": ctx.param, "odd": ctx.read("even"), "even": ctx.read("odd")}
        return update.replace(value=update.value - 0.5 * way + ctx.read("odd")), slots


USER = chain(extend_power(exponent=0.25), extend_sign_momentum(0.5), t.clip_by_value(0.7), extend_norms(), LR)


def run(built: Chain, compile: bool, steps: int = 4, dtype: torch.dtype = torch.float32) -> gradchain.Optimizer:
    params = make_params(dtype)
    groups = [{"params": params[:2], "role": "a", "telemetry": True}, {"params": params[2:], "role": "b"}]
    optimizer = gradchain.Optimizer(groups, built, compile=compile)
    train(optimizer, params, range(steps))
    return optimizer


def results(optimizer: gradchain.Optimizer) -> list[Any]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [(p.detach(), optimizer.state[p]) for p in params]


def test_how_little_they_take() -> None:
    code = inspect.getsource(sys.modules[__name__]).split("@gradchain.stateless\n")[1].split("\n\n\n")[0]
    assert len(code.splitlines()) + 1 == 3
    assert len([line for line in inspect.getsource(extend_sign_momentum).splitlines() if line.strip()]) <= 12


def test_they_do_what_they_say() -> None:
    param = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = gradchain.Optimizer([param], chain(extend_power(), extend_sign_momentum(0.0), LR))
    param.grad = torch.tensor([4.0, -9.0])
    optimizer.step()
    assert_same(param.detach(), torch.tensor([0.9, 1.1]))
    assert_same(optimizer.state[param]["extend_sign_momentum.exp_avg"], torch.tensor([2.0, -3.0]))
    assert optimizer.param_groups[0]["exponent"] == 0.5
    assert optimizer.param_groups[0]["beta"] == 0.0


def test_compiled_is_eager() -> None:
    eager, compiled = run(USER, compile=False), run(USER, compile=True)
    torch.testing.assert_close(results(compiled), results(eager), rtol=1e-5, atol=1e-6)
    assert compiled.telemetry() == pytest.approx(eager.telemetry(), rel=1e-5)


def test_totals_are_those_of_the_tensor_the_layer_and_everything() -> None:
    params = make_params(shapes=[(3,), (2,), (4,)])
    groups = [{"params": params[:2], "role": "a"}, {"params": params[2:], "role": "b"}]
    optimizer = gradchain.Optimizer(groups, chain(extend_norms()), telemetry=True, compile=False)
    set_grads(params, 0)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    for param, old, layer in zip(params, before, (2, 2, 1)):
        expected = param.grad / param.grad.norm() / (layer * 3 + 9) ** 0.5
        torch.testing.assert_close(param.detach(), old - expected)
    assert optimizer.telemetry()["layer"] == pytest.approx(5 / 3)


def test_totals_count_everyone_though_groups_switch_earlier_totals_off() -> None:
    """Both clips see the norm over all parameters that pass them, also if some skip the first."""
    built = chain(t.clip_by_global_norm(1e9, name="first"), t.clip_by_global_norm(1.0, name="second"))
    for compile in (False, True):
        params = make_params(shapes=[(1,), (1,)])
        groups = [{"params": params[:1]}, {"params": params[1:], "disable": ["first"]}]
        optimizer = gradchain.Optimizer(groups, built, compile=compile)
        before = [p.detach().clone() for p in params]
        params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
        optimizer.step()
        torch.testing.assert_close(
            [b - p.detach() for p, b in zip(params, before)], [torch.tensor([0.6]), torch.tensor([0.8])]
        )


@MODES
def test_a_stage_may_ask_for_totals_of_some_shapes_only(compile: bool) -> None:
    params, grads = make_params(shapes=[(1,), (1, 1), (2,), (1, 1)]), (9.0, 3.0, 9.0, 4.0)
    optimizer = gradchain.Optimizer(params, chain(extend_joint_matrices()), compile=compile)
    before = [p.detach().clone() for p in params]
    for param, grad in zip(params, grads):
        param.grad = torch.full_like(param, grad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradchain.CompileWarning)
        optimizer.step()
    moved = [float((old - param.detach()).mean()) for param, old in zip(params, before)]
    assert moved == pytest.approx([9.0, 0.6, 9.0, 0.8])


@MODES
def test_slots_may_take_the_parameter_or_each_other(compile: bool) -> None:
    param = nn.Parameter(torch.zeros(2))
    optimizer = gradchain.Optimizer([param], chain(extend_previous()), compile=compile)
    values = [torch.zeros(2)]
    way = torch.zeros(2)
    for step in range(4):
        param.grad = torch.tensor([1.0, -2.0]) * step
        optimizer.step()
        values.append(values[-1] - (param.grad - 0.5 * way + step % 2))
        way = values[-1] - values[-2]
        torch.testing.assert_close(param.detach(), values[-1])
        assert_same(optimizer.state[param]["extend_previous.previous"], values[-2])
        assert float(optimizer.state[param]["extend_previous.odd"][0]) == (step + 1) % 2


def test_they_are_saved_printed_compared_and_copied() -> None:
    assert gradchain.Chain.from_config(USER.to_config()) == USER
    assert pickle.loads(pickle.dumps(USER)) == USER
    assert hash(copy.deepcopy(USER)) == hash(USER)
    assert eval(repr(USER), {**globals(), **vars(t)}) == USER
    assert "extend_power" in str(USER)
    assert "exponent=0.25" in str(USER)
    assert extend_power(0.25) == extend_power(exponent=0.25) != extend_power()
    optimizer, other = run(USER, compile=False), run(USER, compile=False, steps=0)
    other.load_state_dict(optimizer.state_dict())
    assert_same([state for _, state in results(other)], [state for _, state in results(optimizer)])
    twin = pickle.loads(pickle.dumps(optimizer))
    for one in (optimizer, twin):
        train(one, [p for group in one.param_groups for p in group["params"]], range(4, 6))
    assert_same(results(twin), results(optimizer))


def test_their_hyperparameters_are_checked_scheduled_and_overridden() -> None:
    with pytest.raises(gradchain.OptionError, match=r"extend_sign_momentum\.beta = 1\.0 is outside \[0, 1\)"):
        extend_sign_momentum(1.0)
    with pytest.raises(gradchain.UnknownOptionError, match=r"extend_power.*'power'.*exponent"):
        extend_power(power=2)
    with pytest.raises(gradchain.OptionError, match=r"group 0.*extend_power\.exponent = 'x'"):
        gradchain.Optimizer([{"params": make_params(), "exponent": "x"}], USER)
    assert USER.with_options(exponent=1.0)["extend_power"] == extend_power(1.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda a, b: a,
        lambda value, exponent=0.5: value,
        lambda *, value: value,
        lambda value, **options: value,
    ],
)
def test_a_function_with_another_signature_is_explained(function: Any) -> None:
    with pytest.raises(gradchain.OptionError, match=r"after a `\*`"):
        gradchain.stateless(function)


@pytest.mark.parametrize("name", ["scale", "name", "keys", "update", "check", "reads", "slots"])
def test_a_hyperparameter_cannot_take_a_name_of_the_stage(name: str) -> None:
    scope: dict[str, Any] = {"__name__": __name__}
    exec(f"def extend_taken(value, *, {name}: float = 2.0): return {name} * value", scope)
    with pytest.raises(gradchain.GradchainError, match=name):
        gradchain.stateless(scope["extend_taken"])


# Wrong use: a clear error, and nothing written.


class extend_brittle(gradchain.Stage):
    """Does wrong for parameters of shape (2, 2)."""

    how: str = "raise"

    def slots(self, p):
        return {"kept": gradchain.Slot()}

    def update(self, update, ctx):
        kept = {"kept": ctx.read("kept") + 1}
        if ctx.param.shape != (2, 2):
            return update, kept
        wrong = {
            "raise": lambda: 1 // 0,
            "unknown slot": lambda: (update, {"lost": update.value}),
            "undeclared slot": lambda: (update, {"kept": ctx.read("exp_avg")}),
            "no update": lambda: None,
            "no update but slots": lambda: kept,
            "a tensor": lambda: update.value,
            "slot of another shape": lambda: (update, {"kept": torch.zeros(3)}),
            "slot that broadcasts": lambda: (update, {"kept": torch.zeros(())}),
            "slot that is no tensor": lambda: (update, {"kept": 1.0}),
            "value of another shape": lambda: (update.replace(value=torch.ones(2, 2, 2)), kept),
            "unknown scalar": lambda: (update.replace(value=ctx["strength"] * update.value), kept),
        }
        return wrong[self.how]()


WRONG = [
    "raise", "unknown slot", "undeclared slot", "no update", "no update but slots", "a tensor", "slot of another shape",
    "slot that broadcasts", "slot that is no tensor", "value of another shape", "unknown scalar",
]  # fmt: skip


@MODES
@pytest.mark.parametrize("how", WRONG)
def test_a_stage_that_does_wrong_for_the_third_parameter(how: str, compile: bool) -> None:
    params = make_params(shapes=[(3,), (4, 2), (2, 2), (5,)])
    optimizer = gradchain.Optimizer(params, chain(t.first_moment(), extend_brittle(how), LR), compile=compile)
    set_grads(params, 0)
    before = frozen_copy(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradchain.CompileWarning)
        with pytest.raises((ZeroDivisionError, gradchain.ChainError), match=r"division|extend_brittle"):
            optimizer.step()
    assert_same(frozen_copy(optimizer), before)


@MODES
def test_nothing_is_written_if_a_later_round_fails(compile: bool) -> None:
    """Parameters that need no totals are done in the first round, and wait for the others all the same."""
    label = lambda name, p: "late" if p.ndim == 2 else "early"  # noqa: E731
    late = [t.clip_by_global_norm(1.0), extend_brittle()]
    built = chain(partition({"late": late, "early": t.sign()}, label), LR)
    params = make_params(shapes=[(3,), (2, 2)])
    optimizer = gradchain.Optimizer(params, built, compile=compile)
    set_grads(params, 0)
    before = frozen_copy(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradchain.CompileWarning)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
    assert_same(frozen_copy(optimizer), before)


@pytest.mark.parametrize("name", INSTEAD)
def test_a_name_without_effect_is_refused_with_what_to_write_instead(name: str) -> None:
    for value in (True, ("exp_avg",), lambda self, param: {}):
        with pytest.raises(gradchain.OptionError) as caught:
            type("extend_former", (gradchain.Stage,), {name: value})
        assert f"extend_former.{name} would have no effect" in str(caught.value)
        assert INSTEAD[name] in str(caught.value)
    field = {name: gradchain.hyper(default=0.5), "__annotations__": {name: "float"}}
    assert type("extend_former", (gradchain.Stage,), field)().live_fields().keys() == {name}


@pytest.mark.parametrize(
    ("base", "names"),
    [(gradchain.Precision, ("read", "write")), (gradchain.SharedNumbers, ("init_shared", "share", "override"))],
)
def test_a_mix_in_knows_its_own_names(base: type[gradchain.Stage], names: tuple[str, ...]) -> None:
    own = type("extend_mixed", (base,), {name: getattr(base, name) for name in names})
    assert issubclass(own, base)
    with pytest.raises(gradchain.OptionError, match=r"gradchain\.static"):
        type("extend_mixed", (base,), {"inert": {}})


class extend_modes(gradchain.Stage):
    """Options with bounds, and some that mean something only beside others."""

    mode: str = gradchain.static(default="plain", choices=("plain", "fast"))
    sweeps: int = gradchain.static(default=3, ge=1, when="mode=fast")
    eps: float | None = gradchain.hyper(default=None, ge=0, optional=True)
    layers: float = gradchain.hyper(default=1.0, gt=0, unless="eps")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": 4}, "sweeps = 4 has no effect with mode = 'plain'. Pass mode='fast', or leave sweeps out."),
        ({"sweeps": 0, "mode": "fast"}, "sweeps = 0 is outside [1, inf)."),
        ({"sweeps": 1.5, "mode": "fast"}, "sweeps = 1.5 is a float; pass an integer."),
        ({"layers": 2.0, "eps": 0.0}, "layers = 2.0 has no effect with eps = 0.0. Pass eps=None, or leave layers out."),
    ],
)
def test_options_declare_their_bounds_and_what_they_need(options: dict[str, Any], message: str) -> None:
    with pytest.raises(gradchain.OptionError) as caught:
        extend_modes(**options)
    assert f"extend_modes.{message}" in str(caught.value)


def test_options_that_are_given_with_what_they_need_are_taken() -> None:
    assert extend_modes(mode="fast", sweeps=1, layers=2.0).live_fields().keys() == {"eps", "layers"}
    assert extend_modes(eps=0.0).live_fields().keys() == {"eps"}
    lost = {"on": gradchain.static(default=True, when="mod=fast"), "__annotations__": {"on": "bool"}}
    with pytest.raises(gradchain.OptionError, match="goes by the field 'mod=fast'"):
        type("extend_lost", (gradchain.Stage,), lost)
