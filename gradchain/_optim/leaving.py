"""The state of a chain as another optimizer loads it."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any

import torch

from gradchain._chain.chain import Chain
from gradchain._chain.recipes import differ, find_recipe, recipe
from gradchain._chain.structure import Structure, structure
from gradchain._core.ages import is_age
from gradchain._optim.conversions import Place
from gradchain._optim.exchange import Member, as_flag, is_on, kinds, members, names_of, short
from gradchain._optim.foreign import SOURCES
from gradchain._optim.guests import WRITTEN_BY_TORCH
from gradchain._optim.optimizer import Optimizer
from gradchain._optim.routing import Routing, Settings
from gradchain._optim.saved import shown_few
from gradchain._optim.sources import Source
from gradchain.errors import OptionError, StateError, UnknownNameError, kind_of, shown

Group = Mapping[str, Any]

NOTHING = "Nothing was exported."
OFF_IF_ABSENT = ("weight_decay", "momentum", "dampening")
"""Numbers that are 0 for a chain without a stage for them."""


def export_state(optimizer: Optimizer, like: torch.optim.Optimizer | str) -> dict[str, Any]:
    """The state of an optimizer as another one keeps it: the way back from `import_state`.

    Args:
        optimizer: a gradchain optimizer whose chain does what that one does, stage by stage.
        like: a running optimizer over the same groups, or the name of its class, such as `"torch.optim.AdamW"`.

    Parameters that have not been stepped have no state. Settings that are no hyperparameters come from `like`.

    Returns: a state dict for its `load_state_dict`. Its tensors are copies.

    Raises:
        OptionError: the chain does something that `like` does not, or `like` is set to do something else.
        StateError: the state has no counterpart there.
        UnknownNameError: nothing is known about `like`, or it is not installed.

    >>> optimizer = gradchain.optimizer("adamw", model.parameters(), lr=3e-4)
    >>> loss.backward()
    >>> optimizer.step()
    >>> theirs = torch.optim.AdamW(model.parameters())
    >>> theirs.load_state_dict(gradchain.export_state(optimizer, like=theirs))
    >>> theirs.param_groups[0]["lr"]
    0.0003
    """
    if not isinstance(optimizer, Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"export_state(optimizer, like): optimizer is {kind_of(optimizer)}; pass gradchain's first.")
    made = isinstance(like, str)
    target = _made(like) if isinstance(like, str) else like
    templates: list[dict[str, Any]] = target.state_dict()["param_groups"]
    if made:
        templates = templates * len(optimizer.param_groups)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if not made and sizes != [len(group["params"]) for group in templates]:
        raise StateError(f"like has other groups: this optimizer has groups of {sizes} tensors. {NOTHING}")
    entry = _entry(target, templates[0])
    routing = Routing(optimizer.chain)
    states: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    for number, (ours, template) in enumerate(zip(optimizer.param_groups, templates)):
        first = sum(sizes[:number])
        chain = routing.variant(Settings.each(ours)[0].disable)
        where = f"group {number}"
        if ours["maximize"] and "maximize" not in entry.numbers:
            raise OptionError(f"{where}: {entry.name} cannot maximize. {NOTHING}")
        group = {**template, **_numbers(entry, ours, template, where)}
        stages = kinds(chain)
        told = _check_recipe(entry, target, template, chain, where) if entry.recipe else ()
        if not entry.recipe:
            _check_stages(entry, stages, where)
        group |= _flags(entry, ours, template, stages, told, made, where)
        counts = [0]
        for index, member in enumerate(members(routing, number, ours), start=first):
            state = optimizer.state.get(member.param, {})
            if count := int(state.get("step", 0)):
                counts.append(count)
                states[index] = _state(entry, member, state, group, count)
        if entry.count not in ("", "tensor", "int"):
            group[entry.count] = _group_count(entry, counts, where)
        groups.append({**entry.group_of(group), **_hosts(ours), "params": list(range(first, first + sizes[number]))})
    return {"state": states, "param_groups": groups}


def _made(name: str) -> torch.optim.Optimizer:
    """An optimizer of a class with default settings, for one parameter that nobody steps."""
    known = dict.fromkeys(known for entry in SOURCES if entry.exportable for known in entry.classes)
    if short(name) not in map(short, known):
        raise UnknownNameError(f"like = {shown(name)}: pass one of {', '.join(known)}, or an optimizer. {NOTHING}")
    try:
        return pkgutil.resolve_name(name)([torch.nn.Parameter(torch.zeros(1))])
    except (ImportError, AttributeError) as error:
        raise UnknownNameError(f"like = {shown(name)} cannot be imported ({error}). {NOTHING}") from None


def _entry(target: torch.optim.Optimizer, template: Group) -> Source:
    """The entry of an optimizer that state can be exported to."""
    names = names_of(type(target))
    fitting = [entry for entry in SOURCES if not names.isdisjoint(map(short, entry.classes))]
    for entry in fitting:
        if entry.exportable and all(template.get(key) == value for key, value in entry.where.items()):
            return entry
    known = dict.fromkeys(name for entry in SOURCES if entry.exportable for name in entry.classes)
    raise UnknownNameError(f"like is {kind_of(target)}; state is exported to {', '.join(known)}. {NOTHING}")


def _check_recipe(entry: Source, target: Any, template: Group, chain: Chain, where: str) -> set[str]:
    """Raise unless the chain is what our recipe builds with the settings of the other optimizer.

    Returns: its settings that are options of the recipe.
    """
    options, told = dict(entry.settings), set[str]()
    for name, parameter in inspect.signature(find_recipe(entry.recipe).build).parameters.items():
        key = entry.called.get(name, name)
        told.add(key)
        value = template[key] if key in template else getattr(target, key, None)
        setting = name not in entry.numbers.values() and isinstance(value, (bool, int, float, str))
        if setting and differ(value, parameter.default):
            options[name] = value
    try:
        wanted = recipe(entry.recipe, **options)
    except OptionError as error:
        raise OptionError(f"{where}: like cannot be had as a chain: {error} {NOTHING}") from None
    if lines := _differences(structure(wanted.to_config()), structure(chain.to_config())):
        raise OptionError(
            f"{where}: this chain does something else than {entry.name} with the settings of like, which is the recipe "
            f"{entry.recipe!r}{f' with {shown_few(list(options))}' if options else ''}: {'; '.join(lines[:3])}. Build "
            f"one of the two like the other. {NOTHING}"
        )
    return told


def _differences(wanted: Structure, given: Structure) -> list[str]:
    lines = [f"{name} is missing" for name in wanted if name not in given]
    lines += [f"there is nothing like {name}" for name in given if name not in wanted]
    if not lines and [*wanted] != [*given]:
        lines = [f"the order is {', '.join(wanted)}"]
    for name in [name for name in wanted if name in given]:
        pairs = {
            option: (wanted[name].get(option), given[name].get(option)) for option in {*wanted[name], *given[name]}
        }
        lines += [
            f"{name}.{option} is {shown(is_)}, not {shown(was)}" for option, (was, is_) in pairs.items() if was != is_
        ]
    return lines


def _check_stages(entry: Source, stages: Mapping[str, Any], where: str) -> None:
    """Raise unless the other optimizer does all that the chain does, and nothing else."""
    if extra := sorted(stages.keys() - entry.algorithm):
        raise OptionError(f"{where}: {entry.name} has nothing like {', '.join(extra)}. Take it out first. {NOTHING}")
    for name, wanted in entry.options.items():
        kind, _, field = name.partition(".")
        if kind in stages and getattr(stages[kind], field) != wanted:
            raise OptionError(
                f"{where}: {name} = {shown(getattr(stages[kind], field))}; in {entry.name} it is {shown(wanted)}. {NOTHING}"
            )


def _numbers(entry: Source, ours: Group, template: Group, where: str) -> dict[str, Any]:
    """The hyperparameters of one of our groups by their names."""
    result: dict[str, Any] = {}
    for key, name in entry.numbers.items():
        if name in ours:
            value = ours[name]
            shared = isinstance(value, torch.Tensor) and name not in ("lr",)
            result[key] = _number(value, template.get(key)) if shared else value
        elif key in OFF_IF_ABSENT:
            result[key] = 0.0
        elif key in template and key not in entry.lenient and is_on(template[key]):
            raise OptionError(f"{where}: {entry.name} has {key}, and this chain has no {name}. {NOTHING}")
    return result


def _number(value: torch.Tensor, theirs: Any) -> Any:
    if isinstance(theirs, torch.Tensor):
        return value.to(theirs.dtype).reshape(theirs.shape)
    return int(value) if isinstance(theirs, int) and float(value).is_integer() else float(value)


def _flags(
    entry: Source,
    ours: Group,
    template: Group,
    stages: Mapping[str, Any],
    told: Collection[str],
    made: bool,
    where: str,
) -> dict[str, Any]:
    """Their settings that this chain has, but `told`; those of a running optimizer are its own, and have to agree."""
    result: dict[str, Any] = {}
    for key, flag in entry.flags.items():
        if (
            key in told
            or key not in template
            or (flag.when and not is_on(ours.get(entry.numbers.get(flag.when, flag.when))))
        ):
            continue
        value = flag.of(stages)
        if value == as_flag(template[key], value):
            continue
        if flag.fixed or not made:
            raise OptionError(
                f"{where}: like has {key} = {shown(template[key])}, and this chain is one with {key} = {shown(value)}. "
                f"Build one of the two like the other. {NOTHING}"
            )
        result[key] = value
    return result


def _hosts(ours: Group) -> dict[str, Any]:
    """What schedulers wrote, and names."""
    return {key: value for key, value in ours.items() if key in WRITTEN_BY_TORCH}


def _group_count(entry: Source, counts: list[int], where: str) -> int:
    if len(set(counts[1:])) > 1:
        raise StateError(
            f"{where}: {entry.name} counts the steps of a group, and these parameters have made {sorted(set(counts[1:]))}. "
            f"{NOTHING}"
        )
    return counts[-1] + entry.first


def _state(entry: Source, member: Member, state: Mapping[str, Any], group: Group, step: int) -> dict[str, Any]:
    """The state of a parameter in their form."""
    if late := [key for key in state if is_age(key)]:
        raise StateError(f"{member.label}: {late[0]} counts steps that a stage missed; {entry.name} cannot. {NOTHING}")
    result: dict[str, Any] = {}
    gone = {key for key in state if key != "step"}
    for key, target in entry.slots.items():
        kind, _, slot = target.partition(".")
        address = member.address(kind)
        name = f"{address}.{slot}"
        if address is None or name not in state:
            continue
        gone.discard(name)
        value = state[name].detach().clone()
        if key in entry.convert:
            value = entry.convert[key].save(
                value, Place(dict(member.program.stages)[address], slot, member.param, group, step)
            )
        result[key] = value
    if gone:
        raise StateError(f"{member.label}: {entry.name} has nothing like {', '.join(sorted(gone))}. {NOTHING}")
    if entry.count == "tensor":
        result["step"] = torch.tensor(float(step), dtype=torch.float32)
    elif entry.count == "int":
        result["step"] = step
    return entry.state_of(result, member.param, step)
