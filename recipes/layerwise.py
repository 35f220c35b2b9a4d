"""Steps in proportion to the weights of each layer: LAMB and LARS, with timm's options, and Hyperball."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.partition import partition
from gradchain._chain.recipes import register_recipe
from gradchain.transforms.spectral import matrix_or_vector


@register_recipe("lamb", source="LAMB, arXiv:1904.00962; timm.optim.Lamb")
def lamb(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    bias_correction: bool = True,
    max_grad_norm: float | None = None,
    trust_clip: bool = False,
    always_adapt: bool = False,
) -> Chain:
    """LAMB: Adam's direction with its decay, in proportion to the norm of each layer's weights.

    Args:
        max_grad_norm: bound on the joint norm of all gradients, 1 in timm.
        trust_clip: never scale a step up.
        always_adapt: scale layers without decay too.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    ratio = t.trust_ratio(max_ratio=1.0 if trust_clip else None, always=always_adapt)
    return chain(
        max_grad_norm is not None and t.clip_by_global_norm(max_grad_norm).rename(max_norm="max_grad_norm"),
        t.first_moment(betas[0], bias_correction=bias_correction),
        t.second_moment(betas[1], bias_correction=bias_correction),
        t.divide(eps),
        t.add_decayed_weights(weight_decay),
        ratio if always_adapt else ratio.rename(decay="weight_decay"),
        t.scale_by_learning_rate(lr),
    )


@register_recipe(
    "lars", source="LARS, arXiv:1708.03888; timm.optim.Lars", needs={"dampening": "momentum", "nesterov": "momentum"}
)
def lars(
    lr: float = 1.0,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    trust_coeff: float = 1e-3,
    eps: float = 1e-8,
    trust_clip: bool = False,
    always_adapt: bool = False,
) -> Chain:
    """LARS: SGD with steps in proportion to the norm of each layer's weights.

    Args:
        trust_coeff: a step of this part of the weights' norm, times `lr`.
        trust_clip: never step further than plain SGD would (LARC).
        always_adapt: scale layers without decay too; by default `weight_decay=0` leaves plain SGD.

    Returns: the chain.
    Raises: OptionError: a value out of range, or `dampening` or `nesterov` without momentum.
    """
    bound = 1.0 if trust_clip else None
    ratio = t.trust_ratio(trust_coeff, eps, bound, norms="separate", over_lr=trust_clip, always=always_adapt)
    return chain(
        t.add_decayed_weights(weight_decay),
        ratio.rename(trust_coefficient="trust_coeff", eps="eps", decay="weight_decay"),
        (momentum != 0 or nesterov) and t.heavy_ball(momentum, dampening, nesterov),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("hyperball", source="Hyperball, arXiv:2606.16899")
def hyperball(
    lr: float = 1e-2,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    adam_lr_ratio: float = 0.1,
) -> Chain:
    """AdamH: matrices keep the norm that they began with and step by a fraction of it; all else steps as Adam does.

    Args:
        lr: of matrices: the length of a step as a fraction of the norm of the weights.
        adam_lr_ratio: the learning rate of all else, in units of `lr`, so that schedules move both.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    plain = t.multiply(adam_lr_ratio).rename(factor="adam_lr_ratio")
    return chain(
        t.first_moment(betas[0]),
        t.second_moment(betas[1]),
        t.divide(eps),
        partition({"matrix": t.trust_ratio(), "vector": plain}, matrix_or_vector),
        t.scale_by_learning_rate(lr),
        partition({"matrix": t.project_to_sphere(), "vector": []}, matrix_or_vector),
    )
