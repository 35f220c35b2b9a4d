"""Reductions that may leave the local tensor.

A stage that needs a statistic of more than the tensor in its hands is a generator: it yields a request and is
sent back the totals. On one device the total of a tensor is its partial; a sharded run adds the partials up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import GeneratorType, SimpleNamespace
from typing import Any, Literal

import torch

from gradchain.ops import widest

Scope = Literal["tensor", "label", "all"]


class Totals(SimpleNamespace):
    """The answer to a request: one attribute for each partial, e.g. `totals.gg`."""

    def near(self, request: Request) -> Totals:
        """The totals on the device that the request came from."""
        return Totals(**{name: total.to(request.partials[name].device) for name, total in vars(self).items()})

    def __getattr__(self, name: str) -> torch.Tensor:
        raise AttributeError(f"no partial {name!r} was yielded; there are {', '.join(vars(self))}")


@dataclass(frozen=True)
class Request:
    """Partials to be added up over `scope`: one tensor, the tensors that share `label`, or all parameters.

    `group` is the process group whose members hold the other parts of the tensor that the partials are from, if any.
    """

    scope: Scope
    partials: dict[str, torch.Tensor]
    label: str | None = None
    combine: Literal["sum", "max"] = "sum"
    group: Any = None

    @property
    def local(self) -> bool:
        """Whether the partials are the totals."""
        return self.scope == "tensor" and self.group is None

    def where(self, keep: torch.Tensor) -> Request:
        """The request of a tensor that adds nothing to the total unless `keep`, a 0-d bool tensor, is true."""
        nothing = 0.0 if self.combine == "sum" else -torch.inf
        partials = {n: torch.where(keep, x, torch.full_like(x, nothing)) for n, x in self.partials.items()}
        return replace(self, partials=partials)

    def local_totals(self) -> Totals:
        return Totals(**self.partials)


def run_locally(result: Any) -> Any:
    """The result of a generator whose requests are answered by what it asks about."""
    if not isinstance(result, GeneratorType):
        return result
    try:
        request = next(result)
        while True:
            request = result.send(request.local_totals())
    except StopIteration as stop:
        return stop.value


def accumulate(values: torch.Tensor) -> torch.Tensor:
    """The sum of all elements in float64, so that a sum over shards equals the sum over the whole, bit for bit.

    Devices without float64 (mps) accumulate in float32.
    """
    return values.sum(dtype=widest(values.device))


def whole_tensor(**values: torch.Tensor) -> Request:
    """Ask for the sums of elementwise `values` over the whole tensor, wherever its parts live.

    >>> totals = yield whole_tensor(gg=g * g, gm=g * m)   # inside a stage's `update`
    >>> cosine = totals.gm / totals.gg.sqrt()
    """
    return Request("tensor", {name: accumulate(value) for name, value in values.items()})


def whole_tensor_max(**values: torch.Tensor) -> Request:
    """Ask for the largest elements of `values` over the whole tensor; an empty shard contributes `-inf`."""
    partials = {n: v.amax() if v.numel() else v.new_full((), -torch.inf) for n, v in values.items()}
    return Request("tensor", partials, combine="max")


def tensor_partials(**partials: torch.Tensor) -> Request:
    """Ask for totals of partials that the stage has reduced itself, such as a vector of column sums."""
    return Request("tensor", dict(partials))


def tensor_partials_max(**partials: torch.Tensor) -> Request:
    """Ask for the elementwise largest of partials that the stage has reduced itself, such as maxima of columns."""
    return Request("tensor", dict(partials), combine="max")


def labelled(label: str, **values: torch.Tensor) -> Request:
    """Ask for sums over all tensors that yield the same `label` at this stage (a layer, a role)."""
    return Request("label", {name: accumulate(value) for name, value in values.items()}, label)


def all_parameters(**values: torch.Tensor) -> Request:
    """Ask for sums over all parameters that pass through this stage."""
    return Request("all", {name: accumulate(value) for name, value in values.items()})
