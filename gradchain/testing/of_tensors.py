"""Laws of optimizers about what parameters are: their rank, dtype, and the company they are in."""

from __future__ import annotations

import torch

from gradchain.testing.compare import close, finite, moved, same
from gradchain.testing.law import OF_OPTIMIZERS, Broken
from gradchain.testing.runs import RANKS, Run, Subject, Tensors, gradients, normal

law = OF_OPTIMIZERS.law


def _one_rank(subject: Subject, shape: tuple[int, ...]) -> str:
    """Step a parameter of a shape. Returns: why it is refused, if it is, when the optimizer is made."""
    where, error = subject.trial(shape)
    if where == "construction":
        return error
    if where == "step":
        raise Broken(f"a parameter of shape {shape} is accepted, and then its step raises {error}")
    run = subject.run([shape])
    start = run.values
    run.train(0, 3)
    if run.values[0].shape != shape:
        raise Broken(f"a parameter of shape {shape} got shape {tuple(run.values[0].shape)}")
    finite(run, f"shape {shape}")
    moved(run, start, f"shape {shape}")
    return ""


@law("Write for any number of axes, or refuse those that do not fit when the optimizer is made.")
def every_rank(subject: Subject) -> str | None:
    """A bias, a convolution or a stack of experts cannot be trained, and that shows only after the model was built."""
    subject.runnable()
    refused = [shape for shape in RANKS[1:] if _one_rank(subject, shape)]
    return f"refuses {', '.join(map(str, refused))} when it is made" if refused else None


@law("Handle `p.ndim == 0`: no axis to reduce over, no p[0].")
def scalars(subject: Subject) -> str | None:
    """A 0-d parameter (a learned temperature, a gate) cannot be trained."""
    subject.runnable()
    return "refused when it is made" if _one_rank(subject, ()) else None


@law("Reduce with what accepts no elements, or skip parameters with numel() == 0.")
def empty(subject: Subject) -> str | None:
    """A layer without elements (a pruned one, no bias, the rest of a shard) stops the training."""
    shapes = [subject.shapes[0], (0, 3)]
    try:
        run = subject.run(shapes)
    except Exception as error:
        return f"refused when it is made: {type(error).__name__}"
    alone = subject.run(shapes[:1])
    run.train(0, 2)
    for number in range(2):
        alone.step(number, gradients(number, shapes)[:1])
    if run.values[1].shape != (0, 3):
        raise Broken("an empty parameter got elements")
    if not subject.cross_parameter:
        close(run.values[:1], alone.values, [normal(0, shapes[0])], "beside an empty parameter")
    return None


def _steady(size: float, shapes: tuple[tuple[int, ...], ...]) -> list[Tensors]:
    """Gradients of one size, none near 0 and none that turns: no sign hangs on a rounding error."""
    base = [normal(place, shape) for place, shape in enumerate(shapes)]
    base = [value.sign() * (value.abs() + 0.3) * size for value in base]
    return [[value * (1 + 0.2 * step) for value in base] for step in range(4)]


def _in(subject: Subject, dtype: torch.dtype, size: float = 1e-4) -> str | None:
    """Compare steps in a dtype with those in float32, from parameters as large as the way that they go."""
    narrow = torch.float32 if dtype == torch.float64 else dtype
    steps = [[grad.to(narrow).float() for grad in grads] for grads in _steady(size, subject.shapes)]
    start = [(normal(9 + place, shape) / 8).to(narrow).float() for place, shape in enumerate(subject.shapes)]
    way = [float((now - then).abs().mean()) for now, then in zip(_after(subject, start, steps).values, start)]
    start = [(8 * much * value).to(narrow).float() if much else value for much, value in zip(way, start)]
    wanted = _after(subject, start, steps)
    try:
        run = subject.run(dtype=dtype, start=start)
    except Exception as error:
        return f"refused when it is made: {type(error).__name__}"
    for grads in steps:
        run.step(0, [grad.to(dtype) for grad in grads])
    finite(run, f"gradients of about {size:g}")
    for now, then, first in zip(run.params, wanted.values, start):
        if now.dtype != dtype:
            raise Broken(f"a parameter became {now.dtype}")
        error = float((now.detach().double() - then.double()).norm())
        move = float((then - first).double().norm())
        if not error <= 0.05 * move + len(steps) * _rounding(narrow, first, move):
            raise Broken(f"gradients of about {size:g}: off by {error:.2g} from the float32 steps of {move:.2g}")
    return None


def _after(subject: Subject, start: Tensors, steps: list[Tensors]) -> Run:
    run = subject.run(start=start)
    for grads in steps:
        run.step(0, grads)
    return run


def _rounding(dtype: torch.dtype, start: torch.Tensor, move: float) -> float:
    """What rounding a parameter, and its move, to a dtype may come to."""
    info = torch.finfo(dtype)
    return info.eps * (float(start.norm()) + move) + info.smallest_normal * info.eps * start.numel() ** 0.5


@law("Make state and constants in the dtype of the parameter, and convert to none by name.")
def float64(subject: Subject) -> str | None:
    """Parameters in double precision (physics, small models, tests by gradcheck) fail or move differently."""
    return _in(subject, torch.float64)


@law("Compute in float32, and round once, when the parameter is written.")
def bfloat16(subject: Subject) -> str | None:
    """Models in bfloat16 learn something else than in float32, or not at all."""
    return _in(subject, torch.bfloat16)


@law("Compute, and keep squares, in float32: 1e-4 squared is 0 in float16, and so is an eps of 1e-8.")
def float16(subject: Subject) -> str | None:
    """Models in float16 become NaN, though their gradients are ordinary."""
    return _in(subject, torch.float16)


@law("Base nothing on the other parameters; where that is the point, pass cross_parameter=True to the kit.")
def independence(subject: Subject) -> None:
    """Freezing, adding or sharding one layer changes how all the others are trained."""
    subject.alone()
    together = subject.run()
    start = together.values
    together.train(0, 3)
    for place, shape in enumerate(together.shapes):
        alone = Run(subject.make, [shape], start=[start[place]])
        for number in range(3):
            alone.step(number, [gradients(number, together.shapes)[place]])
        close(alone.values, [together.values[place]], [start[place]], f"alone, where it was one of {len(start)}")


@law("Keep state in self.state[p] with `dtype=` given, and override load_state_dict if torch's casts it.")
def state_dtypes(subject: Subject) -> None:
    """A resumed run in half precision goes on with state of fewer bits than it was saved with, without a word."""
    for dtype in (torch.float32, torch.bfloat16):
        run = subject.run(dtype=dtype).train(0, 2)
        wanted = {name: value.dtype for name, value in run.tensors()}
        run.train(2, 3)
        after = {name: value.dtype for name, value in run.tensors()}
        loaded = subject.run(dtype=dtype)
        loaded.optimizer.load_state_dict(run.optimizer.state_dict())
        for what, found in (("a step", after), ("loading", {name: value.dtype for name, value in loaded.tensors()})):
            for name, kept in wanted.items():
                if found.get(name) != kept:
                    raise Broken(f"{dtype} parameters: {name} is {kept}, and {found.get(name)} after {what}")


@law("Let no parameter or state require gradients: step under torch.no_grad().")
def no_graph(subject: Subject) -> None:
    """Every step keeps the graph of those before it, and memory grows until the run dies."""
    run = subject.run()
    with torch.enable_grad():
        for number in range(2):
            for param, grad in zip(run.params, gradients(number, run.shapes)):
                param.grad = grad.clone().requires_grad_()  # as after backward(create_graph=True)
            run.call()
    for place, param in enumerate(run.params):
        if not param.is_leaf or not param.requires_grad:
            raise Broken(f"parameter {place} is no longer a leaf that requires gradients")
    for name, value in run.tensors():
        if value.requires_grad or value.grad_fn is not None:
            raise Broken(f"{name} is part of a graph")


@law("Update parameters with p.add_(...) under no_grad: p.data = ... is another tensor.")
def in_place(subject: Subject) -> None:
    """Views, tied weights, flattened buckets and CUDA graphs still see the old values of the parameters."""
    run = subject.run()
    storage, views = [param.data_ptr() for param in run.params], [param.detach().view(-1) for param in run.params]
    run.train(0, 2)
    if [param.data_ptr() for param in run.params] != storage:
        raise Broken("a parameter was replaced by another tensor")
    same([view.clone() for view in views], [value.view(-1) for value in run.values], "a view of a parameter")
