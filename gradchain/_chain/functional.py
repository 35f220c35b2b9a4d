"""A chain as two pure functions over tensors or nests of tensors, as in optax."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from gradchain._chain import shared
from gradchain._chain.elements import Composed
from gradchain._chain.evaluation import seen_at
from gradchain._chain.extra_evaluation import check_single
from gradchain._chain.lockstep import run_lockstep
from gradchain._chain.program import Outcome, Program, Running, Witness
from gradchain._chain.routes_table import program_bytes
from gradchain._chain.tracing import traits_of
from gradchain._core.autocast import no_autocast
from gradchain._core.counters import COUNTER
from gradchain._core.fields import DTYPES, reading
from gradchain._core.noise import parameter_key_tensor, parameter_salt
from gradchain._core.parameters import listed
from gradchain._core.shard import Shard, is_distributed
from gradchain._core.untraced import untraced
from gradchain.errors import GradientError, OptionError, StateError, UnknownOptionError, kind_of, nearest, shown
from gradchain.roles import Rule, assign, roles_of

Tree: TypeAlias = Any
"""A tensor, or a nest of dicts, lists and tuples of tensors."""

ChainState: TypeAlias = "dict[str, dict[str, Any]]"
"""`{"step": {...}, "slots": {...}, "shared": {...}}`: for each tensor, by its name in the nest, its step count and its
slots; and the numbers that all tensors share."""


def _leaves(tree: Tree, what: str) -> tuple[dict[str, torch.Tensor], pytree.TreeSpec]:
    """The tensors of a nest by their names (`"layer.weight"`), in order."""
    paths, spec = pytree.tree_flatten_with_path(tree)
    leaves: dict[str, torch.Tensor] = {}
    for path, leaf in paths:
        name = ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided or leaf.dtype not in DTYPES.values():
            kind = f"{leaf.layout} {leaf.dtype}" if isinstance(leaf, torch.Tensor) else kind_of(leaf)
            raise GradientError(
                f"{what} {name or '(the nest)'} is {kind}; pass dense tensors of {', '.join(DTYPES)}, in a nest of dicts, "
                f"lists and tuples.{_instead(leaf)}"
            )
        if is_distributed(leaf):
            raise GradientError(
                f"{what} {name or '(the nest)'} is a DTensor; the functions take plain tensors. Step sharded parameters "
                "with gradchain.Optimizer."
            )
        if name in leaves:
            raise OptionError(f"two of the {what}s are called {shown(name)}; rename one.")
        leaves[name] = leaf
    return leaves, spec


def _instead(leaf: object) -> str:
    if leaf is None:
        return " Leave out what has no gradient, among the parameters too."
    return " The parameters of a module are dict(module.named_parameters())." if isinstance(leaf, nn.Module) else ""


@untraced
def init(chain: Composed, params: Tree) -> ChainState:
    leaves, _ = _leaves(params, "parameter")
    programs = {name: chain.route(name, param) for name, param in leaves.items()}
    with no_autocast():
        slots = {name: programs[name].init(param, name) for name, param in leaves.items()}
    for name, param in leaves.items():
        traits_of(programs[name], param)  # where a stage does what none may do, this says so
    return {
        "step": {name: torch.zeros((), dtype=COUNTER, device=param.device) for name, param in leaves.items()},
        "slots": slots,
        "shared": shared.initial(chain, chain.hyperparameters, shared.device_of(leaves.values())),
    }


class Stepped(NamedTuple):
    """What one step makes of each tensor, by name, and the state after it."""

    outcomes: dict[str, Outcome]
    updates: Tree
    state: ChainState


@untraced
def update(
    chain: Composed, grads: Tree, state: ChainState, params: Tree, hyperparameters: Mapping[str, Any]
) -> tuple[Tree, ChainState]:
    made = stepped(chain, grads, state, params, hyperparameters)
    return made.updates, made.state


def stepped(
    chain: Composed,
    grads: Tree,
    state: ChainState,
    params: Tree,
    hyperparameters: Mapping[str, Any],
    witness: Witness | None = None,
) -> Stepped:
    """One step of all tensors; `witness` sees what each stage makes."""
    check_single(chain, "a pure function is given one gradient")
    group = _group(chain, hyperparameters)
    _check_state(state)
    (leaves, spec), gradients = _leaves(params, "parameter"), _leaves(grads, "gradient")[0]
    known = _known_numbers(chain, state, leaves)
    group |= known
    if _structure(grads) != _structure(params):
        raise OptionError(
            "the gradients and the parameters differ in structure; pass one gradient per tensor, nested alike."
        )
    _check_alike(leaves, gradients, state)
    programs = {name: chain.route(name, param) for name, param in leaves.items()}
    for name, param in leaves.items():
        _check_slots(name, state["slots"][name], programs[name].plan(param.shape, param.dtype))
    order = list(state["step"])
    steps = {name: state["step"][name].to(COUNTER) + 1 for name in leaves}
    running: list[Running] = []
    for name, param in leaves.items():
        program, slots = programs[name], state["slots"][name]
        turn = order.index(name) if program.takes_turns else 0
        numbers = program.numbers(chain.bindings, group, steps[name].to(torch.float64), turn=turn)
        drawn = traits_of(program, param).draws
        key = parameter_key_tensor(steps[name], parameter_salt(order.index(name))) if drawn else None
        running.append(program.run(param, gradients[name], slots, numbers, noise_key=key, witness=witness))
    with no_autocast():
        outcomes = dict(zip(leaves, run_lockstep(list(programs.values()), running)))
        changed = shared.changes(chain, group, [outcome.recorded for outcome in outcomes.values()])
    updates = [difference(outcomes[name].param, param) for name, param in leaves.items()]
    after = {name: {**state["slots"][name], **outcomes[name].state} for name in order}
    counts = {name: steps[name] for name in order}
    new_state = {"step": counts, "slots": after, "shared": known | changed}
    return Stepped(outcomes, pytree.tree_unflatten(updates, spec), new_state)


@untraced
def evaluated(chain: Composed, params: Tree, state: ChainState, hyperparameters: Mapping[str, Any]) -> Tree:
    group = _group(chain, hyperparameters)
    _check_state(state)
    leaves, spec = _leaves(params, "parameter")
    group |= _known_numbers(chain, state, leaves)
    _check_alike(leaves, leaves, state)
    seen: list[torch.Tensor] = []
    for name, param in leaves.items():
        program, slots, step = chain.route(name, param), state["slots"][name], state["step"][name]
        _check_slots(name, slots, program.plan(param.shape, param.dtype))
        numbers = program.numbers(chain.bindings, group, step.to(torch.float64))
        with no_autocast():
            value = seen_at(program, param, slots, numbers, Shard.whole(param.shape))
        seen.append(torch.where(step > 0, value, param))
    return pytree.tree_unflatten(seen, spec)


def _group(chain: Composed, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters in force, by key; checked."""
    for name in hyperparameters:
        if name not in chain.hyperparameters:
            raise UnknownOptionError(f"unknown hyperparameter {shown(name)}. {nearest(name, chain.hyperparameters)}")
    group = {**chain.hyperparameters, **hyperparameters}
    chain.bindings.check(group)
    for _, stage in chain.addressed:
        group = {**stage.initial_entries(chain.hyperparameters), **group}
    return group


def _known_numbers(chain: Composed, state: ChainState, leaves: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The shared numbers of a state, or those before the first step."""
    device = shared.device_of(leaves.values())
    return _shared_numbers(chain, state) or shared.initial(chain, chain.hyperparameters, device)


def _structure(tree: Tree) -> Any:
    """The containers of a nest; the order of keys does not count."""
    if isinstance(tree, Mapping):
        return type(tree), {key: _structure(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree), [_structure(item) for item in tree]
    return None


def _check_alike(params: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], state: ChainState) -> None:
    """Raise unless gradients and state belong to the parameters."""
    if alone := sorted(map(str, state["step"].keys() ^ params.keys())):
        raise OptionError(f"the state and the parameters differ in structure at: {', '.join(map(str, alone[:5]))}.")
    for name, param in params.items():
        if (fault := _misfit(gradients[name], param)) is not None:
            raise GradientError(f"gradient {name or '(the nest)'} {fault}.")


def _misfit(tensor: torch.Tensor, param: torch.Tensor) -> str | None:
    """Why a tensor cannot be that of a parameter, if it cannot."""
    if tensor.device != param.device:
        return f"is on {tensor.device}, its parameter on {param.device}"
    if tensor.shape != param.shape:
        return f"has shape {tuple(tensor.shape)}, its parameter {tuple(param.shape)}"
    return None


def _check_state(state: object) -> None:
    """Raise `StateError` unless this has the form of what `init` returns."""
    good = isinstance(state, Mapping) and all(isinstance(state.get(part), Mapping) for part in ("step", "slots"))
    if not good or not isinstance(state.get("shared", {}), Mapping):  # type: ignore[union-attr]
        raise StateError(
            f"the state is {kind_of(state)}, not what chain.init(params) returns. The order is update(grads, state, params)."
        )
    steps, slots = state["step"], state["slots"]  # type: ignore[index]
    if odd := sorted(map(str, steps.keys() ^ slots.keys())):
        raise StateError(
            f"the state has a step count or slots, but not both, for: {', '.join(odd[:5])}. Use chain.init."
        )
    for name, step in steps.items():
        if not isinstance(step, torch.Tensor) or step.shape != () or step.dtype.is_complex or step.dtype == torch.bool:
            raise StateError(
                f"the step count of {name} is {shown(step)}; it must be a 0-d tensor, as chain.init makes it."
            )
        count = reading(step)
        if count is not None and (not math.isfinite(count) or count < 0 or count != int(count)):
            raise StateError(f"the step count of {name} is {shown(step)}; pass a whole number of at least 0.")


def _shared_numbers(chain: Composed, state: Mapping[str, Any]) -> dict[str, Any]:
    """The shared numbers of a state, checked."""
    held, wanted = state.get("shared") or {}, shared.keys(chain)
    if odd := sorted(map(str, {*held} ^ wanted)) if held else []:
        raise StateError(
            f"the state's shared numbers differ from the chain's at: {', '.join(odd[:5])}. Take a state of this chain.init."
        )
    stages = dict(chain.addressed)
    for address, name, key in chain.bindings.shared if held else ():
        if not isinstance(held[key], torch.Tensor):
            raise StateError(
                f"shared number {key} is {shown(held[key])}; it must be a 0-d tensor, as chain.init makes it."
            )
        shared.checked(stages[address], name, held[key], f"shared number {key}")
    return dict(held)


def _check_slots(name: str, held: object, wanted: Mapping[str, tuple[torch.Size, bool]]) -> None:
    if not isinstance(held, Mapping):
        raise StateError(f"the slots of {name or '(the nest)'} are {kind_of(held)}; pass the state of chain.init.")
    if odd := sorted(map(str, held.keys() ^ wanted.keys())):
        raise StateError(
            f"the state of {name or '(the nest)'} and the chain differ at: {', '.join(odd[:5])}. Is it the state of another "
            "chain? Make one with chain.init(params)."
        )
    for slot, (shape, _) in wanted.items():
        value = held[slot]
        if not isinstance(value, torch.Tensor) or value.shape != shape:
            what = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else kind_of(value)
            raise StateError(f"{name or '(the nest)'}: slot {slot} has {what}; the chain keeps shape {tuple(shape)}.")


def difference(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """The update, wide enough that adding it gives `new` exactly, as a rounding stage needs."""
    if old.dtype in (torch.bfloat16, torch.float16):
        return new.to(torch.float32) - old.to(torch.float32)
    return new - old


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add updates to parameters. Returns: a nest like `params`, each tensor in the dtype of its parameter.

    Raises: GradientError, OptionError: a leaf is no tensor, or the two nests differ.

    >>> params = {"w": torch.zeros(2)}
    >>> gradchain.apply_updates(params, {"w": torch.ones(2)})
    {'w': tensor([1., 1.])}
    """

    (old, _), (new, _) = _leaves(params, "parameter"), _leaves(updates, "update")
    if _structure(params) != _structure(updates):
        raise OptionError("the updates and the parameters differ in structure; pass what chain.update returned first.")
    for name, param in old.items():
        if (fault := _misfit(new[name], param)) is not None:
            raise OptionError(f"update {name or '(the nest)'} {fault}.")

    def add(param: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        return (param.to(change.dtype) + change).to(param.dtype)

    return pytree.tree_map(add, params, updates)


def state_bytes(chain: Composed, params: Any, role: Rule) -> int:
    return sum(program_bytes(program, param.shape, param.dtype) for program, param in routed(chain, params, role))


def routed(chain: Composed, params: Any, role: Rule) -> list[tuple[Program, torch.Tensor]]:
    """The parameters of a module that are not frozen, or those of an iterable or a nest, each with its program."""
    if isinstance(params, nn.Module):
        named: list[tuple[str, torch.Tensor]] = [item for item in params.named_parameters() if item[1].requires_grad]
    elif isinstance(params, Iterable) and not isinstance(params, (Mapping, torch.Tensor, list, tuple)):
        given = listed(params)
        named = [item if isinstance(item, tuple) else ("", item) for item in given]
    else:
        named = list(_leaves(params, "parameter")[0].items())
    names, tensors = [name for name, _ in named], [param for _, param in named]
    roles = roles_of({"role": assign(role, names, tensors), "params": tensors})
    return [(chain.route(name, param, its), param) for name, param, its in zip(names, tensors, roles)]
