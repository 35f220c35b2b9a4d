"""A second moment with one number for each block of elements."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import tensor_partials
from gradchain._core.update import Update
from gradchain.errors import OptionError, shown
from gradchain.ops import ema, finite, root, wide, widest


class block_second_moment(Stage):
    r"""Average the mean square of the gradient over time, one number for each block, and set its root as the pending scale.

    $$v_b \leftarrow \beta v_b + (1-\beta)\, \frac{1}{\lvert b\rvert} \sum_{i \in b} g_i^2, \qquad
    D_i \leftarrow \sqrt{v_b} \,/\, \sqrt{1-\beta^t} \quad \text{for } i \in b$$

    $g$ is the effective gradient, as for `second_moment`. The blocks of a parameter, by its rank and role:

    | parameter | a block is |
    |---|---|
    | with a role in `head_roles`, two axes or more | all rows of one head: `shape[0] / n_heads` of them |
    | two axes or more | a slice along the first axis: an output neuron, a token of an embedding, a filter |
    | vectors and scalars | the whole tensor |

    Args:
        beta: $\beta \in [0, 1)$, default 0.999; `betas[1]` in `param_groups`.
        n_heads: how many heads there are, for parameters with a role in `head_roles`. By default there are no heads.
        head_roles: roles, separated by commas, of the projections whose Hessian has a block for each head.
        bias_correction: divide by $\sqrt{1-\beta^t}$ (default).

    Slots: `exp_avg_sq_block`, one number for each block, in float32 (float64 for float64 parameters). Zeros at first.
    Raises: OptionError: a value out of range, or a parameter whose rows `n_heads` does not divide.
    Source: Zhang et al. (2024), Adam-mini, arXiv:2406.16793.

    >>> gradchain.chain(
    ...     gradchain.block_second_moment(), gradchain.divide(1e-8), gradchain.scale_by_learning_rate(0.1)
    ... ).state_bytes(torch.empty(16, 64))
    64
    """

    scale = "sets"
    source = "Adam-mini, arXiv:2406.16793"

    beta: float = hyper(default=0.999, ge=0, lt=1, key="betas[1]")
    n_heads: int | None = static(default=None)
    head_roles: str = static(default="query,key", when="n_heads")
    bias_correction: bool = static(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        heads: object = self.n_heads
        if heads is not None and (not isinstance(heads, int) or isinstance(heads, bool) or heads < 1):
            raise OptionError(
                f"{self.address}.n_heads = {shown(heads)}: pass how many heads there are, from 1 on, or None."
            )

    def _blocks(self, shape: torch.Size, role: str | None) -> int:
        """How many blocks there are along the first axis."""
        if len(shape) < 2:
            return 1
        if self.n_heads is None or role not in self.head_roles.split(","):
            return shape[0]
        return self.n_heads

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        count, dtype = self._blocks(p.shape, p.role), torch.promote_types(p.dtype, torch.float32)
        by_row = p.ndim > 1 and count == p.shape[0]
        if p.ndim > 1 and not by_row and p.shape[0] % count:
            raise OptionError(
                f"{self.address}: the {p.shape[0]} rows of a parameter of shape {tuple(p.shape)} with role {p.role!r} are "
                f"not {count} heads of the same size. Pass the number of its heads, or give it another role."
            )
        return {"exp_avg_sq_block": Slot(shape=(count,), per_row=by_row, dtype=dtype, nonnegative=True)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"correction": (1 - self.beta**step) ** -0.5 if self.bias_correction else 1.0}

    def update(self, update: Update, ctx: Context) -> Yields:
        x, count = finite(wide(update.gradient).square()), self._blocks(ctx.shape, ctx.role)
        old, dtype = ctx.read("exp_avg_sq_block", storage_dtype=True), widest(x.device)
        rows = x.flatten(1).sum(1, dtype=dtype) if x.ndim > 1 else x.sum(dtype=dtype).reshape(1)
        block: torch.Tensor | None = None
        if x.ndim < 2:
            sums = (yield tensor_partials(sums=rows)).sums
        elif count == ctx.shape[0]:  # rows are here as a whole
            sums = rows
        else:
            here = torch.arange(x.shape[0], device=x.device) + ctx.shard.first
            block = here // max(ctx.shape[0] // count, 1)
            sums = (yield tensor_partials(sums=rows.new_zeros(count).index_add(0, block, rows))).sums
        v = ema(old, (sums / max(ctx.numel // max(count, 1), 1)).to(old.dtype), self.beta)
        scale = root(v if block is None else v[block]) * ctx["correction"]
        shape = (-1, *[1] * (x.ndim - 1)) if x.ndim else ()
        return update.replace(scale=scale.reshape(shape)), {"exp_avg_sq_block": v}
