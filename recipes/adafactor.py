"""Second moments by rows, columns and blocks."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe


@register_recipe("adafactor", source="arXiv:1804.04235, torch.optim.Adafactor")
def adafactor(
    lr: float = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
) -> Chain:
    """Adafactor: the gradient over its second moment by rows and columns, in proportion to the weights.

    Args:
        eps: of the second moment (`None`: the resolution of the dtype), and the least size of weights to go by.
        d: bound on the root mean square of the direction.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.row_column_moment(beta2_decay, eps[0]).rename(eps="eps[0]"),
        t.divide().rename(eps="divide_eps"),
        t.clip_by_rms(d),
        t.scale_by_param_rms(eps[1]).rename(min_rms="eps[1]"),
        t.decoupled_decay(weight_decay),
        t.relative_step(lr, name="scale_by_learning_rate"),
    )


@register_recipe("came", source="CAME, arXiv:2307.02047; came-pytorch")
def came(
    lr: float = 2e-4,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    weight_decay: float = 0.0,
) -> Chain:
    """CAME: Adafactor with a momentum, which is divided by how much it differs from what it averages.

    Args:
        eps: added to the squared gradient, and to the squared difference.
        clip_threshold: bound on the root mean square of the direction before the momentum.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    moment = t.row_column_moment(eps=eps[0], constant=True, beta=betas[1], floor=False)
    return chain(
        moment.rename(eps="eps[0]"),
        t.divide().rename(eps="divide_eps"),
        t.clip_by_rms(clip_threshold).rename(max_rms="clip_threshold"),
        t.first_moment(betas[0], bias_correction=False),
        t.confidence(betas[2], eps[1]).rename(eps="eps[1]"),
        t.divide(name="divide_confidence").rename(eps="divide_eps"),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("adam-mini", source="Adam-mini, arXiv:2406.16793; adam-mini")
def adam_mini(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    n_heads: int | None = None,
) -> Chain:
    """Adam-mini: AdamW with one second moment for each row of a matrix, head of attention, or vector.

    Args:
        n_heads: of parameters with the roles `query` and `key`, which have a second moment for each head.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.first_moment(betas[0]),
        t.block_second_moment(betas[1], n_heads),
        t.divide(eps),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
    )
