"""Parameters that are divided over processes, each of which steps some of them, as ZeRO does."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradchain._chain.elements import Composed
from gradchain._chain.extra_evaluation import check_single
from gradchain._chain.tracing import reaching_out
from gradchain._core.totals import APART
from gradchain.errors import OptionError, kind_of, shown


@dataclass(frozen=True, eq=False)
class Partitioned:
    """Who steps the other parameters, and the place of each parameter among all."""

    members: Any = None
    """The process group that the parameters are divided over."""
    joint: bool = False
    """Whether a stage asks for totals over all parameters."""
    places: Mapping[torch.Tensor, int] = field(default_factory=dict[torch.Tensor, int])

    @property
    def group(self) -> Any:
        """The process group to make totals over; `None` if no stage asks for any."""
        return self.members if self.joint else None

    @property
    def everybody(self) -> Any:
        """The process group to decide something for all parameters in; `None` if all are stepped here."""
        return self.members

    @property
    def totals(self) -> Any:
        """Over whom totals over parameters are made; others are refused."""
        return APART if self.places and not self.joint else self.group

    def place(self, param: torch.Tensor, otherwise: int) -> int:
        if not self.places:
            return otherwise
        if param not in self.places:
            raise OptionError(
                f"a parameter of shape {tuple(param.shape)} is not among those of `partition_of`; pass the model that the "
                "parameters are from, or all of them."
            )
        return self.places[param]

    def unbound(self) -> Partitioned:
        """That of a copy of the optimizer."""
        return UnboundPartition(joint=self.joint) if self.places else self


class UnboundPartition(Partitioned):
    """That of an optimizer which was copied or unpickled: there are others, but the copy does not know who."""

    @property
    def group(self) -> Any:
        return self._refuse("sum over all parameters") if self.joint else None

    @property
    def everybody(self) -> Any:
        return self._refuse("decide whether all parameters are stepped")

    def place(self, param: torch.Tensor, otherwise: int) -> int:
        return self._refuse("draw the noise of a parameter by its place among all")

    def unbound(self) -> Partitioned:
        return self

    def _refuse(self, what: str) -> Any:
        raise OptionError(
            f"this optimizer is a copy of one with partition_of, and cannot {what}: partition_of is not copied, since it "
            "names parameters of the original. Make an optimizer with partition_of=, and load the state dict."
        )


ALONE = Partitioned()
"""All parameters are stepped here."""


def partition_of_all(
    chain: Composed, whole: nn.Module | Iterable[torch.Tensor] | None, group: Any, reason: str | None = None
) -> Partitioned:
    """The partition that an optimizer is told of. `reason`: what else than a stage needs all parameters, if anything."""
    if whole is None:
        if group is not None:
            raise OptionError(
                "partition_group is given without partition_of. Pass partition_of=model as well: the noise of a parameter "
                "depends on its place among all parameters."
            )
        return ALONE
    check_single(chain, "with partition_of each process knows some of the parameters")
    params = list(whole.parameters()) if isinstance(whole, nn.Module) else whole
    if not isinstance(params, Iterable) or isinstance(params, (str, torch.Tensor)):
        raise OptionError(f"partition_of = {shown(whole)} is {kind_of(whole)}; pass the model, or all its parameters.")
    params = list(params)
    if odd := [param for param in params if not isinstance(param, torch.Tensor)]:
        raise OptionError(
            f"partition_of has {shown(odd[0])}, {kind_of(odd[0])}; pass the model, or all its parameters."
        )
    places = {param: place for place, param in enumerate(params)}
    joint = reaching_out(chain, params) is not None
    from torch import distributed as dist

    started = dist.is_available() and dist.is_initialized()
    if (joint or reason) and not started:
        raise OptionError(
            "partition_of is given, but there is no process group. Call torch.distributed.init_process_group first, or "
            "leave partition_of out."
        )
    return Partitioned(dist.group.WORLD if group is None and started else group, joint, places)


ZERO = "torch.distributed.optim.zero_redundancy_optimizer"


def watch_zero(joint: str | None) -> None:
    """See to it that ZeRO does not step some of the parameters by what needs all of them (`joint`, if anything does)."""
    if joint is not None and ZERO in sys.modules:
        _watch()


@functools.cache  # once in a process
def _watch() -> None:
    """An optimizer is not told who made it; but torch tells, before any optimizer's step, which one it is."""
    register_optimizer_step_pre_hook(_refuse_parts)


def _refuse_parts(outer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Raise `OptionError` if an optimizer is ZeRO, and the one in it needs all parameters and knows only its own."""
    needs_partition = getattr(getattr(outer, "optim", None), "_needs_partition", None)
    if needs_partition is None or not isinstance(outer, sys.modules[ZERO].ZeroRedundancyOptimizer):
        return
    if (joint := needs_partition()) is not None:
        raise OptionError(
            f"{joint} needs all parameters at one time, and ZeroRedundancyOptimizer gives each process some of them. Pass "
            "partition_of=model, by functools.partial(gradchain.Optimizer, chain=chain, partition_of=model). Nothing was "
            "written."
        )
