"""Roles as they are given: to an optimizer, or in a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch

from gradchain.errors import OptionError, kind_of, nearest, shown

ROLES = ("lora_A", "lora_B", "dora_scale", "oft", "vector", "qkv", "experts")
"""The roles that some of our stages treat differently.

`lora_A` is a factor of shape (rank, in, ...), `lora_B` one of shape (out, rank, ...), `dora_scale` a magnitude vector,
`oft` a stack of skew-symmetric blocks by their upper triangles, `vector` anything to be treated as a vector, `qkv` the three
matrices of queries, keys and values one above the other, and `experts` a stack of matrices (E, M, N).
"""

PLACES = ("embedding", "head", "norm", "bias", "matrix", "convolution", "qkv_columns")
"""The other roles that `from_model` finds. No stage looks at them; label functions and branches do.

`qkv_columns` is `qkv` with the three side by side, as transformers keeps that of GPT-2: a stage that knows nothing of it
takes it for one matrix.
"""

Rule: TypeAlias = "str | Sequence[str | None] | Mapping[Any, str] | Callable[[str, torch.Tensor], str | None] | None"
"""How roles are given: one for all, one for each, by parameter or name, or by a function of name and parameter."""


def roles_of(group: Mapping[str, Any], where: str = "", labels: Iterable[str] = ()) -> list[str | None]:
    """Read the entry `role` of a group: one role for all parameters, or a sequence of one for each.

    Returns: a role, or `None`, for each parameter.
    Raises: OptionError: the wrong number or type of roles, or one spelled almost like one that is known, or of `labels`.
    """
    role, count = group["role"], len(group["params"])
    if role is None or isinstance(role, str):
        check_spelling(role, where, labels)
        return [role] * count
    if not isinstance(role, (tuple, list)) or not all(r is None or isinstance(r, str) for r in cast("list[Any]", role)):
        raise OptionError(f"{where}role = {shown(role)}: pass a string, None, or one of these for each parameter.")
    roles = list(cast("Sequence[str | None]", role))
    for its in dict.fromkeys(roles):
        check_spelling(its, where, labels)
    if count and len(roles) != count:
        raise OptionError(f"{where}role has {len(roles)} entries for {count} parameters; pass one for each.")
    return roles


def check_spelling(role: str | None, where: str, labels: Iterable[str] = ()) -> None:
    """Raise for a role that is empty, or spelled almost like a known one or a label."""
    known = (*ROLES, *PLACES, *labels)
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
            if key not in present and getattr(key, "requires_grad", True):  # frozen ones may have been left out
                what = f"a parameter of shape {tuple(key.shape)}" if isinstance(key, torch.Tensor) else shown(key)
                hint = nearest(key, [name for name in names if name]) if isinstance(key, str) else ""
                raise OptionError(f"role: {what} is not among those of the optimizer. {hint}".strip())
    if callable(rule) and not any(role is not None for role in roles):
        raise OptionError(
            f"role: the rule {shown(rule)} gave none of {len(params)} parameters a role. Correct or drop it."
        )
