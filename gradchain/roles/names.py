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

HEADS = ("lm_head", "embed_out", "unembed")
"""What the output layer of a language model is called, and nothing else."""

OUTPUTS = ("head", "heads", "classifier", "score", "output_projection")
"""What an output layer is called, if it is not one of several alike."""

_TABLES = ("wte", "wpe")


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


def names_embedding(part: str, inner: bool = False) -> bool:
    """Whether a part of a name says embedding: `embed_tokens`, `wte`, `PatchEmbed`; `time_emb`, if it is not `inner`."""
    words = words_of(part)
    return "embed" in part.lower() or any(word in _TABLES for word in words) or ("emb" in words and not inner)


def is_token(attribute: str) -> bool:
    """Whether a parameter is called tokens that a model adds to its input: `cls_token`, `register_tokens`."""
    return words_of(attribute)[-1:] in (["token"], ["tokens"])


def names_head(parts: list[str]) -> bool:
    """Whether a name, by its parts, lies in an output layer. A head of one of several layers, `layers.0.head`, is none."""
    return any(part in HEADS or (part in OUTPUTS and not numbered(parts[:at])) for at, part in enumerate(parts))


def numbered(parts: list[str]) -> bool:
    """Whether a name lies in one of several layers: `layers.0`."""
    return any(part.isdigit() for part in parts)


def role_by_name(name: str) -> Literal["embedding", "head", "bias"] | None:
    """The role that a name alone tells: it ends as a bias, or lies in a part that is called an embedding or a head.

    >>> from gradchain.roles.names import role_by_name
    >>> [role_by_name(name) for name in ("lm_head.weight", "transformer.wte.weight", "h.0.attn.weight", "fc.bias")]
    ['head', 'embedding', None, 'bias']
    """
    parts = parts_of(name)
    if parts and is_bias(parts[-1]):
        return "bias"
    if names_head(parts):
        return "head"
    embedding = any(names_embedding(part, numbered(parts[:at])) for at, part in enumerate(parts))
    return "embedding" if embedding or is_token((parts or [""])[-1]) else None


def sides(shape: torch.Size | tuple[int, ...], stacked: bool = False) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix: its first axis by all others, or its last two if it is a stack of matrices.

    >>> from gradchain.roles.names import sides
    >>> sides((8, 4, 3, 3)), sides((8, 4, 3), stacked=True), sides((5,)), sides(())
    ((8, 36), (4, 3), (5, 1), (1, 1))
    """
    if stacked and len(shape) > 2:
        return shape[-2], shape[-1]
    return (shape[0], torch.Size(shape[1:]).numel()) if shape else (1, 1)


def thirds(shape: torch.Size | tuple[int, ...]) -> Literal["qkv", "qkv_columns"] | None:
    """The role of a fused matrix of queries, keys and values: one side is three times the other, and cut in three.

    >>> from gradchain.roles.names import thirds
    >>> thirds((12, 4)), thirds((4, 12)), thirds((8, 4))
    ('qkv', 'qkv_columns', None)
    """
    if len(shape) != 2 or 0 in shape:
        return None
    return "qkv" if shape[0] == 3 * shape[1] else "qkv_columns" if shape[1] == 3 * shape[0] else None
