"""Laws of transforms about one step: pure, repeatable, without waiting, by declared slots, whole or in rows."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from gradchain._chain.chain import Chain
from gradchain._chain.functional import apply_updates
from gradchain.errors import ChainError, OptionError
from gradchain.testing.compare import close, equal, snapshot, unlike
from gradchain.testing.law import OF_TRANSFORMS, Broken, NotApplicable
from gradchain.testing.of_surroundings import Waiting, split
from gradchain.testing.runs import SHAPES, gradients, normal, reseed
from gradchain.testing.stages import Bench

law = OF_TRANSFORMS.law


@law("Do what the message says; gradchain tries each stage on small tensors when an optimizer is made.")
def accepted(bench: Bench) -> None:
    """No optimizer can be made with the stage."""
    if bench.refusal:
        raise Broken(bench.refusal)


@law("Write to new tensors: `value * x`, not `value.mul_(x)`.")
def purity(bench: Bench) -> None:
    """A step that fails cannot be undone, and other stages see numbers that they should not."""
    for shape in bench.shapes:
        param, state = bench.advanced(shape)
        inputs = {"the parameter": param, "the gradient": normal(5, shape), **state}
        before, versions = snapshot(inputs), {name: value._version for name, value in inputs.items()}
        bench.step(param, inputs["the gradient"], state, 3)
        for name, value in inputs.items():
            if value._version != versions[name] or not equal(value, before[name]):
                raise Broken(f"update wrote to {name}, for a parameter of shape {shape}")


@law("Keep what is to be remembered in slots, and nothing in globals or in the stage.")
def repeatable_update(bench: Bench) -> None:
    """The step depends on what ran before, in this process: no test and no resumed run gives the same."""
    for shape in bench.shapes:
        param, state = bench.advanced(shape)
        first = bench.step(param, normal(5, shape), state, 3)
        param, state = bench.advanced(shape)
        other, its = bench.advanced((5, *shape[1:]))
        bench.step(other, normal(6, tuple(other.shape)), its, 4)
        again = bench.step(param, normal(5, shape), state, 3)
        if not equal(first.param, again.param) or unlike(first.state, again.state):
            raise Broken(f"the same arguments gave another result the second time, for shape {shape}")


@law("Draw from ctx.random_bits().")
def global_rng(bench: Bench) -> None:
    """The data order and dropout of the model change with the stage, and a resumed run draws other numbers."""
    for shape in bench.shapes:
        param, state = bench.advanced(shape)
        reseed(0)
        before = torch.random.get_rng_state()
        bench.step(param, normal(5, shape), state, 3)
        if not torch.equal(torch.random.get_rng_state(), before):
            raise Broken("update drew from torch's global generator")


@law("Choose with torch.where in place of `if`, and calculate with tensors in place of .item().")
def no_sync(bench: Bench) -> None:
    """Every step waits for the GPU to finish, which then waits for Python."""
    for shape in bench.shapes:
        param, state = bench.advanced(shape)
        values = bench.program(param).numbers(bench.chain.bindings, bench.numbers, 3)
        with Waiting() as waiting:
            bench.run(param, normal(5, shape), state, values, 3)
        if waiting.found:
            raise Broken(f"update waits for the device by {waiting.found[0]}, for shape {shape}")


def _as_tensors(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_as_tensors, value))
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, (int, float)) else value


@law("Calculate with hyperparameters and scalars as with tensors: torch.where, gradchain.ops; no `if`, no math.sqrt.")
def numbers_as_tensors(bench: Bench) -> None:
    """A compiled step, a learning rate in a tensor, and torch.func fail or go another way."""
    for shape in bench.shapes:
        param, state = bench.advanced(shape)
        wanted = bench.step(param, normal(5, shape), state, 3)
        param, state = bench.advanced(shape)
        group = {name: _as_tensors(value) for name, value in bench.numbers.items()}
        step: Any = torch.tensor(3.0, dtype=torch.float64)
        program = bench.program(param)
        values = program.numbers(bench.chain.bindings, group, step)
        with Waiting() as waiting:
            found = bench.run(param, normal(5, shape), state, values, 3)
            for (address, stage), numbers in zip(program.stages, values):
                if address == bench.address:
                    stage.bind(numbers).scalars(step)
        if waiting.found:
            raise Broken(f"with hyperparameters in tensors, it waits by {waiting.found[0]}")
        close([found.param], [wanted.param], [bench.advanced(shape)[0]], "with hyperparameters in tensors")


@law("Declare each slot in `slots`, with its shape and dtype, and return tensors of that shape.")
def slots(bench: Bench) -> None:
    """State that is not as it was declared cannot be saved, loaded, counted or sharded."""
    for shape, dtype in itertools.product(SHAPES, (torch.float32, torch.bfloat16)):
        try:
            param, state = bench.start(shape, dtype)
        except OptionError:  # a stage may refuse a parameter, and say so
            continue
        try:
            outcome = bench.step(param, normal(1, shape, dtype), state, 1)
        except Exception as error:
            if isinstance(error, ChainError) and "slot '" in str(error):
                raise Broken(str(error)) from None
            continue  # the law every_rank tells
        if (outcome.param.shape, outcome.param.dtype) != (param.shape, dtype):
            raise Broken(f"a parameter of shape {shape} became {tuple(outcome.param.shape)} {outcome.param.dtype}")
        for name, value in outcome.state.items():
            if name not in state:
                raise Broken(f"update returned {name}, which is not declared for shape {shape}")
            if (value.shape, value.dtype) != (state[name].shape, state[name].dtype):
                was = f"{tuple(state[name].shape)} {state[name].dtype}"
                raise Broken(f"{name} was {was}, and is {tuple(value.shape)} {value.dtype}")


@law("Make the state from the parameter alone: `slots` may go by its shape, dtype and role.")
def fresh_slots(bench: Bench) -> None:
    """What two parameters keep is one tensor: the steps of one change the other."""
    for shape in bench.shapes:
        (_, one), (_, other) = bench.start(shape), bench.start(shape)
        if where := unlike(one, other):
            raise Broken(f"a second parameter of the same values starts with another {where}")
        pointers = {value.data_ptr() for value in one.values() if value.numel()}
        if any(value.data_ptr() in pointers for value in other.values() if value.numel()):
            raise Broken("two parameters share a slot")


@law("Ask for sums over a whole tensor by `yield whole_tensor(...)`; its size is ctx.shape and ctx.numel.")
def sharded(bench: Bench) -> None:
    """Under FSDP2 or tensor parallelism each process makes something else of its rows, without a word."""
    if bench.refusal:
        raise NotApplicable("no optimizer takes the stage; see the law accepted")
    split(bench.chain, tuple(shape for shape in bench.shapes if shape))


def _stepped(chain: Chain, bench: Bench) -> list[torch.Tensor]:
    params = [normal(place, shape) for place, shape in enumerate(bench.shapes)]
    state = chain.init(params)
    for number in range(3):
        updates, state = chain.update(gradients(number, bench.shapes), state, params)
        params = apply_updates(params, updates)
    return params


@law("Go by the arguments alone, so that it does not matter who calls.")
def functional(bench: Bench) -> None:
    """Meta-learning and tests by chain.update see another optimizer than the one that trains."""
    run = bench.subject.run(bench.shapes)
    start = run.values
    close(_stepped(bench.chain, bench), run.train(0, 3).values, start, "chain.init and chain.update")
