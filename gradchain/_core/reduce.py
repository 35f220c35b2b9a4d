"""Reductions over more than the local tensor.

A stage that needs a statistic of a whole tensor, or of several, is a generator: it yields a request and is sent the
totals. On one device the total of a tensor is its partial; a sharded run adds the partials up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import GeneratorType, SimpleNamespace
from typing import Any, Literal

import torch
from typing_extensions import Self

from gradchain._core.shard import Shard
from gradchain.ops import widest

Scope = Literal["tensor", "matrix", "label", "all"]


class Totals(SimpleNamespace):
    """The answer to a request: one attribute for each partial, e.g. `totals.gg`."""

    def near(self, request: Request) -> Totals:
        """The totals on the device that the request came from."""
        return Totals(**{name: total.to(request.partials[name].device) for name, total in vars(self).items()})

    def __getattr__(self, name: str) -> torch.Tensor:
        raise AttributeError(f"no partial {name!r} was yielded; there are {', '.join(vars(self))}")


@dataclass(frozen=True)
class Request:
    """Partials to add up over `scope`: one tensor, those that share `label`, or all; its other parts are in `group`.

    Of scope `"matrix"` are the requests of `gradchain._core.matrices`, whose partials are put together, not added.
    """

    scope: Scope
    partials: dict[str, torch.Tensor]
    label: str | None = None
    combine: Literal["sum", "max"] = "sum"
    group: Any = None

    @property
    def local(self) -> bool:
        """Whether the partials are already the totals."""
        return self.scope == "tensor" and self.group is None

    @property
    def joint(self) -> bool:
        """Whether it is about more than one parameter."""
        return self.scope in ("label", "all")

    def within(self, shard: Shard) -> Self:
        """The same request of a parameter of which this process holds a part."""
        return self if shard.group is None else replace(self, group=shard.group)

    def answer(self, totals: Totals) -> Any:
        """What the asking stage is sent."""
        return totals

    def where(self, keep: torch.Tensor) -> Request:
        """The same request, which adds nothing to the total unless `keep`, a 0-d bool tensor, is true."""
        nothing = 0.0 if self.combine == "sum" else -torch.inf
        partials = {n: torch.where(keep, x, torch.full_like(x, nothing)) for n, x in self.partials.items()}
        return replace(self, partials=partials)

    def local_totals(self) -> Totals:
        return Totals(**self.partials)


def run_locally(result: Any) -> Any:
    """Run a generator and answer its requests with their own partials. Other values come back unchanged."""
    if not isinstance(result, GeneratorType):
        return result
    try:
        request = next(result)
        while True:
            request = result.send(request.local_totals())
    except StopIteration as stop:
        return stop.value


def accumulate(values: torch.Tensor) -> torch.Tensor:
    """The sum of all elements in float64 (float32 on mps): a sum over shards equals that over the whole bit for bit."""
    return values.sum(dtype=widest(values.device))


def whole_tensor(**values: torch.Tensor) -> Request:
    """Ask for the sums of elementwise `values` over the whole tensor, all shards together.

    Returns: a request for 0-d totals in float64 (float32 on mps).

    >>> totals = yield whole_tensor(gg=g * g, gm=g * m)   # inside a stage's `update`
    >>> cosine = totals.gm / totals.gg.sqrt()
    """
    return Request("tensor", {name: accumulate(value) for name, value in values.items()})


def whole_tensor_max(**values: torch.Tensor) -> Request:
    """Ask for the largest elements of a whole tensor; an empty shard gives `-inf`. Returns: a request for 0-d totals."""
    partials = {n: v.amax() if v.numel() else v.new_full((), -torch.inf) for n, v in values.items()}
    return Request("tensor", partials, combine="max")


def tensor_partials(**partials: torch.Tensor) -> Request:
    """Ask for totals of partials that the stage has reduced itself, such as column sums. Returns: a request."""
    return Request("tensor", dict(partials))


def tensor_partials_max(**partials: torch.Tensor) -> Request:
    """Ask for the elementwise maxima of partials that the stage has reduced itself, such as column maxima."""
    return Request("tensor", dict(partials), combine="max")


def labelled(label: str, **values: torch.Tensor) -> Request:
    """Ask for sums over all tensors that yield the same `label` at this stage. Returns: a request for 0-d totals."""
    return Request("label", {name: accumulate(value) for name, value in values.items()}, label)


def all_parameters(**values: torch.Tensor) -> Request:
    """Ask for sums over all parameters that pass through this stage. Returns: a request for 0-d totals."""
    return Request("all", {name: accumulate(value) for name, value in values.items()})
