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


@register_recipe("mars-adamw", source="MARS, arXiv:2411.10438")
def mars_adamw(
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.95, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    gamma: float = 0.025,
) -> Chain:
    """MARS: AdamW on gradients corrected by their change, for a momentum of less variance.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.mars(gamma, betas[0]),
        t.clip_by_norm(1.0),
        t.first_moment(betas[0]),
        t.second_moment(betas[1]),
        t.divide(eps),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("adabelief", source="AdaBelief, arXiv:2010.07468")
def adabelief(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-16, weight_decay: float = 0.0
) -> Chain:
    """AdaBelief: Adam that divides by how far gradients lie from their momentum.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.first_moment(betas[0]),
        t.belief_moment(betas[1], eps),
        t.divide(eps),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("laprop", source="LaProp, arXiv:2002.04839")
def laprop(
    lr: float = 4e-4, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-15, weight_decay: float = 0.0
) -> Chain:
    """LaProp: Adam that divides first, and averages what it has divided.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.second_moment(betas[1]),
        t.divide(eps),
        t.first_moment(betas[0]),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("stable-adamw", source="StableAdamW, arXiv:2304.13013")
def stable_adamw(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-6, weight_decay: float = 1e-2
) -> Chain:
    """StableAdamW: AdamW with shorter steps where gradients outgrow their second moment.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.first_moment(betas[0]),
        t.second_moment(betas[1]),
        t.clip_by_scale(),
        t.divide(eps),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe(
    "sophia",
    source="Sophia, arXiv:2305.14342",
    inert=dict.fromkeys(("betas[1]", "gamma"), "it acts once an estimate of the Hessian has been given"),
)
def sophia(
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.96, 0.99),
    eps: float = 1e-12,
    weight_decay: float = 0.1,
    gamma: float = 0.01,
) -> Chain:
    """Sophia: the momentum over the Hessian's diagonal, bounded; it wants `gradchain.give_hessian` every ten steps.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.first_moment(betas[0], bias_correction=False),
        t.divide_by_hessian(gamma, eps, betas[1]),
        t.clip_by_value(1.0),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )
