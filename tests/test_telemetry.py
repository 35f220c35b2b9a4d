"""Telemetry: what each stage is given and makes, measured beside the step and read when somebody asks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from tests.test_optimizer import assert_same, frozen_copy, make_params, set_grads, train

MODES = [pytest.param(False, id="eager"), pytest.param(True, id="compiled")]
OF_STEP = {"rms_gradient", "rms_param", "rms_change", "relative_change", "effective_lr"}
OF_STAGE = {"rms_in", "rms_out", "cosine", "cosine_gradient", "sign_flips"}


def rms(*tensors: torch.Tensor) -> float:
    flat = torch.cat([x.double().flatten() for x in tensors])
    return float(flat.square().mean().sqrt())


def cosine(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    one, other = (torch.cat([x.double().flatten() for x in side]) for side in (left, right))
    return float(torch.dot(one, other) / (one.norm() * other.norm()))


def flipped(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    one, other = (torch.cat([x.flatten() for x in side]) for side in (left, right))
    return float((one * other < 0).double().mean())


@pytest.mark.parametrize("compile", MODES)
def test_every_stage_of_adamw_by_hand(compile: bool) -> None:
    params = make_params()
    optimizer = gc.optimizer("adamw", params, lr=0.1, weight_decay=0.2, telemetry=True, compile=compile)
    assert optimizer.telemetry() == {"step": 0}
    m = [torch.zeros_like(p) for p in params]
    v = [torch.zeros_like(p) for p in params]
    for step in (1, 2, 3):
        set_grads(params, step)
        g, old = [p.grad.clone() for p in params], [p.detach().clone() for p in params]  # type: ignore[union-attr]
        optimizer.step()
        m = [0.9 * x + 0.1 * y for x, y in zip(m, g)]
        v = [0.999 * x + 0.001 * y * y for x, y in zip(v, g)]
        mean = [x / (1 - 0.9**step) for x in m]
        whole = [x / (y / (1 - 0.999**step)).sqrt() for x, y in zip(mean, v)]
        told = optimizer.telemetry()
        change = [x - p.detach() for x, p in zip(old, params)]
        expected = {
            "first_moment/rms_in": rms(*g),
            "first_moment/rms_out": rms(*mean),
            "first_moment/cosine": cosine(g, mean),
            "first_moment/cosine_gradient": cosine(g, mean),
            "first_moment/sign_flips": flipped(g, mean),
            "second_moment/rms_in": rms(*mean),
            "second_moment/rms_out": rms(*whole),
            "second_moment/cosine": cosine(mean, whole),
            "second_moment/cosine_gradient": cosine(whole, g),
            "divide/rms_out": rms(*whole),
            "divide/cosine": 1.0,
            "divide/sign_flips": 0.0,
            "decoupled_decay/cosine": 1.0,
            "decoupled_decay/rms_decay": rms(*(0.1 * 0.2 * x for x in old)),
            "scale_by_learning_rate/rms_out": 0.1 * rms(*whole),
            "scale_by_learning_rate/cosine": 1.0,
            "rms_gradient": rms(*g),
            "rms_param": rms(*old),
            "rms_change": rms(*change),
            "relative_change": rms(*change) / rms(*old),
            "effective_lr": rms(*change) / rms(*g),
        }
        assert {key: told[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        stages = {f"{name}/{what}" for name in optimizer.chain.names for what in OF_STAGE}
        assert told.keys() == {"step", "decoupled_decay/rms_decay", *stages, *OF_STEP}
        assert told["step"] == step


def test_plain_descent_has_the_learning_rate_that_it_has() -> None:
    params = make_params()
    optimizer = gc.optimizer("sgd", params, lr=0.25, telemetry=True, compile=False)
    train(optimizer, params, [0])
    assert optimizer.telemetry()["effective_lr"] == pytest.approx(0.25)


@pytest.mark.parametrize("telemetry", [True, 3], ids=["each step", "each third"])
@pytest.mark.parametrize("compile", MODES)
@pytest.mark.parametrize("name", ["adamw", "rose", "gyro-adam"])
def test_looking_changes_nothing(name: str, compile: bool, telemetry: bool | int) -> None:
    results: list[Any] = []
    for watch in (False, telemetry):
        params = make_params()
        optimizer = gc.optimizer(name, params, lr=1e-2, telemetry=watch, compile=compile)
        train(optimizer, params, range(10))
        results.append(frozen_copy(optimizer))
    assert_same(*results)


@pytest.mark.parametrize(("name", "own"), [("adamw", 0), ("gyro-sgd", 1)])
def test_the_kernel_that_writes_is_the_one_without_telemetry(name: str, own: int) -> None:
    """Large tensors are measured by a kernel of their own, small ones and those that share a kernel eagerly."""
    params = make_params(shapes=[(300, 320), (4,), (3, 2)])
    twins = [nn.Parameter(param.detach().clone()) for param in params]
    optimizer = gc.optimizer(name, params, lr=0.0123, compile=True)
    train(optimizer, params, range(3))
    plain = optimizer.compile_report()
    optimizer.param_groups[0]["telemetry"] = True
    train(optimizer, params, range(3, 6))
    assert optimizer.compile_report().kernels == plain.kernels + own
    assert optimizer._replay_plan is not None
    eager = gc.optimizer(name, twins, lr=0.0123, compile=False, telemetry=True)
    train(eager, twins, range(6))
    assert optimizer.telemetry() == pytest.approx(eager.telemetry(), rel=1e-4, abs=1e-6)
    optimizer.param_groups[0]["telemetry"] = False
    train(optimizer, params, range(6, 9))
    assert optimizer.compile_report().kernels == plain.kernels + own


@pytest.mark.parametrize(
    "name",
    ["gyro-adam", "adv-prodigy", *(pytest.param(x, marks=pytest.mark.slow) for x in ("adams", "adv-adopt-factored"))],
)
def test_compiled_and_eager_see_the_same(name: str) -> None:
    seen: list[list[dict[str, float]]] = []
    for compile in (False, True):
        params = make_params(shapes=[(6, 4), (8, 3)])
        optimizer = gc.optimizer(name, params, telemetry=2, compile=compile)
        seen.append([])
        for step in range(6):
            train(optimizer, params, [step])
            seen[-1].append(optimizer.telemetry())
    for one, other in zip(*seen):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("compile", MODES)
def test_every_third_step(compile: bool) -> None:
    params = make_params()
    optimizer = gc.optimizer("sgd", params, lr=0.5, telemetry=3, compile=compile)
    told: list[dict[str, float]] = []
    for step in range(1, 8):
        set_grads(params, step)
        optimizer.step()
        told.append(optimizer.telemetry())
    assert [x["step"] for x in told] == [1, 2, 3, 3, 3, 6, 6]
    assert told[1] == {"step": 2}
    assert told[2]["rms_gradient"] > 0
    assert {**told[4], "step": 0} == {**told[2], "step": 0}
    assert told[5]["rms_gradient"] != told[2]["rms_gradient"]


def test_only_groups_with_telemetry_count() -> None:
    params = make_params(shapes=[(3,), (4,)])
    groups = [{"params": params[:1], "telemetry": True}, {"params": params[1:]}]
    optimizer = gc.Optimizer(groups, gc.recipe("sgd"), compile=False)
    train(optimizer, params, [1])
    assert optimizer.telemetry()["rms_gradient"] == pytest.approx(rms(params[0].grad))  # type: ignore[arg-type]


def test_a_stage_counts_the_parameters_that_pass_through_it() -> None:
    params = make_params(shapes=[(3, 2), (4,)])
    routes = gc.partition({"matrix": gc.chain(gc.sign()), "vector": gc.chain(gc.multiply(3.0))}, gc.matrix_or_vector)
    chain = gc.chain(gc.multiply(2.0), routes, gc.scale_by_learning_rate(0.1))
    optimizer = gc.Optimizer(params, chain, telemetry=True, compile=False)
    train(optimizer, params, [1])
    told, (matrix, vector) = optimizer.telemetry(), [p.grad for p in params]
    assert told["matrix/sign/rms_in"] == pytest.approx(2 * rms(matrix))  # type: ignore[arg-type]
    assert told["matrix/sign/rms_out"] == pytest.approx(1)
    assert told["vector/multiply/rms_in"] == pytest.approx(2 * rms(vector))  # type: ignore[arg-type]
    assert told["vector/multiply/cosine_gradient"] == pytest.approx(1)
    assert told["scale_by_learning_rate/rms_in"] == pytest.approx(rms(matrix.sign(), 6 * vector))  # type: ignore[union-attr]


def test_a_pending_scale_counts_as_divided_out_and_zero_as_nothing() -> None:
    param = nn.Parameter(torch.zeros(4))
    optimizer = gc.Optimizer([param], gc.chain(gc.second_moment(0.5), gc.divide(1e-8)), telemetry=True, compile=False)
    param.grad = torch.tensor([2.0, -3.0, 0.0, 0.0])
    optimizer.step()
    told = optimizer.telemetry()
    assert told["second_moment/rms_out"] == pytest.approx(math.sqrt(0.5))
    assert told["divide/rms_in"] == pytest.approx(told["second_moment/rms_out"])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_gradients_have_an_rms(size: float) -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = gc.Optimizer([param], gc.recipe("sgd", lr=0.0), telemetry=True, compile=False)
    param.grad = torch.full((3,), size)
    optimizer.step()
    assert optimizer.telemetry()["rms_gradient"] == pytest.approx(size)


@pytest.mark.parametrize("compile", MODES)
def test_what_stages_look_at_for_telemetry(compile: bool) -> None:
    param, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(4))
    stages = (gc.first_moment(0.5), gc.cautious(), gc.clip_by_value(1.0), gc.spectral_decay(0.1))
    chain = gc.chain(*stages, gc.scale_by_learning_rate(0.0))
    with pytest.warns(UserWarning, match="spectral_decay does not decay"):
        optimizer = gc.Optimizer([param, other], chain, telemetry=True, compile=compile)
    for grad in ([[1.0, 2.0], [3.0, 4.0]], [[-9.0, 2.0], [0.1, 4.0]]):
        param.grad, other.grad = torch.tensor(grad), torch.zeros(4)
        optimizer.step()
    told = optimizer.telemetry()
    assert told["cautious/kept"] == 0.5  # the average of -9 and 1 is negative too; 0 agrees with nothing
    assert told["clip_by_value/clipped"] == 0.5
    assert told["spectral_decay/sigma"] == pytest.approx(2)


def test_shared_numbers_are_told() -> None:
    params = make_params()
    optimizer = gc.optimizer("adv-prodigy", params, telemetry=True, compile=False)
    train(optimizer, params, range(3))
    assert optimizer.telemetry()["prodigy/d"] == float(optimizer.param_groups[0]["d"]) > 0


def test_one_by_one() -> None:
    told: list[dict[str, float]] = []
    for backward in (False, True):
        params = make_params()
        optimizer = gc.optimizer("adamw", params, telemetry=2, compile=False)
        for step in range(1, 6):
            set_grads(params, step)
            if backward:
                for param in params:
                    optimizer.step_parameter(param)
            else:
                optimizer.step()
        told.append(optimizer.telemetry())
    assert told[0] == pytest.approx(told[1])
    assert told[0]["step"] == 4


@pytest.mark.parametrize("telemetry", [0, -1, 2.5, "10", None])
def test_telemetry_is_a_bool_or_a_number_of_steps(telemetry: Any) -> None:
    with pytest.raises(gc.OptionError, match="number of steps"):
        gc.optimizer("adamw", make_params(), telemetry=telemetry)


# Exporters.


class Writer:
    """As `torch.utils.tensorboard.SummaryWriter`."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int | None]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None, walltime: Any = None) -> None:
        self.scalars.append((tag, scalar_value, global_step))


class Run:
    """As a run of wandb or trackio."""

    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, Any], int | None]] = []

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self.lines.append((data, step))


class StepLess:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self, data: dict[str, Any]) -> None:
        self.lines.append(data)


class Metrics:
    """As mlflow, and Lightning's loggers."""

    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, Any], int | None]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((metrics, step))


def watched(telemetry: bool | int = True) -> tuple[gc.Optimizer, list[nn.Parameter]]:
    params = make_params()
    return gc.optimizer("sgd", params, lr=0.5, telemetry=telemetry, compile=False), params


def test_each_kind_of_log_gets_the_same_numbers(tmp_path: Path) -> None:
    optimizer, params = watched()
    writer, run, plain, metrics, file = Writer(), Run(), StepLess(), Metrics(), tmp_path / "run.jsonl"
    seen: list[dict[str, Any]] = []
    for place, to in enumerate((writer, run, plain, metrics, file, seen.append), start=1):
        train(optimizer, params, [0])
        told = optimizer.telemetry()
        assert optimizer.log_telemetry(to) == told
        numbers = {name: value for name, value in told.items() if name != "step"}
        assert told["step"] == place
        expected = {
            1: lambda: [*zip(numbers, numbers.values(), [1] * len(numbers))] == writer.scalars,  # noqa: B023
            2: lambda: run.lines == [(numbers, 2)],  # noqa: B023
            3: lambda: plain.lines == [{"step": 3, **numbers}],  # noqa: B023
            4: lambda: metrics.lines == [(numbers, 4)],  # noqa: B023
            5: lambda: json.loads(file.read_text(encoding="utf-8")) == {"step": 5, **numbers},  # noqa: B023
            6: lambda: seen == [{"step": 6, **numbers}],  # noqa: B023
        }
        assert expected[place]()


def test_it_is_written_once_and_only_where_there_is_something_new(tmp_path: Path) -> None:
    optimizer, params = watched(telemetry=3)
    file = str(tmp_path / "run.jsonl")
    written = []
    for step in range(1, 8):
        set_grads(params, step)
        optimizer.step()
        written.append(optimizer.log_telemetry(file, prefix="opt/"))
        assert optimizer.log_telemetry(file) is None
    lines = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert [x for x in written if x is not None] == lines
    assert all(name == "step" or name.startswith("opt/") for name in lines[0])


def test_no_log_waits_for_the_device_where_there_is_nothing_new() -> None:
    optimizer, params = watched(telemetry=3)
    train(optimizer, params, [0])
    optimizer.telemetry = None  # type: ignore[method-assign, assignment]
    assert optimizer.log_telemetry(Run()) is None


def test_another_step_may_be_given_and_one_may_write_nothing() -> None:
    optimizer, params = watched()
    train(optimizer, params, [0])
    run = Run()
    told = optimizer.log_telemetry(run, step=70)
    assert (run.lines[0][1], told and told["step"]) == (70, 70)
    train(optimizer, params, [0])
    assert optimizer.log_telemetry(None) == optimizer.telemetry()


def test_what_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    optimizer, params = watched()
    set_grads(params, 0)
    params[0].grad = torch.full_like(params[0], float("nan"))
    optimizer.step()
    optimizer.log_telemetry(tmp_path / "x")
    line = json.loads((tmp_path / "x").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert line["rms_gradient"] is None


def test_tensorboard_itself(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard", exc_type=ImportError)
    optimizer, params = watched()
    train(optimizer, params, [0])
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        optimizer.log_telemetry(writer)
    assert [*tmp_path.glob("events*")]


def test_a_log_that_is_none_is_refused() -> None:
    with pytest.raises(gc.OptionError, match=r"to = 3 .* add_scalar"):
        watched()[0].log_telemetry(3)
