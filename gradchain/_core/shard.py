"""The part of a parameter that this process holds: all of it, or some of its rows under `fully_shard`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from gradchain.errors import ParameterError

HERE = "here"
"""The group of a tile of a large tensor: the other tiles, in the same process."""


@dataclass(frozen=True)
class Shard:
    """The rows (slices along the first axis) of a parameter in this process; the others are in `group`."""

    shape: torch.Size
    """The shape of the whole."""
    first: int
    rows: int
    group: Any = None
    """The process group that the rows are spread over; `None` if all are here."""
    columns: int | None = None
    """The columns of the matrix that factors describe, if they are not those of this shape: of a tile."""

    @staticmethod
    def whole(shape: torch.Size) -> Shard:
        return Shard(torch.Size(shape), 0, shape[0] if len(shape) else 1)

    @staticmethod
    def of(param: torch.Tensor, name: str = "") -> Shard:
        """The part of a parameter in this process. `ParameterError` for a DTensor that is not split into rows, once."""
        if not is_distributed(param):
            return Shard.whole(param.shape)
        mesh, placements = cast("Any", param).device_mesh, cast("Any", param).placements
        split = [dim for dim, placement in enumerate(placements) if not placement.is_replicate()]
        if not split:
            return Shard.whole(param.shape)
        if len(split) > 1 or not _by_rows(placements[split[0]]):
            raise ParameterError(
                f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)} has the placements {tuple(placements)}; "
                "gradchain steps DTensors that are replicated, or split along their first axis over one dimension of the "
                "mesh (Shard(0), as fully_shard does). Shard it so, or keep it unsharded."
            )
        dim, size, rows = split[0], mesh.size(split[0]), param.shape[0]
        if size == 1:
            return Shard.whole(param.shape)
        chunk = -(-rows // size)  # as torch.chunk: full chunks first, then a smaller one, then none
        first = min(mesh.get_local_rank(dim) * chunk, rows)
        shard = Shard(torch.Size(param.shape), first, min(chunk, rows - first), mesh.get_group(dim))
        if local_of(param).shape != shard.here:
            raise ParameterError(
                f"parameter {name or '(unnamed)'}: this process holds {tuple(local_of(param).shape)} of a DTensor of shape "
                f"{tuple(param.shape)} where torch.chunk would give it {tuple(shard.here)}; shard it with fully_shard."
            )
        return shard

    @property
    def apart(self) -> bool:
        """Whether other processes hold other rows."""
        return self.group is not None and self.group != HERE

    @property
    def here(self) -> torch.Size:
        """The shape of the part in this process."""
        return self.shape if self.group is None else self.piece(self.shape)

    def piece(self, shape: Sequence[int]) -> torch.Size:
        """The shape, in this process, of a tensor with one row for each row of the parameter."""
        return torch.Size((self.rows, *shape[1:]))

    @property
    def row_numel(self) -> int:
        return self.shape[1:].numel()

    @property
    def offset(self) -> int:
        """The place of the first element of this process in the flattened whole."""
        return self.first * self.row_numel

    @property
    def numel(self) -> int:
        """The number of elements in this process."""
        return self.here.numel()

    def cut(self, whole: torch.Tensor) -> torch.Tensor:
        """The rows in this process of a tensor with one row for each row of the parameter."""
        return whole if self.group is None else whole[self.first : self.first + self.rows]


@dataclass(frozen=True)
class Space:
    """The shape of directions that are projected, and whether they have a row for each row of the parameter."""

    shape: torch.Size
    per_row: bool

    def shard(self, outside: Shard) -> Shard:
        """The part in this process: the rows of the parameter that are here, or all of it."""
        if not self.per_row:
            return Shard.whole(self.shape)
        return Shard(self.shape, outside.first, outside.rows, outside.group)


def _by_rows(placement: Any) -> bool:
    """Whether a placement is `Shard(0)`, and not the strided one that tensor parallelism leaves."""
    from torch.distributed.tensor import Shard as Split

    return type(placement) is Split and placement.dim == 0


def is_distributed(tensor: Any) -> bool:
    """Whether a tensor is a DTensor; without importing torch.distributed."""
    return hasattr(tensor, "device_mesh")


def local_of(tensor: Any) -> torch.Tensor:
    """The part of a tensor in this process, sharing its memory."""
    if not is_distributed(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def distributed(local: torch.Tensor, shape: torch.Size, param: torch.Tensor) -> torch.Tensor:
    """A DTensor of a given whole shape, over a parameter's mesh; each process holds its own rows."""
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    like = cast("Any", param)
    return DTensor.from_local(  # pyright: ignore[reportUnknownMemberType]
        local.contiguous(), like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride
    )


def take(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """A tensor with the dtype and layout of `target` and the values of `source`, whose layout may differ."""
    if not is_distributed(target):
        whole = cast("Any", source).full_tensor() if is_distributed(source) else source
        return torch.empty_like(target).copy_(whole.detach())
    like = cast("Any", target)
    if not is_distributed(source):
        rows = Shard.of(target).cut(source.to(like.device))
    elif cast("Any", source).placements == like.placements and cast("Any", source).device_mesh == like.device_mesh:
        rows = local_of(source)
    else:
        rows = Shard.of(target).cut(cast("Any", source).full_tensor())
    return distributed(torch.empty_like(local_of(target)).copy_(rows), target.shape, target)
