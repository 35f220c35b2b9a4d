"""Which parameters are hidden matrices: what Muon and its kin step, while all others have another optimizer."""

from __future__ import annotations

import torch

from gradchain._chain.registry import label_function
from gradchain._core.parameters import hidden_in
from gradchain.errors import ParameterError
from gradchain.roles.names import role_by_name, sides

_MATRICES = ("matrix", "qkv", "qkv_columns", "experts", "convolution", "lora_A", "lora_B")
_OTHERS = ("other", "embedding", "head", "norm", "bias", "vector", "dora_scale", "oft")


@label_function
def hidden_matrices(name: str, param: torch.Tensor, role: str | None = None) -> str:
    """Label the matrices within a model apart from all else: embeddings, output head, norms, biases, vectors.

    | asked in this order | label |
    |---|---|
    | role `embedding`, `head`, `norm`, `bias`, `vector`, `dora_scale`, `oft` | `"other"` |
    | fewer than 2 rows or columns: first axis by all others, of a convolution too; the last two for `experts` | `"other"` |
    | role `matrix`, `qkv`, `qkv_columns`, `experts`, `convolution`, `lora_A`, `lora_B` | `"matrix"` |
    | a name that says embedding, bias or head: `wte`, `pos_embed`, `lm_head`, `classifier.1` | `"other"` |
    | all else | `"matrix"` |

    Names are a guess, and without names (an optimizer made of bare parameters) an embedding looks like any matrix. Give the
    roles with `gradchain.roles.from_model`; `optimizer.routing_table()` shows what became of each parameter.

    Returns: `"matrix"` or `"other"`.
    Raises: ParameterError: a parameter that FSDP1 or DeepSpeed has flattened, unless its role makes it one of the others.
        Its matrix cannot be seen, and to step it as a vector would be another optimizer.

    >>> weight = torch.zeros(8, 4)
    >>> gradchain.hidden_matrices("layers.0.fc.weight", weight), gradchain.hidden_matrices("wte.weight", weight)
    ('matrix', 'other')
    """
    if role in _OTHERS:
        return "other"
    if wrapper := hidden_in(param):
        raise ParameterError(
            f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)} is {wrapper}, so that nobody can see whether it "
            "holds matrices. Shard the model with fully_shard (FSDP2) or gradchain.distributed, or give this parameter a "
            "role such as 'vector'."
        )
    if min(sides(param.shape, stacked=role == "experts")) < 2:
        return "other"
    return "matrix" if role in _MATRICES or role_by_name(name) is None else "other"
