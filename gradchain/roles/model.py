"""The roles of all parameters of a model, found by its modules, its names and the shapes."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, cast

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from gradchain._core.parameters import hidden_in
from gradchain._core.text import aligned, shape_text
from gradchain.errors import OptionError, ParameterError, kind_of, nearest, shown
from gradchain.roles.adapters import all_adapters
from gradchain.roles.given import PLACES, ROLES, check_spelling
from gradchain.roles.names import is_bias, is_token, names_embedding, numbered, parts_of, sides, thirds, words_of
from gradchain.roles.walk import Convolution, Head, Use, heads_of, is_embedding, is_linear, uses_of

Rules: TypeAlias = "Mapping[str | re.Pattern[str], str]"
"""Roles by names: a glob such as `"*.gate.weight"`, or a compiled regular expression, which is searched."""

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
_FUSED = ("c_attn", "qkv", "qkv_proj", "wqkv", "to_qkv", "w_pack", "in_proj_weight", "qkv_weight")
_INTERLEAVED = "query_key_value"

Why: TypeAlias = "tuple[str, str] | None"


class Found(NamedTuple):
    """A parameter with its role, and the reason for it."""

    name: str
    param: nn.Parameter
    role: str
    why: str


@dataclass(frozen=True, eq=False)
class Roles(Mapping[nn.Parameter, str]):
    """The role of each parameter of a model, as `from_model` found it. Printed, it is a table with the reasons.

    A mapping from parameters to roles, which an optimizer takes as `role=`. `by_name` maps names instead, for models whose
    parameters are replaced before the optimizer is made.
    """

    found: tuple[Found, ...]

    @functools.cached_property
    def _by_param(self) -> dict[nn.Parameter, str]:
        return {item.param: item.role for item in self.found}

    @property
    def by_name(self) -> dict[str, str]:
        """The roles by the names of the parameters."""
        return {item.name: item.role for item in self.found}

    def __getitem__(self, param: nn.Parameter) -> str:
        return self._by_param[param]

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self._by_param)

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        counts = Counter(item.role for item in self.found)
        return f"Roles({', '.join(f'{role}: {count}' for role, count in sorted(counts.items()))})"

    def __str__(self) -> str:
        rows = [(item.name, shape_text(item.param.shape), item.role, item.why) for item in self.found]
        text = aligned(("parameter", "shape", "role", "why"), rows)
        heads = any(item.role == "head" for item in self.found)
        return text if heads else f"{text}\n\nNo output head was found; from_model(model, head=...) names it."


def from_model(model: nn.Module, *, head: Head = None, rules: Rules | None = None) -> Roles:
    """Find the role of every parameter of a model.

    | role | found by |
    |---|---|
    | as `from_peft` | weights that peft added |
    | `bias` | names: `bias`, `in_proj_bias`, `bias_ih_l0`, also of norms |
    | `head` | the output layer, see below |
    | `norm` | classes that are norms, or end in Norm |
    | `embedding` | classes of embeddings; names such as `pos_embed`, `cls_token`, `patch_embed.proj` |
    | `vector` | at most one axis, or one row or column |
    | `convolution` | kernels of convolutions, transposed ones too |
    | `experts` | three axes, in a class or part called experts or MoE |
    | `qkv` | `in_proj_weight`, `c_attn`, `qkv`, `Wqkv`, ..., of shape (3n, n); with (n, 3n) it is `qkv_columns` |
    | `matrix` | all other weights of two axes |

    The output layers are those whose weight is tied to an embedding, and the last layers of parts called `lm_head`, `head`,
    `classifier` or alike. If there are none: the last linear with as many outputs as the vocabulary has words; else the last
    linear of all, unless it is in one of several layers.

    Args:
        model: any module, also compiled, wrapped by DDP or sharded by `fully_shard`.
        head: the output layer, by name or as a module, or several; `()` for a model without; `None` (default) to find it.
        rules: roles by names, which go before all else: a glob such as `"*.gate.weight"`, or a compiled regular expression,
            which is searched. The first that matches counts.

    Returns: a role for each parameter, for `role=` of an optimizer. Print it for a table with the reasons.
    Raises: OptionError: trainable parameters that nothing tells the role of; a rule that matches no parameter, or comes too
        late; a rule's role that is misspelt or does not fit the shape; a head that is not in the model. ParameterError:
        FSDP1 or DeepSpeed has flattened the parameters.

    >>> net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 9))
    >>> roles = gradchain.roles.from_model(net)
    >>> roles
    Roles(bias: 2, embedding: 1, head: 1, norm: 1)
    >>> optimizer = gradchain.optimizer("adamw", net, role=roles)
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"roles.from_model takes a model; got {shown(model)}.")
    uses = uses_of(model)
    heads, ruled = heads_of(model, head, uses), _ruled(uses, rules or {})
    known = {param: (role, "added by peft") for param, role in all_adapters(model).items()} | ruled
    found, unknown = list[Found](), list[tuple[str, str]]()
    for name, param in model.named_parameters():
        if wrapper := hidden_in(param):
            raise ParameterError(
                f"from_model: parameter {name} of shape {tuple(param.shape)} is {wrapper}. Find the roles before the model "
                "is wrapped, or shard it with fully_shard (FSDP2)."
            )
        role = known.get(param) or _found(param, uses[param], heads)
        if role is not None:
            found.append(Found(name, param, *role))
        elif param.requires_grad:
            unknown.append((name, f"{name} of shape {tuple(param.shape)} in {type(uses[param][0].module).__name__}"))
    if unknown:
        some, more = "; ".join(text for _, text in unknown[:8]), "; ..." if len(unknown) > 8 else ""
        raise OptionError(
            f"from_model: nothing tells the role of {len(unknown)} parameters: {some}{more}. Say what they are: "
            f"rules={{{unknown[0][0]!r}: 'matrix'}}, or one of: {', '.join((*PLACES, *ROLES))}."
        )
    return Roles(tuple(found))


def _ruled(uses: Mapping[nn.Parameter, list[Use]], rules: Rules) -> dict[nn.Parameter, tuple[str, str]]:
    """What the rules say. A parameter is matched by any of its names."""
    found: dict[nn.Parameter, tuple[str, str]] = {}
    names = {param: [".".join(filter(None, use[1:])) for use in places] for param, places in uses.items()}
    for pattern, role in rules.items():
        where = f"from_model: rule {_checked(pattern, role)!r}"
        matched = {param: known for param, known in names.items() if any(_matches(pattern, name) for name in known)}
        if not matched:
            near = nearest(_text(pattern).strip("*"), [name for known in names.values() for name in known])
            raise OptionError(f"{where} matches no parameter. {near}")
        if matched.keys() <= found.keys():
            raise OptionError(f"{where} has no effect: rules before it match the same parameters. Move it up.")
        for param in matched.keys() - found.keys():
            _check_fits(role, param, f"{where}, {matched[param][0]}: ")
            found[param] = (role, f"rule {_text(pattern)}")
    return found


def _checked(pattern: object, role: object) -> str:
    """The text of a rule's pattern. Raises `OptionError` for what is no rule."""
    if not isinstance(pattern, (str, re.Pattern)) or not isinstance(role, str):
        wrong = pattern if isinstance(role, str) else role
        raise OptionError(f"from_model: rules map patterns to roles; {shown(wrong)} is {kind_of(wrong)}.")
    text = _text(cast("str | re.Pattern[str]", pattern))
    check_spelling(role, f"from_model: rule {text!r}: ")
    return text


def _check_fits(role: str, param: nn.Parameter, where: str) -> None:
    shape = tuple(param.shape)
    if role in ("qkv", "qkv_columns") and thirds(shape) != role:
        long = "(3n, n)" if role == "qkv" else "(n, 3n)"
        raise OptionError(f"{where}{shape} is no {role}, of shape {long}. Pass {thirds(shape) or 'matrix'!r}.")
    if role == "experts" and len(shape) < 3:
        raise OptionError(f"{where}{shape} is no stack of experts, which has three axes (E, M, N). Pass 'matrix'.")


def _matches(pattern: str | re.Pattern[str], name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.search(name) is not None


def _text(pattern: str | re.Pattern[str]) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern


def _found(param: nn.Parameter, places: list[Use], heads: Mapping[nn.Module, str]) -> Why:
    """The role that the places and the shape of a parameter tell."""
    use, kinds = places[0], [type(use.module).__name__ for use in places]
    if is_bias(use.attribute):
        return "bias", f"called {use.attribute}"
    for place in places:
        if place.module in heads:
            return "head", heads[place.module]
    for place, kind in zip(places, kinds):
        if isinstance(place.module, _NORMS) or re.search(r"Norm(\dd)?$", kind):
            return "norm", f"{place.attribute} of {kind}"
    if why := _embedding(use):
        return "embedding", why
    stacked = param.ndim == 3 and not isinstance(use.module, Convolution) and _expert(use)
    if min(sides(param.shape, stacked)) < 2:
        return "vector", "one row or column" if param.ndim > 1 else f"{use.attribute} of {kinds[0]}"
    if isinstance(use.module, Convolution):
        return "convolution", f"{use.attribute} of {kinds[0]}"
    if stacked:
        return "experts", f"a matrix for each of {param.shape[0]} experts"
    return _matrix(param, use) if param.ndim == 2 else None


def _embedding(use: Use) -> str | None:
    """Why a parameter is an embedding, if it is one."""
    if is_embedding(use.module):
        return f"{use.attribute} of {type(use.module).__name__}"
    path = parts_of(use.path)
    if not numbered(path) and any(map(names_embedding, path)):
        return f"in {use.path}"
    return f"called {use.attribute}" if names_embedding(use.attribute) or is_token(use.attribute) else None


def _expert(use: Use) -> bool:
    """Whether a parameter lies in experts."""
    words = [
        word for part in (*use.path.split("."), type(use.module).__name__, use.attribute) for word in words_of(part)
    ]
    return any(word in ("expert", "experts", "moe") for word in words)


def _matrix(param: nn.Parameter, use: Use) -> Why:
    """The role of a weight of two axes."""
    name, kind = use.path.rpartition(".")[2], type(use.module).__name__
    fused = [part for part in (name, use.attribute) if part.lower() in _FUSED]
    if fused and (role := thirds(param.shape)) is not None:
        return role, f"called {fused[0]}, three {'above each other' if role == 'qkv' else 'side by side'}"
    if fused:
        return "matrix", f"called {fused[0]}, but not of three equal squares"
    if name == _INTERLEAVED:
        return "matrix", f"{_INTERLEAVED} has the three of each head side by side"
    words = words_of(use.attribute)
    weight = any(word in ("weight", "weights", "kernel", "proj", "w") for word in words)
    if is_linear(use.module) or weight or re.fullmatch(r"[wW][A-Za-z]?\d?", use.attribute):
        return "matrix", f"{use.attribute} of {kind}"
    return None
