"""What stages do is found out, and not taken on trust."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gradchain as gc
from gradchain._chain.tracing import Traits, reaching_out, traits, traits_of
from tests.laws.cases import CASES

LR = gc.scale_by_learning_rate(1.0)


class identity_function(torch.autograd.Function):
    """Subtracts the mean."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x - x.mean()


@torch.library.custom_op("gradchain_tests::centred", mutates_args=())
def centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean()


@centred.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("gradchain_tests::tagged", mutates_args=(), tags=(torch.Tag.pointwise,))
def tagged(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean()


@tagged.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def by_hand(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v / (v * v).sum().sqrt()


def branch_on_shape(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v * 2 if v.shape[0] > 1000 else v


def branch_on_step(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v - v.mean() if ctx["step"] > 500 else v


MIXING: dict[str, tuple[Any, str]] = {
    "mean": (lambda v, ctx: v - v.mean(), "aten.mean"),
    "row mean": (lambda v, ctx: v - v.mean(-1, keepdim=True), "aten.mean.dim"),
    "roll": (lambda v, ctx: v.roll(1), "aten.roll"),
    "flip": (lambda v, ctx: v.flip(0), "aten.flip"),
    "cumsum": (lambda v, ctx: v.cumsum(0), "aten.cumsum"),
    "sort": (lambda v, ctx: v.sort(0).values, "aten.sort"),
    "matmul": (lambda v, ctx: v @ v.mT @ v, "aten"),
    "numel": (lambda v, ctx: v / v.numel(), r"\.numel\(\)"),
    "size": (lambda v, ctx: v / v.size(0), r"\.size\(\)"),
    "len": (lambda v, ctx: v / len(v), r"len\(\)"),
    "ctx.numel": (lambda v, ctx: v / ctx.numel, "ctx.numel"),
    "ctx.shape": (lambda v, ctx: v / ctx.shape[0], "ctx.shape"),
    "branch on shape": (branch_on_shape, r"\.shape"),
    "branch on a step": (branch_on_step, "aten.mean"),
    "norm": (by_hand, "aten.sum"),
    "torch.norm": (lambda v, ctx: v / v.norm(), "aten.*norm"),
    "softmax": (lambda v, ctx: v.softmax(0), "softmax"),
    "layer_norm": (lambda v, ctx: nn.functional.layer_norm(v, v.shape[-1:]), "aten.*norm|shape"),
    "function": (lambda v, ctx: identity_function.apply(v), "aten.mean"),
    "custom op": (lambda v, ctx: centred(v), "gradchain_tests.centred"),
    "custom op with a wrong tag": (lambda v, ctx: tagged(v), "joined with others"),
    "weights": (lambda v, ctx: v * torch.linspace(0, 1, 16)[:1], "aten"),
    "other parameter's row": (lambda v, ctx: v * ctx.param[0], "aten.select"),
    "first element": (lambda v, ctx: torch.where(v == v.max(), v, 0.0), "aten.max"),
    "index": (lambda v, ctx: v * (torch.arange(v.nelement()).view_as(v) % 2), "aten.arange|nelement"),
    "view": (lambda v, ctx: v.unsqueeze(0).squeeze(0), "aten.unsqueeze"),
}


def stage(act: Any) -> gc.Stage:
    """A stage that turns the direction into something."""

    def update(self: Any, update: gc.Update, ctx: gc.Context) -> gc.Update:
        return update.replace(value=act(update.value, ctx))

    return type("claims_user", (gc.Stage,), {"update": update, "scalars": lambda self, step: {"step": step}})()


def of(
    program_stage: gc.Stage, *others: gc.Stage, shape: tuple[int, ...] = (3, 3), dtype: Any = torch.float32
) -> Traits:
    param = torch.zeros(shape, dtype=dtype)
    return traits_of(gc.chain(program_stage, *others, LR).route("", param), param)


@pytest.mark.parametrize("what", MIXING)
@pytest.mark.parametrize("shape", [(5,), (3, 3), (2, 3, 3)], ids=str)
def test_elements_that_come_together_are_noticed(what: str, shape: tuple[int, ...]) -> None:
    if what == "matmul" and len(shape) < 2:
        return
    act, operation = MIXING[what]
    found = of(stage(act), shape=shape)
    assert not found.elementwise
    assert re.search(operation, found.mixed["claims_user"])


@pytest.mark.parametrize("what", MIXING)
def test_blocks_are_the_whole_for_what_users_write(what: str) -> None:
    """Many parameters together, and each alone: the same bits."""
    shapes = [(3, 3), (5, 5), (3, 3), (2, 2)]
    results: list[list[torch.Tensor]] = []
    for together in (True, False):
        params = [nn.Parameter(torch.linspace(-1, 2, 25)[: a * b].view(a, b).clone()) for a, b in shapes]
        companies = [params] if together else [[param] for param in params]
        optimizers = [gc.Optimizer(some, gc.chain(stage(MIXING[what][0]), LR), compile=False) for some in companies]
        for step in range(2):
            for param in params:
                param.grad = (param.detach() * (step + 1)).cos()
            for optimizer in optimizers:
                optimizer.step()
        results.append([param.detach() for param in params])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


POINTWISE: dict[str, tuple[Any, bool]] = {
    "sign": (lambda v, ctx: v.sign(), True),
    "square": (lambda v, ctx: v.square() + v**3 + v**2.0, True),
    "where": (lambda v, ctx: torch.where(v > 0, v, 0.0) + torch.where(v < 0, torch.zeros_like(v), v), True),
    "own zeros": (lambda v, ctx: torch.zeros_like(v) + v.new_ones(()) * v + torch.tensor(0.5), True),
    "in place, of its own": (lambda v, ctx: v.clone().mul_(2).clamp_(-1, 1), True),
    "dtypes": (lambda v, ctx: v.double().float().to(ctx.dtype) if v.is_floating_point() else v, True),
    "masked": (lambda v, ctx: v.masked_fill(v > 0.5, 0.0), True),
    "param": (lambda v, ctx: v + 0.1 * ctx.param + 0.1 * ctx.gradient.to(ctx.dtype), True),
    "same view": (lambda v, ctx: v.view_as(v), True),
    "atan2": (lambda v, ctx: torch.atan2(v, v + 2), False),
    "exp": (lambda v, ctx: v.exp(), False),
    "tanh": (lambda v, ctx: v.tanh(), False),
    "power": (lambda v, ctx: v.abs() ** 0.3, False),
    "half": (lambda v, ctx: (v.bfloat16() * 3).to(v.dtype), False),
}


@pytest.mark.parametrize("what", POINTWISE)
def test_elements_that_do_not_come_together(what: str) -> None:
    act, exact = POINTWISE[what]
    found = of(stage(act))
    assert found.elementwise
    assert found.exact == exact, found.placed


def test_a_stage_that_branches_on_a_number_is_not_joined_and_gets_noise() -> None:
    act = lambda v, ctx: v - v.mean() if ctx["step"] > 5000 else v  # noqa: E731
    found = of(stage(act))
    assert not found.elementwise
    assert found.draws


# Noise.


def noisy(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
    return v + ctx.random_bits().to(v.dtype) * 1e-12


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_noise_is_made_for_whoever_draws_it(compile: bool) -> None:
    assert of(stage(noisy)).draws
    assert not of(stage(lambda v, ctx: v)).draws
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    optimizer = gc.Optimizer(params, gc.chain(stage(noisy), LR), compile=compile)
    for param in params:
        param.grad = torch.ones(3)
    optimizer.step()
    assert not torch.equal(params[0], params[1])


def test_noise_depends_on_dtype_role_and_options() -> None:
    rounded = gc.chain(gc.promote("fp32"), LR, gc.stochastic_round())
    for dtype, draws in ((torch.float32, False), (torch.bfloat16, True)):
        param = torch.zeros(2, dtype=dtype)
        assert traits_of(rounded.route("", param), param).draws == draws
    by_role = gc.chain(stage(lambda v, ctx: noisy(v, ctx) if ctx.role == "oft" else v), LR)
    param = torch.zeros(2)
    assert [traits_of(by_role.route("", param, role), param).draws for role in (None, "oft")] == [False, True]

    class claims_optional(gc.Stage):
        size: float | None = gc.hyper(default=None, ge=0, optional=True)

        def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
            return update if self.size is None else update.replace(value=noisy(update.value, ctx) * self.size)

    param = nn.Parameter(torch.zeros(2))
    optimizer = gc.Optimizer([param], gc.chain(claims_optional(), LR), compile=False)
    optimizer.param_groups[0]["size"] = 1.0
    param.grad = torch.ones(2)
    optimizer.step()


GLOBAL = {
    "rand": lambda v, ctx: v + torch.rand(3, 3),
    "randn_like": lambda v, ctx: v + torch.randn_like(v),
    "dropout": lambda v, ctx: nn.functional.dropout(v),
    "bernoulli": lambda v, ctx: v.clone().bernoulli_(0.5),
    "uniform": lambda v, ctx: torch.empty_like(v).uniform_(),
}


@pytest.mark.parametrize("what", GLOBAL)
def test_the_global_generator_is_refused_and_not_advanced(what: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(gc.ChainError, match=r"claims_user: its update calls aten\.\w+.*ctx\.random_bits"):
        gc.Optimizer([nn.Parameter(torch.zeros(3, 3))], gc.chain(stage(GLOBAL[what]), LR))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_of_the_stage_itself_does_not_notice() -> None:
    generator = torch.Generator().manual_seed(1)
    act = lambda v, ctx: v + torch.rand((3, 3), generator=generator)  # noqa: E731
    before = generator.get_state()
    assert not of(stage(act)).elementwise
    assert torch.equal(generator.get_state(), before)


# Impurity.

LOOKS = {
    "item": lambda v, ctx: v * v.sum().item(),
    "float": lambda v, ctx: v * float(v.sum()),
    "bool": lambda v, ctx: v if v.sum() > 0 else -v,
    "tolist": lambda v, ctx: v * v.tolist()[0][0],
    "numpy": lambda v, ctx: v * torch.from_numpy(v.numpy().copy()),
    "equal": lambda v, ctx: v if torch.equal(v, v) else -v,
    "allclose": lambda v, ctx: v if torch.allclose(v, v) else -v,
}


@pytest.mark.parametrize("what", LOOKS)
def test_a_look_at_a_value_is_refused(what: str) -> None:
    with pytest.raises(gc.ChainError, match=r"claims_user: its update looks at a value .*torch\.where"):
        gc.Optimizer([nn.Parameter(torch.zeros(3, 3))], gc.chain(stage(LOOKS[what]), LR))
    with pytest.raises(gc.ChainError, match="claims_user"):
        gc.chain(stage(LOOKS[what]), LR).init(torch.zeros(3, 3))


WRITES = {
    "mul_": lambda v, ctx: v.mul_(2),
    "out": lambda v, ctx: torch.mul(v, 2, out=v),
    "data": lambda v, ctx: v.data.add_(1),
    "view": lambda v, ctx: v.view(-1)[0].fill_(1) + v,
    "gradient": lambda v, ctx: v + ctx.gradient.zero_(),
    "parameter": lambda v, ctx: v + ctx.stored_param.zero_(),
    "foreach": lambda v, ctx: torch._foreach_add_([v], 1) or v,
}


@pytest.mark.parametrize("what", WRITES)
def test_a_write_into_what_is_given_is_refused(what: str) -> None:
    param = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(gc.ChainError, match=r"claims_user: its update wrote into .*aten\."):
        gc.Optimizer([param], gc.chain(stage(WRITES[what]), LR))
    assert (param == 1).all()


# Totals over several parameters.


class claims_joint(gc.Stage):
    """Divides matrices by what all of them add up to."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        if len(ctx.shape) < 2:
            return update
        t = yield gc.all_parameters(g=update.value.abs())
        return update.replace(value=update.value / t.g)


def test_a_stage_need_not_say_that_it_asks_about_others() -> None:
    chain = gc.chain(claims_joint(), LR)
    params = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2, 2))]
    for param in params:
        param.grad = torch.ones(2, 2)
    optimizer = gc.Optimizer(params, chain, compile=False)
    optimizer.step()
    assert all((param == -1 / 8).all() for param in params)
    with pytest.raises(gc.ChainError, match="claims_joint needs the gradients of all"):
        gc.step_in_backward(optimizer)
    assert reaching_out(chain, params) == "claims_joint"
    assert reaching_out(chain, [torch.zeros(3)]) is None


def test_a_request_that_nobody_expected_is_refused_where_parameters_are_stepped_apart() -> None:
    class claims_late(gc.Stage):
        late = False

        def update(self, update: gc.Update, ctx: gc.Context) -> Any:
            if not type(self).late:
                return update
            t = yield gc.all_parameters(g=update.value)
            return update.replace(value=t.g * update.value)

    param = nn.Parameter(torch.ones(2))
    optimizer = gc.Optimizer([param], gc.chain(claims_late(), LR), compile=False)
    claims_late.late = True
    with gc.step_in_backward(optimizer), pytest.raises(gc.ChainError, match="claims_late asks for totals"):
        param.sum().backward()
    assert (param == 1).all()


# Telemetry.


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_a_name_that_is_recorded_is_reported(compile: bool) -> None:
    def act(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
        ctx.record("first", v.new_ones(()))
        return v

    param = nn.Parameter(torch.ones(2))
    optimizer = gc.Optimizer([param], gc.chain(stage(act), LR), compile=compile, telemetry=True)
    assert optimizer.telemetry() == {"step": 0, "first": 0.0}
    param.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.telemetry() == {"step": 1, "first": 1.0}


def test_a_name_that_only_comes_up_later_stays() -> None:
    names: list[str] = []

    def act(v: torch.Tensor, ctx: gc.Context) -> torch.Tensor:
        for name in names:
            ctx.record(name, v.new_ones(()))
        return v

    param = nn.Parameter(torch.ones(2))
    optimizer = gc.Optimizer([param], gc.chain(stage(act), LR), compile=False, telemetry=True)
    seen: list[dict[str, float]] = []
    for names[:] in ([], ["late"], []):
        param.grad = torch.ones(2)
        optimizer.step()
        seen.append(optimizer.telemetry())
    assert seen == [{"step": 1}, {"step": 2, "late": 1.0}, {"step": 3, "late": 0.0}]


# Stages that cannot be tried.


class claims_picky(gc.Stage):
    """Wants rows of 128."""

    def slots(self, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        return {"m": gc.Slot()}

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        value = update.value.view(-1, 128)
        ctx.record("picky", value.new_ones(()))
        return update.replace(value=(value * (ctx.random_bits() < 0)).view(update.value.shape))


@pytest.mark.parametrize("rows", [2, 200])
def test_a_stage_that_wants_certain_shapes_is_tried_on_those(rows: int) -> None:
    found = of(claims_picky(), shape=(rows, 128))
    assert (found.elementwise, found.draws, found.joint, found.records) == (False, True, (), ("picky",))


def test_a_stage_that_cannot_be_tried_at_all_is_not_trusted() -> None:
    found = of(stage(lambda v, ctx: 1 // 0))
    assert (found.elementwise, found.draws) == (False, True)


# `slots`.


def failing(error: Exception, when: Any) -> gc.Stage:
    def slots(self: Any, p: gc.ParamInfo) -> dict[str, gc.Slot]:
        if when(p):
            raise error
        return {"m": gc.Slot()}

    return type("claims_slots", (gc.Stage,), {"slots": slots})()


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), ValueError("no"), IndexError("no"), TypeError("no"), KeyError("no")]
)
def test_slots_that_raise_are_reported(error: Exception) -> None:
    with pytest.raises(
        gc.ChainError, match=rf"claims_slots: its `slots` raised {type(error).__name__}: .*no"
    ) as caught:
        gc.chain(failing(error, lambda param: True), LR)
    assert caught.value.__cause__ is error
    chain = gc.chain(failing(error, lambda p: p.shape == (3, 5)), LR)
    with pytest.raises(gc.ChainError, match=r"claims_slots.*parameter w of shape \(3, 5\), torch.float32") as caught:
        gc.Optimizer([("v", nn.Parameter(torch.zeros(2, 2))), ("w", nn.Parameter(torch.zeros(3, 5)))], chain)
    assert caught.value.__cause__ is error
    assert caught.value.stage == "claims_slots"
    with pytest.raises(gc.ChainError, match=r"claims_slots.*parameter a of shape \(3, 5\)"):
        chain.init({"a": torch.zeros(3, 5)})


def declaring(slots: Any) -> gc.Chain:
    return gc.chain(type("claims_declaring", (gc.Stage,), {"slots": lambda self, p: slots(p)})(), LR)


@pytest.mark.parametrize(
    ("slots", "match"),
    [
        (lambda p: {"m": torch.zeros(p.shape)}, r"its `slots` returned .*gradchain\.Slot\(\)"),
        (lambda p: {"m": gc.Slot(shape=(4,), per_row=True)}, r"'m' of shape \(4,\) has not one row for each row"),
        (lambda p: {"m": gc.Slot(storage="fp8")}, r"Slot\.storage = 'fp8'"),
        (lambda p: {"m": gc.Slot("zeros")}, r"Slot\.fill = 'zeros'"),
        (lambda p: {"m": gc.Slot(lambda param, shard: param[0])}, "its fill returned shape"),
        (lambda p: {"m": gc.Slot()} if p.numel > 100 else {}, "and for no small one"),
        (lambda p: {"m": gc.Slot(storage="bf16" if p.numel > 100 else None)}, "kept in different ways"),
    ],
)
def test_slots_that_cannot_be_are_refused(slots: Any, match: str) -> None:
    with pytest.raises(gc.GradchainError, match=match):
        gc.Optimizer([nn.Parameter(torch.zeros(20, 20))], declaring(slots))


def test_a_fill_gets_the_rows_and_its_result_the_dtype() -> None:
    chain = declaring(
        lambda p: {"m": gc.Slot(lambda param, shard: param.sum(1), shape=p.shape[:1], dtype=torch.float64)}
    )
    made = chain.init(torch.ones(2, 3))["slots"][""]["claims_declaring.m"]
    assert (made.tolist(), made.dtype) == ([3.0, 3.0], torch.float64)


# Wherever it is tried.


class logging_mode(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        logging_mode.calls += 1
        return func(*args, **(kwargs or {}))


class counting_mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


PLACES: dict[str, Any] = {
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "function mode": logging_mode,
    "dispatch mode": counting_mode,
    "grad": torch.enable_grad,
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ["adamw", "rose", "adam-atan2", "adv-lion", "clip_by_global_norm"])
def test_it_does_not_matter_where_a_program_is_tried(where: str, name: str) -> None:
    param = torch.zeros(3, 3)
    program = CASES[name].chain.route("", param)
    expected = traits_of(program, param)
    traits._known.clear()
    with PLACES[where]():
        assert traits_of(program, param) == expected


def test_the_default_dtype_does_not_matter() -> None:
    expected = [of(stage(POINTWISE[what][0])) for what in POINTWISE]
    traits._known.clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert [of(stage(POINTWISE[what][0])) for what in POINTWISE] == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_under_functorch() -> None:
    chain = gc.chain(stage(noisy), gc.first_moment(), LR)
    params = torch.ones(4, 3)
    state = chain.init(params[0])

    def loss(param: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        traits._known.clear()
        chain.route("", param).traced.clear()
        updates, _ = chain.update(grad, state, param)
        return gc.apply_updates(param, updates).sum()

    assert torch.func.grad(loss)(params[0], params[0]).shape == (3,)
    assert torch.func.vmap(torch.func.grad(loss))(params, params).shape == (4, 3)


# Storages.


@dataclass(frozen=True)
class Mirrored(gc.storage.Storage):
    """Keeps a slot back to front."""

    def store(self, dense: torch.Tensor, kept: Any, bits: Any) -> Any:
        return {"": dense.flip(0)}

    def load(self, parts: Any, kept: Any) -> torch.Tensor:
        return parts[""].flip(0)


@dataclass(frozen=True)
class Sure(Mirrored):
    elementwise: ClassVar[bool | None] = True


@dataclass(frozen=True)
class Shaken(gc.storage.Storage):
    """Draws noise without saying so."""

    def store(self, dense: torch.Tensor, kept: Any, bits: Any) -> Any:
        return {"": dense + bits().to(dense.dtype) * 1e-12}


def test_storages_are_watched_too() -> None:
    def keeping(storage: gc.storage.Storage) -> gc.Stage:
        slots = {"exp_avg": gc.Slot(storage=storage)}
        return type("claims_kept", (gc.first_moment,), {"slots": lambda self, p: slots})()

    assert not of(keeping(Mirrored())).exact
    assert of(keeping(gc.storage.Storage())).exact
    assert of(keeping(Shaken())).draws
    with pytest.raises(gc.ChainError, match=r"Sure \(claims_kept\.exp_avg\)\.elementwise = True, but .* aten.flip"):
        of(keeping(Sure()))


# Our own.


def packs(stage: gc.Stage) -> bool:
    """Whether a stage keeps a slot as something else than a row of numbers."""
    kept = {type(slot.kept_as).__name__ for slot in stage.known_slots.values()}
    return not kept <= {"NoneType", "AsParameter", "Float32", "Float8"}


PROJECTION = ("mean_cos", "projection_rate", "mean_norm_g", "mean_norm_m", "valid_cosines")

ELEMENTWISE = {
    "adamw", "adamw:betas", "add_decayed_weights", "ademamix", "ademamix/alone", "ademamix/warmup", "adopt",
    "adopt/factored", "adv-adamw", "adv-adopt", "adv-lion", "adv-signsgd", "cautious_decay",
    "centered_decay/float8", "centered_decay/float8_scaled", "centered_decay/full", "centered_decay/int4",
    "centered_decay/int8", "clip_by_value", "debias", "decoupled_decay", "decoupled_decay/schedule", "divide",
    "factored_moment", "factored_moment/raw", "first_moment", "first_moment/bf16", "first_moment/factored",
    "first_moment/factored_compact", "first_moment/factored_vectors", "first_moment/fp16", "first_moment/fp32",
    "first_moment/int8", "first_moment/raw", "grams", "heavy_ball", "heavy_ball/nesterov", "lion",
    "lion_interpolate", "lion_k", "master_weights", "multiply", "nesterov", "nesterov/coef", "nesterov/momentum",
    "nesterov/scaled", "promote", "promote/at_least", "promote/bf16", "scale_by_learning_rate", "second_moment",
    "second_moment/bf16", "second_moment/factored", "second_moment/int8", "second_moment/raw", "sgd",
    "sgd:dampening", "sgd:nesterov", "sign", "step_clip", "stochastic_round", "track_first_moment",
}  # fmt: skip
"""`factored_moment` did not say so, and is; what calls `atan2` is not, since its bits depend on an element's place."""

RANDOM = {
    "first_moment/bf16", "first_moment/int8", "first_moment/factored_compact", "second_moment/int8",
    "second_moment/bf16", "stochastic_sign", "adv-adopt-factored-ademamix",
}  # fmt: skip

JOINT = {
    "clip_by_global_norm": ["clip_by_global_norm"],
    "kourkoutas_beta": ["kourkoutas_beta"],
    "adv-adamw:all": ["kourkoutas_beta"],
    "adv-adopt:all": ["kourkoutas_beta"],
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_declared_is_found_out(name: str) -> None:
    """What our stages said of themselves before it was found out."""
    for dtype in (torch.float32, torch.float64):
        param = torch.zeros((8, 16), dtype=dtype)
        found = traits_of(CASES[name].chain.route("", param), param)
        assert (not (found.mixed or found.placed)) == (name in ELEMENTWISE), (found.mixed, found.placed)
        assert found.exact == (name in ELEMENTWISE and not any(map(packs, CASES[name].chain))), found.packed
        assert found.draws == (name in RANDOM)
        assert list(found.joint) == JOINT.get(name, [])
        assert found.records == (PROJECTION if "momentum_project" in CASES[name].chain.names else ())


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_and_dtypes_can_be_tried(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.bfloat16, torch.float16):
            for shape in ((), (7,), (8, 16), (4, 3, 3, 3), (0, 3)):
                param = torch.zeros(shape, dtype=dtype)
                found = traits_of(CASES[name].chain.route("", param), param)
                assert not any("could not be traced" in why for why in found.mixed.values()), found.mixed
                assert not found.exact or dtype == torch.float16 or "promote" in " ".join(CASES[name].chain.names)
