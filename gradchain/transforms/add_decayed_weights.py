"""Weight decay as part of the gradient: the L2 term."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage
from gradchain._core.fields import hyper
from gradchain._core.update import Update


class add_decayed_weights(Stage):
    r"""Add the L2 term to the gradient, as `torch.optim.SGD` does with `weight_decay`.

    $$g \leftarrow g + \lambda\theta$$

    Args:
        weight_decay: $\lambda \ge 0$, default 0.

    Raises: OptionError: a value out of range.

    >>> gradchain.chain(gradchain.add_decayed_weights(1e-4), gradchain.heavy_ball(0.9)).names
    ('add_decayed_weights', 'heavy_ball')
    """

    weight_decay: float = hyper(default=0.0, ge=0)

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=update.value + self.weight_decay * ctx.param)
