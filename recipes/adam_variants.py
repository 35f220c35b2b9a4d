"""Adam with one part exchanged: the warmup, the momentum, what the divisor averages, or the order."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe


@register_recipe("radam", source="arXiv:1908.03265, torch.optim.RAdam")
def radam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
) -> Chain:
    """RAdam: Adam that does not divide before its second moment can be trusted.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        not decoupled_weight_decay and t.add_decayed_weights(weight_decay),
        t.first_moment(betas[0]),
        t.second_moment(betas[1], bias_correction=False),
        t.rectify(betas[1], eps),
        decoupled_weight_decay and t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("nadam", source="Dozat (2016), torch.optim.NAdam")
def nadam(
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
) -> Chain:
    """NAdam: Adam with Nesterov's look ahead and a momentum that warms up.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        not decoupled_weight_decay and t.add_decayed_weights(weight_decay),
        t.nadam_momentum(betas[0], momentum_decay),
        t.second_moment(betas[1]),
        t.divide(eps),
        decoupled_weight_decay and t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )
