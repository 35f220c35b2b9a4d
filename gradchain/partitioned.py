"""Parameters that are divided over processes, each of which steps some of them, as ZeRO does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradchain.errors import OptionError

if TYPE_CHECKING:
    from gradchain.chain import Chain


@dataclass(frozen=True, eq=False)
class Partitioned:
    """Who steps the other parameters, and the place of each parameter among all."""

    group: Any = None
    """The process group to make totals over; `None` if no stage asks for any."""
    places: Mapping[torch.Tensor, int] = field(default_factory=dict[torch.Tensor, int])

    def place(self, param: torch.Tensor, otherwise: int) -> int:
        if not self.places:
            return otherwise
        if param not in self.places:
            raise OptionError(
                f"a parameter of shape {tuple(param.shape)} is not among those of `partition_of`; pass the model that the "
                "parameters are from, or all of them."
            )
        return self.places[param]


ALONE = Partitioned()
"""All parameters are stepped here."""


def partition_of_all(chain: Chain, whole: nn.Module | Iterable[torch.Tensor] | None, group: Any) -> Partitioned:
    """The partition that an optimizer is told of."""
    if whole is None:
        if group is not None:
            raise OptionError(
                "partition_group is given without partition_of. Pass partition_of=model as well: the noise of a parameter "
                "depends on its place among all parameters."
            )
        return ALONE
    params = list(whole.parameters() if isinstance(whole, nn.Module) else whole)
    places = {param: place for place, param in enumerate(params)}
    if not any(stage.reaches_out for stage in chain):
        return Partitioned(None, places)
    from torch import distributed as dist

    if not dist.is_initialized():
        raise OptionError(
            "partition_of is given, but there is no process group. Call torch.distributed.init_process_group first, or "
            "leave partition_of out."
        )
    return Partitioned(dist.group.WORLD if group is None else group, places)
