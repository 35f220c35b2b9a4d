"""A state dict as it comes: whether it is one at all, and whose parameters its entries belong to.

What passes is in the order of the optimizer that loads it, and has whole counts. Nothing is written here.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch

from gradchain._core.shard import is_distributed
from gradchain._optim.routing import labels_of
from gradchain.errors import StateError, kind_of, shown

Group: TypeAlias = "Mapping[str, Any]"

NOTHING = "nothing was loaded"
LARGEST = 2**53
_WRAPPERS = re.compile(r"\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass
class Saved:
    """A state dict whose form has been checked.

    `faults` are what strict loading does not accept, and lenient loading leaves out: one sentence each.
    """

    groups: list[Group]
    """With `params` in the order of the loading optimizer."""
    states: dict[Any, Mapping[str, Any]]
    """Those of its parameters that can be used, by the indices in the groups."""
    chain: Any
    faults: list[str] = field(default_factory=list[str])


def read(state_dict: object, groups: Sequence[Group]) -> Saved:
    """The parts of a state dict for an optimizer with these groups.

    Raises:
        StateError: it is not the state dict of an optimizer, or of one with other groups.
    """
    content = _mapping(state_dict, "a state dict")
    missing = [key for key in ("state", "param_groups") if key not in content]
    if missing:
        raise StateError(f"the state dict has no {' and no '.join(missing)}: it is not an optimizer's; {NOTHING}.")
    saved = _groups(content["param_groups"])
    _check_alike(saved, groups)
    saved = [_by_name(old, own, f"group {number}") for number, (old, own) in enumerate(zip(saved, groups))]
    names = {
        index: label
        for number, (old, own) in enumerate(zip(saved, groups))
        for index, label in zip(old["params"], labels_of(own, number))
    }
    result = Saved(saved, {}, content.get("chain"))
    strange = [key for key in content if not isinstance(key, str)]
    result.faults += [f"it has the entry {shown(key)}, whose name is no string" for key in strange]
    _take_states(_mapping(content["state"], "its 'state'"), names, result)
    result.faults += [
        f"the state of {names.get(index, shown(index))} was saved, and is not there"
        for index in _had_state(content)
        if index not in content["state"] or _is_empty(content["state"][index])
    ]
    return result


def _had_state(content: Mapping[Any, Any]) -> list[Any]:
    """The indices of the parameters that had state when they were saved, as far as that is known."""
    listed = content.get("with_state", [])
    if not isinstance(listed, (list, tuple)) or not all(isinstance(index, (int, str)) for index in listed):  # pyright: ignore
        raise StateError(f"its 'with_state' is a list of the indices that had state, not {shown(listed)}; {NOTHING}.")
    return list(listed)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _mapping(value: object, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise StateError(f"{what} is a dict, not {kind_of(value)}; {NOTHING}.")
    return value  # pyright: ignore[reportUnknownVariableType]


def _groups(value: object) -> list[Group]:
    """The groups of a state dict: each lists its parameters by indices, which no other group has."""
    if not isinstance(value, (list, tuple)):
        raise StateError(f"its 'param_groups' is a list of dicts, not {kind_of(value)}; {NOTHING}.")
    groups: list[Group] = []
    seen: dict[Any, int] = {}
    for number, item in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        where = f"group {number} of the state dict"
        group = _mapping(item, where)
        if strange := [key for key in group if not isinstance(key, str)]:
            raise StateError(f"{where} has the key {shown(strange[0])}, which is not a string; {NOTHING}.")
        params = group.get("params")
        if not isinstance(params, (list, tuple)):
            raise StateError(f"{where} lists its parameters under 'params', which is {kind_of(params)}; {NOTHING}.")
        for index in params:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(index, bool) or not isinstance(index, (int, str)):
                raise StateError(f"{where} lists {shown(index)} among its parameters, and not an index; {NOTHING}.")
            if index in seen:
                raise StateError(f"groups {seen[index]} and {number} both list parameter {shown(index)}; {NOTHING}.")
            seen[index] = number
        names = group.get("param_names")
        if names is not None and not _are_names(names, len(params)):  # pyright: ignore[reportUnknownArgumentType]
            raise StateError(f"{where}: 'param_names' is not a list of {len(params)} names, each once; {NOTHING}.")  # pyright: ignore
        groups.append(group)
    return groups


def _are_names(names: object, count: int) -> bool:
    """Whether these name so many parameters: each once, or none of them, as in a group that was added without names."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):  # pyright: ignore
        return False
    held = [str(name) for name in names]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return len(held) == count and (len({*held}) == count or not any(held))


def _check_alike(saved: Sequence[Group], current: Sequence[Group]) -> None:
    """Raise unless both have the same number of groups with the same number of parameters in each."""
    old, new = [len(group["params"]) for group in saved], [len(group["params"]) for group in current]
    if old != new:
        raise StateError(
            f"the state dict has parameter groups of {old} tensors, this optimizer of {new}; {NOTHING}. Build "
            "the optimizer with the same groups."
        )


def _by_name(saved: Group, own: Group, where: str) -> Group:
    """A saved group with its parameters in the order of the names here, if both have names."""
    old, new = saved.get("param_names"), own.get("param_names")
    if not old or not new or not any(old) or not any(new):
        return saved
    before, now = [bare(name) for name in old], [bare(name) for name in new]
    if before == now or len(set(before)) < len(before):
        return saved
    if sorted(before) != sorted(now):
        gone, come = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        raise StateError(
            f"{where}: the state dict is of parameters with other names: {shown_few(gone)} are not here, and "
            f"{shown_few(come)} are not in it; {NOTHING}. Rename them in its 'param_names', or drop 'param_names' from its "
            "groups to go by their order."
        )
    places = [before.index(name) for name in now]
    moved = {**saved, "params": [saved["params"][at] for at in places], "param_names": [old[at] for at in places]}
    role = saved.get("role")
    if isinstance(role, (list, tuple)) and len(role) == len(places):  # pyright: ignore[reportUnknownArgumentType]
        moved["role"] = tuple(role[at] for at in places)  # pyright: ignore[reportUnknownVariableType]
    return moved


def bare(name: str) -> str:
    """A parameter's name without what wrappers put in front: DDP's `module.`, `torch.compile`'s `_orig_mod.`, and FSDP's."""
    return _WRAPPERS.sub("", name)


def _is_empty(state: object) -> bool:
    return isinstance(state, Mapping) and not state


def _take_states(states: Mapping[Any, Any], names: Mapping[Any, str], result: Saved) -> None:
    """Sort the states into those that can be used, and faults."""
    for index, state in states.items():
        if isinstance(index, bool) or index not in names:
            listed = shown_few([*names])
            result.faults.append(
                f"there is state for parameter {shown(index)}, which no group lists (they list {listed}): indices that went "
                "through JSON are strings, and have to be made integers again"
            )
        elif _is_empty(state):
            continue  # someone has looked for the state of a parameter that has none
        elif not isinstance(state, Mapping):
            result.faults.append(f"the state of {names[index]} is a dict, not {kind_of(state)}")
        elif strange := [key for key in state if not isinstance(key, str)]:  # pyright: ignore
            result.faults.append(f"the state of {names[index]} has the key {shown(strange[0])}, which is not a string")
        elif "step" not in state:
            result.faults.append(f"the state of {names[index]} has no 'step', its count of steps")
        elif (fault := fault_of_count(state["step"])) is not None:
            result.faults.append(f"the 'step' of {names[index]} {fault}")
        else:
            result.states[index] = state  # pyright: ignore[reportUnknownMemberType]


def fault_of_count(value: object) -> str | None:
    """Why something cannot be a count of steps; `None` if it can."""
    allowed = f"a count is a whole number from 0 to {LARGEST}"
    if isinstance(value, torch.Tensor):
        odd = value.is_complex() or value.is_meta or value.dtype == torch.bool or value.layout != torch.strided
        if value.numel() != 1 or odd or value.is_quantized:
            return f"is {described(value)}; {allowed}"
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return f"is {kind_of(value)}; {allowed}"
    if not 0 <= cast("float", value) <= LARGEST or not float(value).is_integer():
        return f"is {shown(value)}; {allowed}"
    return None


def number_of(value: object) -> float | None:
    """A real number, or that of a tensor of one element; `None` if it is neither. Waits for the tensor's device."""
    if is_distributed(value):
        value = cast("Any", value).full_tensor()
    if isinstance(value, torch.Tensor):
        plain = _is_plain(value) and value.numel() == 1 and value.dtype != torch.bool
        value = value.item() if plain else None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    number: Any = value
    try:
        return number if isinstance(number, int) and abs(number) <= LARGEST else float(number)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if number > 0 else -math.inf


def _is_plain(value: torch.Tensor) -> bool:
    """Whether a tensor holds real numbers that can be read."""
    odd = value.is_meta or value.is_quantized or value.is_nested or value.is_complex()
    return not odd and value.layout == torch.strided


# What to call things in messages.


def described(value: object) -> str:
    """A tensor by its shape and dtype, anything else by its type."""
    if not isinstance(value, torch.Tensor):
        return kind_of(value)
    dtype, layout = str(value.dtype).removeprefix("torch."), str(value.layout).removeprefix("torch.")
    how = "" if value.layout == torch.strided else f" ({layout})"
    where = " on the meta device" if value.is_meta else ""
    return f"a tensor of shape {tuple(value.shape)} and dtype {dtype}{how}{where}"


def shown_few(values: Sequence[Any], show: Callable[[Any], str] = shown) -> str:
    return ", ".join(map(show, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "") or "none"


# Pickles.


def check_pickled(state: object, chain: type, whole: bool) -> dict[str, Any]:
    """The attributes of a pickled or copied optimizer, of one as a `whole` or some; a `StateError` if they are not such."""
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in cast("Any", state)):
        raise StateError(f"an optimizer is restored from the dict of its attributes, not from {shown(state)}.")
    held = dict(cast("Mapping[str, Any]", state))
    kinds: dict[str, Any] = {"chain": chain, "defaults": dict, "state": dict, "param_groups": list, "fresh": list}
    kinds |= {"capturable": bool, "compile": (bool, str), "_partition": object, "nonfinite": tuple}
    for key, kind in kinds.items():
        if key not in held and (whole or (key == "param_groups" and "fresh" in held)):
            raise StateError(f"an optimizer cannot be restored without {key}. Nothing has changed.")
        if key in held and not isinstance(held[key], kind):
            raise StateError(f"an optimizer cannot be restored: {key} is {shown(held[key])}. Nothing has changed.")
    count = 0
    for number, group in enumerate(held.get("param_groups", ())):
        params = group.get("params") if isinstance(group, dict) else None
        if not isinstance(params, list) or not all(isinstance(x, torch.Tensor) for x in params):
            raise StateError(
                f"an optimizer cannot be restored: group {number} is {shown(group)}; it should be a dict with a list "
                f"of parameters. Nothing has changed."
            )
        count += len(params)
    for param, slots in held.get("state", {}).items():
        if isinstance(param, torch.Tensor) and not isinstance(slots, dict):
            raise StateError(f"an optimizer cannot be restored: a state is {shown(slots)}. Nothing has changed.")
    for index in held.get("fresh", ()):
        if not isinstance(index, int) or not 0 <= index < count:
            raise StateError(f"an optimizer cannot be restored: fresh holds {shown(index)}. Nothing has changed.")
    return held
