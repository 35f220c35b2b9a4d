"""What a stage declares: the slots that it keeps for a parameter, and those of others that it reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeAlias

import torch

from gradchain._core.shard import Shard
from gradchain.errors import ChainError, OptionError, nearest, shown
from gradchain.roles import ROLES
from gradchain.storage import STORAGES, Storage

Fill: TypeAlias = 'float | Literal["param"] | Callable[[torch.Tensor, Shard], torch.Tensor]'
"""What a slot holds before the first step."""


def _ignore(text: str) -> None:
    """Nobody asks for warnings."""


@dataclass(frozen=True)
class ParamInfo:
    """The whole parameter that a stage is asked about, however it is sharded.

    | attribute | meaning |
    |---|---|
    | `shape`, `ndim`, `numel` | of the whole parameter; `numel` in elements |
    | `dtype`, `device` | as it is stored |
    | `role` | its role, or `None` |
    | `warn(text)` | warns about this parameter; an optimizer shows the text once, with the parameter's name |
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    role: str | None = None
    warn: Callable[[str], None] = field(default=_ignore, compare=False, repr=False)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """The number of elements."""
        return self.shape.numel()


class _Noticing(ParamInfo):
    """Notices whether anyone looks at its role."""

    noticed = False

    def __getattribute__(self, name: str) -> Any:
        if name == "role":
            object.__setattr__(self, "noticed", True)
        return super().__getattribute__(name)


def small_parameters() -> Iterator[ParamInfo]:
    """Small parameters of all kinds to ask a stage about; of further roles only while it looks at the role."""
    for rank, dtype in itertools.product(range(5), (torch.float32, torch.bfloat16, torch.float16)):
        for role in (None, *ROLES):
            yield (p := _Noticing(torch.Size((3,) * rank), dtype, torch.device("cpu"), role))
            if not p.noticed:
                break


@dataclass(frozen=True)
class Slot:
    """A tensor that a stage keeps for a parameter from step to step.

    Args:
        fill: what it holds before the first step: a number (default 0), `"param"` for a copy of the parameter, or a
            function `fill(param, shard)` that gets the rows of the parameter in this process and returns those of the slot.
        shape: of the whole slot; `None` (default) for the parameter's. A slot of the parameter's shape is sharded with it.
        per_row: the slot has one row for each row of the parameter, and is sharded with it. Any other slot with its own
            shape is the same in all processes.
        dtype: `None` (default) for the parameter's. float16 is kept as float32.
        nonnegative: it is never negative, so storages need no sign.
        storage: how a floating slot of the parameter's shape is kept: a name such as `"bf16"`, a `Storage`, or `None`
            (default) for a plain tensor; the same for all parameters.

    Raises: OptionError: a fill, shape or storage that is not one of these.

    >>> gradchain.Slot(1.0, shape=(3, 2), per_row=True).shape
    (3, 2)
    """

    fill: Fill = 0.0
    _: KW_ONLY
    shape: tuple[int, ...] | None = None
    per_row: bool = False
    dtype: torch.dtype | None = None
    nonnegative: bool = False
    storage: str | Storage | None = None

    def __post_init__(self) -> None:
        if not callable(self.fill) and self.fill != "param" and not isinstance(self.fill, (int, float)):
            raise OptionError(
                f"Slot.fill = {shown(self.fill)}: pass a number, 'param', or a function of the parameter and its shard."
            )
        if self.storage is not None and not isinstance(self.storage, Storage) and self.storage not in STORAGES:
            raise OptionError(f"Slot.storage = {shown(self.storage)}. {nearest(str(self.storage), STORAGES)}")
        if self.shape is None and self.per_row:
            raise OptionError(
                "Slot(per_row=True) has no effect without a shape. Pass the whole shape, or leave it out."
            )
        if self.shape is not None and self.fill == "param":
            raise OptionError("Slot('param', shape=...): a copy of the parameter has its shape. Leave the shape out.")

    @property
    def kept_as(self) -> Storage | None:
        """The storage; `None` for a plain tensor."""
        return STORAGES[self.storage] if isinstance(self.storage, str) else self.storage

    def whole(self, shape: torch.Size) -> torch.Size:
        """Give its shape for a parameter of this shape. Returns: the shape of all shards together."""
        return shape if self.shape is None else torch.Size(self.shape)

    def make(self, param: torch.Tensor, shard: Shard) -> torch.Tensor:
        """Fill it before the first step. Returns: its rows in this process.

        Raises: ValueError: the fill function returned no tensor of that shape.
        """
        dtype = param.dtype if self.dtype is None else self.dtype
        if self.fill == "param":
            return param.detach().to(dtype, copy=True)
        here = (
            param.shape if self.shape is None else shard.piece(self.shape) if self.per_row else torch.Size(self.shape)
        )
        if not callable(self.fill):
            fill = float(self.fill) if dtype.is_floating_point else self.fill
            if self.shape is None:
                return torch.full_like(param, fill, dtype=dtype)
            return param.new_full(here, fill, dtype=dtype)
        made = self.fill(param.detach(), shard)
        if not isinstance(made, torch.Tensor) or made.shape != here:  # pyright: ignore[reportUnnecessaryIsInstance]
            what = f"shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"its fill returned {what} for a slot of shape {tuple(here)} here")
        return made.to(dtype, copy=True)


@dataclass(frozen=True)
class Read:
    """A slot of another stage that a stage reads; `earlier` and `later` make it."""

    slot: str
    of: Literal["earlier", "later"]
    optional: bool = False


def earlier(slot: str, *, optional: bool = False) -> Read:
    """Declare that a stage reads a slot of an earlier stage; an `optional` one only where there is such a stage.

    Returns: an entry of `Stage.reads`.

    >>> class like_momentum(gradchain.Stage):
    ...     reads = (gradchain.earlier("exp_avg"),)
    >>> gradchain.chain(like_momentum())
    Traceback (most recent call last):
    ...
    gradchain.errors.ChainError: like_momentum needs slot 'exp_avg' of an earlier stage. Put first_moment(...) before \
    like_momentum, or remove like_momentum.
    """
    return Read(slot, "earlier", optional)


def later(slot: str) -> Read:
    """Declare that a stage reads a slot of a later stage, as it was after the last step.

    Returns: an entry of `Stage.reads`.

    >>> gradchain.momentum_project.reads == (gradchain.later("exp_avg"),)
    True
    """
    return Read(slot, "later")


def check_slots(address: str, slots: object, p: ParamInfo) -> None:
    """Raise `ChainError` unless `slots` returned a dict of slots that this parameter can have."""
    if not isinstance(slots, dict) or not all(isinstance(slot, Slot) for slot in slots.values()):  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        raise ChainError(
            f"{address}: its `slots` returned {shown(slots)}; return a dict such as {{'exp_avg': gradchain.Slot()}}.",
            stage=address,
        )
    for name, slot in slots.items():  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        assert isinstance(slot, Slot)
        if slot.per_row and tuple(slot.shape or ())[:1] != tuple(p.shape[:1]):
            raise ChainError(
                f"{address}: slot {name!r} of shape {slot.shape} has not one row for each row of {tuple(p.shape)}. Leave "
                "per_row out.",
                stage=address,
            )
