"""Adams: atan2 Adam with spectral weight decay (pypi.org/project/adams-torch)."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.partition import partition
from gradchain._chain.recipes import register_recipe
from gradchain.transforms.spectral import matrix_or_vector


@register_recipe("adams", source="Adams 0.0.1, pypi.org/project/adams-torch")
def adams(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
    scalar_vector_weight_decay: float = 0.1,
    *,
    master_dtype: str = "fp32",
    hat_inside: bool = False,
    independent_vector_decay: bool = False,
    restart: bool = False,
    spectral_precision: str = "param",
) -> Chain:
    """Adams: bounded steps by atan2, and decay of the largest singular value of each matrix.

    Args:
        weight_decay: spectral decay of matrices.
        scalar_vector_weight_decay: ordinary decay of all else; off while `weight_decay` is 0, as published.
        master_dtype: precision in which parameters are kept and stepped.
        hat_inside: correct the moments' bias inside the arctangent, as the paper writes it; the code did so outside.
        independent_vector_decay: decay vectors even if `weight_decay` is 0.
        restart: restart power iterations that collapsed to zero.
        spectral_precision: run them on the stored parameter (`"param"`) or on its master (`"compute"`).

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    gate = {} if independent_vector_decay else {"gate": "weight_decay"}
    master = t.master_weights(master_dtype)
    storage = "fp32" if master.dtype in ("fp24", "fp32") else "param"
    vector_decay = t.decoupled_decay(scalar_vector_weight_decay)
    return chain(
        master,
        t.first_moment(betas[0], bias_correction=hat_inside, storage=storage),
        t.second_moment(betas[1], storage=storage),
        t.atan2_scale(),
        not hat_inside and t.debias(betas[0]),
        t.scale_by_learning_rate(lr),
        partition(
            {
                "matrix": t.spectral_decay(weight_decay, restart=restart, precision=spectral_precision),
                "vector": vector_decay.rename(weight_decay="scalar_vector_weight_decay", **gate),
            },
            matrix_or_vector,
        ),
    )
