"""Roles: what a parameter is to its model, where that decides how it is stepped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from gradchain.errors import OptionError, nearest

ROLES = ("lora_A", "lora_B", "dora_scale", "oft", "vector")
"""The roles that some of our transforms treat apart.

`lora_A` is a factor of shape (rank, in, ...), `lora_B` one of shape (out, rank, ...), `dora_scale` a magnitude vector,
`oft` a stack of skew-symmetric blocks by their upper triangles, and `vector` anything to be treated as a vector.
"""

_PEFT = {
    "lora_A": "lora_A",
    "lora_B": "lora_B",
    "lora_embedding_A": "lora_A",
    "lora_embedding_B": "lora_B",
    "lora_magnitude_vector": "dora_scale",
    "oft_R": "oft",
    "oft_embedding_R": "oft",
}
"""The attributes of peft's layers that hold a weight for each adapter. Those of embeddings lie like those of linears."""

Rule: TypeAlias = "str | Sequence[str | None] | Mapping[Any, str] | Callable[[str, torch.Tensor], str | None] | None"
"""How roles are given: one for all, one for each, by parameter or name, or by a function of name and parameter."""


def roles_of(group: Mapping[str, Any], where: str = "") -> list[str | None]:
    """The role of each parameter of a group, from its entry `role`: one for all, or a sequence of one for each."""
    role, count = group["role"], len(group["params"])
    if role is None or isinstance(role, str):
        return [role] * count
    if not isinstance(role, (tuple, list)) or not all(r is None or isinstance(r, str) for r in cast("list[Any]", role)):
        raise OptionError(f"{where}role = {role!r}: pass a string, None, or one of these for each parameter.")
    roles = list(cast("Sequence[str | None]", role))
    if count and len(roles) != count:
        raise OptionError(f"{where}role has {len(roles)} entries for {count} parameters; pass one for each.")
    return roles


def assign(rule: Rule, names: Sequence[str], params: Sequence[torch.Tensor]) -> str | tuple[str | None, ...] | None:
    """What a group's entry `role` becomes under a rule."""
    if rule is None or isinstance(rule, str):
        return rule
    if isinstance(rule, Mapping):
        known = cast("Mapping[Any, str]", rule)
        return tuple(known.get(param, known.get(name)) for name, param in zip(names, params))
    if callable(rule):
        return tuple(rule(name, param) for name, param in zip(names, params))
    if not isinstance(rule, Iterable):
        raise OptionError(
            f"role = {rule!r} is a {type(rule).__name__}; pass a string, a list, a mapping or a function."
        )
    return tuple(rule)


def check_matched(
    rule: Rule, names: Sequence[str], params: Sequence[torch.Tensor], roles: Sequence[str | None]
) -> None:
    """Raise if a rule speaks of parameters that are not there, or gives no role to any."""
    if isinstance(rule, Mapping):
        present = {*names, *params}
        for key in cast("Mapping[Any, str]", rule):
            if key not in present:
                what = f"a parameter of shape {tuple(key.shape)}" if isinstance(key, torch.Tensor) else repr(key)
                hint = nearest(key, [name for name in names if name]) if isinstance(key, str) else ""
                raise OptionError(f"role: {what} is not among those of the optimizer. {hint}".strip())
    if callable(rule) and not any(role is not None for role in roles):
        raise OptionError(f"role: the rule {rule!r} gave none of {len(params)} parameters a role. Correct or drop it.")


def from_peft(model: nn.Module) -> dict[nn.Parameter, str]:
    """The roles of the trainable weights that the peft library put into a model.

    LoRA factors (of linear, convolution and embedding layers, in AdaLoRA too), DoRA magnitudes and OFT blocks get a role;
    biases, `modules_to_save` and whatever else is trained get none. Neither do weights that do not lie as `ROLES` says:
    a B factor in groups or blocks, whose columns are not the ranks, and the square blocks of OFT in old versions of peft.

    Args:
        model: what `peft.get_peft_model` returned, or a model that contains such. All its adapters count.

    Raises:
        OptionError: if there are no such weights, or all are frozen.

    ```python
    model = peft.get_peft_model(model, peft.LoraConfig(use_dora=True))
    optimizer = gradchain.Optimizer(model, chain, role=gradchain.roles.from_peft(model))
    ```
    """
    layers = [module for module in model.modules() if hasattr(module, "adapter_layer_names")]
    found = dict(pair for layer in layers for pair in _labelled(layer))
    if trainable := {weight: role for weight, role in found.items() if weight.requires_grad}:
        return trainable
    if found:
        raise OptionError(
            f"roles.from_peft: the {len(found)} adapter weights of this {type(model).__name__} are frozen. Activate an "
            "adapter, or load it with is_trainable=True."
        )
    raise OptionError(
        f"roles.from_peft: this {type(model).__name__} has no layer of peft with one of: {', '.join(_PEFT)}. Pass what "
        "peft.get_peft_model returned."
    )


def _labelled(layer: nn.Module) -> Iterator[tuple[nn.Parameter, str]]:
    """The weights of a layer of peft with their roles."""
    for attribute, role in _PEFT.items():
        for adapter, weight in _weights(layer, attribute).items():
            if role == "lora_B":
                a = _weights(layer, attribute.replace("_B", "_A")).get(adapter)
                fits = a is not None and weight.ndim >= 2 and weight.shape[1] == a.shape[0]
            else:
                fits = role != "oft" or (weight.ndim == 2 and _triangular(weight.shape[1]))
            if fits:
                yield weight, role


def _weights(layer: nn.Module, attribute: str) -> dict[str, nn.Parameter]:
    """The weight of each adapter; peft holds some as modules, some bare."""
    held: dict[str, Any] = dict(getattr(layer, attribute, None) or {})
    return {adapter: getattr(item, "weight", item) for adapter, item in held.items()}


def _triangular(count: int) -> bool:
    """Whether a matrix can have so many elements above its diagonal."""
    side = (1 + math.isqrt(1 + 8 * count)) // 2
    return side * (side - 1) // 2 == count
