"""GYRO: turn gradients that oppose their momentum (github.com/sunderflowres-stack/gyro_optimizer)."""

from __future__ import annotations

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.recipes import register_recipe

SOURCE = "GYRO 0.1.3, github.com/sunderflowres-stack/gyro_optimizer"


@register_recipe("gyro-adam", source=SOURCE)
def gyro_adam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    theta_base: float = 0.0,
    proj_factor: float = 1.0,
    warmup_steps: int | None = None,
    residual_rtol: float = 1e-6,
) -> Chain:
    """GYRO-Adam: AdamW on gradients that are turned away from opposing the momentum.

    Args:
        lr, betas, eps, weight_decay: as for AdamW.
        theta_base: project only if the cosine is below `-theta_base`.
        proj_factor: how much of the opposing part to remove.
        warmup_steps: steps without projection; by default `round(1 / (1 - betas[1]))`, per group.
        residual_rtol: leave exactly opposed gradients alone; 0 projects them onto rounding noise, as published.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.momentum_project(
            theta_base, proj_factor, warmup_steps, eps=eps, residual_rtol=residual_rtol, horizon=betas[1]
        ).rename(horizon="betas[1]"),
        t.first_moment(betas[0]),
        t.second_moment(betas[1]),
        t.divide(eps),
        t.scale_by_learning_rate(lr),
        t.decoupled_decay(weight_decay),
    )


@register_recipe("gyro-sgd", source=SOURCE)
def gyro_sgd(
    lr: float = 1e-3,
    momentum: float = 0.9,
    theta_base: float = 0.0,
    proj_factor: float = 1.0,
    warmup_steps: int | None = None,
    eps: float = 1e-8,
    *,
    residual_rtol: float = 1e-6,
) -> Chain:
    """GYRO-SGD: plain gradient steps, turned where they oppose a running average that only detects this.

    Args:
        momentum: decay rate of the detector; unlike in SGD, the step does not use the average.
        warmup_steps: by default `round(1 / (1 - momentum))`.

    The other options are those of `gyro_adam`.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    return chain(
        t.momentum_project(
            theta_base, proj_factor, warmup_steps, eps=eps, residual_rtol=residual_rtol, horizon=momentum
        ).rename(horizon="momentum"),
        t.track_first_moment(momentum).rename(beta="momentum"),
        t.scale_by_learning_rate(lr),
    )
