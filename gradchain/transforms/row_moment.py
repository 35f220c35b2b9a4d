"""A second moment with one number for each row."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Number, Slots, Stage
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update
from gradchain.errors import OptionError
from gradchain.ops import ema, root, wide


class row_second_moment(Stage):
    r"""Average the mean square of each row of the direction over time, and set its root as the pending scale.

    $$v_i \leftarrow \beta v_i + (1-\beta)\, \frac1n \sum_j u_{ij}^2, \qquad D_{ij} \leftarrow \sqrt{v_i / (1-\beta^t)}$$

    Rows are slices along the first axis: the neurons of a layer.

    Args:
        beta: $\beta \in [0, 1)$, default 0.95; `beta2` in `param_groups`.
        bias_correction: divide by $1-\beta^t$; not by default, as published.

    Slots: `exp_avg_sq_row`, one number for each row, in float32 (float64 for float64 parameters).
    Raises: OptionError: a value out of range, or a parameter without rows.
    Source: Li et al. (2025), NorMuon, arXiv:2510.05491; adv_optm 2.5.16.

    >>> gradchain.chain(
    ...     gradchain.row_second_moment(), gradchain.divide(1e-8), gradchain.scale_by_learning_rate(0.1)
    ... ).state_bytes(torch.empty(16, 64))
    64
    """

    scale = "sets"
    source = "NorMuon, arXiv:2510.05491"

    beta: float = hyper(default=0.95, ge=0, lt=1, key="beta2")
    bias_correction: bool = static(default=False)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        if p.ndim == 0:
            raise OptionError(f"{self.address} averages rows, and a scalar has none. Send it through another branch.")
        dtype = torch.promote_types(p.dtype, torch.float32)
        return {"exp_avg_sq_row": Slot(shape=(p.shape[0],), per_row=True, dtype=dtype, nonnegative=True)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"correction": (1 - self.beta**step) ** -0.5 if self.bias_correction else 1.0}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        u = wide(update.value).flatten(1) if update.value.ndim > 1 else wide(update.value)[:, None]
        v = ema(ctx.read("exp_avg_sq_row", storage_dtype=True).to(u.dtype), u.square().mean(1), self.beta)
        scale = root(v) * ctx["correction"]
        return update.replace(scale=scale.view(-1, *[1] * (update.value.ndim - 1))), {"exp_avg_sq_row": v}
