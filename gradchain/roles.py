"""Roles: what a parameter does in its model, where that decides how it is stepped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from gradchain.errors import OptionError, kind_of, nearest, shown

ROLES = ("lora_A", "lora_B", "dora_scale", "oft", "vector")
"""The roles that some of our transforms treat differently.

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
"""The attributes of peft's layers that hold a weight for each adapter. Embeddings have the layout of linears."""

Rule: TypeAlias = "str | Sequence[str | None] | Mapping[Any, str] | Callable[[str, torch.Tensor], str | None] | None"
"""How roles are given: one for all, one for each, by parameter or name, or by a function of name and parameter."""


def roles_of(group: Mapping[str, Any], where: str = "", labels: Iterable[str] = ()) -> list[str | None]:
    """Read the entry `role` of a group: one role for all parameters, or a sequence of one for each.

    Returns: a role, or `None`, for each parameter.
    Raises: OptionError: the wrong number or type of roles, or one spelled almost like one of `ROLES` or of `labels`.
    """
    role, count = group["role"], len(group["params"])
    if role is None or isinstance(role, str):
        _check_spelling(role, where, labels)
        return [role] * count
    if not isinstance(role, (tuple, list)) or not all(r is None or isinstance(r, str) for r in cast("list[Any]", role)):
        raise OptionError(f"{where}role = {shown(role)}: pass a string, None, or one of these for each parameter.")
    roles = list(cast("Sequence[str | None]", role))
    for its in dict.fromkeys(roles):
        _check_spelling(its, where, labels)
    if count and len(roles) != count:
        raise OptionError(f"{where}role has {len(roles)} entries for {count} parameters; pass one for each.")
    return roles


def _check_spelling(role: str | None, where: str, labels: Iterable[str]) -> None:
    known = (*ROLES, *labels)
    if role is None or role in known:
        return
    if not role.strip():
        raise OptionError(f"{where}role = {role!r} is empty; pass None for no role, or one of: {', '.join(known)}.")
    if meant := next((name for name in known if _folded(name) == _folded(role)), None):
        raise OptionError(f"{where}role = {shown(role)} is not known. Did you mean {meant!r}?")


def _folded(role: str) -> str:
    return "".join(letter for letter in role.lower() if letter.isalnum())


def assign(rule: Rule, names: Sequence[str], params: Sequence[torch.Tensor]) -> str | tuple[str | None, ...] | None:
    """Apply a rule to the parameters of a group.

    Returns: the group's entry `role`: one role for all, or one for each parameter.
    Raises: OptionError: the rule failed, or is none.
    """
    if rule is None or isinstance(rule, str):
        return rule
    if isinstance(rule, Mapping):
        known = cast("Mapping[Any, str]", rule)
        return tuple(known.get(param, known.get(name)) for name, param in zip(names, params))
    if callable(rule) and not isinstance(rule, type):
        return tuple(_asked(rule, name, param) for name, param in zip(names, params))
    if not isinstance(rule, Iterable) or isinstance(rule, (bytes, torch.Tensor)):
        raise OptionError(f"role = {shown(rule)} is {kind_of(rule)}; pass a string, a list, a mapping or a function.")
    return tuple(rule)


def _asked(rule: Callable[[str, torch.Tensor], str | None], name: str, param: torch.Tensor) -> str | None:
    try:
        return rule(name, param)
    except Exception as error:
        raise OptionError(
            f"role: the rule {shown(rule)} failed for parameter {name or '(unnamed)'} of shape {tuple(param.shape)}: "
            f"{type(error).__name__}: {error}. It is called with the name and the parameter, and returns a role or None."
        ) from error


def check_matched(
    rule: Rule, names: Sequence[str], params: Sequence[torch.Tensor], roles: Sequence[str | None]
) -> None:
    """Check a rule. Raises: OptionError: a mapping names a missing parameter, or a function gave no parameter a role."""
    if isinstance(rule, Mapping):
        present = {*names, *params}
        for key in cast("Mapping[Any, str]", rule):
            if key not in present:
                what = f"a parameter of shape {tuple(key.shape)}" if isinstance(key, torch.Tensor) else shown(key)
                hint = nearest(key, [name for name in names if name]) if isinstance(key, str) else ""
                raise OptionError(f"role: {what} is not among those of the optimizer. {hint}".strip())
    if callable(rule) and not any(role is not None for role in roles):
        raise OptionError(
            f"role: the rule {shown(rule)} gave none of {len(params)} parameters a role. Correct or drop it."
        )


def from_peft(model: nn.Module) -> dict[nn.Parameter, str]:
    """Find the roles of the trainable weights that the peft library added to a model.

    LoRA factors (of linear, convolution and embedding layers, in AdaLoRA too), DoRA magnitudes and OFT blocks get a role;
    biases, `modules_to_save` and all other weights get none. So do weights whose layout differs from `ROLES`: a B factor in
    groups or blocks, whose columns are not the ranks, and the square blocks of OFT in old versions of peft.

    Args:
        model: what `peft.get_peft_model` returned, or a model that contains such. All its adapters count.

    Returns: a role for each weight.
    Raises: OptionError: there are no such weights, or all are frozen.

    ```python
    model = peft.get_peft_model(model, peft.LoraConfig(use_dora=True))
    optimizer = gradchain.Optimizer(model, chain, role=gradchain.roles.from_peft(model))
    ```
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"roles.from_peft takes the model that peft.get_peft_model returned; got {shown(model)}.")
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
