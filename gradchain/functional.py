"""A chain as a pair of pure functions over tensors or nests of tensors, for torch.func and for friends of optax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from gradchain import shared
from gradchain.distributed.sharding import is_distributed
from gradchain.engine.run import drive
from gradchain.errors import GradientError, OptionError, UnknownOptionError, nearest
from gradchain.noise import parameter_key_tensor
from gradchain.program import Running
from gradchain.roles import Rule, assign, roles_of
from gradchain.routes_table import program_bytes
from gradchain.untraced import untraced

if TYPE_CHECKING:
    from gradchain.chain import Chain

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
        if not isinstance(leaf, torch.Tensor) or leaf.layout != torch.strided or not leaf.is_floating_point():
            kind = f"{leaf.layout} {leaf.dtype}" if isinstance(leaf, torch.Tensor) else type(leaf).__name__
            raise GradientError(f"{what} {name or '(the nest)'} is {kind}; pass dense real floating tensors.")
        if is_distributed(leaf):
            raise GradientError(
                f"{what} {name or '(the nest)'} is a DTensor; the functions take plain tensors. Step sharded parameters "
                "with gradchain.Optimizer."
            )
        if name in leaves:
            raise OptionError(f"two of the {what}s are called {name!r}; rename one.")
        leaves[name] = leaf
    return leaves, spec


@untraced
def init(chain: Chain, params: Tree) -> ChainState:
    leaves, _ = _leaves(params, "parameter")
    return {
        "step": {name: torch.zeros((), dtype=torch.int64, device=param.device) for name, param in leaves.items()},
        "slots": {name: chain.route(name, param).init(param) for name, param in leaves.items()},
        "shared": shared.initial(chain, chain.hyperparameters, shared.device_of(leaves.values())),
    }


@untraced
def update(
    chain: Chain, grads: Tree, state: ChainState, params: Tree, hyperparameters: Mapping[str, Any]
) -> tuple[Tree, ChainState]:
    for name in hyperparameters:
        if name not in chain.hyperparameters:
            raise UnknownOptionError(f"unknown hyperparameter {name!r}. {nearest(name, chain.hyperparameters)}")
    group = {**chain.hyperparameters, **hyperparameters}
    chain.bindings.check(group)
    for stage in chain:
        group = {**stage.pin(chain.hyperparameters), **group}
    (leaves, spec), gradients = _leaves(params, "parameter"), _leaves(grads, "gradient")[0]
    known = state.get("shared") or shared.initial(chain, chain.hyperparameters, shared.device_of(leaves.values()))
    group |= known
    if _structure(grads) != _structure(params):
        raise OptionError(
            "the gradients and the parameters differ in structure; pass one gradient per tensor, nested alike."
        )
    _check_alike(leaves, gradients, state)
    order = list(state["step"])
    steps = {name: state["step"][name] + 1 for name in leaves}
    programs = [chain.route(name, param) for name, param in leaves.items()]
    running: list[Running] = []
    for program, (name, param) in zip(programs, leaves.items()):
        numbers = program.numbers(chain.bindings, group, steps[name].to(torch.float64))
        drawn = program.draws(param.dtype)
        key = parameter_key_tensor(steps[name], order.index(name)) if drawn else None
        running.append(program.run(param, gradients[name], state["slots"][name], numbers, noise_key=key))
    outcomes = dict(zip(leaves, drive(programs, running)))
    changed = shared.changes(chain, group, [outcome.recorded for outcome in outcomes.values()])
    updates = [_difference(outcomes[name].param, param) for name, param in leaves.items()]
    slots = {name: {**state["slots"][name], **outcomes[name].state} for name in order}
    counts = {name: steps[name] for name in order}
    return pytree.tree_unflatten(updates, spec), {"step": counts, "slots": slots, "shared": known | changed}


def _structure(tree: Tree) -> Any:
    """The containers of a nest; the order of keys does not count."""
    if isinstance(tree, Mapping):
        return type(tree), {key: _structure(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree), [_structure(item) for item in tree]
    return None


def _check_alike(params: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], state: ChainState) -> None:
    """Raise unless gradients and state belong to the parameters."""
    if alone := sorted(state["step"].keys() ^ params.keys()):
        raise OptionError(f"the state and the parameters differ in structure at: {', '.join(alone)}.")
    for name, param in params.items():
        if gradients[name].shape != param.shape:
            raise GradientError(
                f"gradient {name or '(the nest)'} has shape {tuple(gradients[name].shape)}, its parameter "
                f"{tuple(param.shape)}."
            )


def _difference(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """The update, wide enough that adding it gives `new` exactly, as a rounding stage needs."""
    if old.dtype in (torch.bfloat16, torch.float16):
        return new.to(torch.float32) - old.to(torch.float32)
    return new - old


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """`params + updates`, each in the dtype of its parameter.

    >>> params = {"w": torch.zeros(2)}
    >>> gradchain.apply_updates(params, {"w": torch.ones(2)})
    {'w': tensor([1., 1.])}
    """

    def add(param: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        return (param.to(change.dtype) + change).to(param.dtype)

    return pytree.tree_map(add, params, updates)


def state_bytes(chain: Chain, params: Any, role: Rule) -> int:
    if isinstance(params, nn.Module):
        named: list[tuple[str, torch.Tensor]] = [item for item in params.named_parameters() if item[1].requires_grad]
    elif isinstance(params, Iterable) and not isinstance(params, (Mapping, torch.Tensor, list, tuple)):
        named = [item if isinstance(item, tuple) else ("", item) for item in params]
    else:
        named = list(_leaves(params, "parameter")[0].items())
    names, tensors = [name for name, _ in named], [param for _, param in named]
    roles = roles_of({"role": assign(role, names, tensors), "params": tensors})
    rows = zip(names, tensors, roles)
    return sum(program_bytes(chain.route(name, param, its), param.shape, param.dtype) for name, param, its in rows)
