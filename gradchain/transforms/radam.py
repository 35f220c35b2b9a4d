"""RAdam's division: not before the second moment has seen enough gradients to be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain._chain.context import Context
from gradchain._chain.stage import Number, Stage
from gradchain._core.fields import hyper
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.ops import nonzero, where

RADAM = "RAdam, arXiv:1908.03265"


class rectify(Stage):
    r"""Divide the direction by the pending scale once its variance is bounded, and by less while that is large.

    $$\rho_\infty = \frac{2}{1-\beta} - 1, \quad \rho_t = \rho_\infty - \frac{2t\beta^t}{1-\beta^t}, \qquad
    r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\,\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\,\rho_t}}$$

    $$u \leftarrow \begin{cases} r_t \sqrt{1-\beta^t}\; u \,/\, (D + \epsilon) & \rho_t > 5 \\
    u & \text{otherwise} \end{cases}$$

    It corrects the bias of $D$ itself, outside of $\epsilon$. Where the divisor is exactly 0, $u$ passes undivided.

    Args:
        beta: $\beta \in [0, 1)$, default 0.999; shares `betas[1]` with the second moment. Up to 2/3 it never divides.
        eps: $\epsilon \ge 0$, default 1e-8.

    Raises: OptionError: a value out of range; ChainError: no scale is pending, or its bias is corrected already.
    Source: Liu et al. (2019), On the Variance of the Adaptive Learning Rate and Beyond, arXiv:1908.03265; `torch.optim`.

    >>> gradchain.chain(gradchain.second_moment(0.99, bias_correction=False), gradchain.rectify(0.99)).hyperparameters
    {'betas': (None, 0.99), 'eps': 1e-08}
    """

    scale = "resolves"
    source = RADAM

    beta: float = hyper(default=0.999, ge=0, lt=1, key="betas[1]")
    eps: float = hyper(default=1e-8, ge=0)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        setters = [stage for stage in before if stage.scale == "sets"]
        if setters and getattr(setters[-1], "bias_correction", False):
            raise ChainError(
                f"{self.address} corrects the bias of the scale, and {setters[-1].address} has done so already. Pass "
                f"bias_correction=False to {setters[-1].address}."
            )

    def scalars(self, step: Number) -> dict[str, Number]:
        power = self.beta**step
        longest = 2 / (1 - self.beta) - 1
        length = longest - 2 * step * power / (1 - power)
        known = length > 5
        rho, limit = where(known, length, 5.0), where(known, longest, 5.0)
        r = ((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) ** 0.5
        return {"known": where(known, 1.0, 0.0), "rate": r * (1 - power) ** 0.5}

    def update(self, update: Update, ctx: Context) -> Update:
        assert update.scale is not None
        divided = ctx["rate"] * update.value / nonzero(update.scale + self.eps)
        return update.replace(value=where(ctx["known"] > 0, divided, update.value), scale=None)
