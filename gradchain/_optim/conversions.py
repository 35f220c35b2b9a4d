"""Slots that hold the same numbers in another form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain.declare import ParamInfo
from gradchain._chain.stage import Stage
from gradchain._core.shard import Shard
from gradchain.storage import near_square
from gradchain.storage.signs import pack, unpack


@dataclass(frozen=True)
class Place:
    """Where a slot belongs: the stage that keeps it, its name, and the parameter."""

    stage: Stage
    slot: str
    param: torch.Tensor
    group: Mapping[str, Any]
    """The group of theirs."""
    step: int


@dataclass(frozen=True)
class Conversion:
    """From their form to ours, and back."""

    load: Callable[[torch.Tensor, Place], torch.Tensor]
    save: Callable[[torch.Tensor, Place], torch.Tensor]


def _reshape(theirs: torch.Tensor, place: Place) -> torch.Tensor:
    return theirs.reshape(place.param.shape) if theirs.numel() == place.param.numel() else theirs


FLAT = Conversion(_reshape, lambda ours, place: ours.reshape(-1))
"""All elements in a row."""


def _debias(place: Place) -> float:
    which = 0 if place.slot == "exp_avg" else 1
    return 1 - float(place.group["betas"][which]) ** place.step


DEBIASED = Conversion(
    lambda theirs, place: theirs * _debias(place),
    lambda ours, place: ours / _debias(place),
)
r"""A moment divided by its bias correction, $1-\beta^t$."""


def _rows(elements: torch.Tensor, place: Place) -> torch.Tensor:
    """Our slot of a slice, from all elements in a row."""
    whole = elements.view(place.param.shape)
    info = ParamInfo(torch.Size(place.param.shape), elements.dtype, place.param.device)
    return place.stage.slots(info)["p0"].make(whole, Shard.whole(whole.shape))


def _stride(place: Place) -> int:
    return int(getattr(place.stage, "slice_p", 1))


def _sliced(theirs: torch.Tensor, place: Place) -> torch.Tensor:
    elements, every = theirs.new_zeros(place.param.numel()), _stride(place)
    flat = theirs.reshape(-1)
    return (
        _rows(elements.index_add(0, torch.arange(0, elements.numel(), every), flat), place)
        if (flat.numel() == -(-elements.numel() // every))
        else theirs
    )


def _unsliced(ours: torch.Tensor, place: Place) -> torch.Tensor:
    count, every = place.param.numel(), _stride(place)
    numbers = _rows(torch.arange(1, count + 1, dtype=torch.float64), place).flatten().long()
    return ours.flatten()[numbers > 0][numbers[numbers > 0].argsort()][: -(-count // every)]


SLICED = Conversion(_sliced, _unsliced)
"""Every n-th element of a whole tensor; ours are laid out by rows."""

BITS = 2 ** torch.arange(8)


def _square(place: Place) -> tuple[int, int]:
    return near_square(place.param.numel())


def _columns(place: Place) -> int:
    """How many bits we keep in a row: those of a row of the parameter, or of a vector's matrix."""
    return place.param.shape[1:].numel() if place.param.ndim > 1 else _square(place)[1]


def _signs(theirs: torch.Tensor, place: Place) -> torch.Tensor:
    rows, columns = _square(place)
    if theirs.dtype != torch.uint8 or theirs.shape != (rows, -(-columns // 8)):
        return theirs
    bits = (theirs[..., None] & BITS.to(theirs)).flatten(1)[:, :columns] != 0
    return pack(bits.reshape(-1, _columns(place)))


def _unsigns(ours: torch.Tensor, place: Place) -> torch.Tensor:
    rows, columns = _square(place)
    bits = unpack(ours, _columns(place)).view(rows, columns)
    padded = torch.nn.functional.pad(bits, (0, -columns % 8)).view(rows, -1, 8)
    return (padded * BITS.to(ours.device)).sum(-1).to(torch.uint8)


SIGNS = Conversion(_signs, _unsigns)
"""One bit for each element: theirs in rows of the near-square matrix, ours in rows of the parameter."""


SHAPED = Conversion(
    lambda theirs, place: SLICED.load(theirs, place), lambda ours, place: ours.reshape(place.param.shape)
)
"""All elements in the shape of the parameter; ours are slices of every element."""


def adv_state(slots: dict[str, Any], param: torch.Tensor, step: int) -> dict[Any, Any]:
    """With what adv_optm notes beside the factors of a state, or that there are none."""
    first, second = not {"mu_m_nmf", "mu_b_nmf"}.isdisjoint(slots), "mu_v_nmf" in slots
    noted: dict[str, Any] = {"step": step, "factored": first or (second and "exp_avg" not in slots)}
    if not {"exp_avg_sq", "mu_v_nmf"}.isdisjoint(slots):
        noted["factored_2nd"] = second and not noted["factored"]
    if first or second:
        noted["effective_shape"] = near_square(param.numel())
        noted["shifter"] = BITS.to(param.device, torch.uint8)
    return {**slots, **noted}


def adv_group(group: dict[str, Any]) -> dict[str, Any]:
    """With the precision of the states, which is asked for when they are loaded. Lion_adv 2.5.16 does not save it."""
    return {"actual_state_precision": group.get("state_precision", "auto"), **group}


def adams_state(slots: dict[str, Any], param: torch.Tensor, step: int) -> dict[Any, Any]:
    """With a single precision copy of the parameter, also of one that is; and with what vectors do without."""
    master = param.detach().reshape(-1).to(torch.float32, copy=True)
    return {"master_param": master, "u": None, "sigma": None, **slots, "step": torch.tensor(float(step))}


def heavyball_state(slots: dict[str, Any], param: torch.Tensor, step: int) -> dict[Any, Any]:
    """A state for each view of a parameter, of which there is one."""
    return {0: {**slots, "step": torch.tensor(step), "is_initialized": {0}}}


def prodigy_group(group: dict[str, Any]) -> dict[str, Any]:
    """With sums as tensors; those of a step start from 0."""
    return {**group, "d_numerator": torch.tensor([float(group["d_numerator"])]), "d_de_nom": torch.zeros(1)}
