"""Steps in proportion to the weights: the trust ratio of LARS and LAMB, and the root mean square of Adafactor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import follow, hyper, static
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.ops import finite, minimum, root, where, wide


class trust_ratio(Stage):
    r"""Give the direction a length in proportion to that of the weights, each tensor for itself.

    $$u \leftarrow \rho\,u, \qquad \rho = \min\!\Big(\frac{c\,\phi(\lVert\theta\rVert)}{n + \epsilon},\; \rho_{\max}\Big),
    \qquad \phi(z) = \min(\max(z, a), b)$$

    $$n = \begin{cases}\lVert u\rVert & \texttt{"joint"}\ \text{(LAMB)}\\
    \lVert u - \lambda\theta\rVert + \lambda\lVert\theta\rVert & \texttt{"separate"}\ \text{(LARS)}\end{cases}$$

    Norms are over the whole tensor. $\rho = 1$ where the weights are all 0, or the direction is (without its decay, if
    `"separate"`).

    Args:
        trust_coefficient: $c > 0$, default 1.
        eps: $\epsilon \ge 0$, default 0; `trust_eps` in `param_groups`.
        max_ratio: $\rho_{\max} > 0$; `None` (default) for no bound. 1 only ever shortens steps.
        min_weight_norm: $a \ge 0$, default 0.
        max_weight_norm: $b > 0$; `None` (default) for no bound.
        norms: of the direction with its decay, `"joint"` (default), or of each by itself, `"separate"`.
        over_lr: divide $\rho$ by the learning rate before it is bounded, as LARC does: with `max_ratio=1` the step is
            the shorter one of LARS's and the plain one.
        always: scale tensors of groups without decay too (default). Otherwise $\rho = 1$ where `decay` is 0.

    The field `decay` is inert until `rename(decay="weight_decay")` ties it to the decay $\lambda$ that an
    `add_decayed_weights` before this stage has added to the direction. Until then `norms` and `always` would be inert too,
    so that other values are refused.

    Raises: OptionError: a value out of range; ChainError: `norms` or `always` without a decay.
    Source: You et al. (2017), LARS, arXiv:1708.03888; You et al. (2019), LAMB, arXiv:1904.00962.

    >>> gradchain.recipe("adamw").insert_before("scale_by_learning_rate", gradchain.trust_ratio()).names[-2:]
    ('trust_ratio', 'scale_by_learning_rate')
    """

    source = "LARS, arXiv:1708.03888; LAMB, arXiv:1904.00962"

    trust_coefficient: float = hyper(default=1.0, gt=0)
    eps: float = hyper(default=0.0, ge=0, key="trust_eps")
    max_ratio: float | None = hyper(default=None, gt=0, optional=True)
    min_weight_norm: float = hyper(default=0.0, ge=0)
    max_weight_norm: float | None = hyper(default=None, gt=0, optional=True)
    norms: str = static(default="joint", choices=("joint", "separate"))
    over_lr: bool = static(default=False)
    always: bool = static(default=True)
    decay: float | None = follow()
    lr: float | None = follow("lr", when="over_lr")

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        if "decay" in dict(self.keys):
            return
        given = [f"norms = {self.norms!r}"] * (self.norms != "joint") + ["always = False"] * (not self.always)
        if given:
            raise ChainError(
                f"{self.address}: {' and '.join(given)} has no effect, as {self.address} knows of no decay. Tie it to "
                f"one with trust_ratio(...).rename(decay='weight_decay'), or leave the option out."
            )

    def scalars(self, step: Number) -> dict[str, Number]:
        on = 1.0 if self.always or self.decay is None else where(self.decay != 0, 1.0, 0.0)
        return {"decay": 0.0 if self.decay is None else self.decay, "on": on}

    def update(self, update: Update, ctx: Context) -> Yields:
        separate = self.norms == "separate" and self.decay is not None
        u, w = wide(update.value), wide(ctx.param)
        g = u - ctx["decay"] * w if separate else u
        t = yield whole_tensor(gg=g.square(), ww=w.square())
        length, weight = root(t.gg), root(t.ww)
        # What rounding leaves of a decay that is taken away again is no gradient.
        least = torch.finfo(u.dtype).eps * ctx["decay"] * weight if separate else 0.0
        size = length + ctx["decay"] * weight if separate else length
        bounded = weight.clamp(min=1.0 * self.min_weight_norm)
        bounded = bounded if self.max_weight_norm is None else minimum(bounded, self.max_weight_norm)
        ratio = self.trust_coefficient * bounded / (size + self.eps)
        ratio = ratio / self.lr if self.lr is not None else ratio
        ratio = ratio if self.max_ratio is None else minimum(ratio, self.max_ratio)
        live = (length > least) & (weight > 0) & (ctx["on"] > 0)
        ratio = torch.where(live, ratio, torch.ones_like(ratio))
        ctx.observe("ratio", lambda: ratio)
        return update.replace(value=(u * ratio).to(update.value.dtype))


class scale_by_param_rms(Stage):
    r"""Multiply the direction by the root mean square of the weights, each tensor for itself.

    $$u \leftarrow \max(\mathrm{RMS}(\theta),\, \epsilon)\; u, \qquad
    \mathrm{RMS}(\theta) = \frac{\lVert\theta\rVert}{\sqrt N}$$

    Args:
        min_rms: $\epsilon \ge 0$, default 1e-3, with which weights of 0 begin to move.

    Raises: OptionError: a value out of range.
    Source: Shazeer & Stern (2018), Adafactor, arXiv:1804.04235; `optax.scale_by_param_block_rms`.

    >>> gradchain.recipe("lion").insert_after("sign", gradchain.scale_by_param_rms()).names[1:3]
    ('sign', 'scale_by_param_rms')
    """

    source = "Adafactor, arXiv:1804.04235"

    min_rms: float = hyper(default=1e-3, ge=0)

    def update(self, update: Update, ctx: Context) -> Yields:
        t = yield whole_tensor(ww=finite(wide(ctx.param).square()))
        rms = root(t.ww / max(ctx.numel, 1)).clamp(min=self.min_rms)
        ctx.observe("rms", lambda: rms)
        return update.replace(value=(rms * wide(update.value)).to(update.value.dtype))
