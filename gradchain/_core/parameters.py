"""Check the parameters that an optimizer is given, and their groups."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from gradchain.errors import ParameterError, kind_of, shown

EXPECTED = "Pass a module, parameters, (name, parameter) pairs, or group dicts such as {'params': [...], 'lr': 0.1}."
STEPPED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def listed(params: object) -> list[Any]:
    """The argument `params` as a list: of parameters, of named ones, or of groups."""
    if isinstance(params, nn.Module):
        params = list(params.named_parameters())
        if not params:
            raise ParameterError("the module has no parameters: there is nothing to optimize.")
    if isinstance(params, type) or callable(params):
        raise ParameterError(f"params = {shown(params)} is not parameters, but may make them: call it. {EXPECTED}")
    if hasattr(params, "param_groups"):
        raise ParameterError(f"params is an optimizer, {kind_of(params)}. Pass its parameters, or the model.")
    if isinstance(params, Mapping):
        given = "a group" if "params" in params else "a dict"
        raise ParameterError(f"params is {given}. Pass a list of groups, [{{'params': ...}}], or model.parameters().")
    found = _iterated(params, "params")
    if not found:
        raise ParameterError(
            "params is empty: there is nothing to optimize. A generator such as model.parameters() serves once; ask for "
            "another one."
        )
    if (mixed := {isinstance(item, Mapping) for item in found}) == {True, False}:
        raise ParameterError(
            f"params has groups and bare parameters ({len(mixed)} kinds). Put the bare ones in a group."
        )
    if True not in mixed:
        _check_entries(found, "params")
    return found


def _iterated(params: object, where: str) -> list[Any]:
    if isinstance(params, torch.Tensor):
        raise ParameterError(f"{where} is one tensor of shape {tuple(params.shape)}; pass a list: [parameter].")
    if isinstance(params, (set, frozenset)):
        raise ParameterError(f"{where} is a set, whose order differs from run to run; pass a list.")
    if isinstance(params, (str, bytes)) or not isinstance(params, Iterable):
        raise ParameterError(f"{where} = {shown(params)} is {kind_of(params)}. {EXPECTED}")
    return list(cast("Iterable[Any]", params))


def checked_group(group: object, where: str, held: Container[torch.Tensor]) -> dict[str, Any]:
    """A new group with its parameters as a list; `held` are those that are in the optimizer already."""
    if not isinstance(group, Mapping):
        raise ParameterError(f"{where}a group is {kind_of(group)}; pass a dict such as {{'params': [...], 'lr': 0.1}}.")
    entries = dict(cast("Mapping[Any, Any]", group))
    if odd := [key for key in entries if not isinstance(key, str)]:
        raise ParameterError(f"{where}entry {shown(odd[0])} is {kind_of(odd[0])}; entries of a group have names.")
    if "params" not in entries:
        raise ParameterError(f"{where}the group has no 'params'; pass a dict such as {{'params': [...], 'lr': 0.1}}.")
    params = entries["params"]
    if isinstance(params, nn.Module):
        params = list(params.named_parameters())
    if isinstance(params, Mapping):
        params = list(cast("Mapping[Any, Any]", params).items())
    params = [params] if isinstance(params, torch.Tensor) else _iterated(params, f"{where}params")
    _check_entries(params, f"{where}params")
    pairs = [item if isinstance(item, tuple) else ("", item) for item in params]
    check(pairs, where, held)
    return {**entries, "params": params}


def _check_entries(params: Sequence[Any], where: str) -> None:
    """Raise unless these are parameters, or all of them pairs of a name and a parameter."""
    named = [isinstance(item, tuple) for item in params]
    if any(named) and not all(named):
        raise ParameterError(f"{where} has named and unnamed parameters. Name all of them, or none.")
    for position, item in enumerate(params):
        if isinstance(item, tuple):
            pair = cast("tuple[Any, ...]", item)
            if len(pair) != 2 or not isinstance(pair[0], str):
                raise ParameterError(
                    f"{where}[{position}] = {shown(pair)}; a named parameter is a pair (name, parameter)."
                )
            item = pair[1]
        if not isinstance(item, torch.Tensor):
            raise ParameterError(f"{where}[{position}] = {shown(item)} is {kind_of(item)}, not a tensor. {EXPECTED}")
    names = [item[0] for item in params if isinstance(item, tuple)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ParameterError(f"{where}: two parameters are called {shown(twice)}. Rename one.")


def check(pairs: Iterable[tuple[str, Any]], where: str = "", held: Container[torch.Tensor] = ()) -> None:
    """Raise `ParameterError` unless all of these can be stepped, and none twice."""
    seen: set[torch.Tensor] = set()
    for position, (name, param) in enumerate(pairs):
        what = f"{where}parameter {name or position}"
        if not isinstance(param, torch.Tensor):
            raise ParameterError(f"{what} = {shown(param)} is {kind_of(param)}, not a tensor.")
        if nn.parameter.is_lazy(param):
            raise ParameterError(f"{what} has no shape yet. Run the model once before you make the optimizer.")
        what += f" of shape {'(nested)' if param.is_nested else tuple(param.shape)}"
        _check_kind(what, param)
        if param in seen or param in held:
            other = "in another group too" if param not in seen else "in the group twice"
            raise ParameterError(f"{what} is {other}: it would be stepped twice. Leave one out.")
        seen.add(param)


def _check_kind(what: str, param: torch.Tensor) -> None:
    if param.dtype not in STEPPED:
        fix = (
            "Optimize torch.view_as_real(p) of a complex one."
            if param.is_complex()
            else "Keep parameters in float32, float64, bfloat16 or float16, and cast them in the forward pass."
        )
        raise ParameterError(f"{what} is {param.dtype}; gradchain steps real floating parameters. {fix}")
    if param.layout != torch.strided or param.is_nested:
        layout = "nested" if param.is_nested else str(param.layout).removeprefix("torch.")
        raise ParameterError(f"{what} is {layout}; gradchain steps dense parameters. Call to_dense() on it first.")
    if not param.is_leaf and not param.retains_grad:
        raise ParameterError(
            f"{what} is not a leaf: it was computed from other tensors, and gets no gradient. Pass the parameter that it "
            "was computed from, or p.detach().requires_grad_()."
        )


def named_alike(group: dict[str, Any], others: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """A new group with names if the others have some: empty ones, if its parameters came without.

    Raises:
        ParameterError: it has names, and the others do not.
    """
    named = "param_names" in group or any(isinstance(item, tuple) for item in group["params"])
    if named and any("param_names" not in other for other in others):
        raise ParameterError(
            f"{where}its parameters have names, and those of the groups before have none. Name all, or leave these unnamed."
        )
    if not named and any("param_names" in other for other in others):
        return {**group, "param_names": [""] * len(group["params"])}
    return group


def check_live(group: object, where: str) -> None:
    """Raise unless a group still has the form that it was given in."""
    if not isinstance(group, dict):
        raise ParameterError(f"{where}is {kind_of(group)}; groups are dicts. Use add_param_group to add one.")
    entries = cast("dict[str, Any]", group)
    if not isinstance(entries.get("params"), list):
        held = f"params = {shown(entries['params'])}" if "params" in entries else "the group has no 'params'"
        raise ParameterError(f"{where}{held}: it must be a list of parameters. Use add_param_group to add a group.")
    names = entries.get("param_names")
    if names is not None and (not isinstance(names, list) or (names and len(names) != len(entries["params"]))):
        raise ParameterError(
            f"{where}param_names = {shown(names)} does not name the {len(entries['params'])} parameters of the group. Give "
            "one name for each, or delete it."
        )


def check_members(groups: Iterable[Mapping[str, Any]]) -> None:
    """As `check`, for all parameters of an optimizer."""
    held: set[torch.Tensor] = set()
    for number, group in enumerate(groups):
        names = group.get("param_names") or [""] * len(group["params"])
        check(list(zip(names, group["params"])), f"group {number}: ", held)
        held.update(group["params"])


def hidden_in(param: torch.Tensor) -> str | None:
    """What has flattened a parameter, so that the shape of its matrix cannot be seen; `None` if nothing has."""
    if getattr(param, "_fsdp_flattened", False) or getattr(param, "_is_flat_param", False):
        return "flattened by FSDP1 (FullyShardedDataParallel)"
    if any(hasattr(param, mark) for mark in ("ds_id", "ds_shape", "ds_numel")):
        return "partitioned by DeepSpeed ZeRO"
    return None
