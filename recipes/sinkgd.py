"""SinkGD: gradients whose rows and columns are brought to one size, without any state."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe


@register_recipe("sinkgd", source="SinkGD, arXiv:2502.06742")
def sinkgd(lr: float = 1e-3, iterations: int = 5) -> Chain:
    """SinkGD: each row and each column of a gradient at the same size; no state, no decay.

    Vectors are stepped by their signs; the paper has Adam for them, for embeddings and for the output head. `lr` is the
    paper's rate for matrices: a global 0.02, times 0.05.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.sinkhorn(iterations, relative_floor=True, rows_first=True),
        t.scale_by_learning_rate(lr),
    )
