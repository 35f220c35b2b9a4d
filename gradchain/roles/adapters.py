"""Roles of the weights that the peft library adds to a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from gradchain.errors import OptionError, shown

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
    found = all_adapters(model)
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


def all_adapters(model: nn.Module) -> dict[nn.Parameter, str]:
    """The roles of the weights that peft added, frozen ones too."""
    layers = [module for module in model.modules() if hasattr(module, "adapter_layer_names")]
    return dict(pair for layer in layers for pair in _labelled(layer))


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
