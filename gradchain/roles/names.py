"""What the name and the shape of a parameter tell about its role."""

from __future__ import annotations

import re
from typing import Literal

import torch

WRAPPERS = (
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "base_layer",
    "parametrizations",
)
"""Parts of a name that some wrapper put there."""

HEADS = ("lm_head", "head", "heads", "classifier", "score", "unembed", "embed_out", "output_projection")
"""What an output layer, or the part of a model that it is in, is called."""

_TABLES = ("emb", "wte", "wpe", "token", "tokens")


def parts_of(name: str) -> list[str]:
    """The parts of a parameter's or a module's name, without those of wrappers.

    >>> from gradchain.roles.names import parts_of
    >>> parts_of("_orig_mod.layers.0.fc.weight")
    ['layers', '0', 'fc', 'weight']
    """
    return [part for part in name.split(".") if part and part not in WRAPPERS]


def words_of(part: str) -> list[str]:
    """The words of a part of a name, in lower case."""
    return [word.lower() for word in re.split(r"_+|(?<=[a-z])(?=[A-Z])", part) if word]


def is_bias(attribute: str) -> bool:
    """Whether a parameter is called a bias: `bias`, `in_proj_bias`, `bias_ih_l0`."""
    return "bias" in words_of(attribute)


def names_embedding(part: str) -> bool:
    """Whether a part of a name says embedding: `embed_tokens`, `wte`, `pos_embed`, `cls_token`."""
    return "embed" in part.lower() or any(word in _TABLES for word in words_of(part))


def role_by_name(name: str) -> Literal["embedding", "head", "bias"] | None:
    """The role that a name alone tells: it ends as a bias, or lies in a part that is called an embedding or a head.

    A part called head in one of several layers, as in `layers.0.head`, is not the output.

    >>> from gradchain.roles.names import role_by_name
    >>> [role_by_name(name) for name in ("lm_head.weight", "transformer.wte.weight", "h.0.attn.weight", "fc.bias")]
    ['head', 'embedding', None, 'bias']
    """
    parts = parts_of(name)
    if parts and is_bias(parts[-1]):
        return "bias"
    for place, part in enumerate(parts):
        if part in HEADS and not any(before.isdigit() for before in parts[:place]):
            return "head"
    return "embedding" if any(map(names_embedding, parts)) else None


def sides(shape: torch.Size | tuple[int, ...], stacked: bool = False) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix: its first axis by all others, or its last two if it is a stack of matrices.

    >>> from gradchain.roles.names import sides
    >>> sides((8, 4, 3, 3)), sides((8, 4, 3), stacked=True), sides((5,)), sides(())
    ((8, 36), (4, 3), (5, 1), (1, 1))
    """
    if stacked and len(shape) > 2:
        return shape[-2], shape[-1]
    return (shape[0], torch.Size(shape[1:]).numel()) if shape else (1, 1)


def thirds(shape: torch.Size | tuple[int, ...]) -> int | None:
    """The axis along which a fused matrix of queries, keys and values is cut in three: the one 3 times as long as the other.

    Returns: 0 for blocks of rows (3n, n); 1 for blocks of columns (n, 3n), as transformers keeps that of GPT-2; else `None`.

    >>> from gradchain.roles import thirds
    >>> thirds((12, 4)), thirds((4, 12)), thirds((8, 4))
    (0, 1, None)
    """
    if len(shape) != 2 or 0 in shape:
        return None
    return 0 if shape[0] == 3 * shape[1] else 1 if shape[1] == 3 * shape[0] else None
