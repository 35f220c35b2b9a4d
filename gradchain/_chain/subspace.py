"""Stages between which directions are smaller than the parameter, so that moments are too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradchain._chain.declare import ParamInfo
from gradchain._chain.mixins import Constraint, Decay, Precision, SharedNumbers
from gradchain._chain.stage import Stage
from gradchain._core.shard import Shard, Space
from gradchain.errors import ChainError


class EnterSubspace(Stage, register=False):
    """Base of stages that hand on a direction of another shape, in `Update(..., outside=Outside(...))`.

    The stages that follow, up to a `LeaveSubspace`, see a tensor of that shape: `p.shape` in their `slots`, `ctx.shape`
    in their `update`. They have no parameter and no role.
    """

    def inside(self, shape: torch.Size) -> Space:
        """Tell what becomes of a direction of this shape. Returns: the shape, and whether it has the parameter's rows."""
        return Space(shape, True)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        end = next((at for at, stage in enumerate(after) if isinstance(stage, LeaveSubspace)), None)
        if end is None:
            raise ChainError(
                f"{self.address} makes directions smaller, and no stage after it brings them back to the shape of the "
                f"parameter. Put full_rank() behind the stages that are to work on small ones, or remove {self.address}."
            )
        for stage in after[:end]:
            if isinstance(stage, (Constraint, Decay, Precision, SharedNumbers, EnterSubspace)):
                raise ChainError(
                    f"{stage.address} cannot stand between {self.address} and {after[end].address}, where directions are "
                    f"smaller than the parameter. Put it before or behind both.",
                    stage=stage.address,
                )


class LeaveSubspace(Stage, register=False):
    """Base of stages that bring a direction back to the shape of the parameter: they return `update.outside.update` anew."""

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        last = next((stage for stage in reversed(before) if isinstance(stage, (LeaveSubspace, EnterSubspace))), None)
        if not isinstance(last, EnterSubspace):
            raise ChainError(
                f"{self.address} brings directions back that were made smaller, and no stage before it does that. Put "
                f"low_rank(...) before {self.address}, or remove {self.address}."
            )


def spaces_of(stages: Sequence[tuple[str, Stage]], shape: torch.Size) -> Mapping[str, Space]:
    """In what space each stage keeps its slots, by address: of those that see directions of another shape."""
    found: dict[str, Space] = {}
    space: Space | None = None
    for address, stage in stages:
        if isinstance(stage, LeaveSubspace):
            space = None
        if space is not None:
            found[address] = space
        if isinstance(stage, EnterSubspace):
            space = stage.inside(shape)
    return found


class Views:
    """A parameter as each stage sees it: its own, or what stands for it where directions have another shape."""

    def __init__(
        self, stages: Sequence[tuple[str, Stage]], param: torch.Tensor, shard: Shard, role: str | None = None
    ) -> None:
        self.param, self.shard, self.role = param, shard, role
        self.spaces = spaces_of(stages, shard.shape)

    def of(self, address: str) -> tuple[torch.Tensor, Shard]:
        """The tensor, of which the values count only where it is the parameter, and its part in this process."""
        if (space := self.spaces.get(address)) is None:
            return self.param, self.shard
        shard = space.shard(self.shard)
        return self.param.new_empty(shard.here), shard

    def by_rows(self, address: str) -> bool:
        """Whether what it sees has a row for each row of the parameter."""
        space = self.spaces.get(address)
        return len(self.shard.shape) > 0 if space is None else space.per_row

    def info(self, address: str, **options: Any) -> ParamInfo:
        """What its `slots` is told."""
        space = self.spaces.get(address)
        shape, role = (self.shard.shape, self.role) if space is None else (space.shape, None)
        return ParamInfo(shape, self.param.dtype, self.param.device, role, **options)
