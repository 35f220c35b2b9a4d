"""Convert slots between the dense tensors that a stage sees and what their storages keep."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping
from types import GeneratorType
from typing import Any, cast

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Stage
from gradchain._core.reduce import Request, Totals, run_locally
from gradchain._core.shard import Shard
from gradchain.errors import ChainError, GradchainError
from gradchain.ops import compute_dtype, finite, narrowed
from gradchain.storage import Parts, SlotView, Storage, Storing
from gradchain.storage.base import Bits

PLAIN = (None, "param")
"""Storages that keep a tensor which has the dtype and shape of the parameter as it is."""


def parts_of(key: str, state: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a slot in a state, and their names there."""
    if key in state:
        return {"": key}
    return {name[len(key) + 1 :]: name for name in state if name.startswith(f"{key}.")}


def made(
    address: str, stage: Stage, p: ParamInfo, param: torch.Tensor, shard: Shard, name: str = ""
) -> dict[str, tuple[Slot, torch.Tensor]]:
    """The slots of a stage before the first step, dense: the rows in this process."""
    try:
        slots = stage.slots_of(p)
        _check_known(address, slots, stage.known_slots)
        return {slot: (declared, declared.make(param, shard)) for slot, declared in slots.items()}
    except GradchainError:
        raise
    except Exception as error:
        of = f"parameter {name or '(unnamed)'} of shape {tuple(p.shape)}, {p.dtype}, role {p.role!r}"
        raise ChainError(
            f"{address}: making its slots raised {type(error).__name__}: {error}; for {of}. Let `slots` return {{}} for "
            "parameters that it keeps nothing for.",
            stage=address,
        ) from error


def _check_known(address: str, slots: Mapping[str, Slot], known: Mapping[str, Slot]) -> None:
    """Raise `ChainError` for a slot that differs from the one that the chain was checked with."""
    for name, slot in slots.items():
        if name not in known:
            raise ChainError(
                f"{address} has a slot {name!r} for this parameter, and for no small one: let `slots` go by rank, dtype and "
                "role, and not by the size.",
                stage=address,
            )
        if (slot.kept_as, slot.nonnegative) != (known[name].kept_as, known[name].nonnegative):
            raise ChainError(
                f"{address}: slot {name!r} is kept in different ways for different parameters. Give it one storage; send "
                "the parameters through two stages with partition(...).",
                stage=address,
            )


def storage_for(slot: Slot, dense: torch.Tensor, shape: torch.Size) -> Storage | None:
    """The storage of a slot; `None` for a plain tensor."""
    storage = slot.kept_as
    return storage if storage is not None and dense.is_floating_point() and dense.shape == shape else None


def stored(key: str, slot: Slot, dense: torch.Tensor, param: torch.Tensor, shard: Shard, bits: Bits) -> Any:
    """The tensors to keep for a slot, by their names in the state; or a generator of them.

    Values are made finite, except in plain tensors of one number per element: there infinity stops its own element only.
    """
    storage = storage_for(slot, dense, param.shape)
    if storage is None and dense.shape != param.shape:
        dense = finite(dense)
    if storage is not None and not (storage.elementwise or storage.keeps_finite):
        dense = finite(dense, torch.float32)
    if storage is None:
        narrow = dense.dtype == torch.float16 == param.dtype
        return {key: dense.to(compute_dtype(dense.dtype)) if narrow else dense}
    parts = storage.store(dense, kept(slot, param, shard), bits)
    return _named_later(key, parts) if isinstance(parts, GeneratorType) else _named(key, cast("Parts", parts))


def first_stored(key: str, slot: Slot, dense: torch.Tensor, param: torch.Tensor, shard: Shard) -> Any:
    """As `stored`, before the first step. Zeros are not encoded where their storage keeps them as zeros."""
    storage = storage_for(slot, dense, param.shape)
    if storage is None or not storage.keeps_zero or slot.fill != 0:
        return stored(key, slot, dense, param, shard, functools.partial(no_bits, param))
    device = dense.device
    dense, param = (torch.empty_like(x, device="meta") for x in (dense, param))
    parts = run_locally(stored(key, slot, dense, param, shard, functools.partial(no_bits, param)))
    return {name: torch.zeros_like(part, device=device) for name, part in parts.items()}


def _named(key: str, parts: Parts) -> dict[str, torch.Tensor]:
    return {f"{key}.{part}" if part else key: tensor for part, tensor in parts.items()}


def _named_later(key: str, storing: Storing) -> Generator[Request, Totals, dict[str, torch.Tensor]]:
    return _named(key, (yield from storing))


def as_kept(part: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """A part in the dtype that it is kept in; and in the shape, which is another where a kernel sees a slot as a matrix."""
    part = part.view(kept.shape) if part.shape != kept.shape and part.numel() == kept.numel() else part
    return narrowed(part, kept.dtype)


def loaded(slot: Slot, parts: Parts, param: torch.Tensor, shard: Shard) -> torch.Tensor:
    """The dense tensor of a slot that is kept in several parts, or otherwise than as it is."""
    storage = cast("Storage", slot.kept_as)
    return storage.load(parts, kept(slot, param, shard)).reshape(param.shape)


def kept(slot: Slot, param: torch.Tensor, shard: Shard) -> SlotView:
    return SlotView(shard.shape, compute_dtype(param.dtype), not slot.nonnegative, shard)


def owned(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without unused memory: a view of a larger tensor is copied, as it would keep that alive."""
    filled = tensor.numel() * tensor.element_size()
    return tensor.clone() if tensor.untyped_storage().nbytes() > filled else tensor


def no_bits(param: torch.Tensor, like: torch.Tensor | None = None, part: str = "") -> torch.Tensor:
    """Noise that rounds nothing up, for states before the first step."""
    return torch.zeros_like(param if like is None else like, dtype=torch.int32)


def check_slot(address: str, slot: str, dense: object, wanted: torch.Size) -> None:
    """Raise unless a stage returned a tensor of the shape that its slot has."""
    if not isinstance(dense, torch.Tensor) or dense.shape != wanted:
        what = f"shape {tuple(dense.shape)}" if isinstance(dense, torch.Tensor) else type(dense).__name__
        raise ChainError(
            f"{address} returned {what} for slot {slot!r}, which has shape {tuple(wanted)}.", stage=address
        )


def halves(slots: Mapping[str, Slot]) -> dict[str, int]:
    """The slots that 16 bits of noise are enough for, numbered: two after each other share what is drawn."""
    few = [name for name, slot in slots.items() if slot.kept_as is not None and slot.kept_as.noise_bits <= 16]
    return {name: place for place, name in enumerate(few)}


def noise_for(
    ctx: Context, slot: str, half: int | None, like: torch.Tensor | None = None, part: str = ""
) -> torch.Tensor:
    """Noise for a slot, or for a part of what it is kept as; the lower or upper half of what it shares with another."""
    if half is None or like is not None:
        return ctx.random_bits(f"{slot}.{part}" if part else slot, like=like)
    noise = ctx.random_bits(f"/slots/{half // 2}")
    return noise >> 16 if half % 2 else noise
