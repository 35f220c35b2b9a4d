"""A chain as a pair of pure functions over tensors or nests of tensors, for torch.func and for friends of optax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from gradchain.errors import OptionError, UnknownOptionError, nearest
from gradchain.noise import mix_bits, parameter_key
from gradchain.run import drive

if TYPE_CHECKING:
    from gradchain.chain import Chain

Tree: TypeAlias = Any
"""A tensor, or a nest of dicts, lists and tuples of tensors."""

ChainState: TypeAlias = "dict[str, list[Any]]"
"""`{"step": [...], "slots": [...]}`: for each tensor of the nest its step count and its slots."""


def _leaves(tree: Tree) -> tuple[list[tuple[str, torch.Tensor]], pytree.TreeSpec]:
    """The tensors of a nest with their names (`"layer.weight"`), in order."""
    paths, spec = pytree.tree_flatten_with_path(tree)
    named = [(".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path), leaf) for path, leaf in paths]
    return named, spec


def init(chain: Chain, params: Tree) -> ChainState:
    leaves, _ = _leaves(params)
    slots = [chain.route(name, param).init(param) for name, param in leaves]
    steps = [torch.zeros((), dtype=torch.int64, device=param.device) for _, param in leaves]
    return {"step": steps, "slots": slots}


def update(
    chain: Chain, grads: Tree, state: ChainState, params: Tree, hyperparameters: Mapping[str, Any]
) -> tuple[Tree, ChainState]:
    for name in hyperparameters:
        if name not in chain.hyperparameters:
            raise UnknownOptionError(f"unknown hyperparameter {name!r}. {nearest(name, chain.hyperparameters)}")
    group = {**chain.hyperparameters, **hyperparameters}
    chain.bindings.check(group)
    leaves, spec = _leaves(params)
    gradients, gradient_spec = pytree.tree_flatten(grads)
    if gradient_spec != spec:
        raise OptionError(
            f"grads have structure {gradient_spec}, but params have {spec}; pass one gradient per tensor."
        )
    running = []
    steps = [step + 1 for step in state["step"]]
    for index, ((name, param), gradient) in enumerate(zip(leaves, gradients)):
        program = chain.route(name, param)
        numbers = program.numbers(chain.bindings, group, steps[index].to(torch.float64))
        key = _noise_key(steps[index], index) if program.random else None
        running.append(program.run(param, gradient, state["slots"][index], numbers, noise_key=key))
    outcomes = drive(running)
    updates = [_difference(outcome.param, param) for outcome, (_, param) in zip(outcomes, leaves)]
    slots = [{**old, **outcome.state} for old, outcome in zip(state["slots"], outcomes)]
    return pytree.tree_unflatten(updates, spec), {"step": steps, "slots": slots}


def _noise_key(step: torch.Tensor, index: int) -> torch.Tensor:
    """`parameter_key` for a step that is a tensor (it may be batched by vmap)."""
    return mix_bits(step.to(torch.int32)) ^ parameter_key(0, index)


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


def state_bytes(chain: Chain, params: Any) -> int:
    if isinstance(params, nn.Module):
        named: Iterable[tuple[str, torch.Tensor]] = params.named_parameters()
    elif isinstance(params, Iterable) and not isinstance(params, (Mapping, torch.Tensor, list, tuple)):
        named = [item if isinstance(item, tuple) else ("", item) for item in params]
    else:
        named, _ = _leaves(params)
    total = 0
    for name, param in named:
        slots = chain.route(name, param).init(torch.empty_like(param, device="meta"))
        total += sum(slot.numel() * slot.element_size() for slot in slots.values())
    return total
