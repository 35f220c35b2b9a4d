"""Second moments by rows and columns."""

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
        t.relative_step(lr),
    )
