"""On a GPU: the CPU's numbers, eager and compiled, graphs, trainers' scalers, resume. Skipped where there is none.

`DEVICE=cpu pytest tests/test_cuda.py` goes through the same lines on a CPU.
"""

from __future__ import annotations

import copy
import io
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import gradchain
from gradchain import promote, stochastic_round
from gradchain._core.noise import parameter_key, random_bits, salt_of
from gradchain._engine.inductor import compile_graph, trace
from gradchain.errors import CompileWarning
from gradchain.ops import arctan_ratio, arctangent
from tests.laws.cases import CASES, SHAPES, Case
from tests.laws.running import Tensors, build, gradients, tensors, tolerance

DEVICE = os.environ.get("DEVICE", "cuda")
SHORT = ("adamw", "adams", "rose", "gyro-adam:now", "muon", "adv-prodigy", "stochastic_round")
FEW = [(7,), (8, 16), (4, 3, 3, 3)]
STEPS = 3

if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("there is no GPU here", allow_module_level=True)


@pytest.fixture(autouse=True)
def only_our_warnings() -> Iterator[None]:
    """What is not compiled fails; what torch's compiler says of itself does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", CompileWarning)
        yield


def optimize(
    case: Case, device: str, compile: bool, shapes: Any = SHAPES, *, steps: int = STEPS, seed: int = 0
) -> gradchain.Optimizer:
    """An optimizer on a device after some steps; numbers are drawn on the CPU. A `seed` changes their last places."""
    generator = torch.Generator().manual_seed(seed)

    def nudged(x: torch.Tensor) -> torch.Tensor:
        return (x * (1 + 1e-7 * torch.randn(x.shape, generator=generator)) if seed else x).to(device)

    held = [nn.Parameter(nudged(x)) for x in tensors(1, shapes, torch.float32)]
    optimizer = build(held, case.chain, compile=compile)
    for step in gradients(steps, shapes, torch.float32):
        for param, grad in zip(held, step, strict=True):
            param.grad = nudged(grad)
        optimizer.step()
    return optimizer


def params(optimizer: torch.optim.Optimizer) -> Tensors:
    return [param.detach() for group in optimizer.param_groups for param in group["params"]]


def apart(left: torch.optim.Optimizer, right: torch.optim.Optimizer) -> float:
    """The largest difference of parameters, beside 1 and their size."""
    pairs = zip(params(left), params(right), strict=True)
    return max(float(((a.cpu() - b.cpu()).abs() / (1 + b.cpu().abs())).max()) for a, b in pairs if a.numel())


def sensitivity(case: Case) -> float:
    """How far steps on the CPU move if parameters and gradients change by a unit in the last place or two.

    Directions of which a gradient has nothing (the gradients here have fewer rows than columns) are made of rounding: a root
    of a singular matrix, or eigenvectors of one, turn them by anything.
    """
    exact = optimize(case, "cpu", False)
    return max(apart(optimize(case, "cpu", False, seed=seed), exact) for seed in (1, 2, 3))


ONE_BASIS = dict.fromkeys(("low_rank/long", "full_rank", "galore-adamw", "apollo:mini"), 2)
"""Steps until singular vectors are due again: moments stay as they are, and which sign a vector has is the solver's."""


@pytest.mark.parametrize("name", CASES)
def test_eager_steps_are_those_of_a_cpu(name: str) -> None:
    case = CASES[name]
    steps = ONE_BASIS.get(name, STEPS)
    found = apart(optimize(case, DEVICE, False, steps=steps), optimize(case, "cpu", False, steps=steps))
    bound = 4 * tolerance(case.chain, torch.float32)  # sums and products go in another order
    assert found <= bound or found <= 8 * sensitivity(case)


@pytest.mark.parametrize("name", CASES)
def test_compiled_steps_are_the_eager_ones(name: str) -> None:
    case = CASES[name]
    bound = 4 * tolerance(case.chain, torch.float32)
    assert apart(*(optimize(case, DEVICE, compile, FEW) for compile in (True, False))) <= bound


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_no_step_waits(name: str, compile: bool, there: bool) -> None:
    """Nor one whose learning rate is a tensor on the device."""
    if DEVICE == "cpu":
        pytest.skip("a CPU waits for nothing")
    optimizer = optimize(CASES[name], DEVICE, compile)
    if there:
        for group in optimizer.param_groups:
            group["lr"] = torch.full((), group["lr"], device=DEVICE)
        optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(), optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("function", [arctangent, arctan_ratio])
@pytest.mark.parametrize("compile", [False, True])
def test_an_arctangent_has_the_bits_of_a_cpu(function: Any, compile: bool) -> None:
    with torch.no_grad():
        y, x = torch.randn(1 << 18), torch.randn(1 << 18)
        there = (y.to(DEVICE), x.to(DEVICE))
        call = compile_graph(trace(lambda a, b: [function(a, b)], there), there) if compile else None
        found = call(*there)[0] if call else function(*there)
        assert torch.equal(found.cpu(), function(y, x))


@pytest.mark.parametrize("compile", [False, True])
def test_noise_has_the_bits_of_a_cpu(compile: bool) -> None:
    key = torch.tensor(parameter_key(3, 1), dtype=torch.int32)

    def drawn(like: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
        return [random_bits(like, key, salt_of("p", 0))]

    there = (torch.empty(70_001, device=DEVICE), key.to(DEVICE))
    call = compile_graph(trace(drawn, there), there) if compile else drawn
    assert torch.equal(call(*there)[0].cpu(), drawn(torch.empty(70_001), key)[0])


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("compile", [False, True])
def test_a_resume_is_exact(name: str, compile: bool) -> None:
    """By a file, into new parameters."""
    case = CASES[name]
    optimizer = optimize(case, DEVICE, compile)
    file = io.BytesIO()
    torch.save({"params": params(optimizer), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    again = build([nn.Parameter(x) for x in kept["params"]], case.chain, compile=compile)
    again.load_state_dict(kept["optimizer"])
    for one in (optimizer, again):
        for param, grad in zip(one.param_groups[0]["params"], gradients(4)[3], strict=True):
            param.grad = grad.to(DEVICE)
        one.step()
    assert all(map(torch.equal, params(optimizer), params(again)))


@pytest.mark.parametrize("compile", [False, True])
def test_a_state_goes_to_the_parameters_device(compile: bool) -> None:
    case = CASES["adamw"]
    kept = optimize(case, "cpu", False).state_dict()
    optimizer = optimize(case, DEVICE, compile)
    optimizer.load_state_dict(copy.deepcopy(kept))
    for param in params(optimizer):
        assert param.device.type == DEVICE
    for state in optimizer.state.values():
        assert {state[key].device.type for key in ("first_moment.exp_avg", "second_moment.exp_avg_sq")} == {DEVICE}
    optimizer.step()


@pytest.mark.parametrize("compile", [False, True])
def test_two_devices_in_one_optimizer(compile: bool) -> None:
    case, shapes = CASES["adamw"], [(8, 16), (7,)]
    held = [nn.Parameter(x.to(place)) for place in ("cpu", DEVICE) for x in tensors(1, shapes, torch.float32)]
    optimizer = build(held, case.chain, compile=compile)
    for step in gradients(STEPS, shapes, torch.float32):
        for param, grad in zip(held, 2 * step, strict=True):
            param.grad = grad.to(param.device)
        optimizer.step()
    for here, there in zip(held[:2], held[2:], strict=True):
        torch.testing.assert_close(there.detach().cpu(), here.detach(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("options", [{}, {"capturable": True}], ids=["plain", "capturable"])
@pytest.mark.parametrize("compile", [False, True])
def test_a_grad_scaler_leaves_out_what_overflows(compile: bool, options: dict[str, Any]) -> None:
    model = nn.Linear(8, 4).to(DEVICE)
    optimizer = gradchain.optimizer("adamw", model, lr=1e-2, compile=compile, **options)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
    moved: list[bool] = []
    for scale in (1.0, float("inf"), 1.0):
        before = [param.detach().clone() for param in model.parameters()]
        loss = scale * model(torch.ones(2, 8, device=DEVICE)).square().sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer), scaler.update(), optimizer.zero_grad()
        moved.append(not all(map(torch.equal, before, (param.detach() for param in model.parameters()))))
    assert moved == [True, False, True]


@pytest.mark.parametrize("name", SHORT)
def test_a_users_compiled_train_step(name: str) -> None:
    torch._dynamo.reset()

    def trained(compiled: bool) -> Tensors:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).to(DEVICE)
        optimizer = build(model.parameters(), CASES[name].chain, compile=compiled)
        inputs = [x.to(DEVICE) for x in tensors(5, [(6, 8)] * STEPS, torch.float32)]

        def step(x: torch.Tensor) -> None:
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        run = torch.compile(step) if compiled else step
        for x in inputs:
            run(x)
        return params(optimizer)

    for a, b in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("compile", [False, True])
def test_a_graph_replays_the_bits_of_steps(name: str, compile: bool) -> None:
    if DEVICE != "cuda":
        pytest.skip("there are no graphs here")
    from benchmarks.gpu import Cuda

    case, steps = CASES[name], gradients(7, SHAPES, torch.float32)
    sides = [[nn.Parameter(x.to(DEVICE)) for x in tensors(1, SHAPES, torch.float32)] for _ in range(2)]
    ours, plain = (build(held, case.chain, compile=compile, capturable=True) for held in sides)
    for held in sides:
        for param in held:
            param.grad = torch.zeros_like(param)

    def refill(step: Tensors) -> None:
        for held in sides:
            for param, grad in zip(held, step, strict=True):
                param.grad.copy_(grad)  # type: ignore[union-attr]

    refill(steps[0])
    replay = Cuda().captured(ours.step)
    for _ in range(4):
        plain.step()
    for step in steps:
        refill(step)
        replay(), plain.step()
    torch.cuda.synchronize()
    assert all(map(torch.equal, params(ours), params(plain)))


def test_rounding_of_weights_has_the_bits_of_a_cpu() -> None:
    """One product and one sum in float32, which eager steps do not contract; then noise by place."""
    chain = gradchain.chain(promote("fp32"), gradchain.scale_by_learning_rate(0.05), stochastic_round())
    found: Tensors = []
    for device in ("cpu", DEVICE):
        param = nn.Parameter(tensors(1, [(64, 64)], torch.bfloat16)[0].to(device))
        param.grad = tensors(2, [(64, 64)], torch.bfloat16)[0].to(device)
        build([param], chain, compile=False).step()
        found.append(param.detach().cpu())
    assert torch.equal(*found)
