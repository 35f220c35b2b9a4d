"""Prodigy: a step size found from the distance travelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.mixins import Decay, SharedNumbers
from gradchain._chain.stage import Number, Slots, Stage
from gradchain._core.fields import Interval, as_number, follow, hyper, static
from gradchain._core.reduce import accumulate
from gradchain._core.update import Update
from gradchain.errors import ChainError, OptionError
from gradchain.ops import minimum, wide
from gradchain.transforms.thinned import thinned, thinned_slot

REFERENCES = ("initial_lr", "max_lr", "constructor_lr", "reference_lr")
"""Entries that a learning rate is divided by. They are scaled with it, so that the ratio stays."""


class prodigy(SharedNumbers):
    r"""Estimate the step size $d$; multiply the gradient, and the learning rate of all other stages, by it.

    With $\lambda = d\,\eta$, $\kappa = \frac{d}{d_0}\lambda$, $g$ the direction that comes in and $\theta_0$ the
    parameter before the first step:

    $$u \leftarrow d\, g, \qquad \eta \leftarrow \lambda, \qquad
    s \leftarrow \beta_3 s + a\, g, \qquad a = \begin{cases} \frac{d}{d_0} d & \text{safeguard} \\ \kappa & \text{otherwise}
    \end{cases}$$

    and over all parameters, once a step:

    $$S \leftarrow \beta_3 S + \sum \kappa \langle g, \theta_0 - \theta\rangle, \qquad
    \hat d = c\,\frac{S}{\sum \lVert s\rVert_1}, \qquad
    d \leftarrow \min(d_{\max}, d\,\gamma), \quad d_{\max} \leftarrow \max(d_{\max}, \hat d)$$

    where $\hat d$ also replaces a smaller $d$ that is still $d_0$. Every stage that follows `lr` reads $\lambda$, and
    `divide` multiplies its $\epsilon$ by $d$. Nothing waits for the device: the next step uses the new $d$.

    Args:
        d0: $> 0$, default 1e-6: the initial $d$, smaller than the one to be found.
        d_coef: $c > 0$, default 1: multiplies the estimate.
        growth_rate: $\gamma \ge 1$, default infinity: how much $d$ may grow in a step.
        beta3: $\beta_3 \in [0, 1)$. Default: $\sqrt{\beta_2}$, with $\beta_2$ the chain's `betas[1]`.
        prodigy_steps: adapt in this many steps only; 0 (default) for always.
        safeguard_warmup: leave $\eta$ out of $s$, for schedules that begin near 0.
        d_limiter: let $\hat d$ be at most $2^{1/4} d$.
        slice_p: measure with every `slice_p`-th element (default 11), to keep less state.

    Slots: `s` (zeros, float32) and `p0` (the parameter before the first step, in its dtype): one element for each `slice_p`
    of a row. Rows are padded to one length, so a vector keeps one number for each element. Shared, in `param_groups`: `d`,
    `d_max`, `d_numerator`, `k` (steps taken).
    Raises: OptionError: a value out of range; ChainError: no stage has `betas[1]`, and `beta3` is not given.
    Source: Mishchenko & Defazio (2023), Prodigy, arXiv:2306.06101; adv_optm 2.5.16.

    >>> chain = gradchain.recipe("adamw", lr=1.0).insert_before("first_moment", gradchain.prodigy())
    >>> optimizer = gradchain.Optimizer(model, chain)
    >>> float(optimizer.param_groups[0]["d"])
    1e-06
    """

    scale = "any"
    shared_ranges: ClassVar[Mapping[str, Interval]] = {
        **dict.fromkeys(("d", "d_max"), Interval(0, low_open=True)),
        "k": Interval(0),
    }
    source = "Prodigy, arXiv:2306.06101"

    d0: float = static(default=1e-6, gt=0)
    d_coef: float = hyper(default=1.0, gt=0)
    growth_rate: float = hyper(default=math.inf, ge=1, le=math.inf)
    beta3: float | None = hyper(default=None, ge=0, lt=1, optional=True)
    prodigy_steps: float = hyper(default=0, ge=0)
    safeguard_warmup: bool = static(default=False)
    d_limiter: bool = static(default=False)
    slice_p: int = static(default=11, ge=1)
    beta2: float | None = follow("betas[1]", unless="beta3")
    lr: float | None = follow("lr")

    d: ClassVar[torch.Tensor]
    d_max: ClassVar[torch.Tensor]
    d_numerator: ClassVar[torch.Tensor]
    k: ClassVar[torch.Tensor]

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        for stage in before:
            early = not {"exp_avg", "momentum_buffer", "exp_avg_slow", "exp_avg_sq"}.isdisjoint(stage.known_slots)
            scaled = "lr" in stage.dynamic_fields() and not isinstance(stage, Decay)
            if early or scaled or stage.scale in ("sets", "resolves"):
                raise ChainError(
                    f"{self.address} multiplies the gradient by d, but {stage.address} before it has seen it without. Move "
                    f"{self.address} before {stage.address}."
                )

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        s = thinned_slot(p, self.slice_p, dtype=torch.float32)
        return {"s": s, "p0": thinned_slot(p, self.slice_p, copy=True)}

    def init_shared(self) -> dict[str, float]:
        return {"d": self.d0, "d_max": self.d0, "d_numerator": 0.0, "k": 0.0}

    def override(self, group: Mapping[str, Any]) -> dict[str, Any]:
        rates = (self.key_of("lr"), *REFERENCES)
        return {key: self.d * as_number(group[key]) for key in rates if group.get(key) is not None}

    def resolve(self, values: dict[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        if values["beta3"] is not None:
            return values
        if values.get("beta2") is None:
            raise OptionError(
                f"{self.address}.beta3 = None in a group of a chain that was built with a number: pass beta3 in [0, 1)."
            )
        return {**values, "beta3": values["beta2"] ** 0.5}

    def scalars(self, step: Number) -> dict[str, Any]:
        assert self.lr is not None
        growth = self.d / self.d0 * self.d
        kappa = growth * self.lr
        return {"kappa": kappa, "weight": growth if self.safeguard_warmup else kappa}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        assert self.beta3 is not None
        g = thinned(wide(update.value), ctx.shard, self.slice_p)
        s = self.beta3 * ctx.read("s", storage_dtype=True) + ctx["weight"] * g
        travelled = wide(ctx.read("p0", storage_dtype=True)) - thinned(wide(ctx.param), ctx.shard, self.slice_p)
        ctx.contribute(numerator=ctx["kappa"] * accumulate(g * travelled), denominator=accumulate(s.abs()))
        return update.replace(value=self.d * update.value), {"s": s}

    def share(self, totals: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert self.beta3 is not None
        numerator = self.beta3 * self.d_numerator + totals["numerator"]
        sound = numerator.isfinite() & totals["denominator"].isfinite()
        known = (totals["denominator"] > 0) & sound
        estimate = self.d_coef * numerator / torch.where(known, totals["denominator"], 1.0)
        estimate = minimum(estimate, 2**0.25 * self.d) if self.d_limiter else estimate
        d = torch.where(self.d == self.d0, torch.maximum(self.d, estimate), self.d)
        d_max = torch.maximum(self.d_max, estimate)
        d = minimum(d_max, d * self.growth_rate)
        adapting = (self.k < self.prodigy_steps) | (self.prodigy_steps == 0)
        return {
            "d": torch.where(adapting & known, d, self.d),
            "d_max": torch.where(adapting & known, d_max, self.d_max),
            "d_numerator": torch.where(adapting & sound, numerator, self.d_numerator),
            "k": self.k + 1,
        }
