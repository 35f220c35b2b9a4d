"""ADOPT: divide by the second moment of the gradients before this one, then average."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot, earlier
from gradchain._chain.stage import Number, Stage, Yields, storage_field
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import Request, Totals
from gradchain._core.update import Update
from gradchain.ops import ema, minimum, power, root, where
from gradchain.storage import STORAGES
from gradchain.storage.factored import Factored
from gradchain.transforms.moments import supplied_beta2

ADOPT = "ADOPT, arXiv:2411.02853"


class adopt(Stage):
    r"""Set the root of the *last* step's second moment as the pending scale, then average the squared gradient.

    $$D \leftarrow \sqrt{v_{t-1}}, \qquad v_t \leftarrow \beta v_{t-1} + (1-\beta)\, g^2, \qquad v_0 = g_1^2$$

    So the divisor does not depend on the gradient that it divides. ADOPT averages after dividing, which is a matter of
    order: `adopt, divide, step_clip, first_moment`. $g$ is the effective gradient.

    Args:
        beta: $\beta \in [0, 1)$, default 0.9999; `betas[1]` in `param_groups`. A stage before that provides `beta2`
            takes its place.
        skip_first: the first step only sets $v_1 = g_1^2$ (default). The direction is 0 from here on, and the parameter
            stays as it is, decay included. Otherwise the first step divides by $|g_1|$.
        initial: the gradient in $v_0$: the `"effective"` one (default), or the `"raw"` one that `backward` gave.
        storage: how `exp_avg_sq` (the parameter's shape, zeros at first, never negative) is kept. If factored, a first
            step that is not skipped divides by $|g_1|$ as the factors approximate it.

    Raises: OptionError: a value out of range.
    Source: Taniguchi et al. (2024), ADOPT, arXiv:2411.02853; adv_optm.

    >>> gradchain.chain(
    ...     gradchain.adopt(), gradchain.divide(1e-6), gradchain.step_clip(), gradchain.first_moment(bias_correction=False)
    ... ).hyperparameters
    {'betas': (0.9, 0.9999), 'eps': 1e-06, 'exponent': 0.25}
    """

    scale = "sets"
    reads = (earlier("beta2", optional=True),)
    source = ADOPT

    beta: float = hyper(default=0.9999, ge=0, lt=1, key="betas[1]")
    skip_first: bool = static(default=True)
    initial: str = static(default="effective", choices=("effective", "raw"))
    storage: str = storage_field()

    @property
    def slots_only(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.skip_first  # else the first step divides by what a storage makes of a gradient

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"exp_avg_sq": Slot(nonnegative=True, storage=self.storage)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"first": where(step == 1, 1.0, 0.0)}

    def update(self, update: Update, ctx: Context) -> Yields:
        first, square = ctx["first"] > 0, update.gradient.square()
        v = ctx.read("exp_avg_sq")
        if first is not False:
            v = where(first, (yield from self._start(square, ctx)), v)
        update = update.replace(scale=root(v))
        new = ema(v, square, supplied_beta2(ctx, self.beta))
        if not self.skip_first:
            return update, {"exp_avg_sq": new}
        value = where(first, torch.zeros_like(update.value), update.value)
        return update.replace(value=value, skip_mask=update.skip_mask | first), {"exp_avg_sq": where(first, v, new)}

    def _start(self, square: torch.Tensor, ctx: Context) -> Generator[Request, Totals, torch.Tensor]:
        """The initial squared gradient; if the first step divides by it, rounded as a factored storage rounds it."""
        start = square if self.initial == "effective" else ctx.gradient.to(ctx.dtype).square()
        storage = STORAGES[self.storage]
        if self.skip_first or not isinstance(storage, Factored):
            return start
        return (yield from ctx.as_stored(storage, start, "start", signed=False))


class step_clip(Stage):
    r"""Bound each element of the direction by a power of the steps taken so far.

    $$u \leftarrow \max\big(-k^c,\; \min(u,\; k^c)\big), \qquad k = t - 1$$

    ADOPT's ratios have no bound of their own, and early ones are unreliable; the first direction is 0.

    Args:
        exponent: $c \ge 0$, default 0.25.

    Raises: OptionError: a value out of range.
    Source: Taniguchi et al. (2024), ADOPT, arXiv:2411.02853.

    >>> gradchain.chain(gradchain.adopt(), gradchain.divide(1e-6), gradchain.step_clip()).names
    ('adopt', 'divide', 'step_clip')
    """

    source = ADOPT

    exponent: float = hyper(default=0.25, ge=0)

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"bound": power(step - 1, self.exponent)}

    def update(self, update: Update, ctx: Context) -> Update:
        bound = minimum(ctx["bound"], torch.finfo(update.value.dtype).max)
        ctx.observe("clipped", lambda: update.value.abs() > bound)
        return update.replace(value=update.value.clamp(-bound, bound))
