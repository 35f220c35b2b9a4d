"""Averaging in the place of a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.evaluation import EvaluationPoint, comes_last
from gradchain._chain.stage import Number, Slots, Stage
from gradchain._core.fields import DTYPES, dtype_name, follow, hyper, static
from gradchain._core.update import Update
from gradchain.ops import minimum, nonzero, power, where, widest


class schedule_free(EvaluationPoint):
    r"""Step a second point, and train where it and the average of its values meet; no learning-rate schedule is needed.

    With $s$, the direction and the decays so far, at $y$, the parameter in training:

    $$z \leftarrow z - w s, \qquad x \leftarrow (1 - c)\, x + c\, z, \qquad y \leftarrow (1 - \beta)\, z + \beta x$$

    $$w = \min\Bigl(\frac{t}{T}, 1\Bigr), \qquad c = \frac{\omega_t}{\sum_{i \le t} \omega_i}, \qquad
    \omega_t = t^{\,r} \max_{i \le t} (w_i \eta_i)^{p}$$

    Only $y$ and $z$ are kept: $x$, where `optimizer.eval()` puts the parameter, follows from them.

    Put it last, behind `scale_by_learning_rate`, in the place of the momentum. Decays before it act at $y$, as published.
    Evaluate and save at $x$: call [`optimizer.eval()` and `optimizer.train()`](../optimizer.md#train-and-eval). Statistics
    of batch normalisation belong to $y$: before you evaluate, run some batches in train mode after `optimizer.eval()`.

    Args:
        beta: $\beta \in (0, 1)$, default 0.9: the share of the average.
        warmup_steps: $T \ge 0$, default 0: steps over which the learning rate grows linearly.
        r: $r \ge 0$, default 0: weigh later steps more.
        weight_lr_power: $p \ge 0$, default 2: weigh by a power of the learning rate, so that a warmup counts little.
        dtype: of `z`: `"fp64"`, `"fp32"`, `"fp16"` or `"bf16"`; `None` (default) for the parameter's.

    Slots: `z`, the parameter's shape, at first its value; `weight_sum` and `lr_max`, one number each, in float64.
    Raises: OptionError: a value out of range; ChainError: it is not last, or no stage provides `lr`.
    Source: Defazio et al. (2024), The Road Less Scheduled, arXiv:2405.15682; the package schedulefree 1.4.

    >>> gradchain.recipe("lion").insert_after("scale_by_learning_rate", gradchain.schedule_free()).names[2:]
    ('decoupled_decay', 'scale_by_learning_rate', 'schedule_free')
    """

    source = "The Road Less Scheduled, arXiv:2405.15682"

    beta: float = hyper(default=0.9, gt=0, lt=1)
    warmup_steps: float = hyper(default=0, ge=0)
    r: float = hyper(default=0.0, ge=0)
    weight_lr_power: float = hyper(default=2.0, ge=0)
    dtype: str | None = static(default=None, convert=dtype_name)
    lr: float | None = follow("lr")

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        number = Slot(shape=(), dtype=widest(p.device), nonnegative=True)
        return {"z": Slot("param", dtype=DTYPES.get(self.dtype or "")), "weight_sum": number, "lr_max": number}

    def scalars(self, step: Number) -> dict[str, Number]:
        assert self.lr is not None
        warmup = minimum(step / where(self.warmup_steps > 0, self.warmup_steps, 1.0), 1.0)
        return {"warmup": warmup, "rate": warmup * self.lr, "count": power(step, self.r)}

    def update(self, update: Update, ctx: Context) -> tuple[Update, Slots]:
        y, z = ctx.param, ctx.read("z", storage_dtype=True)
        lr_max = ctx.read("lr_max", storage_dtype=True).clamp(min=ctx["rate"])
        weight = ctx["count"] * lr_max**self.weight_lr_power
        weight_sum = ctx.read("weight_sum", storage_dtype=True) + weight
        c = weight / nonzero(weight_sum)
        s = ctx["warmup"] * (update.value if update.decay is None else update.value + update.decay)
        value = c * (y - z) + (1 - self.beta * (1 - c)) * s
        slots = {"z": where(update.skip_mask, z, z - s), "weight_sum": weight_sum, "lr_max": lr_max}
        return update.replace(value=value, decay=None), slots

    def evaluated(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        return param + (1 - 1 / self.beta) * (ctx.read("z", storage_dtype=True) - param)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        comes_last(self, after)
