"""What is known of a model before its parameters get roles: who uses which parameter, and where the output is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils.parametrize import ParametrizationList

from gradchain.errors import OptionError, nearest, shown
from gradchain.roles.names import HEADS, OUTPUTS, numbered, parts_of

Convolution = _ConvNd

Head: TypeAlias = "str | nn.Module | Sequence[str | nn.Module] | None"
"""The output layer: its name or the module, several of these, `()` for none, or `None` to find it."""

_WHOLE = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)


class Use(NamedTuple):
    """A parameter in a place of a model: `module.attribute`, and the module's name."""

    module: nn.Module
    path: str
    attribute: str


def uses_of(model: nn.Module) -> dict[nn.Parameter, list[Use]]:
    """All places of each parameter, in order; tied ones have several."""
    found: dict[nn.Parameter, list[Use]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, param in module._parameters.items():  # pyright: ignore[reportPrivateUsage]
            if param is not None:
                found.setdefault(param, []).append(_parametrized(model, Use(module, path, attribute)))
    return found


def _parametrized(model: nn.Module, use: Use) -> Use:
    """The place of the weight that a parametrization makes of a parameter."""
    if not isinstance(use.module, ParametrizationList):
        return use
    path, _, attribute = use.path.partition("parametrizations.")
    return Use(model.get_submodule(path.rstrip(".")), path.rstrip("."), attribute)


def is_embedding(module: nn.Module) -> bool:
    """Whether a module is a table, such as `nn.Embedding` or `VocabParallelEmbedding`, or holds embeddings itself."""
    named = re.search(r"Embeddings?$", type(module).__name__) is not None
    return named or isinstance(module, (nn.Embedding, nn.EmbeddingBag))


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by one matrix, `weight`, be it `nn.Linear` or of a class that is called so."""
    weight = getattr(module, "weight", None)
    named = re.search(r"Linear|Conv1D$|Dense$", type(module).__name__) is not None
    return isinstance(module, nn.Linear) or (named and getattr(weight, "ndim", 0) == 2 and not list(module.children()))


def outputs_of(module: nn.Module) -> int:
    """How many outputs a linear has; those of transformers' `Conv1D` are its columns."""
    weight = cast("torch.Tensor", module.weight)
    return getattr(module, "out_features", None) or weight.shape[-1 if type(module).__name__ == "Conv1D" else 0]


def heads_of(model: nn.Module, given: Head, uses: Mapping[nn.Parameter, list[Use]]) -> dict[nn.Module, str]:
    """The output layers of a model with the reason for each: what is `given`; else a tied one, the named, the last.

    Raises: OptionError: `given` is not in the model.
    """
    if given is not None:
        items = [given] if isinstance(given, (str, nn.Module)) else list(given)
        return {layer: "given as head" for item in items for layer in _given(model, item)}
    found = dict(_named(model)) | dict(_tied(uses))
    linears = [(path, module) for path, module in model.named_modules() if is_linear(module) and "lora_" not in path]
    if found or not linears:
        return found
    embeddings = [use for places in uses.values() for use in places if is_embedding(use.module)]
    vocabulary = max((getattr(use.module, use.attribute).shape[0] for use in embeddings), default=None)
    for _, module in reversed(linears):
        if outputs_of(module) == vocabulary:
            return {module: f"the last linear with {vocabulary} outputs, the size of the vocabulary"}
    path, last = linears[-1]
    return {} if _in_block(model, path) else {last: "the last linear of the model"}


def _given(model: nn.Module, item: object) -> list[nn.Module]:
    """The layers of a part of the model."""
    modules = dict(model.named_modules(remove_duplicate=False))
    part = modules.get(item) if isinstance(item, str) else next((m for m in modules.values() if m is item), None)
    if part is None:
        near = nearest(item, modules) if isinstance(item, str) else "Pass its name, the module, or several in a list."
        raise OptionError(f"from_model: head = {shown(item)} is not in the model. {near}")
    return _layers(part) or [part]


def _layers(part: nn.Module) -> list[nn.Module]:
    return [module for module in part.modules() if is_linear(module) or isinstance(module, Convolution)]


def _tied(uses: Mapping[nn.Parameter, list[Use]]) -> Iterator[tuple[nn.Module, str]]:
    for places in uses.values():
        tables = [use for use in places if is_embedding(use.module)]
        for use in places:
            if tables and not is_embedding(use.module):
                yield use.module, f"tied: {tables[0].path or 'the model'} and {use.path}"


def _named(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The last linear or convolution of each part that is called a head."""
    for path, part in model.named_modules():
        *before, last = parts_of(path) or [""]
        if last in HEADS or (last in OUTPUTS and not numbered(before)):
            yield from ((layer, f"called {last}") for layer in _layers(part)[-1:])


def _in_block(model: nn.Module, path: str) -> bool:
    """Whether a module lies in one of several layers, or in a layer that is known to be one of several."""
    parts = path.removesuffix(".base_layer").split(".")
    above = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    if any(isinstance(module, _WHOLE) for module in above):
        return True
    for depth, module in enumerate(above[:-1]):
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            beside = [f"{'.'.join([*parts[:depth], name, *parts[depth + 1 :]])}" for name, _ in module.named_children()]
            alike = sum(_has(model, other) for other in beside)
            if isinstance(module, nn.ModuleList) or alike > 1:
                return True
    return False


def _has(model: nn.Module, path: str) -> bool:
    try:
        return is_linear(model.get_submodule(path))
    except AttributeError:
        return False
