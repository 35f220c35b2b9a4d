"""Laws of optimizers about what goes on around a step: generators, devices, autocast, compilers, telemetry, shards."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradchain._chain import shared
from gradchain._chain.chain import Chain
from gradchain._dist.check_split import check_split
from gradchain.errors import ChainError
from gradchain.testing.compare import close, same
from gradchain.testing.law import OF_OPTIMIZERS, Broken, NotApplicable
from gradchain.testing.runs import Run, Subject, gradients, normal, reseed

law = OF_OPTIMIZERS.law

WAITS = {
    "aten::_local_scalar_dense": ".item(), float(...), or a branch on a tensor",
    "aten::is_nonzero": "a branch on a tensor",
    "aten::equal": "torch.equal",
    "aten::nonzero": "nonzero, or an index by a mask",
    "aten::masked_select": "masked_select",
    "aten::unique_dim": "unique",
    "aten::_unique2": "unique",
}
"""Operations that wait for a device, by what one writes."""


class Waiting(TorchDispatchMode):
    """Notes what waits for the device. 0-d tensors of the state are taken for counters on the host, as torch's are."""

    def __init__(self, counters: set[int] | None = None) -> None:
        super().__init__()
        self.counters, self.found = counters or set(), list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in WAITS and not (args[0].ndim == 0 and args[0].data_ptr() in self.counters):
            self.found.append(WAITS[name])
        return func(*args, **(kwargs or {}))


@law("Choose with torch.where in place of `if`, and calculate with tensors in place of .item().")
def no_sync(subject: Subject) -> None:
    """Every step waits for the GPU to finish, which then waits for Python."""
    run = subject.run().train(0, 1)
    for number in range(1, 3):
        for param, grad in zip(run.params, gradients(number, run.shapes)):
            param.grad = grad
        counters = {value.data_ptr() for _, value in run.tensors() if value.ndim == 0}
        with Waiting(counters) as waiting:
            run.call()
        if waiting.found:
            raise Broken(f"a step waits for the device {len(waiting.found)} times, by {waiting.found[0]}")


@law("Take noise from a hash of seed, step and place, or from a generator of your own that is saved.")
def global_rng(subject: Subject) -> None:
    """The data order and dropout of the model change with the optimizer, and a resumed run draws other numbers."""
    results: list[list[torch.Tensor]] = []
    for seed in (1, 2):
        reseed(seed)
        before, other = torch.random.get_rng_state(), random.getstate()
        run = subject.run()
        for number in range(3):
            for param, grad in zip(run.params, gradients(number, run.shapes)):
                param.grad = grad
            run.seed = seed
            run.call()
            if not torch.equal(torch.random.get_rng_state(), before):
                raise Broken("it drew from torch's global generator")
            if random.getstate() != other:
                raise Broken("it drew from Python's global generator")
        results.append(run.values)
    same(results[1], results[0], "with another global seed")


@law("Step under torch.autocast(device, enabled=False), or cast nothing by matmul.")
def autocast(subject: Subject) -> None:
    """A step inside the autocast region of a training loop computes in half precision."""
    run, plain = subject.run(), subject.run().train(0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        run.train(0, 3)
    same(run.values, plain.values, "under autocast")


@law("Give tensors that you make a dtype: that of the parameter, or float32.")
def default_dtype(subject: Subject) -> None:
    """A script that sets torch's default dtype (to bfloat16, for loading a model) trains otherwise, or fails."""
    plain = subject.run()
    start = plain.values
    plain.train(0, 3)
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        run = subject.run().train(0, 3)
        torch.set_default_dtype(torch.float32)
        if any(param.dtype != torch.float32 for param in run.params):
            raise Broken(f"with default dtype {dtype} the parameters change theirs")
        close(run.values, plain.values, start, f"with default dtype {dtype}")


@law("Record what is computed anyway, and compute nothing else under telemetry.")
def telemetry_neutral(subject: Subject) -> None:
    """Watching a run changes it."""
    watched = subject.run()
    subject.ours("telemetry is", watched)
    plain = subject.run().train(0, 3)
    watched.set(telemetry=True).train(0, 3)
    subject.ours("telemetry is", watched).telemetry()
    same(watched.values, plain.values, "with telemetry")


@law("Use the same tensor operations in both modes; never ask whether something is traced or a number.")
def compiled(subject: Subject) -> str | None:
    """Compiled steps train another model than eager ones."""
    plain, run = subject.run(), subject.run()
    optimizer = subject.ours("compile= is", run)
    start = plain.values
    subject.ours("compile= is", plain).compile = False
    optimizer.compile = True
    close(run.train(0, 3).values, plain.train(0, 3).values, start, "compiled")
    report = optimizer.compile_report()
    return f"runs eagerly where asked to compile: {report.fallbacks[0]}" if report.fallbacks else None


@law("Keep Python numbers that change out of the traced step, or use tensors (capturable).")
def compiled_outside(subject: Subject) -> None:
    """Compiling the whole train step with torch.compile fails, or trains another model."""
    if subject.run().needs_closure:
        raise NotApplicable("its step needs a closure")
    results: list[list[torch.Tensor]] = []
    for compiling in (False, True):
        torch.compiler.reset()
        run = subject.run()
        start = run.values
        targets = [normal(50 + place, shape) for place, shape in enumerate(run.shapes)]

        def iteration(run: Run = run, targets: list[torch.Tensor] = targets) -> None:
            run.optimizer.zero_grad()
            torch.stack([(p - t).square().sum() for p, t in zip(run.params, targets)]).sum().backward()
            run.optimizer.step()

        function = torch.compile(iteration, backend="aot_eager") if compiling else iteration
        for number in range(4):
            if number == 2 and "lr" in run.optimizer.param_groups[0]:
                run.set(lr=float(run.optimizer.param_groups[0]["lr"]) / 2)
            function()
        results.append(run.values)
        close(results[-1], results[0], start, "in a compiled train step")
    torch.compiler.reset()


@law("Ask for sums over a whole tensor by `yield whole_tensor(...)`; its size is ctx.shape and ctx.numel.")
def sharded(subject: Subject) -> None:
    """Under FSDP2 or tensor parallelism each process makes something else of its rows."""
    optimizer = subject.ours("what happens to shards can be told in one process")
    split(optimizer.chain, subject.shapes)


def split(chain: Chain, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Raise `Broken` if a chain does something else to rows of a tensor than to all of it."""
    for shape in shapes:
        if shape:
            param = normal(0, shape)
            program = chain.route("", param)
            numbers = [program.numbers(chain.bindings, numbers_of(chain), step) for step in (1, 2, 3)]
            try:
                check_split(program, param.shape, numbers, f"of shape {shape}")
            except ChainError as error:
                raise Broken(str(error)) from None


def numbers_of(chain: Chain) -> dict[str, Any]:
    """The entries of a parameter group of a chain: its hyperparameters, and what stages add to them."""
    group = dict(chain.hyperparameters)
    for _, stage in chain.addressed:
        group = {**stage.initial_entries(chain.hyperparameters), **group}
    return group | shared.initial(chain, chain.hyperparameters, torch.device("cpu"))
