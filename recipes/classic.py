"""The baselines everyone knows; where `torch.optim` has them, options, defaults and results are the same."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe


@register_recipe("adamw", source="arXiv:1711.05101, torch.optim.AdamW")
def adamw(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
) -> Chain:
    """AdamW: Adam with decoupled weight decay.

    With `amsgrad`, the divisor never shrinks.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.first_moment(betas[0]),
        t.second_moment(betas[1], amsgrad=amsgrad),
        t.divide(eps),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("sgd", source="torch.optim.SGD", needs={"dampening": "momentum", "nesterov": "momentum"})
def sgd(
    lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Chain:
    """SGD with L2 decay and, if `momentum` is not 0, heavy-ball or Nesterov momentum.

    Returns: the chain.
    Raises: OptionError: a value out of range, or `dampening` or `nesterov` without momentum.
    """
    return chain(
        t.add_decayed_weights(weight_decay),
        (momentum != 0 or nesterov) and t.heavy_ball(momentum, dampening, nesterov),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("lion", source="Lion, arXiv:2302.06675")
def lion(lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> Chain:
    """Lion: the sign of an interpolated momentum.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.lion_interpolate(*betas),
        t.sign(),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("adam-atan2", source="arXiv:2407.05872")
def adam_atan2(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 1e-2,
    a: float = 1.27,
    b: float = 1.0,
) -> Chain:
    """Adam with the quotient replaced by an arctangent: no eps, bounded steps, independent of the gradient's units.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.first_moment(betas[0]),
        t.second_moment(betas[1]),
        t.atan2_scale(a, b),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )
