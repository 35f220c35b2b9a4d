"""Schedule-Free: averaging in the place of a learning-rate schedule (arXiv:2405.15682)."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe

SOURCE = "The Road Less Scheduled, arXiv:2405.15682; schedulefree 1.4"


@register_recipe("schedule-free-adamw", source=SOURCE)
def schedule_free_adamw(
    lr: float = 2.5e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Chain:
    """Schedule-Free AdamW: no schedule, no momentum buffer; call `optimizer.eval()` to evaluate and to save.

    Args:
        lr: a constant; some 1 to 10 times that of AdamW with a schedule.
        betas: the share of the average in the point of training, and of Adam's second moment.
        eps, weight_decay: as for AdamW.
        warmup_steps: steps over which the learning rate grows linearly.
        r, weight_lr_power: how the average weighs its values: by powers of the step and of the largest learning rate.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.second_moment(betas[1]),
        t.divide(eps),
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
        t.schedule_free(betas[0], warmup_steps, r, weight_lr_power).rename(beta="betas[0]"),
    )


@register_recipe("schedule-free-sgd", source=SOURCE)
def schedule_free_sgd(
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Chain:
    """Schedule-Free SGD: no schedule, no momentum buffer; call `optimizer.eval()` to evaluate and to save.

    Args:
        lr: a constant; some 10 to 50 times that of SGD with momentum.
        momentum: the share of the average in the point of training.
        weight_decay, warmup_steps, r, weight_lr_power: as for `schedule-free-adamw`.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.decoupled_decay(weight_decay),
        t.scale_by_learning_rate(lr),
        t.schedule_free(momentum, warmup_steps, r, weight_lr_power).rename(beta="momentum"),
    )
