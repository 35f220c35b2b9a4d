"""The compiled path gives what the eager one gives, compiles no more than it must, and falls back with one warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs

import gradchain
from gradchain import chain, partition, recipe
from gradchain import transforms as t
from gradchain._chain.chain import Chain
from gradchain._engine import buckets, compiled, layouts
from gradchain.storage import STORAGES
from tests.compilers import compile_by, find_nothing
from tests.declared import ELEMENTWISE
from tests.test_optimizer import SHAPES, assert_same, frozen_copy, make_params, set_grads, train

MANY = (*SHAPES, (1,), (4, 1), (7, 3), (2, 3, 4))


def rich_adamw() -> Chain:
    return recipe("adamw", lr=0.05).insert_before("first_moment", t.clip_by_global_norm(0.5))


def mixed() -> Chain:
    branches = {"matrix": [t.clip_by_global_norm(0.7), t.first_moment(0.8)], "vector": t.lion_interpolate()}
    return chain(
        t.promote(bf16="fp32"),
        partition(branches, gradchain.matrix_or_vector),
        t.sign(),
        t.decoupled_decay(0.1),
        t.scale_by_learning_rate(0.05),
        t.stochastic_round(),
    )


CHAINS: dict[str, Callable[[], Chain]] = {
    "adamw": lambda: recipe("adamw", lr=0.05),
    "clipped": rich_adamw,
    "partition": mixed,
    "storage": lambda: recipe("adamw").with_options(
        **{"first_moment.storage": "bf16", "second_moment.storage": "fp32"}
    ),
    "rose": lambda: recipe("rose", lr=0.05, wd_schedule=True),
    "gyro-adam": lambda: recipe("gyro-adam", lr=0.05, warmup_steps=1, weight_decay=0.1),
    "gyro-sgd": lambda: recipe("gyro-sgd", lr=0.05, warmup_steps=1),
    "adams": lambda: recipe("adams", lr=0.05),
    "sgd": lambda: recipe("sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
}


def run(built: Chain, dtype: torch.dtype, compile: bool) -> tuple[Any, dict[str, float]]:
    """A few steps with all that groups can say: other rates, ascent, a disabled stage, missing gradients."""
    params = make_params(dtype, MANY)
    decays = [name for name in built.names if "decoupled_decay" in name]
    groups = [
        {"params": params[:3], "telemetry": True},
        {"params": params[3:6], "lr": torch.tensor(0.02), "maximize": True},
        {"params": params[6:], "disable": decays},
    ]
    optimizer = gradchain.Optimizer(groups, built, compile=compile)
    for step in range(5):
        set_grads(params, step)
        params[4].grad = None if step >= 3 else params[4].grad
        optimizer.step()
    return frozen_copy(optimizer), optimizer.telemetry()


def assert_agrees(built: Chain, dtype: torch.dtype) -> None:
    eager, told = run(built, dtype, compile=False)
    result, compiled_told = run(built, dtype, compile=True)
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(result, eager, **tolerance)
    assert compiled_told == pytest.approx(told, rel=1e-3 if dtype == torch.float32 else 5e-2, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_the_traced_graphs_are_the_eager_step(name: str, dtype: torch.dtype, traced: Any) -> None:
    assert_agrees(CHAINS[name](), dtype)
    assert traced
    assert all(
        made.compiled is not None for made in traced.values() if not made.measures
    )  # those are small, and stay eager


@pytest.mark.parametrize("name", ["clipped", "partition"])
def test_compiled_is_eager(name: str, kernels: Any) -> None:
    assert_agrees(CHAINS[name](), torch.float32)
    assert all(made.compiled is not None for made in kernels.values() if not made.measures)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_all_chains_compiled_are_eager(name: str, dtype: torch.dtype) -> None:
    assert_agrees(CHAINS[name](), dtype)


def test_rounding_noise_has_the_same_bits(kernels: Any) -> None:
    """With coarse steps every element is rounded from the same value by the same bits."""
    built = chain(t.promote("fp32"), t.sign(), t.scale_by_learning_rate(2.0**-9), t.stochastic_round(5))
    results: list[Any] = []
    for compile in (False, True):
        params = make_params(torch.bfloat16, [(64, 8), (100,)])
        train(gradchain.Optimizer(params, built, compile=compile), params, range(3))
        results.append([p.detach() for p in params])
    assert_same(results[0], results[1])


# How much is compiled.


def test_nothing_is_compiled_again_when_numbers_change(kernels: Any) -> None:
    params = make_params()
    optimizer = gradchain.Optimizer(params, recipe("gyro-adam", lr=0.1), compile=True)
    scheduler = lrs.OneCycleLR(optimizer, 0.1, total_steps=30)
    train(optimizer, params, [0])
    made = set(kernels)
    graphs = dict(torch._dynamo.utils.counters["stats"])
    for step in range(1, 8):
        scheduler.step()
        optimizer.param_groups[0].update(eps=1e-7 / step, weight_decay=0.1 * step, theta_base=0.1, warmup_steps=step)
        optimizer.param_groups[0]["lr"] = torch.tensor(0.01 * step) if step > 4 else 0.01 * step
        train(optimizer, params, [step])
    assert set(kernels) == made
    assert dict(torch._dynamo.utils.counters["stats"]) == graphs


def test_a_second_optimizer_uses_the_kernels_of_the_first(traced: Any) -> None:
    for lr in (0.1, 0.2):
        params = make_params()
        train(gradchain.Optimizer(params, recipe("adamw", lr=lr, eps=lr / 100), compile=True), params, [0])
        made = len(traced)
    assert len(traced) == made == 1


def test_static_options_have_kernels_of_their_own(traced: Any) -> None:
    """What differs in structure must never share a kernel."""
    variants = [
        recipe("adams"),
        recipe("adams", hat_inside=True),
        recipe("adams", restart=True),
        recipe("adams", independent_vector_decay=True),
        recipe("rose"),
        recipe("rose", compute_dtype="fp32"),
        recipe("rose-1.0.2"),
        recipe("rose", stabilize=False),
        recipe("rose", wd_schedule=0.1),
        recipe("rose", seed=1),
    ]
    for dtype in (torch.float32, torch.bfloat16):
        for built in variants:
            results: list[Any] = []
            for compile in (False, True):
                params = make_params(dtype)
                train(gradchain.Optimizer(params, built, compile=compile), params, range(3))
                results.append([p.detach() for p in params])
            torch.testing.assert_close(
                results[1], results[0], rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
            )


def many_shapes() -> list[nn.Parameter]:
    return make_params(shapes=[(rows, columns) for rows in range(1, 7) for columns in range(1, 11)])


def test_sixty_shapes_are_four_kernels(traced: Any) -> None:
    results: list[list[nn.Parameter]] = []
    for compile in (False, True):
        params = many_shapes()
        train(gradchain.Optimizer(params, recipe("adamw"), compile=compile), params, range(2))
        results.append(params)
    assert len(traced) == 4
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
def test_sixty_shapes_hit_no_limit_of_the_compiler(kernels: Any) -> None:
    torch._dynamo.reset()
    params = many_shapes()
    train(gradchain.Optimizer(params, recipe("adamw"), compile=True), params, range(2))
    assert all(made.compiled is not None for made in kernels.values() if not made.measures)


# What else torch expects of a step.


def test_versions_are_bumped_so_that_a_stale_graph_is_noticed(kernels: Any) -> None:
    net = nn.Linear(3, 1)
    optimizer = gradchain.Optimizer(net, recipe("sgd"), compile=True)
    x = torch.ones(2, 3, requires_grad=True)
    loss = net(x).square().sum()
    loss.backward(retain_graph=True)
    before = [p._version for p in net.parameters()]
    grads = [(p.grad, p.grad._version, p.grad.clone()) for p in net.parameters()]
    optimizer.step()
    assert all(p._version > version for p, version in zip(net.parameters(), before))
    for param, (grad, version, value) in zip(net.parameters(), grads):
        assert param.grad is grad
        assert grad._version == version
        assert_same(grad, value)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_odd_tensors(traced: Any) -> None:
    """Empty and transposed parameters, gradients that are expanded, sliced or need a gradient themselves."""
    results: list[Any] = []
    for compile in (False, True):
        wide = nn.Parameter(torch.arange(12.0).view(3, 4).t())
        params = [nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(0, 3)), wide, nn.Parameter(torch.ones(3, 3))]
        optimizer = gradchain.Optimizer(params, recipe("rose", lr=0.1), compile=compile)
        for step in range(3):
            set_grads(params, step)
            params[2].grad = torch.arange(24.0).view(4, 6)[:, ::2]
            params[3].grad = (torch.ones(3, requires_grad=True) * (step + 1)).expand(3, 3)
            optimizer.step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(results[1], results[0])


# Falling back.


@pytest.mark.parametrize(
    ("name", "good"), [("adamw", 0), ("clipped", 0), ("clipped", 1), ("partition", 0), ("partition", 2), ("rose", 0)]
)
def test_what_cannot_be_compiled_runs_eagerly_with_one_warning(
    name: str, good: int, kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the first `good` phases can be compiled, and only the last one cannot."""
    left = [None] * good

    def broken(graph: Any, inputs: Any, **_: Any) -> Any:
        if left:
            left.pop()
            return lambda: graph
        raise KeyError("buf7")

    compile_by(monkeypatch, broken)
    built = CHAINS[name]()
    params, expected = make_params(), make_params()
    optimizer = gradchain.Optimizer(params, built, compile=True)
    with pytest.warns(gradchain.CompileWarning, match=r"eagerly.*KeyError.*buf7") as caught:
        train(optimizer, params, [0])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(optimizer, params, range(1, 4))
    train(gradchain.Optimizer(expected, built, compile=False), expected, range(4))
    torch.testing.assert_close(params, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_storage_without_a_compiler_takes_the_eager_steps(
    storage: str, kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels see a matrix of another shape where codes go in blocks; so does what stands in for one that failed."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler")

    compile_by(monkeypatch, broken)
    built = gradchain.recipe("adamw").with_options(**{"second_moment.storage": storage})
    results: list[Any] = []
    for compile in (False, True):
        params = make_params(torch.float32, [(96, 200), (3, 50), (7,)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gradchain.CompileWarning)
            train(gradchain.Optimizer(params, built, compile=compile), params, range(3))
        results.append([param.detach() for param in params])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_one_broken_bucket_does_not_spoil_the_others(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "SMALL_ELEMENTS", 10)  # tensors above it have a bucket each

    def picky(graph: Any, inputs: Any, **_: Any) -> Any:
        if inputs[0].shape == (6, 4):
            raise RuntimeError("no such fusion")
        return lambda: graph

    compile_by(monkeypatch, picky)
    params, expected = make_params(), make_params()
    with pytest.warns(gradchain.CompileWarning, match=r"\(6, 4\).*no such fusion"):
        train(gradchain.Optimizer(params, rich_adamw(), compile=True), params, range(3))
    train(gradchain.Optimizer(expected, rich_adamw(), compile=False), expected, range(3))
    torch.testing.assert_close(params, expected)
    assert {made.compiled is None for made in kernels.values()} == {True, False}


@pytest.mark.parametrize(
    ("device", "shape", "count", "calls"),
    [
        ("cpu", (512, 512), 3, [1, 1, 1]),
        ("meta", (512, 512), 26, [16, 10]),
        ("meta", (2048, 2048), 5, [4, 1]),  # together no more than a call takes
        ("meta", (2048, 2049), 2, [1, 1]),
    ],
)
def test_a_call_takes_more_where_it_is_only_launched(
    device: str, shape: tuple[int, int], count: int, calls: list[int]
) -> None:
    params = [nn.Parameter(torch.empty(shape, device=device)) for _ in range(count)]
    optimizer = gradchain.optimizer("adamw", params)
    for param in params:
        param.grad = torch.empty_like(param)
    optimizer._table.sync(optimizer.param_groups)
    due = optimizer._table.due(optimizer.param_groups, optimizer._info())
    assert [len(bucket) for bucket in compiled.buckets(due)] == calls


def test_the_report_tells_what_was_compiled(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find_nothing(monkeypatch)
    params = make_params(torch.float32, [(300, 300), (4, 1), (4, 1), (3,)])
    optimizer = gradchain.Optimizer(params, rich_adamw(), compile=True)
    assert str(optimizer.compile_report()) == "nothing has been compiled"
    set_grads(params, 0)
    optimizer.step()
    report = optimizer.compile_report()
    assert sorted((bucket.tensors, bucket.shapes, bucket.kernels) for bucket in report.buckets) == [
        (1, "300 x 300", 2),  # one kernel up to the global norm, one after it
        (3, "2 of 4 x 1, 3", 2),
    ]
    assert report.kernels == 4
    assert report.seconds > 0.1
    assert report.fallbacks == ()
    assert "300 x 300" in str(report)
    set_grads(params, 1)
    optimizer.step()
    assert optimizer.compile_report() == report


LARGE = [(320, 300), (70_400,), (5, 130, 128)]


def test_large_parameters_of_all_shapes_share_a_kernel(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    params, alone = make_params(torch.float32, LARGE), make_params(torch.float32, LARGE)
    optimizer = gradchain.Optimizer(params, recipe("adamw"), compile=True)
    train(optimizer, params, range(3))
    assert [(b.shapes, b.kernels) for b in optimizer.compile_report().buckets] == [("any shape", 1)]
    monkeypatch.setattr(layouts, "line_of", lambda item: 0)
    other = gradchain.Optimizer(alone, recipe("adamw"), compile=True)
    train(other, alone, range(3))
    assert other.compile_report().kernels == 3
    for ours, theirs in zip(params, alone):
        assert torch.equal(ours, theirs)
        for slot, value in other.state[theirs].items():
            assert torch.equal(optimizer.state[ours][slot], value)


@pytest.mark.parametrize("name", sorted(ELEMENTWISE & set(gradchain.recipes())))
def test_every_recipe_that_may_share_a_kernel_does(traced: Any, name: str) -> None:
    params, expected = make_params(torch.float32, LARGE[:1]), make_params(torch.float32, LARGE[:1])
    optimizer = gradchain.Optimizer(params, recipe(name), compile=True)
    train(optimizer, params, range(2))
    train(gradchain.Optimizer(expected, recipe(name), compile=False), expected, range(2))
    torch.testing.assert_close(params, expected, rtol=1e-6, atol=2e-6)
    report = optimizer.compile_report()
    assert report.fallbacks == ()
    if "factored" not in name:  # factors are packed
        assert [bucket.shapes for bucket in report.buckets] == ["any shape"]


class halves(gradchain.Stage):
    """Another's stage, which may look at a size in ways that nobody knows."""

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=update.value / 2)


@pytest.mark.parametrize(
    ("built", "own"),
    [
        (recipe("adamw"), False),
        (recipe("lion"), False),
        (chain(halves(), t.scale_by_learning_rate(0.1)), True),
        (chain(t.centralize(), t.scale_by_learning_rate(0.1)), True),
        (chain(t.decoupled_decay(0.1, fan_in=True), t.scale_by_learning_rate(0.1)), True),
        (chain(t.promote("fp32"), t.scale_by_learning_rate(0.1), t.stochastic_round()), False),
        (recipe("adamw").with_options(**{"second_moment.storage": "bf16"}), False),
        (recipe("adamw").with_options(**{"second_moment.storage": "int8"}), True),
        (recipe("adamw").with_options(**{"second_moment.storage": "factored"}), True),
    ],
    ids=lambda value: " ".join(value.names) if isinstance(value, Chain) else "",
)
def test_only_what_takes_each_element_by_itself_does(traced: Any, built: Chain, own: bool) -> None:
    dtype = torch.bfloat16 if "stochastic_round" in built.names else torch.float32
    params, expected = make_params(dtype, LARGE), make_params(dtype, LARGE)
    optimizer = gradchain.Optimizer(params, built, compile=True)
    train(optimizer, params, range(3))
    train(gradchain.Optimizer(expected, built, compile=False), expected, range(3))
    torch.testing.assert_close(params, expected)
    flat = [bucket.shapes == "any shape" for bucket in optimizer.compile_report().buckets]
    assert flat == [False] * 3 if own else flat == [True]


@pytest.mark.parametrize(
    ("other", "shape"),
    [(torch.ones(300, 301), "300 x 301"), (torch.ones(320, 310).t(), "310 x 320")],
    ids=["with a remainder of a line", "turned"],
)
def test_others_have_a_kernel_of_their_own(traced: Any, other: torch.Tensor, shape: str) -> None:
    params = [nn.Parameter(other), nn.Parameter(torch.ones(320, 300))]
    optimizer = gradchain.Optimizer(params, recipe("lion"), compile=True)
    set_grads(params, 0)
    optimizer.step()
    assert {bucket.shapes for bucket in optimizer.compile_report().buckets} == {shape, "any shape"}


BLOCKS = [(64, 2048), (2048, 64), (2048, 2048), (4096,), (4, 2048, 9)]
"""Whole blocks of int8 codes, also as many blocks as a block has elements."""


@pytest.mark.parametrize("storage", ["bf16", "int8", "fp32"])
def test_noise_and_scales_are_those_of_a_kernel_of_its_own(
    storage: str, kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = recipe("adamw").with_options(**{"first_moment.storage": storage, "second_moment.storage": storage})
    params, alone, eager = (make_params(torch.float32, BLOCKS) for _ in range(3))
    optimizer = gradchain.Optimizer(params, built, compile=True)
    train(optimizer, params, range(3))
    assert [(b.shapes, b.kernels) for b in optimizer.compile_report().buckets] == [("any shape", 1)]
    monkeypatch.setattr(layouts, "line_of", lambda item: 0)
    other = gradchain.Optimizer(alone, built, compile=True)
    train(other, alone, range(3))
    assert other.compile_report().kernels > 1
    third = gradchain.Optimizer(eager, built, compile=False)
    train(third, eager, range(3))
    for ours, theirs, plain in zip(params, alone, eager):
        assert torch.equal(ours, theirs)
        for slot, value in other.state[theirs].items():
            assert torch.equal(optimizer.state[ours][slot], value)
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)  # a code or two are rounded the other way


def test_small_tensors_beside_large_ones_share_their_kernel(kernels: Any) -> None:
    shapes = [(128,), (1024, 1024), (640, 2), (65, 1)]  # the last is no whole number of lines
    params, expected = make_params(torch.float32, shapes), make_params(torch.float32, shapes)
    optimizer = gradchain.Optimizer(params, recipe("adamw"), compile=True)
    train(optimizer, params, range(3))
    assert sorted((b.shapes, b.kernels) for b in optimizer.compile_report().buckets) == [
        ("65 x 1", 1),
        ("any shape", 1),
    ]
    train(gradchain.Optimizer(expected, recipe("adamw"), compile=False), expected, range(3))
    torch.testing.assert_close(params, expected, rtol=1e-6, atol=2e-6)
    few, many = make_params(torch.float32, [(300, 256), *10 * [(64,)]]), make_params(torch.float32, 10 * [(64,)])
    for members in (few, many):
        optimizer = gradchain.Optimizer(members, recipe("adamw"), compile=True)
        train(optimizer, members, range(1))
        assert "10 of 64" in [b.shapes for b in optimizer.compile_report().buckets], "together: a call takes too long"


def test_kernels_of_another_optimizer_cost_nothing(traced: Any) -> None:
    reports = []
    for _ in range(2):
        params = make_params(torch.float32, [(4, 1), (3,)])
        set_grads(params, 0)
        optimizer = gradchain.Optimizer(params, rich_adamw(), compile=True)
        optimizer.step()
        reports.append(optimizer.compile_report())
    assert reports[0].seconds > 0
    assert reports[1].seconds == 0
    assert reports[0].kernels == reports[1].kernels


def test_the_report_names_what_fell_back(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: Any, inputs: Any, **_: Any) -> Any:
        raise RuntimeError("no such fusion")

    compile_by(monkeypatch, fail)
    params = make_params(torch.float32, [(4, 1)])
    set_grads(params, 0)
    optimizer = gradchain.Optimizer(params, recipe("sgd"), compile=True)
    with pytest.warns(gradchain.CompileWarning):
        optimizer.step()
    report = optimizer.compile_report()
    assert report.kernels == 0
    (reason,) = report.fallbacks
    assert "no such fusion" in reason
    assert reason in str(report)


def test_a_parameter_turned_or_cut_in_place_is_not_taken_for_the_old_one(traced: Any) -> None:
    param = nn.Parameter(torch.ones(6, 6))
    optimizer = gradchain.optimizer("sgd", [param], momentum=0.0, lr=0.1, compile=True)
    for data in (lambda x: x, lambda x: x, lambda x: x, torch.t, lambda x: x[:3], lambda x: x[:, :2]):
        param.data, before = data(param.data), param.data_ptr()
        param.grad = torch.ones(param.shape)
        optimizer.step()
        assert param.data_ptr() == before
        *_, ((layout,), _, _) = optimizer._executor.compiled.kernels  # pyright: ignore[reportPrivateUsage]
        shape, stride, *_ = layout.layout.tensors[0]
        assert (torch.Size(shape), stride) == (param.shape, param.stride())


def test_packed_signs_that_have_the_shape_of_their_parameter(traced: Any) -> None:
    results: list[Any] = []
    for compile in (False, True):
        param = nn.Parameter(torch.arange(12.0).view(12, 1))
        built = chain(t.first_moment(storage="factored"), t.scale_by_learning_rate(0.1))
        optimizer = gradchain.Optimizer([param], built, compile=compile)
        for sign in (1, -1, 1):
            param.grad = sign * torch.linspace(-1, 2, 12).view(12, 1)
            optimizer.step()
        results.append(frozen_copy(optimizer))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("capturable", [False, True])
def test_some_parameters_draw_noise_and_others_do_not(dtypes: Any, capturable: bool, traced: Any) -> None:
    results: list[Any] = []
    for compile, on_device in ((False, False), (False, capturable), (True, capturable)):
        params = [nn.Parameter(torch.linspace(-1, 1, 64).view(8, 8).to(dtype)) for dtype in dtypes]
        optimizer = gradchain.optimizer("rose", params, lr=1e-2, compile=compile, capturable=on_device)
        for step in range(5):
            set_grads(params, step)
            optimizer.step()
        results.append([param.detach().clone() for param in params])
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])
