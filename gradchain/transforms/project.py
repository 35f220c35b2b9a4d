"""GYRO: turn gradients that oppose their own momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import later
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import hyper
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.errors import OptionError
from gradchain.ops import minimum, nonzero, root, rounded, where, wide


class momentum_project(Stage):
    r"""Turn a gradient that opposes the momentum: remove its part along the momentum, keep its length.

    With $m$ the `exp_avg` of a later stage as it was after the last step, and $c = \cos(g, m)$:

    $$r = g - \lambda \frac{\langle g, m\rangle}{\lVert m\rVert^2}\, m, \qquad
    g \leftarrow r\,\frac{\lVert g\rVert}{\lVert r\rVert}
    \quad\text{if } t > w,\; c < -\theta,\; \lVert g\rVert, \lVert m\rVert, \lVert r\rVert > \epsilon$$

    Otherwise $g$ passes unchanged. Norms and products are over the whole tensor, in float32 at least.

    Args:
        theta_base: $\theta \in [0, 1)$, default 0.
        proj_factor: $\lambda \in [0, 1]$, default 1.
        warmup_steps: $w \ge 0$: the first step that may project is $w + 1$. `None` takes `round(1 / (1 - horizon))`,
            or 0 without a horizon. Steps are counted per parameter.
        eps: $\epsilon \ge 0$, default 1e-8.
        residual_rtol: also demand $\lVert r\rVert >$ `residual_rtol` $\cdot\lVert g\rVert$, default 1e-6. A gradient
            that is antiparallel to the momentum (any one-element tensor) leaves only rounding errors in $r$; scaled to
            full length they would flip its sign at random, as the original does (0 reproduces that).
        max_gain: bound the gain $\lVert g\rVert / \lVert r\rVert \ge 1$; `None` for no bound.
        horizon: a decay rate $\beta$ that sets the default warmup; recipes tie it to the slower average.

    Records `mean_cos`, `projection_rate`, `mean_norm_g`, `mean_norm_m` (means over all tensors, those without a cosine
    counting as 0) and `valid_cosines` (how many had one).

    Raises: OptionError: a value out of range; ChainError: no later stage owns `exp_avg`.
    Source: GYRO, github.com/sunderflowres-stack/gyro_optimizer.

    >>> gradchain.recipe("lion").insert_before("lion_interpolate", gradchain.momentum_project()).names[:2]
    ('momentum_project', 'lion_interpolate')
    """

    reads = (later("exp_avg"),)
    source = "GYRO, github.com/sunderflowres-stack/gyro_optimizer"

    theta_base: float = hyper(default=0.0, ge=0, lt=1)
    proj_factor: float = hyper(default=1.0, ge=0, le=1)
    warmup_steps: float | None = hyper(default=None, ge=0, optional=True)
    eps: float = hyper(default=1e-8, ge=0)
    residual_rtol: float = hyper(default=1e-6, ge=0)
    max_gain: float | None = hyper(default=None, ge=1, optional=True)
    horizon: float | None = hyper(default=None, optional=True)

    def resolve(self, values: dict[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        if values["warmup_steps"] is None:
            horizon = values["horizon"]
            if isinstance(horizon, (int, float)) and not 0 <= horizon < 1:
                raise OptionError(
                    f"{self.address}.horizon = {horizon!r} is outside [0, 1). Pass a decay rate, or None."
                )
            values["warmup_steps"] = 0 if horizon is None else rounded(1 / (1 - horizon))
        return values

    def scalars(self, step: Number) -> dict[str, Number]:
        assert self.warmup_steps is not None
        return {"active": where(step > self.warmup_steps, 1.0, 0.0)}

    def update(self, update: Update, ctx: Context) -> Yields:
        g, m = wide(update.value), wide(ctx.read("exp_avg"))
        t = yield whole_tensor(gg=g * g, mm=m * m, gm=g * m)
        norm_g, norm_m = root(t.gg), root(t.mm)
        valid = (norm_g > self.eps) & (norm_m > self.eps) & (norm_g * norm_m).isfinite()
        cosine = torch.where(valid, t.gm / nonzero(norm_g * norm_m), torch.zeros_like(t.gm))
        r = g - self.proj_factor * (t.gm / nonzero(t.mm)) * m
        t = yield whole_tensor(rr=r * r)
        norm_r = root(t.rr)
        sound = (norm_r > self.eps) & (norm_r > self.residual_rtol * norm_g)
        projected = valid & sound & (cosine < -self.theta_base) & (ctx["active"] > 0)
        gain = norm_g / nonzero(norm_r)
        gain = gain if self.max_gain is None else minimum(gain, self.max_gain)
        value = torch.where(projected, r * gain, g)
        ctx.record("mean_cos", cosine)
        ctx.record("projection_rate", projected.to(cosine.dtype))
        ctx.record("mean_norm_g", norm_g)
        ctx.record("mean_norm_m", norm_m)
        ctx.record("valid_cosines", valid.to(cosine.dtype), reduce="sum")
        return update.replace(value=value)
