"""The groups of a state dict: what is taken over, and what no stage can use."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from gradchain._chain import shared
from gradchain._optim.routing import Routing, Settings, parameter_names
from gradchain._optim.saved import number_of
from gradchain._optim.state import LoadReport
from gradchain.errors import GradchainError, shown

Group = Mapping[str, Any]


def fit_groups(
    routing: Routing,
    saved: Sequence[Group],
    current: Sequence[Group],
    report: LoadReport,
) -> list[dict[str, Any]]:
    """The saved groups with this optimizer's parameters; what no stage can use is reported and stays as it is here."""
    groups: list[dict[str, Any]] = []
    numbers: dict[str, float] = {}
    for number, (old, own) in enumerate(zip(saved, current)):
        where = f"group {number}"
        taken = _entries(old, where, report)
        wanted = [*routing.chain.hyperparameters, "role", "maximize", "telemetry"]
        wanted += ["disable"] if own["disable"] else []  # torch.distributed.checkpoint loses what is empty
        report.differences += [
            f"{where}: {'hyperparameter ' if key in routing.chain.hyperparameters else ''}{key!r} is not in the state dict"
            for key in wanted
            if key not in old and not report.another_chain
        ]
        for key in routing.chain.hyperparameters.keys() & taken.keys():
            taken[key] = _as_here(taken[key], own.get(key), f"{where}: {key}", report)
        names = taken.get("disable")
        if isinstance(names, (list, tuple, set, frozenset, Mapping)) and all(isinstance(name, str) for name in names):
            gone = [name for name in names if name not in routing.chain]
            report.differences += [f"{where}: disable names {name}, which is not in this chain" for name in gone]
            if gone:
                taken["disable"] = tuple(name for name in names if name not in gone)
        group = _usable(routing, own, taken, where, report)
        _fit_shared(routing, group, old, where, numbers, report)
        groups.append(group)
    return groups


def _entries(old: Group, where: str, report: LoadReport) -> dict[str, Any]:
    """Copies of the entries of a saved group that belong here."""
    taken: dict[str, Any] = {}
    for key, value in old.items():
        if key in ("params", "param_names"):
            continue
        try:
            taken[key] = _copied(value)
        except Exception:  # whatever it is
            report.differences.append(f"{where}: {key} is {shown(value)}, which cannot be copied")
    return taken


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()  # a deepcopy would refuse a tensor with a history
    if type(value) in (list, tuple):
        return type(value)(_copied(entry) for entry in value)
    return copy.deepcopy(value)


def _as_here(value: Any, own: Any, what: str, report: LoadReport) -> Any:
    """A hyperparameter as plain numbers or tensors; a tuple with as many entries as here, the missing ones from there."""
    if not isinstance(value, (tuple, list)):
        return _plain(value)
    entries = [_plain(entry) for entry in cast("Sequence[Any]", value)]
    if not isinstance(own, tuple):
        return value
    mine = cast("tuple[Any, ...]", own)
    if len(entries) < len(mine) or (len(entries) > len(mine) and not report.another_chain):
        report.differences.append(f"{what} has {len(entries)} entries in the state dict, {len(mine)} here")
    return (*entries[: len(mine)], *mine[len(entries) :])


def _plain(value: Any) -> Any:
    """A number of Python, where this is one of numpy or a fraction, which tensors cannot be multiplied by."""
    return value if isinstance(value, (torch.Tensor, int, float)) else _read(value)


def _usable(routing: Routing, own: Group, taken: Mapping[str, Any], where: str, report: LoadReport) -> dict[str, Any]:
    """This optimizer's group with the entries that were taken, but for those that no stage can use."""
    group = {**own, **taken}
    if _fault(routing, group, where) is None:
        return group
    checked = (*routing.chain.hyperparameters, "disable", "role", "maximize", "telemetry")
    group = {**group, **{key: own[key] for key in checked if key in own}}
    for key in checked:
        if key in taken:
            trial = {**group, key: taken[key]}
            if (fault := _fault(routing, trial, where)) is None:
                group = trial
            else:
                report.differences.append(fault)
    return group


def _fault(routing: Routing, group: dict[str, Any], where: str) -> str | None:
    """Why a group cannot be used, if it cannot. Values of tensors are looked at."""
    plain = dict(group)
    for key in routing.chain.hyperparameters:
        value = plain[key]
        entries = cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else (value,)
        read = tuple(_read(entry) for entry in entries)
        if any(isinstance(entry, torch.Tensor) for entry in read):
            return f"{where}: {key} is {shown(value)}; it should be a number, or a plain tensor of one"
        plain[key] = read if isinstance(value, (list, tuple)) else read[0]
    if not isinstance(group["disable"], (list, tuple, set, frozenset, Mapping)):
        return f"{where}: disable is {shown(group['disable'])}; it should be a list of stage names"
    try:
        routing.check(plain, f"{where}: ")
        for name, param, settings in zip(parameter_names(group), group["params"], Settings.each(group)):
            routing.variant(settings.disable).route(name, param, settings.role)
    except GradchainError as error:
        text = str(error)
        return text if text.startswith(where) else f"{where}: {text}"
    return None


def _read(value: Any) -> Any:
    """A number, as far as this is one; infinite if it is too large."""
    number = number_of(value)
    return value if number is None else number


def _fit_shared(
    routing: Routing, group: dict[str, Any], old: Group, where: str, seen: dict[str, float], report: LoadReport
) -> None:
    """The shared numbers of a group: the saved ones, or those before the first step."""
    device = shared.device_of(group["params"])
    for key, fresh in shared.initial(routing.chain, group, device).items():
        group[key] = fresh
        if key not in old:
            report.reset.append(f"{where}: {key}")
            continue
        address, name = next((at, name) for at, name, its in routing.chain.bindings.shared if its == key)
        try:
            shared.checked(routing.chain[address], name, old[key], f"{where} of the state dict: {key}")
        except GradchainError as error:
            report.differences.append(str(error))
            continue
        number = number_of(old[key])
        if number is None:
            report.differences.append(f"{where} of the state dict: {key} is {shown(old[key])}, and not a number")
        elif seen.setdefault(key, number) != number:
            report.differences.append(
                f"{where}: {key} is {number}, and {seen[key]} in a group before: the groups of the state dict differ in "
                f"{key}, which all parameters share"
            )
            group[key] = shared.as_number(seen[key], device)
        else:
            group[key] = shared.as_number(number, device)
