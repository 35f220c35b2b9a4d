"""Step each parameter in the backward pass as soon as its gradient is complete, and free the gradient."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from gradchain._core.shard import is_distributed
from gradchain._optim.optimizer import Optimizer
from gradchain.errors import OptionError, kind_of


class StepInBackward:
    """The hooks of `step_in_backward`; `remove()`, or the end of a `with` block, removes them."""

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None) -> None:
        self.optimizer = optimizer
        self._hooks: list[Any] = []
        self._take_up(_parameters(optimizer))
        optimizer._in_backward = self._take_up  # pyright: ignore[reportPrivateUsage]
        if model is not None and _several():  # it may be wrapped later
            holders = [part for part in model.modules() if next(part.parameters(recurse=False), None) is not None]
            self._hooks += [part.register_forward_pre_hook(_check_unwrapped) for part in holders]

    def _take_up(self, params: Iterable[torch.Tensor]) -> None:
        step = functools.partial(_step, self.optimizer)
        self._hooks += [_hook(param, step) for param in params]

    def remove(self) -> None:
        """Remove the hooks: gradients are kept from now on, and wait for `optimizer.step()`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.optimizer._in_backward = None  # pyright: ignore[reportPrivateUsage]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


WRAPPED = (
    "is wrapped in DistributedDataParallel, whose gradients are averaged after each parameter's hook has run: the processes "
    "would drift apart. Use fully_shard, or call optimizer.step() after the backward pass."
)


def _check_unwrapped(model: nn.Module, inputs: Any) -> None:
    """Raise if this is the forward pass of DistributedDataParallel."""
    if getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None) is not None:
        raise OptionError(f"the model of step_in_backward {WRAPPED}")


def _hook(param: torch.Tensor, step: Any) -> Any:
    """A hook for a parameter, also for one that is frozen and may be thawed later."""
    trained = param.requires_grad
    try:
        return param.requires_grad_().register_post_accumulate_grad_hook(step)
    finally:
        param.requires_grad_(trained)


def _step(optimizer: Optimizer, param: torch.Tensor) -> None:
    optimizer.step_parameter(param)
    param.grad = None


def step_in_backward(optimizer: Optimizer, model: nn.Module | None = None) -> StepInBackward:
    """Step each parameter in the backward pass, as soon as its gradient is complete, and free the gradient.

    Only about one layer's gradients are in memory at a time; do not call `optimizer.step()`. Schedulers, parameter groups
    and checkpoints work as usual. Under `fully_shard` with `model.set_requires_gradient_sync(False)`, gradients accumulate,
    and the backward pass that syncs takes the step. Reductions over a sharded tensor cost a collective for each tensor
    instead of one for all. Gradients are not unscaled: a loss scaled by `torch.amp.GradScaler` steps by scaled gradients.

    Args:
        optimizer: the optimizer. All its parameters are stepped so from now on.
        model: the model as it is called. Needed where there are several processes and parameters that are not sharded, to
            see that it is not wrapped in DistributedDataParallel.

    Raises:
        ChainError: a stage needs all parameters at one time, such as `clip_by_global_norm` or `prodigy`.
        OptionError: the model is wrapped in DistributedDataParallel, whose gradients are not averaged yet when the hooks
            run: each process would step by its own. Or the model is needed; or hooks are there already; or the optimizer
            skips the steps of all parameters if one gradient is not finite.

    Returns: the hooks.

    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = gradchain.optimizer("adamw", model.parameters(), lr=1e-3)
    >>> with gradchain.step_in_backward(optimizer):
    ...     model(torch.ones(1, 2)).sum().backward()
    >>> model.weight.grad is None
    True
    """
    if not hasattr(optimizer, "chain"):
        raise OptionError(f"step_in_backward takes a gradchain.Optimizer; got {kind_of(optimizer)}.")
    optimizer.check_one_by_one()
    if model is None and _several() and not all(map(is_distributed, _parameters(optimizer))):
        raise OptionError(
            "there are several processes, and parameters that are not sharded: pass model=, the model as it is called, so "
            "that step_in_backward can see that it is not wrapped in DistributedDataParallel."
        )
    wrapped = [
        name or "the model" for name, part in _modules(model) if isinstance(part, nn.parallel.DistributedDataParallel)
    ]
    if wrapped:
        raise OptionError(f"{wrapped[0]} {WRAPPED}")
    if any(map(_hooked, _parameters(optimizer))):
        raise OptionError(
            "a parameter of this optimizer is stepped in the backward pass already. Call remove() on what step_in_backward "
            "returned before you call it again."
        )
    return StepInBackward(optimizer, model)


def _parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _several() -> bool:
    """Whether there are several processes."""
    from torch import distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _modules(model: nn.Module | None) -> list[tuple[str, nn.Module]]:
    return [] if model is None else list(model.named_modules())


def _hooked(param: Any) -> bool:
    hooks = getattr(param, "_post_accumulate_grad_hooks", None) or {}
    return any(isinstance(hook, functools.partial) and hook.func is _step for hook in hooks.values())
