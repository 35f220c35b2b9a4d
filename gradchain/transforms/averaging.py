"""Averages of a parameter over time, to be seen outside training, or to go on from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.evaluation import EvaluationPoint, comes_last
from gradchain._chain.stage import Number, Slots, Stage
from gradchain._core.fields import DTYPES, dtype_name, hyper, static
from gradchain._core.update import Update
from gradchain.ops import ema, minimum, where


class average_weights(EvaluationPoint):
    r"""Average the parameter over the steps. Training does not change; the average is what is evaluated and saved.

    $$a \leftarrow d_t\, a + (1 - d_t)\,\theta_{t+1}, \qquad
    d_t = \begin{cases} \min\bigl(d, \frac{t-1}{t}\bigr) & \text{warmup} \\ d & t > 1 \\ 0 & t = 1 \end{cases}$$

    [`optimizer.eval()`](../optimizer.md#train-and-eval) puts the parameters at $a$, and `optimizer.train()` back.

    Args:
        decay: $d \in [0, 1]$, default 0.999.
        warmup: weigh all values alike until the average has $1/(1-d)$ of them. With `decay=1` it is their plain mean.
        dtype: of `average`: `"fp64"`, `"fp32"`, `"fp16"` or `"bf16"`; `None` (default) for the parameter's. In bfloat16 an
            average with $d > 0.99$ hardly moves: pass `"fp32"`.

    Slot: `average`, the parameter's shape, at first its value.
    Raises: OptionError: a value out of range; ChainError: it is not last.
    Source: Polyak & Juditsky (1992); Izmailov et al. (2018), arXiv:1803.05407; `torch.optim.swa_utils.AveragedModel`.

    >>> gradchain.recipe("adamw").insert_after("scale_by_learning_rate", gradchain.average_weights()).names[-1]
    'average_weights'
    """

    source = "Polyak & Juditsky (1992); SWA, arXiv:1803.05407"

    decay: float = hyper(default=0.999, ge=0, le=1)
    warmup: bool = static(default=False)
    dtype: str | None = static(default=None, convert=dtype_name)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"average": Slot("param", dtype=DTYPES.get(self.dtype or ""))}

    def scalars(self, step: Number) -> dict[str, Number]:
        kept = minimum(self.decay, (step - 1) / step) if self.warmup else where(step > 1, self.decay, 0.0)
        return {"kept": kept}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        average = ctx.read("average", storage_dtype=True)
        wider = torch.promote_types(average.dtype, ctx.dtype)
        return update, {"average": ema(average.to(wider), stepped(update, ctx).to(wider), ctx["kept"])}

    def evaluated(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        return ctx.read("average", storage_dtype=True)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        comes_last(self, after)


class lookahead(EvaluationPoint):
    r"""Go back part of the way after every few steps: $k$ steps forward, and one step towards where they led.

    $$\phi \leftarrow \phi + \alpha\,(\theta_{t+1} - \phi), \qquad \theta_{t+1} \leftarrow \phi
    \qquad \text{if } t \bmod k = 0$$

    [`optimizer.eval()`](../optimizer.md#train-and-eval) puts the parameters at $\phi$, the value after the last such step,
    and `optimizer.train()` back. The state of the other stages is kept.

    Args:
        k: an integer of at least 1, default 5.
        alpha: $\alpha \in (0, 1]$, default 0.5.
        dtype: of `slow_param`, as for `average_weights`; `None` (default) for the parameter's.

    Slot: `slow_param`, $\phi$, the parameter's shape, at first its value.
    Raises: OptionError: a value out of range; ChainError: it is not last.
    Source: Zhang et al. (2019), Lookahead Optimizer, arXiv:1907.08610.

    >>> gradchain.recipe("adamw").insert_after("scale_by_learning_rate", gradchain.lookahead(k=6)).names[-1]
    'lookahead'
    """

    source = "Lookahead Optimizer, arXiv:1907.08610"

    k: int = static(default=5, ge=1)
    alpha: float = hyper(default=0.5, gt=0, le=1)
    dtype: str | None = static(default=None, convert=dtype_name)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        return {"slow_param": Slot("param", dtype=DTYPES.get(self.dtype or ""))}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"back": where(step % self.k == 0, 1.0, 0.0)}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        fast, slow, back = stepped(update, ctx), ctx.read("slow_param", storage_dtype=True), ctx["back"] > 0
        base = update.decayed(ctx.param)
        value = where(back, base - (slow + self.alpha * (fast - slow)), update.value)
        return update.replace(value=value), {"slow_param": where(back, base - value, slow)}

    def evaluated(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        return ctx.read("slow_param", storage_dtype=True)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        comes_last(self, after)


def stepped(update: Update, ctx: Context) -> torch.Tensor:
    """Compute the parameter after this step. Returns: a tensor like the parameter."""
    new_param = update.decayed(ctx.param) - update.value
    return where(update.skip_mask, ctx.param, new_param)
