"""Laws of optimizers about gradients: those that are missing, sparse, zero, strided or not finite."""

from __future__ import annotations

import torch

from gradchain.errors import GradientError
from gradchain.testing.compare import close, equal, finite, same
from gradchain.testing.law import OF_OPTIMIZERS, Broken, NotApplicable
from gradchain.testing.runs import Run, Subject, Tensors, gradients, rebuilt

law = OF_OPTIMIZERS.law


@law("Take parameters or group dicts as the first argument, and step without a closure where there is none.")
def runs(subject: Subject) -> None:
    """The optimizer cannot be used at all."""
    errors = [error for where, error in subject.trials.values() if where]
    if len(errors) == len(subject.trials):
        raise Broken(f"for none of the shapes {', '.join(map(str, subject.trials))}: {errors[0]}")


@law("Compute what you need of p.grad in new tensors: `grad = p.grad + decay * p`, not `p.grad.add_(...)`.")
def gradients_unwritten(subject: Subject) -> None:
    """What reads p.grad after the step (a norm in a log, accumulation, a second optimizer) gets wrong numbers."""
    run = subject.run()
    for number in range(3):
        grads = gradients(number, run.shapes)
        run.step(number, grads)
        for place, (param, grad) in enumerate(zip(run.params, grads)):
            if param.grad is None or not equal(param.grad, grad):
                raise Broken(f"step {number} changed p.grad of parameter {place}")


@law("Skip parameters whose grad is None, and touch neither them nor their state.")
def none_gradients(subject: Subject) -> None:
    """Frozen layers and unused branches have no gradients: training them fails, or moves what should stand still."""
    run, whole = subject.run(), subject.run()
    start = run.values
    for number in range(2):
        grads = gradients(number, run.shapes)
        run.step(number, [grads[0], None, grads[2]])
        whole.step(number, grads)
    if not equal(run.values[1], start[1]):
        raise Broken("a parameter without a gradient moved")
    if not subject.mixes:
        same([run.values[0], run.values[2]], [whole.values[0], whole.values[2]], "beside one without a gradient")
    run = subject.run()
    run.step(0, [None] * len(run.params))
    same(run.values, start, "a step without any gradient")


def _embedding(rows: tuple[int, ...], run: Run) -> torch.Tensor:
    """A sparse gradient of a matrix, of some rows."""
    values = gradients(0, run.shapes)[0][list(rows)]
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, run.shapes[0], check_invariants=True)


@law('Step with `grad.to_dense()`, or raise before anything is written, with "sparse" in the message.')
def sparse_gradients(subject: Subject) -> str | None:
    """With nn.Embedding(sparse=True) training stops with an error that does not say why, or is silently wrong."""
    if not any(len(shape) == 2 for shape in subject.shapes):
        raise NotApplicable("it takes no matrices")
    run, dense = subject.run([(4, 3)]), subject.run([(4, 3)])
    start = run.values
    sparse = _embedding((0, 2), run)
    dense.step(0, [sparse.to_dense()])
    try:
        run.step(0, [sparse])
    except Exception as error:
        if "sparse" not in str(error).lower():
            raise Broken(f"it raised {type(error).__name__}: {str(error)[:200]}") from error
        same(run.values, start, "a refused sparse gradient")
        return "refused, with a reason"
    touched = [0, 2]
    close([run.values[0][touched]], [dense.values[0][touched]], [start[0][touched]], "rows with a gradient")
    rest = run.values[0][[1, 3]]
    if not equal(rest, start[0][[1, 3]]):  # else left out, as lazy optimizers do
        close([rest], [dense.values[0][[1, 3]]], [start[0][[1, 3]]], "rows without a gradient", slack=1e-6)
    return None


@law("Keep denominators away from zero: add eps, or use torch.where.")
def zero_gradients(subject: Subject) -> None:
    """A layer without signal (LoRA's A, a dead unit) turns into NaN for good."""
    run = subject.run()
    for number in range(2):
        run.step(number, [torch.zeros_like(param) for param in run.params])
        finite(run, f"zero gradients at step {number}")
    run.train(2, 4)
    finite(run, "ordinary gradients after zero ones")


def _turned(values: Tensors) -> Tensors:
    """The same numbers in another layout: matrices by columns, all else with gaps."""
    return [
        value.t().contiguous().t() if value.ndim == 2 else torch.stack([value, value], dim=-1)[..., 0]
        for value in values
    ]


@law("Use reshape in place of view, and operations that go by elements, not by memory.")
def strided(subject: Subject) -> None:
    """Transposed or channels_last weights, and gradients of another layout than theirs, fail or are stepped wrongly."""
    plain = subject.run()
    start = plain.values
    for turn_params, turn_grads in ((False, True), (True, False), (True, True)):
        run = subject.run()
        if turn_params:
            for param, turned in zip(run.params, _turned(run.values)):
                param.data = turned
        strides = [param.stride() for param in run.params]
        reference = subject.run()
        for number in range(3):
            grads = gradients(number, run.shapes)
            for param, grad in zip(run.params, _turned(grads) if turn_grads else grads):
                param.grad = grad
            run.call()
            reference.step(number)
        where = " and ".join(["parameters"] * turn_params + ["gradients"] * turn_grads)
        close(run.values, reference.values, start, f"{where} that are not contiguous")
        if [param.stride() for param in run.params] != strides:
            raise Broken("a step changed the strides of a parameter")


@law("Compute each parameter from its own gradient, or skip or refuse the whole step.")
def nonfinite_gradients(subject: Subject) -> str | None:
    """One NaN in the gradient of one layer destroys all the others."""
    subject.alone()
    run, healthy = subject.run(), subject.run()
    start = run.values
    grads = gradients(0, run.shapes)
    healthy.step(0)
    try:
        run.step(0, [grads[0], torch.full_like(grads[1], float("nan")), grads[2]])
    except Exception as error:
        same(run.values, start, f"a step refused with {type(error).__name__}")
        return "refused"
    others = [run.values[0], run.values[2]]
    if all(map(equal, others, [start[0], start[2]])):
        return "the whole step is skipped"
    same(others, [healthy.values[0], healthy.values[2]], "beside a gradient of NaN")
    return None


@law("Decide before anything is written whether the step is taken.")
def nonfinite_policy(subject: Subject) -> None:
    """A run that was told to skip steps with infinite gradients, or to stop at them, is destroyed all the same."""
    optimizer = subject.ours("nonfinite= is")
    for policy in ("skip", "error"):
        made = rebuilt(optimizer, nonfinite=policy)
        run, straight = Run(made, subject.shapes).train(0, 2), Run(made, subject.shapes).train(0, 2)
        before = run.values
        bad = gradients(2, run.shapes)
        bad[1].view(-1)[0] = float("inf")
        try:
            run.step(2, bad)
        except GradientError:
            if policy == "skip":
                raise Broken("nonfinite='skip' raised") from None
        else:
            if policy == "error":
                raise Broken("nonfinite='error' raised nothing")
        same(run.values, before, f"nonfinite={policy!r}")
        run.step(3)
        straight.step(3)
        same(run.values, straight.values, f"the step after one under nonfinite={policy!r}")


@law("Test a step that fails: check all gradients first, and write afterwards.")
def failed_steps(subject: Subject) -> str | None:
    """After a step that raised, some parameters are a step ahead of others: the run cannot go on from there."""
    if not any(len(shape) == 2 for shape in subject.shapes):
        raise NotApplicable("it takes no matrices")
    shapes = [(4, 3)] * 3
    run, straight = subject.run(shapes).train(0, 1), subject.run(shapes).train(0, 1)
    start = run.values
    grads: list[torch.Tensor | None] = [*gradients(1, shapes)[:2], _embedding((1,), run)]
    try:
        run.step(1, grads)
    except Exception:
        same(run.values, start, "a step that raised because of its last gradient")
        run.step(1)
        straight.step(1)
        same(run.values, straight.values, "the step after one that raised")
        return None
    raise NotApplicable("it refuses no gradient, so nothing was found that makes a step fail")
