"""Laws of optimizers about being saved, loaded, copied and shown."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch

from gradchain.testing.compare import close, same, snapshot, unlike
from gradchain.testing.law import OF_OPTIMIZERS, Broken
from gradchain.testing.runs import Run, Subject, gradients

law = OF_OPTIMIZERS.law


def _resumed(subject: Subject, carry: Callable[[Any], Any]) -> None:
    """Compare a run that is saved and resumed in a new optimizer with one that is not."""
    for dtype in (torch.float32, torch.bfloat16):
        try:
            straight = subject.run(dtype=dtype).train(0, 3)
        except Exception:
            if dtype == torch.float32:
                raise
            continue  # the law of this dtype tells
        saved = carry({"params": straight.values, "optimizer": straight.optimizer.state_dict()})
        resumed = subject.run(dtype=dtype)
        for param, value in zip(resumed.params, saved["params"]):
            param.data.copy_(value)
        resumed.optimizer.load_state_dict(saved["optimizer"])
        resumed.wake()
        same(resumed.train(3, 6).values, straight.train(3, 6).values, f"resumed after three steps, in {dtype}")


@law("Keep all that a step depends on in self.state and self.param_groups, none of it in attributes.")
def resume(subject: Subject) -> None:
    """A run that was interrupted goes another way than it would have gone."""
    _resumed(subject, copy.deepcopy)


def _through_file(saved: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@law("Keep tensors and plain values in the state: no functions, modules or classes of your own.")
def resume_from_file(subject: Subject) -> None:
    """A checkpoint cannot be read by torch.load with its safe defaults, or not exactly."""
    _resumed(subject, _through_file)


@law("Copy what is loaded: override load_state_dict, and clone its tensors.")
def loaded_is_copied(subject: Subject) -> None:
    """A state dict that is kept to go back to is overwritten by the steps after it was loaded: the second return fails."""
    saved = snapshot(subject.run().train(0, 2).optimizer.state_dict())
    kept = snapshot(saved)
    run = subject.run()
    run.optimizer.load_state_dict(saved)
    run.wake()
    run.train(2, 4)
    if where := unlike(saved, kept):
        raise Broken(f"steps after load_state_dict wrote to the state dict that was loaded: {where}")


def _continued(twin: Run, run: Run, what: str) -> None:
    before = twin.values
    same(twin.values, run.values, f"{what}, before a step")
    run.train(2, 4)
    same(twin.values, before, f"{what}: a step of the other one")
    same(twin.train(2, 4).values, run.values, what)


def _twin(run: Run, params: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> Run:
    twin = copy.copy(run)
    twin.params, twin.optimizer = params, optimizer
    held = [param for group in optimizer.param_groups for param in group["params"]]
    if [id(param) for param in held] != [id(param) for param in params]:
        raise Broken("the copy does not hold the parameters that were copied with it")
    return twin


@law("Keep no lambdas, open files or local classes in attributes, or leave them out in __getstate__.")
def pickled(subject: Subject) -> None:
    """The optimizer cannot be sent to another process, or goes another way there."""
    run = subject.run().train(0, 2)
    try:
        params, optimizer = pickle.loads(pickle.dumps((run.params, run.optimizer)))
    except Exception as error:
        raise Broken(f"pickle raised {type(error).__name__}: {str(error)[:200]}") from error
    _continued(_twin(run, params, optimizer), run, "a copy by pickle")


@law("Keep all state in self.state, by parameter, so that copies are copies.")
def copied(subject: Subject) -> None:
    """A deep copy, as for trying a step or a look-ahead, shares state with the original or fails."""
    run = subject.run().train(0, 2)
    params, optimizer = copy.deepcopy((run.params, run.optimizer))
    _continued(_twin(run, params, optimizer), run, "a deep copy")


@law("Return a string from __repr__, at any time.")
def shown(subject: Subject) -> None:
    """Printing the optimizer fails, or a log does not tell which optimizer it was."""
    for run in (subject.run(), subject.run().train(0, 1)):
        text = repr(run.optimizer)
        if type(run.optimizer).__name__ not in text:
            raise Broken(f"its repr does not name the class {type(run.optimizer).__name__}: {text[:100]!r}")


@law("Draw no numbers, and go by no global counter, clock or address.")
def repeatable(subject: Subject) -> None:
    """Two runs of the same script differ, so no result can be reproduced."""
    first = subject.run().train(0, 4)
    others = [(40, 3)] if len(subject.shapes[0]) == 2 else subject.shapes[:1]
    subject.run(others).train(0, 1)  # in between
    same(subject.run().train(0, 4).values, first.values, "the same run again")


@law("Let the bias correction of a parameter go by its own count.")
def skipped_steps(subject: Subject) -> None:
    """A parameter that gets no gradient in some steps (experts, alternating losses) is stepped as if it had."""
    subject.alone()
    run, straight = subject.run(), subject.run()
    start = run.values
    for number in range(4):
        run.step(number, [None] * len(run.params) if number % 2 else gradients(number, run.shapes))
        if number % 2 == 0:
            straight.step(number)
    close(run.values, straight.values, start, "with steps without gradients in between")
