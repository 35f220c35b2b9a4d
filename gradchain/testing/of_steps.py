"""Laws of optimizers about the protocol of torch: closures, hooks, groups, and numbers in groups."""

from __future__ import annotations

from typing import Any

import torch

from gradchain.testing.compare import close, equal, finite, moved, same
from gradchain.testing.law import OF_OPTIMIZERS, Broken, NotApplicable
from gradchain.testing.runs import Run, Subject, gradients, normal

law = OF_OPTIMIZERS.law


def _rate(run: Run) -> float:
    """The learning rate; `NotApplicable` where there is none."""
    rate = run.optimizer.param_groups[0].get("lr")
    if not isinstance(rate, (int, float, torch.Tensor)):
        raise NotApplicable("its groups have no lr")
    return float(rate)


@law("Begin step with `loss = closure()` under torch.enable_grad(), once, and return the loss.")
def closure(subject: Subject) -> None:
    """Trainers that step with a closure (Lightning does) run the forward pass twice, or lose the loss."""
    run, plain = subject.run(), subject.run()
    calls: list[bool] = []
    loss = torch.tensor(2.5)

    def compute() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        for param, grad in zip(run.params, gradients(0, run.shapes)):
            param.grad = grad
        return loss

    step: Any = run.optimizer.step
    returned = step(compute)
    if len(calls) != 1:
        raise Broken(f"the closure was called {len(calls)} times")
    if not calls[0]:
        raise Broken("the closure was called with gradients disabled")
    if returned is None or float(returned) != 2.5:
        raise Broken(f"step returned {returned!r}, not the loss of the closure")
    if not plain.needs_closure:
        plain.step(0)
        same(run.values, plain.values, "with a closure")


def _note(called: list[str], what: str) -> Any:
    """A hook that notes that it was called."""

    def hook(*args: Any) -> None:
        called.append(what)

    return hook


@law("Define step as a method of the class; call super().__init__.")
def step_hooks(subject: Subject) -> None:
    """Hooks before and after a step (clipping, logs, averaging of weights, profilers) are not called."""
    run = subject.run()
    called: list[str] = []
    run.optimizer.register_step_pre_hook(_note(called, "before"))
    run.optimizer.register_step_post_hook(_note(called, "after"))
    run.train(0, 2)
    if called != ["before", "after"] * 2:
        raise Broken(f"in two steps hooks were called thus: {', '.join(called) or 'never'}")


@law("Call super().state_dict() and super().load_state_dict(), or the hooks in them.")
def state_dict_hooks(subject: Subject) -> None:
    """What changes a checkpoint on its way (sharding, renaming, moving to the CPU) is not called."""
    run = subject.run().train(0, 1)
    called: list[str] = []
    run.optimizer.register_state_dict_pre_hook(_note(called, "before saving"))
    run.optimizer.register_state_dict_post_hook(_note(called, "after saving"))
    run.optimizer.register_load_state_dict_pre_hook(_note(called, "before loading"))
    run.optimizer.register_load_state_dict_post_hook(_note(called, "after loading"))
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    wanted = ["before saving", "after saving", "before loading", "after loading"]
    if called != wanted:
        raise Broken(f"hooks were called thus: {', '.join(called) or 'never'}")


@law("Leave zero_grad to torch.optim.Optimizer.")
def zero_grad(subject: Subject) -> None:
    """Gradients add up from step to step."""
    run, plain = subject.run(), subject.run().train(0, 2)
    for number, to_none in enumerate((False, True)):
        run.step(number)
        run.optimizer.zero_grad(set_to_none=to_none)
        for place, param in enumerate(run.params):
            if param.grad is not None and (to_none or bool(param.grad.any())):
                raise Broken(f"zero_grad(set_to_none={to_none}) left a gradient at parameter {place}")
    same(run.values, plain.values, "zero_grad between steps")


@law("Make the state of a parameter when it is first stepped, and count its steps from there.")
def late_groups(subject: Subject) -> None:
    """Parameters that are added in mid-run (unfreezing, an adapter) fail, stand still, or start with a wrong step count."""
    shape = subject.shapes[0]
    run, straight = subject.run([shape]).train(0, 2), subject.run([shape]).train(0, 2)
    late = subject.run([shape], start=[normal(77, shape)])
    added = torch.nn.Parameter(normal(77, shape))
    run.optimizer.add_param_group({"params": [added]})
    run.wake()
    for number in range(2, 5):
        added.grad = gradients(number + 10, [shape])[0]
        run.step(number)
        straight.step(number)
        late.step(number + 10)
    if equal(added.detach(), normal(77, shape)):
        raise Broken("a parameter that was added after two steps did not move")
    if not subject.mixes:
        close([added.detach()], late.values, [normal(77, shape)], "added after two steps")
        close(run.values, straight.values, [normal(0, shape)], "beside one that was added")


@law('Read `group["lr"]` of the group that a parameter is in, at each step.')
def own_rate(subject: Subject) -> None:
    """Layer-wise learning rates and separate rates of heads or embeddings do nothing."""
    subject.alone()
    rate = _rate(subject.run())
    shape = subject.shapes[0]
    start = [normal(place, shape) for place in range(2)]
    params = [torch.nn.Parameter(value.clone()) for value in start]
    optimizer = subject.make([{"params": params[:1]}, {"params": params[1:], "lr": rate / 4}])
    together = Run(lambda _: optimizer, [shape] * 2)
    together.params = params
    alone = [Run(subject.make, [shape], start=start[:1]), Run(subject.make, [shape], start=start[1:], lr=rate / 4)]
    for number in range(3):
        grads = gradients(number, [shape] * 2)
        together.step(number, grads)
        for run, grad in zip(alone, grads):
            run.step(number, [grad])
    close(together.values, [run.values[0] for run in alone], start, "two groups with their own lr")


@law('Read `group["lr"]` at each step, not when the optimizer is made.')
def rate_changes(subject: Subject) -> None:
    """Learning rate schedules do nothing."""
    run, constant = subject.run(), subject.run()
    rate = _rate(run)
    run.train(0, 2)
    constant.train(0, 2)
    before = run.values
    run.set(lr=rate / 10).step(2)
    constant.step(2)
    finite(run, "after lr was changed")
    moved(run, before, "after lr was changed")
    if all(map(equal, run.values, constant.values)):
        raise Broken("a step with a tenth of the lr is the same step")


@law("Multiply all that is added to a parameter, decay included, by lr; do not divide by it.")
def rate_zero(subject: Subject) -> None:
    """A schedule that starts or ends at 0 moves the parameters, or makes them NaN."""
    for steps_before in (0, 2):
        run = subject.run()
        _rate(run)
        run.train(0, steps_before)
        before = run.values
        run.set(lr=0.0).train(steps_before, steps_before + 2)
        same(run.values, before, f"lr = 0 after {steps_before} steps")


@law('Use `group["maximize"]`: with it, the gradient counts negative.')
def maximize(subject: Subject) -> None:
    """A reward that should grow shrinks."""
    if "maximize" not in subject.run().optimizer.defaults:
        raise NotApplicable("it has no option maximize")
    up, down = subject.run(maximize=True), subject.run()
    start = down.values
    for number in range(3):
        grads = gradients(number, up.shapes)
        up.step(number, [-grad for grad in grads])
        down.step(number, grads)
    close(up.values, down.values, start, "maximize=True with gradients of the other sign")


@law("Check the numbers of each group in add_param_group, with an error that names the entry.")
def bad_rates(subject: Subject) -> None:
    """A sign error in one group's learning rate climbs instead of descending, and nothing says so."""
    _rate(subject.run())
    for value in (-1.0, float("nan")):
        try:
            subject.run(lr=value)
        except Exception as error:
            if "lr" not in str(error) and "learning rate" not in str(error).lower():
                raise Broken(f"a group with lr = {value} raises an error without the name: {error}") from None
        else:
            raise Broken(f"a group with lr = {value} is accepted")


def _changes(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Other values of the usual entries, each of which must show."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in (("lr", 0.3), ("eps", 1.0), ("weight_decay", 0.1), ("momentum", 0.5)):
        if isinstance(group.get(name), (int, float)):
            found[name] = {name: value / 2 if group[name] == value else value}
    betas = group.get("betas")
    if isinstance(betas, (tuple, list)):
        for place, beta in enumerate(betas):
            if isinstance(beta, float):
                changed = tuple(beta / 2 if at == place else other for at, other in enumerate(betas))
                found[f"betas[{place}]"] = {"betas": changed}
    return found


def _turning(run: Run) -> Run:
    """Steps with gradients that turn at every second of them: momentum shows, also in signs, and after a warmup."""
    for number in range(24):
        run.step(number, [grad if number % 2 else -0.8 * grad for grad in gradients(number, run.shapes)])
    return run


@law("Read the entry from the group, or do not put it there.")
def numbers_act(subject: Subject) -> str:
    """An option is set, searched over, published, and has no effect."""
    plain = _turning(subject.run())
    tried = _changes(subject.run().optimizer.param_groups[0])
    for name, change in tried.items():
        run = _turning(subject.run().set(**change))
        if all(map(equal, run.values, plain.values)):
            raise Broken(f"{name} = {next(iter(change.values()))} in its groups changes nothing")
    if not tried:
        raise NotApplicable("its groups have none of lr, eps, weight_decay, momentum, betas")
    return f"tried: {', '.join(tried)}"
