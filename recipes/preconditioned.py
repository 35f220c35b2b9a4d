"""Preconditioned by the rows and columns of matrices: SOAP and Shampoo; AdamW for all else."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.partition import partition
from gradchain._chain.recipes import register_recipe
from gradchain.transforms.hidden import hidden_matrices


@register_recipe("soap", source="SOAP, arXiv:2409.11321")
def soap(
    lr: float = 3e-3, betas: tuple[float, float] = (0.95, 0.95), shampoo_beta: float | None = None, eps: float = 1e-8,
    weight_decay: float = 0.01, precondition_frequency: int = 10, max_precond_dim: int = 10_000,
) -> Chain:  # fmt: skip
    """SOAP: Adam in the eigenbasis of Shampoo for hidden matrices, Adam for all else.

    Args:
        shampoo_beta: decay rate of the second moments of rows and columns; `None`: `betas[1]`.
        precondition_frequency: steps between two refreshes of the eigenbases.
        max_precond_dim: longer sides of a matrix are not rotated.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    matrix = [t.soap(*betas, shampoo_beta, eps, every=precondition_frequency, largest=max_precond_dim)]
    other = [t.first_moment(betas[0]), t.second_moment(betas[1]), t.divide(eps)]
    return chain(
        partition({"matrix": matrix, "other": other}, hidden_matrices),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("shampoo", source="arXiv:1802.09568, arXiv:2309.06497")
def shampoo(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01, *,
    shampoo_beta: float = 0.95, shampoo_eps: float = 1e-12, precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
) -> Chain:  # fmt: skip
    """Shampoo with the step sizes of Adam: preconditioned momentum, as long as Adam's step for that matrix.

    Args:
        betas, eps: of Adam, which gives steps their length, and the others their direction too.
        shampoo_beta, shampoo_eps: decay rate of the second moments of rows and columns; what is added to their eigenvalues.
        precondition_frequency: steps between two computations of the roots.
        max_precond_dim: longer sides of a matrix are left alone.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    sides = t.shampoo(shampoo_beta, shampoo_eps, precondition_frequency, largest=max_precond_dim)
    return chain(
        t.first_moment(betas[0]),
        t.second_moment(betas[1]),
        t.divide(eps),
        partition({"matrix": sides, "other": []}, hidden_matrices),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )
