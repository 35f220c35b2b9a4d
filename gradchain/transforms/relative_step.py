"""The learning rate of Adafactor, bounded by one over the root of the number of steps."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.stage import Number
from gradchain._core.fields import hyper
from gradchain._core.update import Update
from gradchain.ops import minimum
from gradchain.transforms.elementwise import scale_by_learning_rate


class relative_step(scale_by_learning_rate):
    r"""Multiply the direction by the learning rate, or by a falling bound where that is lower.

    $$u \leftarrow \min\!\Big(\eta,\; \frac{1}{\sqrt t}\Big)\, u$$

    Decays that follow the learning rate take $\eta$ itself.

    Args:
        lr: $\eta \ge 0$, default 1e-2. Goes by `lr` in `param_groups`; schedulers write it there.

    Raises: OptionError: a value out of range.
    Source: Shazeer & Stern (2018), Adafactor, arXiv:1804.04235.

    >>> chain = gradchain.chain(gradchain.sign(), gradchain.relative_step(1.0))
    >>> w, g = torch.zeros(1), torch.ones(1)
    >>> chain.update(g, chain.init(w), w)[0]
    tensor([-1.])
    """

    source = "Adafactor, arXiv:1804.04235"

    lr: float = hyper(default=1e-2, ge=0)

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"rate": minimum(self.lr, step**-0.5)}

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=ctx["rate"] * update.value)
