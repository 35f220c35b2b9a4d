"""Handing an optimizer what it cannot compute from gradients: an estimate of the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from gradchain._core.shard import local_of, take
from gradchain._engine.writing import overwrite
from gradchain._optim.exchange import Member, members
from gradchain._optim.optimizer import Optimizer
from gradchain._optim.routing import Routing
from gradchain.errors import OptionError, kind_of, shown
from gradchain.ops import ema

STAGE = "divide_by_hessian"
NOTHING = "Nothing was written."


@torch.no_grad()
def give_hessian(optimizer: Optimizer, estimates: Iterable[torch.Tensor | None]) -> None:
    r"""Average an estimate of the Hessian's diagonal into the state of `divide_by_hessian`, as Sophia does.

    Args:
        optimizer: one whose chain has that stage, such as `gradchain.optimizer("sophia", model)`.
        estimates: a tensor $\hat h$ for each parameter, in the order of the groups; `None` leaves a parameter's average as
            it is, and so do elements that are not finite. That of a sharded parameter may be sharded too, or whole.

    Call it between steps, at the first one and then every ten or so. Nothing waits for the device after the first step.

    Returns: nothing; $h \leftarrow \beta h + (1-\beta)\hat h$.
    Raises: OptionError: the chain has no such stage, or the estimates are not one tensor of its shape for each parameter.
        On an error nothing has been written.

    >>> optimizer = gradchain.optimizer("sophia", model.parameters())
    >>> grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    >>> signs = [torch.randint_like(g, 0, 2) * 2 - 1 for g in grads]
    >>> products = torch.autograd.grad(grads, list(model.parameters()), grad_outputs=signs)
    >>> gradchain.give_hessian(optimizer, [s * p for s, p in zip(signs, products)])
    """
    if not isinstance(optimizer, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"give_hessian(optimizer, estimates): optimizer is {kind_of(optimizer)}; pass gradchain's first."
        )
    if isinstance(estimates, (torch.Tensor, Mapping)):
        raise OptionError(
            f"give_hessian: estimates is {kind_of(estimates)}; pass a list, with a tensor or None for each "
            f"parameter. {NOTHING}"
        )
    routing, given = Routing(optimizer.chain), list(estimates)
    groups = enumerate(optimizer.param_groups)
    rows = [(group, member) for number, group in groups for member in members(routing, number, group)]
    if len(given) != len(rows):
        raise OptionError(
            f"give_hessian: there are {len(given)} estimates for {len(rows)} parameters. Pass one for each, in the order of "
            f"the groups, or None. {NOTHING}"
        )
    averages = [_average(optimizer, *row, new) for row, new in zip(rows, given) if new is not None]
    for state, slot, average in averages:
        if float(state["step"]) == 0:  # else the first step would take the state for one that nobody has written to
            state["step"] = state["step"].clone()
        overwrite([local_of(state[slot])], [local_of(average)])


def _average(
    optimizer: Optimizer, group: Mapping[str, Any], member: Member, new: object
) -> tuple[dict[str, Any], str, torch.Tensor]:
    """The state of a parameter, the slot in it, and what that is to hold."""
    address, state = member.address(STAGE), optimizer.state.get(member.param, {})
    slot = f"{address}.hessian"
    if address is None or slot not in state:
        raise OptionError(
            f"give_hessian: {member.label} goes through no {STAGE} and has no use for an estimate. Use a chain with that "
            f"stage, such as gradchain.recipe('sophia'), or pass None for this parameter. {NOTHING}"
        )
    old = state[slot]
    if not isinstance(new, torch.Tensor) or new.shape != old.shape or not new.is_floating_point():
        raise OptionError(
            f"give_hessian: the estimate for {member.label} is {_described(new)}; pass a floating tensor of shape "
            f"{tuple(old.shape)}. {NOTHING}"
        )
    numbers = member.program.numbers(optimizer.chain.bindings, group, 1)
    beta = numbers[[at for at, _ in member.program.stages].index(address)]["beta"]
    here, new_here = local_of(old), local_of(take(old, new.detach()))
    return state, slot, torch.where(new_here.isfinite(), ema(here, new_here, beta), here)


def _described(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else shown(value)
